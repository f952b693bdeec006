"""What signals mean to a worker process."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from celery.worker import state

from tokenferry_worker.engine import signals

ALL = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def obedient(no_signal_yet: None) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ALL}
    signals.obey_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def asked() -> tuple[bool, bool]:
    """Whether Celery's loop would end, and whether it would not even finish what is in hand."""
    return state.should_stop is not None, signals.at_once()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_one_stops_and_the_second_one_hurries(number: signal.Signals) -> None:
    assert asked() == (False, False)
    signal.raise_signal(number)
    assert asked() == (True, False)
    signal.raise_signal(signal.SIGTERM)
    assert asked() == (True, True)


def test_sigquit_hurries_at_once() -> None:
    signal.raise_signal(signal.SIGQUIT)
    assert signals.at_once()


def test_a_closing_terminal_is_the_supervisors_business() -> None:
    signal.raise_signal(signal.SIGHUP)
    assert asked() == (False, False)
