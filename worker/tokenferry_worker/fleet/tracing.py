"""What happened to one request: its story from store, queues and dead letters. Nothing is opened for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from redis.exceptions import NoPermissionError

from tokenferry.broker import connecting
from tokenferry.configuration import Configuration
from tokenferry.contract.codes import FAILURES
from tokenferry_worker.circuits.scopes import plainly, remedy
from tokenferry_worker.dead_letters.record import plain
from tokenferry_worker.fleet.view import StoreView, why_less
from tokenferry_worker.on_redis.lookup import Known
from tokenferry_worker.tokens.grouped_ids import named

MOST: Final = 5000
"""Messages of one queue that are looked through, the oldest first."""
TOGETHER: Final = 100
_ID: Final = re.compile(r"[A-Za-z0-9_:.-]{1,255}")
_BECAUSE: Final = {failure.code: failure.because for failure in FAILURES}


@dataclass(frozen=True)
class Waiting:
    """A message that waits in a queue."""

    queue: str
    place: int
    """1: it is the next."""


def find(configuration: Configuration, id_: str, queues: Sequence[str]) -> Waiting | None:
    """Return where the message of *id_* waits.

    None: nowhere, or too far behind. Also on RabbitMQ, which shows no message without delivering it. Raises what the
    broker's client raises.
    """
    if connecting.is_amqp(connecting.broker_url(configuration)):
        return None
    with connecting.connect(configuration) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0.05, reraise_as_library_errors=False)
        channel = connection.default_channel
        for queue in queues:
            with suppress(NoPermissionError):  # this user may not read the queue
                for place in _places(channel.bare_client, channel.key_of(queue), f'"{id_}"'.encode()):
                    return Waiting(queue, place)
    return None


def _places(client: Any, key: str, marked: bytes) -> Iterator[int]:
    for first in range(0, MOST, TOGETHER):
        some = client.lrange(key, -first - TOGETHER, -first - 1)
        yield from (first + number for number, payload in enumerate(reversed(some), 1) if marked in payload)
        if len(some) < TOGETHER:
            return


def state_of(known: Known) -> str:
    """Return the state in a few words."""
    order, request = known.order, known.request
    for entry, done in ((order, "attached"), (request, "tokenized")):
        outcome = entry.outcome if entry is not None else None
        if outcome is None:
            continue
        if outcome.get("failure"):
            return "failed"
        if outcome.get("type") == "onboarding":
            return "onboarded" if outcome.get("complete") else "partly onboarded"
        if entry is request and order is not None:
            return "tokenized, and being attached"
        return done
    if order is not None or request is not None:
        return "under way"
    return "not known"


def lines(known: Known) -> Iterator[str]:
    """Say what the store knows."""
    for name, entry in (("request", known.request), ("attach order", known.order)):
        if entry is None:
            continue
        again = f", redriven {entry.round - 1} times" if entry.round > 1 else ""
        yield f"{name}: delivered {entry.deliveries} times{again}"
        if entry.outcome is not None:
            yield from (f"  {line}" for line in _outcome(entry.outcome))
    if known.attempts:
        yield "calls that did not succeed at once, the latest:"
        for each in known.attempts:
            at, endpoint = moment(each.at), safe(each.endpoint)
            request = f"  ({safe(each.endpoint_request_id)})" if each.endpoint_request_id else ""
            yield f"  {at}  {endpoint}  {each.status or 'no answer'}  {plain(each.code)}{request}"
    if known.ledger:
        by = f" by {safe(known.ledger['by'])}" if known.ledger.get("by") else ""
        yield f"token {safe(known.token)}: {safe(known.ledger.get('state'))}{by}"
        if known.ledger.get("object"):
            yield f"  became {safe(known.ledger['object'])} ({safe(known.ledger.get('type'))})"


def _outcome(outcome: Mapping[str, Any]) -> Iterator[str]:
    at = moment(outcome.get("settled_at"))
    made = [safe(outcome[name]) for name in ("token", "object_id", "stored_id", "account") if outcome.get(name)]
    failure = outcome.get("failure")
    yield f"outcome at {at}: {' -> '.join(made) or ('failed' if failure else 'no id')}"
    if not isinstance(failure, dict):
        return
    code = plain(failure.get("code"))
    who = "Stripe" if failure.get("source") == "endpoint" else "tokenferry"
    details = [f"{name} {plain(failure[name])}" for name in ("param", "decline_code") if failure.get(name)]
    if isinstance(failure.get("status"), int) and failure["status"]:
        details.append(f"status {failure['status']}")
    if failure.get("endpoint_request_id"):
        details.append(f"Stripe's request {safe(failure['endpoint_request_id'])}")
    if isinstance(failure.get("attempts"), int):
        details.append(f"{failure['attempts']} attempts")
    yield f"failure {code} (said by {who}; {', '.join(details)})"
    if code in _BECAUSE:
        yield f"  {_BECAUSE[code]}"


def why_waiting(view: StoreView, platform: str | None) -> list[str]:
    """Return what may hold up a request of *platform* (None: of any)."""
    reasons = []
    if not view.processes:
        reasons.append("no worker reports to the store: start one with `tokenferry worker`")
    circuits = [each for each in view.circuits.open.values() if platform in (None, each.scope.partition("/")[0])]
    for each in circuits:
        says = plainly(each.scope, each.status, each.code)
        reasons.append(f"circuit {each.scope}: {says}. {remedy(each.scope, each.status, each.code)}")
    for state in view.budgets:
        if platform in (None, state.name.partition(":")[0]):
            reasons += [f"budget {state.name}: {why}" for why in why_less(state, ())]
    waiting = ", ".join(f"{count} for a {cause}" for cause, count in view.waiting().most_common() if count)
    if waiting:
        reasons.append(f"requests in the hands of workers wait: {waiting}")
    return reasons


def as_json(known: Known) -> dict[str, object]:
    """Return *known* for programs: codes, ids and times only."""
    entries = {}
    for name, entry in (("request", known.request), ("order", known.order)):
        if entry is not None:
            entries[name] = {
                "deliveries": entry.deliveries,
                "round": entry.round,
                "outcome": None if entry.outcome is None else _shown(entry.outcome),
            }
    attempts = [{**asdict(each), "code": plain(each.code)} for each in known.attempts]
    ledger = {name: safe(known.ledger[name]) for name in ("state", "by", "object", "type") if known.ledger.get(name)}
    own = named(known.id)
    return {
        "id": own.id,
        "group": own.group,
        "state": state_of(known),
        **entries,
        "attempts": attempts,
        "token": known.token,
        "ledger": ledger or None,
    }


SHOWN: Final = (
    "outcome_id",
    "type",
    "kind",
    "platform",
    "to",
    "settled_at",
    "token",
    "object_id",
    "object_type",
    "stored_id",
)
FAILURE: Final = ("code", "source", "param", "decline_code", "status", "endpoint_request_id", "attempts", "spent_by")


def _shown(outcome: Mapping[str, Any]) -> dict[str, object]:
    shown = {name: outcome[name] for name in SHOWN if outcome.get(name) is not None}
    if isinstance(failure := outcome.get("failure"), dict):
        shown["failure"] = {name: failure[name] for name in FAILURE if failure.get(name) is not None}
    return shown


def safe(text: object) -> str:
    """Return *text* where it has the form of an id, else `unreadable`."""
    return text if isinstance(text, str) and _ID.fullmatch(text) else "unreadable"


def moment(milliseconds: object) -> str:
    """Return a time in words."""
    if not isinstance(milliseconds, int) or not 0 <= milliseconds <= 4_102_444_800_000:
        return "an unknown time"
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
