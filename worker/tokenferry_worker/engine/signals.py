"""What signals do to a worker process. They replace Celery's handlers: its second Ctrl-C, SIGQUIT and SIGHUP differ.

SIGTERM, SIGINT           take no more work, finish running deliveries within the grace time, give the rest back
a second one, SIGQUIT     give everything back at once
SIGHUP                    nothing: the supervisor handles a closed terminal
"""

from __future__ import annotations

import signal
from types import FrameType

from celery.worker import state


def obey_signals(_worker: object = None) -> None:
    """Install the handlers. Only in the main thread."""
    signal.signal(signal.SIGTERM, _finish)
    signal.signal(signal.SIGINT, _finish)
    signal.signal(signal.SIGQUIT, _give_back)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def at_once() -> bool:
    """True if no time is left to finish a delivery."""
    return _is_set(state.should_terminate)


def _finish(_number: int, _frame: FrameType | None) -> None:
    if _is_set(state.should_stop):
        state.should_terminate = 0
    state.should_stop = 0


def give_back() -> None:
    """Give every delivery back at once, and end. May be called from any thread."""
    state.should_terminate = 0


def _give_back(_number: int, _frame: FrameType | None) -> None:
    give_back()


def _is_set(exit_code: int | bool | None) -> bool:
    """Celery keeps an exit code in these variables, and 0 is one."""
    return exit_code is not None and exit_code is not False
