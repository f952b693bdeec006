"""What our clients ask of RabbitMQ, read on the wire. RabbitMQ 4.3 refuses global QoS and transient shared queues."""

from __future__ import annotations

import re
from typing import Final

import pytest
from e2e import cargo
from e2e.brokers import RABBITMQ, RabbitMQ
from e2e.house import House
from faults.line import Line, Trap

from tokenferry import Producer, Results

NEVER: Final = 1_000_000
PASSIVE, DURABLE, EXCLUSIVE = 1, 2, 4
"""Bits of a declaration."""
QOS: Final = rb"\x00\x3c\x00\x0a[\s\S]{6}"
"""The frame of `basic.qos`, up to the bit that says whether it counts for the whole connection."""
DECLARATION: Final = rb"\x00\x32\x00\x0a\x00\x00[\s\S][\w.:{}-]*"
"""The frame of `queue.declare`, up to the bits that say what kind of queue it is."""


def flags(*, kept: bool) -> bytes:
    """A pattern for the bits of queues that are passive, durable or exclusive; not *kept*: of all others."""
    wanted = [bits for bits in range(32) if bool(bits & (PASSIVE | DURABLE | EXCLUSIVE)) == kept]
    return b"[" + b"".join(b"\\x%02x" % bits for bits in wanted) + b"]"


@pytest.mark.parametrize("house", ["rabbitmq"], indirect=True)
def test_no_program_asks_for_global_qos_or_a_transient_queue_that_others_may_use(house: House) -> None:
    """Workers of every role, a producer, and a reader of results."""
    assert isinstance(house.broker, RabbitMQ)
    line = Line(RABBITMQ)
    seen = {
        name: line.set_trap(Trap(re.compile(words), nth=NEVER))
        for name, words in {
            "qos": QOS + rb"\x00\xce",
            "global qos": QOS + rb"\x01\xce",
            "kept queues": DECLARATION + flags(kept=True),
            "transient queues": DECLARATION + flags(kept=False),
        }.items()
    }
    config = house.configure("line.toml", broker=f"amqp://guest:guest@127.0.0.1:{line.port}/{house.broker.vhost}")
    try:
        with house.working(config="line.toml"), Producer(config) as producer, Results("shop", config) as results:
            producer.send(cargo.card(), platform="main", reply_to="shop")
            assert results.take(60.0) is not None
    finally:
        line.close()
    assert seen["qos"].seen >= 2, "one of the worker, one of the reader"
    assert seen["kept queues"].seen >= 10, "every queue of the worker"
    assert (seen["global qos"].seen, seen["transient queues"].seen) == (0, 0)
