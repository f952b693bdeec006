"""Queue and task names, spelled once."""

from __future__ import annotations

import hashlib
from typing import Final

from tokenferry.contract.names import LANES, Lane

TOKENIZE_TASK: Final = "tokenferry.tokenize.v1"
ATTACH_TASK: Final = "tokenferry.attach.v1"
ONBOARD_TASK: Final = "tokenferry.onboard.v1"

QUARANTINE: Final = "quarantine"
"""What is not ours, or not readable, rests here as it came: sealed, counted, never run."""

DEAD_LETTERS: Final = "dead-letters"
"""Requests given up on, still sealed, with a code and their history."""


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


def results_queue(route: str) -> str:
    """Where the requester who named this reply route reads outcomes."""
    return f"results.{route}"
