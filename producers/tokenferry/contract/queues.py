"""Queue and task names, spelled once."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from tokenferry.contract.names import LANES, Lane

TOKENIZE_TASK: Final = "tokenferry.tokenize.v1"
ATTACH_TASK: Final = "tokenferry.attach.v1"
ONBOARD_TASK: Final = "tokenferry.onboard.v1"

QUARANTINE: Final = "quarantine"
"""What is not ours, or not readable, is noted here with the reason: counted, visible, never run."""

DEAD_LETTERS: Final = "dead-letters"
"""Requests given up on, still sealed, with a code and their history."""

MAX_MESSAGE_BYTES: Final = 524_288
"""The longest message that is read, in bytes as the broker keeps it: an item of a Redis list, a body on RabbitMQ.

The longest envelope (`MAX_ENVELOPE_BYTES`) is two thirds of it, in base64 and with Celery's headers. Of what is longer
only the reason, the length and the time are noted.
"""
MAX_TAKEN_BYTES: Final = 4_194_304
"""The most that one look at a Redis list brings, in bytes of its items together."""
MAX_HELD_BYTES: Final = 4_194_304
"""Unacknowledged messages that one channel may hold, in bytes together. Its queues share them equally."""
ROOM_PER_MESSAGE: Final = 4_096
"""Bytes for each message of the prefetch count: an ordinary one is below that, so that it is the count that ends."""


def full_name(prefix: str | None, name: str) -> str:
    """The name of a queue, key or exchange on the broker. *prefix*: `[broker] prefix`.

    The transports add the prefix. Everywhere else a queue has its plain name, also inside of what is signed.

    >>> full_name(None, "results.shop"), full_name("shop", "results.shop"), full_name("{shop}", "results.shop")
    ('results.shop', 'shop:results.shop', '{shop}:results.shop')
    """
    return name if prefix is None else f"{prefix}:{name}"


PARKED_REGISTER: Final = "parked"
WORKER_REGISTERS: Final = frozenset({"tokenize", "attach", "onboard", PARKED_REGISTER})
"""Registers of deliveries whose queues workers read."""
_NAME: Final = r"[a-z0-9][a-z0-9_-]{0,62}"
_OURS: Final = re.compile(
    rf"(?:tokenize|attach)\.(?:{'|'.join(LANES)})\.{_NAME}|onboard\.{_NAME}|parked\.{_NAME}\.[0-9a-f]{{8}}|results\.{_NAME}"
)


def register_of(queue: str) -> str:
    """On Redis and Valkey: the register of deliveries that *queue* belongs to. Empty: it is no queue of ours.

    Workers have a register per role, readers one per route: so nobody can touch what another one has in hand.

    >>> register_of("tokenize.bulk.main"), register_of("parked.main.bcff8e96"), register_of("results.shop")
    ('tokenize', 'parked', 'results.shop')
    >>> register_of("dead-letters"), register_of("tokenize.other.main"), register_of("tokenferry:changes")
    ('', '', '')
    """
    if _OURS.fullmatch(queue) is None:
        return ""
    return queue if queue.startswith("results.") else queue.partition(".")[0]


def held_bytes(queues: int, prefetch: int) -> int:
    """The bytes of one queue that a channel may hold when it reads *queues* of them, *prefetch* messages of each.

    A queue has its own share, so that long messages of one never hold up another. Beyond it the rest stays with the
    broker; one message always fits.

    >>> held_bytes(1, 200), held_bytes(5, 100), held_bytes(100, 100)
    (4194304, 838860, 409600)
    """
    return max(MAX_HELD_BYTES // max(1, queues), ROOM_PER_MESSAGE * prefetch)


def tokenize_queue(lane: Lane, platform: str) -> str:
    """One queue per rate budget and lane, so that a platform out of budget never holds up another one."""
    return f"tokenize.{lane}.{platform}"


def tokenize_queues(platform: str) -> list[str]:
    """Every lane of one platform, realtime first."""
    return [tokenize_queue(lane, platform) for lane in LANES]


def attach_queue(lane: Lane, platform: str) -> str:
    """Where tokens of one platform and lane wait to be spent."""
    return f"attach.{lane}.{platform}"


def attach_queues(platform: str) -> list[str]:
    """Every lane of one platform, realtime first."""
    return [attach_queue(lane, platform) for lane in LANES]


def onboard_queue(platform: str) -> str:
    """Where sealed documents of whole connected accounts wait."""
    return f"onboard.{platform}"


def parked_queue(scope: str) -> str:
    """Where requests of an open circuit wait. *scope* begins with a platform's name; the rest may be long.

    >>> parked_queue("main/kind/card")
    'parked.main.bcff8e96'
    """
    return f"parked.{scope.partition('/')[0]}.{hashlib.sha256(scope.encode()).hexdigest()[:8]}"


PRIVATE: Final = "private-"
"""Routes that one process made for the answers to its own requests begin with it (docs/formats.md)."""
PRIVATE_SECONDS: Final = 3600.0
"""Seconds after which the broker drops a private route that nobody uses: its process is gone."""


def life_of(queue: str) -> float | None:
    """Return the seconds for which *queue* outlives its last use; None: it stays.

    >>> life_of("results.private-abc"), life_of("results.shop")
    (3600.0, None)
    """
    return PRIVATE_SECONDS if queue.startswith(results_queue(PRIVATE)) else None


def results_queue(route: str) -> str:
    """Where the requester who named this reply route reads outcomes."""
    return f"results.{route}"
