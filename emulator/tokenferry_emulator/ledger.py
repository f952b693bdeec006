"""What happened, in numbers and ids. Of what callers send it stores idempotency keys and ids alone."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any


class Peak:
    """The largest number of calls in any window of one second."""

    __slots__ = ("_times", "highest")

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self.highest = 0

    def count(self, now: float) -> None:
        times = self._times
        times.append(now)
        while now - times[0] >= 1.0:
            times.popleft()
        self.highest = max(self.highest, len(times))


class CallLedger:
    """Counts calls, tokens and uses. *clock* gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.kinds: Counter[str] = Counter()
        self.tokens_by_key: dict[str, list[str]] = {}
        self.calls_by_key: dict[str, list[tuple[float, int, str]]] = {}
        """Every call that carried a key: when it arrived (Unix seconds), the status answered, 0 where none was, and the
        fault that was done to it, if any.
        """
        self.uses: dict[str, list[str]] = {}
        self.spent: set[str] = set()
        self.magic_uses = 0
        self.objects: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.endpoints: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.replayed = 0
        self.declined = 0
        self.in_flight = 0
        self.peak_in_flight = 0
        self._peaks: dict[str, Peak] = {"global": Peak(), "tokens": Peak()}
        self._admitted: dict[str, Peak] = {"global": Peak(), "tokens": Peak()}

    def arrived(self) -> None:
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def left(self, endpoint: str, status: int) -> None:
        """An answer went out; *status* 0 if none did."""
        self.in_flight -= 1
        self.statuses[status] += 1
        self.endpoints[endpoint] += 1

    def called(self, idempotency_key: str, arrived: float, status: int, fault: str) -> None:
        """A call with a key is over; *arrived* in Unix seconds."""
        self.calls_by_key.setdefault(idempotency_key, []).append((arrived, status, fault))

    def reached_the_limiter(self, endpoint: str) -> None:
        self._count(self._peaks, endpoint)

    def passed_the_limiter(self, endpoint: str) -> None:
        self._count(self._admitted, endpoint)

    def made_token(self, token_id: str, kind: str, idempotency_key: str | None) -> None:
        self.kinds[kind] += 1
        if idempotency_key is not None:
            self.tokens_by_key.setdefault(idempotency_key, []).append(token_id)

    def used(self, token_id: str, object_id: str) -> None:
        self.uses.setdefault(token_id, []).append(object_id)
        self.spent.add(token_id)

    def pages(self) -> dict[str, Any]:
        """Return every entry as JSON."""
        return {"tokens": self.tokens_by_key, "uses": self.uses, "calls": self.calls_by_key}

    def snapshot(self, writers_peak: int) -> dict[str, Any]:
        """Return the totals as JSON."""
        created = sum(self.kinds.values())
        repeated = {key: len(made) for key, made in self.tokens_by_key.items() if len(made) > 1}
        return {
            "tokens_created": created,
            "tokens_by_kind": dict(self.kinds),
            "tokens_by_idempotency_key": {
                "keys": len(self.tokens_by_key),
                "max": max(map(len, self.tokens_by_key.values()), default=0),
                "repeated": repeated,
            },
            "uses": {
                "total": sum(map(len, self.uses.values())),
                "max_per_token": max(map(len, self.uses.values()), default=0),
                "tokens_used_more_than_once": [token for token, uses in self.uses.items() if len(uses) > 1],
                "of_magic_tokens": self.magic_uses,
            },
            "unused_tokens": created - len(self.spent),
            "calls": {
                "total": sum(self.endpoints.values()),
                "by_status": {str(status): count for status, count in sorted(self.statuses.items())},
                "by_endpoint": dict(self.endpoints),
                "replayed": self.replayed,
            },
            "peak_calls_per_second": {name: peak.highest for name, peak in self._peaks.items()},
            "peak_admitted_per_second": {name: peak.highest for name, peak in self._admitted.items()},
            "rate_limited": sum(self.reasons.values()),
            "rate_limited_by_reason": dict(self.reasons),
            "faults": dict(self.faults),
            "in_flight": self.in_flight,
            "peak_in_flight": self.peak_in_flight,
            "declined": self.declined,
            "per_object_concurrent_writes_peak": writers_peak,
            "objects": dict(self.objects),
        }

    def _count(self, peaks: dict[str, Peak], endpoint: str) -> None:
        now = self._clock()
        peaks["global"].count(now)
        if endpoint == "POST /v1/tokens":
            peaks["tokens"].count(now)
        if endpoint not in peaks:
            peaks[endpoint] = Peak()
        peaks[endpoint].count(now)
