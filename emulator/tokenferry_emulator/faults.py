"""Deliberate faults, by probability (seeded) or by script."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KINDS = {
    "rate_429_global": "before",
    "rate_429_endpoint": "before",
    "rate_429_concurrency": "before",
    "lock_timeout": "before",
    "error_500_before": "before",
    "error_502_html": "before",
    "error_503": "before",
    "reset_before": "before",
    "hang": "before",
    "error_500": "instead",
    "error_502_html_after": "after",
    "reset_after": "after",
    "reset_mid_body": "after",
    "slow_drip": "after",
    "truncated_json": "after",
    "empty_200": "after",
    "not_a_token_200": "after",
    "hang_after": "after",
}
"""Every kind, and where in a call it strikes. "before": nothing was executed. "instead": the call was executed and its
answer is kept for its key as the fault. "after": executed, the true answer is kept, the caller sees the fault.
"""


class UnreadableFaults(ValueError):
    """A setting of faults has an unknown kind or no probability. The message may be shown."""


@dataclass(slots=True)
class Scripted:
    """A fault for the next *times* calls that match. *key*: the beginning of their idempotency key."""

    kind: str
    times: int
    path: str | None
    method: str | None
    key: str = ""

    def strikes(self, method: str, path: str, pattern: str, key: str) -> bool:
        return (
            self.times > 0
            and self.path in (None, path, pattern)
            and self.method in (None, method)
            and key.startswith(self.key)
        )


class Faults:
    """Chooses at most one fault for a call: the script first, then the dice."""

    def __init__(self, probabilities: Mapping[str, Any], seed: int) -> None:
        self._dice = random.Random(seed)
        self.probabilities: dict[str, float] = {}
        self.script: list[Scripted] = []
        self.set(probabilities)

    def set(self, wanted: Mapping[str, Any]) -> None:
        """`{"reset_after": 0.05, "script": [{"kind": "error_500", "times": 2, "path": "/v1/tokens"}]}`.

        Replaces the probabilities given before; the script is added to.
        """
        probabilities = {kind: _probability(kind, value) for kind, value in wanted.items() if kind != "script"}
        if sum(probabilities.values()) > 1.0 + 1e-9:
            raise UnreadableFaults("the probabilities of all faults together exceed 1")
        lines = wanted.get("script", [])
        if not isinstance(lines, list):
            raise UnreadableFaults('"script" must be a list')
        self.script = [line for line in self.script if line.times > 0] + [_scripted(line) for line in lines]
        if probabilities or not lines:
            self.probabilities = probabilities

    def clear(self) -> None:
        self.probabilities = {}
        self.script = []

    def choose(self, method: str, path: str, pattern: str = "", key: str = "") -> str | None:
        """The fault of one call. A line of the script names its path, or a pattern: `/v1/accounts/:id/persons`.

        A line may also name how the idempotency key of the call begins. A call without a key has the *key* `""`.
        """
        for line in self.script:
            if line.strikes(method, path, pattern, key):
                line.times -= 1
                return line.kind
        if self.probabilities:
            at = self._dice.random()
            for kind, probability in self.probabilities.items():
                at -= probability
                if at < 0:
                    return kind
        return None

    def snapshot(self) -> dict[str, Any]:
        waiting = [{"kind": line.kind, "times": line.times, "path": line.path} for line in self.script if line.times]
        return {**self.probabilities, "script": waiting}


def _probability(kind: str, value: object) -> float:
    _known(kind)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UnreadableFaults(f"the probability of {kind} must be a number from 0 to 1")
    return float(value)


def _scripted(line: object) -> Scripted:
    if not isinstance(line, dict) or not isinstance(line.get("kind"), str):
        raise UnreadableFaults('a line of the script needs a "kind"')
    times = line.get("times", 1)
    if isinstance(times, bool) or not isinstance(times, int) or times < 1:
        raise UnreadableFaults('"times" must be a whole number from 1')
    unknown = set(line) - {"kind", "times", "path", "method", "key"}
    if unknown:
        raise UnreadableFaults(f"unknown words in the script: {', '.join(sorted(unknown))}")
    key = line.get("key", "")
    if not isinstance(key, str):
        raise UnreadableFaults('"key" must be a string: how the idempotency key begins')
    return Scripted(_known(line["kind"]), times, line.get("path"), line.get("method"), key)


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise UnreadableFaults(f"unknown fault kind {kind!r}; known are {', '.join(KINDS)}")
    return kind
