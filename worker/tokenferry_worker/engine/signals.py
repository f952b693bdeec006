"""What signals mean to a worker process. In Celery's place, whose second Ctrl-C, SIGQUIT and SIGHUP do other things.

SIGTERM, SIGINT           takes no more work, finishes what is in hand within the grace time, gives the rest back
a second one, SIGQUIT     gives everything back at once
SIGHUP                    nothing: a closing terminal is the supervisor's business
"""

from __future__ import annotations

import signal
from types import FrameType

from celery.worker import state


def obey_signals(_worker: object = None) -> None:
    """Meet signals from now on. In the main thread."""
    signal.signal(signal.SIGTERM, _finish)
    signal.signal(signal.SIGINT, _finish)
    signal.signal(signal.SIGQUIT, _give_back)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def at_once() -> bool:
    """Whether there is no more time to finish anything."""
    return _is_set(state.should_terminate)


def _finish(_number: int, _frame: FrameType | None) -> None:
    if _is_set(state.should_stop):
        state.should_terminate = 0
    state.should_stop = 0


def give_back() -> None:
    """Give everything back at once and end. From any thread."""
    state.should_terminate = 0


def _give_back(_number: int, _frame: FrameType | None) -> None:
    give_back()


def _is_set(exit_code: int | bool | None) -> bool:
    """Celery holds the exit code there, and 0 is one."""
    return exit_code is not None and exit_code is not False
