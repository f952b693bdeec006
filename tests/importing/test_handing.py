"""What a run does with requests that nobody takes now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from tokenferry.broker.errors import StillQueued
from tokenferry.broker.publishing import BrokerFull, BrokerUnavailable, Outgoing
from tokenferry.bulk.submitter import Submitter
from tokenferry.bulk.window import Pending
from tokenferry.configuration import Configuration
from tokenferry.contract.results import OnboardingResult
from tokenferry.onboarding.accounts import Accounts
from tokenferry.outbox import OutboxFailed, OutboxFull

from .conftest import House

Answer = Exception | Future[None]


class Desk:
    """Gives the next of its answers, and takes everything when it has none left."""

    def __init__(self, *answers: Answer) -> None:
        self.answers: Iterator[Answer] = iter(answers)
        self.asked: list[Outgoing] = []

    def submit(self, message: Outgoing) -> Future[None]:
        self.asked.append(message)
        answer = next(self.answers, None)
        if isinstance(answer, Future):
            return answer
        future: Future[None] = Future()
        future.set_result(None) if answer is None else future.set_exception(answer)
        return future


class OneAccount:
    """A run of one account, at a desk."""

    def __init__(
        self,
        configuration: Configuration,
        *answers: Answer,
        taken: Callable[[Pending], None] = lambda account: None,
        silence: float = 0.0,
    ) -> None:
        self.desk = Desk(*answers)
        self.window = Accounts()
        self.said: list[str] = []
        self.handing = Submitter(
            self.desk.submit,
            configuration,
            self.window,
            taken=taken,
            goes_on="It goes on.",
            note=self.said.append,
            silence=silence,
        )
        self.account = Pending(1, "seller-1", message=Outgoing("onboard.main", "sealed"))
        self.window.enter("req-1", self.account, print)
        self.handing.hand_over("req-1", self.account)


@pytest.fixture
def configuration(offline: House) -> Configuration:
    return offline.configuration()


@pytest.mark.parametrize(
    ("refusal", "waits", "again"),
    [
        (BrokerFull("the queue onboard.main is full", maybe_sent=False), "the queue is full", "the broker"),
        (BrokerUnavailable("no broker", maybe_sent=False), "the broker is away", "the broker"),
        (StillQueued("others were before it", maybe_sent=False), "the broker is slow", "the broker"),
        (OutboxFull("the outbox is at its limit", maybe_sent=False), "the outbox is full", "the outbox"),
    ],
    ids=["queue", "broker", "slow broker", "outbox"],
)
def test_what_time_cures_is_waited_for_said_once_and_handed_over_again(
    configuration: Configuration, refusal: Exception, waits: str, again: str
) -> None:
    run = OneAccount(configuration, refusal)
    assert (run.handing.is_stuck, run.account.handed_over, run.handing.failure) == (True, "no", None)
    message = run.account.message

    run.handing.again()
    assert (run.window.waits, run.said) == (waits, [f"waiting: {refusal}. It goes on."])
    run.handing.again()

    assert run.desk.asked == [message, message]
    assert (run.handing.is_stuck, run.account.handed_over, run.window.waits) == (False, "yes", None)
    assert run.said[1:] == [f"{again} takes requests again"]


def test_an_outbox_that_fails_ends_the_run(configuration: Configuration) -> None:
    run = OneAccount(configuration, OutboxFailed("the outbox is damaged", maybe_sent=False))
    assert run.handing.failure == "the outbox is damaged"


def test_what_got_its_outcome_while_it_was_refused_is_not_handed_over_again(configuration: Configuration) -> None:
    run = OneAccount(configuration, BrokerUnavailable("cut", maybe_sent=True))
    assert run.account.handed_over == "unknown"
    run.window.settle(
        OnboardingResult(outcome_id="o", request_id="req-1", platform="main", settled_at=1), lambda _: None
    )
    run.handing.again()
    assert (len(run.desk.asked), run.handing.is_stuck) == (1, False)


@pytest.fixture
def empty_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is empty."""
    monkeypatch.setattr("tokenferry.bulk.submitter.depth.ask", lambda _, queues: dict.fromkeys(queues, 0))


@pytest.mark.usefixtures("empty_queue")
def test_what_was_taken_and_is_gone_after_a_silence_is_handed_over_again(configuration: Configuration) -> None:
    run = OneAccount(configuration)
    run.handing.find_lost()
    assert len(run.desk.asked) == 2
    assert "no longer in their queue" in run.said[0]


@pytest.mark.usefixtures("empty_queue")
@pytest.mark.parametrize("others_are_answered", [False, True])
def test_what_waits_where_nobody_asks_is_handed_over_again_six_times_in_three_days(
    configuration: Configuration, monkeypatch: pytest.MonkeyPatch, others_are_answered: bool
) -> None:
    """An open circuit, or attach workers that are down."""
    run = OneAccount(configuration, silence=60.0)
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    run.window.last_result = clock.now
    monkeypatch.setattr("tokenferry.bulk.submitter.time", clock)
    minutes = []
    for minute in range(1, 3 * 24 * 60):
        clock.now += 60.0
        before = len(run.desk.asked)
        run.handing.find_lost()
        minutes += [minute] * (len(run.desk.asked) - before)
        if others_are_answered and minute % 2 == 0:
            run.window.last_result = clock.now
    assert minutes == [1, 5, 21, 85, 341, 1365]


@pytest.mark.usefixtures("empty_queue")
def test_a_message_that_was_let_go_is_not_looked_for(configuration: Configuration) -> None:
    def let_go(account: Pending) -> None:
        account.message = None

    run = OneAccount(configuration, taken=let_go)
    run.handing.find_lost()
    assert (len(run.desk.asked), run.said) == (1, [])


@pytest.mark.usefixtures("empty_queue")
def test_a_message_that_is_still_on_its_way_is_not_lost(configuration: Configuration) -> None:
    run = OneAccount(configuration, Future())
    run.handing.find_lost()
    assert (len(run.desk.asked), run.said) == (1, [])
