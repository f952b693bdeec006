"""The steps of a delivery, as they look on a line: where to stop a worker to have it die between two of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from e2e.brokers import RabbitMQ
from faults.line import Line, Trap
from faults.scene import Lines, Scene

import tokenferry.broker
from tokenferry_worker.on_redis.birth import SHARED as BIRTH
from tokenferry_worker.on_redis.entry import SHARED as ENTRY
from tokenferry_worker.on_redis.limiter import SHARED as BUDGET
from tokenferry_worker.on_redis.store import Script


def _call_of(name: str, after: Sequence[str] = ()) -> re.Pattern[bytes]:
    """How a call of a Lua script looks: it is named by the SHA-1 of its text."""
    source = Script(name, after=after).source
    return re.compile(hashlib.sha1(source.encode()).hexdigest().encode())


STEPS: Final = (
    "handed out, not received",
    "received, not begun",
    "begun",
    "permit asked for",
    "permit granted",
    "about to call",
    "called, no answer",
    "answered, not recorded",
    "recorded",
    "about to hand on",
    "handed on",
    "about to claim",
    "claimed",
    "about to spend",
    "spent, no answer",
    "spent, not closed",
    "closed, not recorded",
    "about to tell",
    "told, not acknowledged",
    "about to acknowledge",
    "acknowledged",
)
"""Everything that may be the last a worker does, in the order of a delivery."""


def step_traps(scene_: Scene, lines: Lines) -> dict[str, tuple[Line, Trap]]:
    """Where to stop a worker to have it die between two steps: by name, the line and the trap on it."""
    store = {name: _call_of(name, after=ENTRY) for name in ("record", "claim", "close")}
    store["begin"], permit = _call_of("begin", after=(*BIRTH, *ENTRY)), _call_of("permit", after=BUDGET)
    token_call, spend_call = re.compile(rb"POST /v1/tokens"), re.compile(rb"POST /v1/customers")
    if isinstance(scene_.house.broker, RabbitMQ):
        publish = rb"\x00\x3c\x00\x28\x00\x00\x0atokenferry."
        told, handed_on = re.compile(publish + rb"results\."), re.compile(publish + rb"attach\.")
        acknowledged = re.compile(rb"\x00\x3c\x00\x50.{9}\xce", re.DOTALL)  # basic.ack and the end of its frame
    else:
        push = rb"\*3\r\n\$5\r\nLPUSH\r\n\$\d+\r\n"
        told, handed_on = re.compile(push + rb"results\."), re.compile(push + rb"attach\.")
        (file,) = Path(tokenferry.broker.__file__).parent.rglob("take.lua")
        take = hashlib.sha1(file.read_bytes()).hexdigest().encode()
        acknowledged = re.compile(rb"HDEL\r\n\$\d+\r\nunacked|" + take)
    b, s, e = lines.broker, lines.store, lines.endpoint
    return {
        "handed out, not received": (b, Trap(re.compile(rb"tokenferry\.tokenize\.v1"), direction="answered")),
        "received, not begun": (s, Trap(store["begin"])),
        "begun": (s, Trap(store["begin"], after=True)),
        "permit asked for": (s, Trap(permit)),
        "permit granted": (s, Trap(permit, after=True)),
        "about to call": (e, Trap(token_call)),
        "called, no answer": (e, Trap(token_call, after=True)),
        "answered, not recorded": (s, Trap(store["record"])),
        "recorded": (s, Trap(store["record"], after=True)),
        "about to hand on": (b, Trap(handed_on)),
        "handed on": (b, Trap(handed_on, after=True)),
        "about to claim": (s, Trap(store["claim"])),
        "claimed": (s, Trap(store["claim"], after=True)),
        "about to spend": (e, Trap(spend_call)),
        "spent, no answer": (e, Trap(spend_call, after=True)),
        "spent, not closed": (s, Trap(store["close"])),
        "closed, not recorded": (s, Trap(store["close"], after=True)),
        "about to tell": (b, Trap(told)),
        "told, not acknowledged": (b, Trap(told, after=True)),
        "about to acknowledge": (b, Trap(acknowledged)),
        "acknowledged": (b, Trap(acknowledged, after=True)),
    }
