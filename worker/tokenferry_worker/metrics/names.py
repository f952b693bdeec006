"""Every metric: its name, labels and buckets. Nothing else may be counted, so `docs/metrics.md` can list all of it.

No label holds an id. The values of every label come from a closed list, from the configuration, or from the codes of
Stripe, whose form is checked (`bounded`). Beyond `MOST_SERIES` of one metric everything counts as `other`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]

MOST_SERIES: Final = 500
"""Different label values of one metric in one process."""
OTHER: Final = "other"
NO_FAILURE: Final = "none"
"""The code of an outcome without a failure."""
_CODE: Final = re.compile(r"[a-z][a-z_.]*(?:[0-9]{1,3}[a-z_.]*){0,2}")


@dataclass(frozen=True, eq=False)
class Metric:
    """One metric. Compared by identity: there is one object for each."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram, in seconds. The last one, infinity, is not named."""


WAITS: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
LATENCIES: Final = (0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 80.0)

# Of one process each. Counters and histograms are summed over all processes of a worker, the dead ones included.
OUTCOMES: Final = Metric(
    "tokenferry_outcomes_total",
    "counter",
    "Final outcomes that were settled. code: none where it succeeded. A repeated delivery counts again.",
    ("platform", "lane", "kind", "code"),
)
DELIVERIES: Final = Metric(
    "tokenferry_deliveries_total", "counter", "Messages that were taken from a queue.", ("queue",)
)
IN_HAND: Final = Metric("tokenferry_in_hand", "gauge", "Messages in hand: taken and not acknowledged.", ("queue",))
CALLS: Final = Metric(
    "tokenferry_provider_seconds",
    "histogram",
    "Time from sending a call to Stripe until its whole answer. status: 2xx, 3xx, 4xx, 429, 5xx, none.",
    ("platform", "operation", "status"),
    LATENCIES,
)
IN_FLIGHT: Final = Metric("tokenferry_in_flight", "gauge", "Calls to Stripe without an answer yet.", ("platform",))
PERMIT_WAIT: Final = Metric(
    "tokenferry_permit_wait_seconds",
    "histogram",
    "Time a request waited for its permit to call.",
    ("platform", "lane"),
    WAITS,
)
WAITING: Final = Metric(
    "tokenferry_waiting",
    "gauge",
    "Requests in hand that wait. cause: permit, circuit, slot.",
    ("cause",),
)
BUDGET_CALLS: Final = Metric(
    "tokenferry_budget_calls_total",
    "counter",
    "Calls that were taken out of a budget. Budgets of connected accounts count as one.",
    ("budget",),
)
RATE_LIMITED: Final = Metric(
    "tokenferry_rate_limited_total",
    "counter",
    "Calls that Stripe refused with 429. reason: its Stripe-Rate-Limited-Reason.",
    ("platform", "reason"),
)
ATTEMPTS: Final = Metric(
    "tokenferry_failed_attempts_total",
    "counter",
    "Calls without a usable answer that counted as attempts. status: 2xx, 4xx, 5xx, none.",
    ("platform", "status"),
)
REFUSALS: Final = Metric(
    "tokenferry_refusals_total",
    "counter",
    "Messages that were refused before any call. reason: a code; for not_granted, the line the policy lacks.",
    ("reason",),
)
DEAD_LETTERED: Final = Metric(
    "tokenferry_dead_lettered_total", "counter", "Messages that became dead letters.", ("platform", "code")
)
PARKED_TOTAL: Final = Metric(
    "tokenferry_parked_total", "counter", "Messages that were parked because a circuit was open.", ("platform",)
)
SET_ASIDE: Final = Metric(
    "tokenferry_set_aside_total", "counter", "Messages moved to the quarantine: not ours or not readable.", ("reason",)
)
TOKENS: Final = Metric(
    "tokenferry_ledger_total",
    "counter",
    "Tokens that came into a state of the ledger. state: available, spent, burnt, expired, unknown.",
    ("platform", "state"),
)
AWAY: Final = Metric(
    "tokenferry_away", "gauge", "Processes that do not reach a server now. server: broker, store.", ("server",)
)
# Of the supervisor.
PROCESSES: Final = Metric(
    "tokenferry_processes", "gauge", "Processes of this worker. state: working, starting, stopping, dead.", ("state",)
)
DEATHS: Final = Metric("tokenferry_process_deaths_total", "counter", "Processes that ended without being asked to.")
# Of the whole fleet: every worker says the same, so take the greatest, not the sum.
QUEUE_DEPTH: Final = Metric(
    "tokenferry_queue_depth", "gauge", "Messages that wait in a queue. Fleet: take max, not sum.", ("queue",)
)
QUEUE_AGE: Final = Metric(
    "tokenferry_queue_oldest_seconds",
    "gauge",
    "Age of the oldest message that waits in a queue (not on RabbitMQ). Fleet: take max, not sum.",
    ("queue",),
)
BUDGET_ALLOWED: Final = Metric(
    "tokenferry_budget_allowed",
    "gauge",
    "Calls per second that a budget allows now: 0 while it is paused. Fleet: take max, not sum.",
    ("budget",),
)
BUDGET_CONFIGURED: Final = Metric(
    "tokenferry_budget_configured",
    "gauge",
    "Calls per second that the configuration allows. Fleet: take max, not sum.",
    ("budget",),
)
BUDGET_FACTOR: Final = Metric(
    "tokenferry_budget_factor",
    "gauge",
    "Share of the rate that Stripe's 429s leave: 1 is all of it. Fleet: take max, not sum.",
    ("budget",),
)
BUDGET_USED: Final = Metric(
    "tokenferry_budget_used",
    "gauge",
    "Calls per second of the whole fleet in the last minute. Fleet: take max, not sum.",
    ("budget",),
)
CIRCUITS: Final = Metric(
    "tokenferry_circuits_open",
    "gauge",
    "Open circuits. sort: platform, outage, endpoint, account, kind. Fleet: take max, not sum.",
    ("platform", "sort"),
)
PARKED: Final = Metric(
    "tokenferry_parked_messages",
    "gauge",
    "Messages that wait for open circuits. Fleet: take max, not sum.",
    ("platform",),
)
DEAD_LETTERS: Final = Metric("tokenferry_dead_letters", "gauge", "Dead letters kept. Fleet: take max, not sum.")
QUARANTINED: Final = Metric("tokenferry_quarantined", "gauge", "Messages in the quarantine. Fleet: take max, not sum.")
WORKERS: Final = Metric(
    "tokenferry_fleet_processes", "gauge", "Processes that report to the store. Fleet: take max, not sum.", ("role",)
)
USEFUL: Final = Metric(
    "tokenferry_useful_workers",
    "gauge",
    "Processes that the waiting work and the rates can keep busy: for autoscalers. Fleet: take max, not sum.",
)

