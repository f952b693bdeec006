"""Which requests the broker may have lost. The outbox and every run over a file send them again by this rule.

A queue is read in order. So if fewer requests wait in it than have no outcome, the oldest ones are missing: a worker
has them, or they were lost. Sending one again is safe: its worker repeats the outcome if there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol


def times_longer(sent_again: int) -> int:
    """How many times longer than at first a request is left alone after it was sent again this often.

    It may wait where nobody counts: at an open circuit, or to be attached. So it is sent again about half a dozen
    times in three days, and not each time somebody looks.

    >>> [times_longer(sent_again) for sent_again in range(4)]
    [1, 4, 16, 64]
    """
    return 1 << 2 * min(sent_again, 10)


class Unanswered(Protocol):
    """Requests that the broker has confirmed and that have no outcome yet. *now* is a time of their own clock."""

    def unanswered(self, *, now: float) -> Mapping[str, int]:
        """Count them by queue. Leave out queues with no request that may be sent again *now*."""
        ...

    def send_again(self, queue: str, missing: int, *, now: float) -> int:
        """Send the oldest *missing* requests of *queue* that may be sent again *now*. Return how many those are."""
        ...


@dataclass(frozen=True)
class LostFinder:
    """Compares the requests without an outcome with those that wait in their queues."""

    requests: Unanswered
    depths: Callable[[Iterable[str]], Mapping[str, int]]
    """Returns how many requests wait in each queue. A queue is left out if the broker does not answer."""

    def send_lost_again(self, now: float) -> dict[str, int]:
        """Send again what is missing. Return how many requests those are, by queue."""
        expected = self.requests.unanswered(now=now)
        depths = self.depths(expected) if expected else {}
        sent = {
            queue: self.requests.send_again(queue, expected[queue] - depth, now=now) for queue, depth in depths.items()
        }
        return {queue: count for queue, count in sent.items() if count}
