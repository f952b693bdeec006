"""What a run does with requests that are not accepted now, and with those that were lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future

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


class Broker:
    """Gives the next of its answers, and accepts everything when it has none left."""

    def __init__(self, *answers: Answer) -> None:
        self.answers: Iterator[Answer] = iter(answers)
        self.asked: list[Outgoing] = []

    def submit(self, message: Outgoing) -> Future[None]:
        self.asked.append(message)
        answer = next(self.answers, None)
        if isinstance(answer, Future):
            return answer
        future: Future[None] = Future()
        if answer is None:
            future.set_result(None)
        else:
            future.set_exception(answer)
        return future


def nothing_waits(queues: Iterable[str]) -> Mapping[str, int]:
    """Every queue is empty."""
    return dict.fromkeys(queues, 0)


class OneAccount:
    """A run of one account."""

    def __init__(
        self,
        configuration: Configuration,
        *answers: Answer,
        accepted: Callable[[Pending], None] = lambda account: None,
        silence: float = 0.0,
        depths: Callable[[Iterable[str]], Mapping[str, int]] = nothing_waits,
    ) -> None:
        self.now = 1000.0
        self.broker = Broker(*answers)
        self.window = Accounts(clock=self.clock)
        self.said: list[str] = []
        self.submitter = Submitter(
            self.broker.submit,
            configuration,
            self.window,
            accepted=accepted,
            while_waiting="It goes on.",
            note=self.said.append,
            silence=silence,
            depths=depths,
            clock=self.clock,
        )
        self.account = Pending(1, "seller-1", message=Outgoing("onboard.main", "sealed"))
        self.window.enter("req-1", self.account, print)
        self.submitter.submit("req-1", self.account)

    def clock(self) -> float:
        return self.now


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
def test_what_time_cures_is_waited_for_said_once_and_submitted_again(
    configuration: Configuration, refusal: Exception, waits: str, again: str
) -> None:
    run = OneAccount(configuration, refusal)
    assert (run.submitter.is_stuck, run.account.handed_over, run.submitter.failure) == (True, "no", None)
    message = run.account.message

    run.submitter.retry()
    assert (run.window.waits, run.said) == (waits, [f"waiting: {refusal}. It goes on."])
    run.submitter.retry()

    assert run.broker.asked == [message, message]
    assert (run.submitter.is_stuck, run.account.handed_over, run.window.waits) == (False, "yes", None)
    assert run.said[1:] == [f"{again} takes requests again"]


def test_an_outbox_that_fails_ends_the_run(configuration: Configuration) -> None:
    run = OneAccount(configuration, OutboxFailed("the outbox is damaged", maybe_sent=False))
    assert run.submitter.failure == "the outbox is damaged"


def test_what_got_its_outcome_while_it_was_refused_is_not_submitted_again(configuration: Configuration) -> None:
    run = OneAccount(configuration, BrokerUnavailable("cut", maybe_sent=True))
    assert run.account.handed_over == "unknown"
    run.window.settle(
        OnboardingResult(outcome_id="o", request_id="req-1", platform="main", settled_at=1), lambda _: None
    )
    run.submitter.retry()
    assert (len(run.broker.asked), run.submitter.is_stuck) == (1, False)


def test_what_was_accepted_and_is_gone_after_a_silence_is_sent_again(configuration: Configuration) -> None:
    run = OneAccount(configuration)
    run.submitter.find_lost()
    assert len(run.broker.asked) == 2
    assert "no longer in their queue" in run.said[0]


@pytest.mark.parametrize("others_are_answered", [False, True])
def test_what_waits_where_nobody_counts_is_sent_again_six_times_in_three_days(
    configuration: Configuration, others_are_answered: bool
) -> None:
    """An open circuit, or attach workers that are down."""
    run = OneAccount(configuration, silence=60.0)
    minutes = []
    for minute in range(1, 3 * 24 * 60):
        run.now += 60.0
        before = len(run.broker.asked)
        run.submitter.find_lost()
        minutes += [minute] * (len(run.broker.asked) - before)
        if others_are_answered and minute % 2 == 0:
            run.window.last_result = run.now
    assert minutes == [1, 5, 21, 85, 341, 1365]


@pytest.mark.parametrize("depths", [{"onboard.main": 1}, {}], ids=["it waits in its queue", "the broker is silent"])
def test_what_may_still_wait_in_its_queue_is_not_sent_again(
    configuration: Configuration, depths: dict[str, int]
) -> None:
    run = OneAccount(configuration, depths=lambda _: depths)
    run.submitter.find_lost()
    assert (len(run.broker.asked), run.said) == (1, [])


def test_a_message_that_was_deleted_is_not_looked_for(configuration: Configuration) -> None:
    def delete(account: Pending) -> None:
        account.message = None

    run = OneAccount(configuration, accepted=delete)
    run.submitter.find_lost()
    assert (len(run.broker.asked), run.said) == (1, [])


def test_a_message_that_is_still_on_its_way_is_not_lost(configuration: Configuration) -> None:
    run = OneAccount(configuration, Future())
    run.submitter.find_lost()
    assert (len(run.broker.asked), run.said) == (1, [])