METRICS: Final[tuple[Metric, ...]] = tuple(each for each in list(globals().values()) if isinstance(each, Metric))
BY_NAME: Final = {metric.name: metric for metric in METRICS}


def bounded(word: str | None) -> str:
    """Return *word* where it has the form of a code, else `other`: no id may become a label.

    >>> bounded("card_declined"), bounded("targets.charge.max_amount"), bounded("v1_accounts_refused")
    ('card_declined', 'targets.charge.max_amount', 'v1_accounts_refused')
    >>> bounded("tok_1AbCdEf"), bounded("4000000000000002"), bounded(None)
    ('other', 'other', 'other')
    """
    return word if word is not None and len(word) <= 60 and _CODE.fullmatch(word) else OTHER


def status_class(status: int | None) -> str:
    """Return how an answer counts.

    >>> [status_class(status) for status in (200, 402, 429, 503, None)]
    ['2xx', '4xx', '429', '5xx', 'none']
    """
    if not status:
        return "none"
    return "429" if status == 429 else f"{min(max(status // 100, 1), 5)}xx"


def sort_of(scope: str) -> str:
    """Return what sort of circuit *scope* is.

    >>> sort_of("main"), sort_of("main/outage/customers"), sort_of("main/account/acct_1")
    ('platform', 'outage', 'account')
    """
    return scope.split("/")[1] if "/" in scope else "platform"
