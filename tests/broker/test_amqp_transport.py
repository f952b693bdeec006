"""What our transport for RabbitMQ does with frames, and what it depends on of py-amqp.

What it promises to a consumer at a real broker is in `test_conformance.py` and tests/e2e/test_e2e_hostile.py.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from struct import pack
from typing import Any

import amqp
import pytest
from amqp import method_framing, spec
from amqp.exceptions import UnexpectedFrame
from e2e.hostile import PROPERTIES

from tokenferry.broker import amqp_transport
from tokenferry.broker.amqp_transport import Account, Arriving, frame_handler
from tokenferry.contract.queues import MAX_HELD_BYTES, MAX_MESSAGE_BYTES

FRAME = 131_064
"""Bytes of a body that RabbitMQ sends in one frame."""


@dataclass
class Room:
    """A channel that has room, or not."""

    has: bool = True

    def has_room_for(self, _: Arriving) -> bool:
        return self.has


@dataclass
class Wire:
    """A connection as a frame handler needs it, and what has come over it."""

    channels: dict[int, Room] = field(default_factory=lambda: {1: Room(), 2: Room()})
    bytes_recv: int = 0
    came: list[tuple[Any, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.on_frame = frame_handler(self, lambda *dispatched: self.came.append(dispatched))

    def deliver(self, length: int, properties: bytes = b"\0\0", channel: int = 1, frame: int = FRAME) -> Arriving:
        """Everything that belongs to one message; the message as it was dispatched."""
        self.on_frame((1, channel, deliver()))
        self.on_frame((2, channel, pack(">HxxQ", 60, length) + properties))
        for sent in range(0, length, frame):
            self.on_frame((3, channel, b"x" * min(frame, length - sent)))
        message = self.came[-1][3]
        assert isinstance(message, Arriving)
        return message


def deliver(routing_key: bytes = b"queue", exchange: bytes = b"tokenferry") -> bytes:
    """The arguments of a delivery with tag 200, which is no ASCII."""
    names = b"".join(pack("B", len(name)) + name for name in (exchange, routing_key))
    return pack(">HH", *spec.Basic.Deliver) + b"\x04tag1" + pack(">QB", 200, 0) + names


@pytest.mark.parametrize("length", [0, 1, FRAME, 3 * FRAME, MAX_MESSAGE_BYTES])
def test_a_message_comes_with_its_body(length: int) -> None:
    wire = Wire()
    message = wire.deliver(length)
    assert (message.body, message.refused, message.put_off) == (b"x" * length, None, False)
    assert message.held == length
    assert len(wire.came) == 1
    assert wire.bytes_recv == 2 + -(-length // FRAME), "heartbeats go by the frames that came"


@pytest.mark.parametrize("length", [MAX_MESSAGE_BYTES + 1, 50_000_000])
def test_no_piece_of_a_body_that_is_too_long_is_kept(length: int) -> None:
    wire = Wire()
    wire.on_frame((1, 1, deliver()))
    wire.on_frame((2, 1, pack(">HxxQ", 60, length) + b"\0\0"))
    for sent in range(0, length, FRAME):
        assert wire.came == []
        wire.on_frame((3, 1, bytes(min(FRAME, length - sent))))
    ((_, _, _, message),) = wire.came
    assert message.refused.reason == "longer than any message of ours"
    assert (message.body, message.body_size, message.held, message._pending_chunks) == (b"", length, 0, [])
    assert wire.deliver(5).body == b"xxxxx", "and the next one is read"


def test_the_body_of_a_message_without_room_is_not_kept() -> None:
    wire = Wire({1: Room(has=False), 2: Room()})
    message = wire.deliver(300_000)
    assert (message.put_off, message.body, message.held) == (True, b"", 300_000)


def test_messages_of_several_channels_may_arrive_in_turns() -> None:
    wire = Wire()
    for channel in (1, 2):
        wire.on_frame((1, channel, deliver()))
    for channel, length in ((1, 600_000), (2, 4)):
        wire.on_frame((2, channel, pack(">HxxQ", 60, length) + b"\0\0"))
    wire.on_frame((3, 1, bytes(300_000)))
    wire.on_frame((3, 2, b"body"))
    wire.on_frame((3, 1, bytes(300_000)))
    assert [(channel, message.body) for channel, _, _, message in wire.came] == [(2, b"body"), (1, b"")]


@pytest.mark.parametrize("properties", PROPERTIES, ids=range(len(PROPERTIES)))
def test_whatever_stands_in_its_properties_a_message_arrives(properties: bytes) -> None:
    message = Wire().deliver(5, properties)
    assert message.refused is not None or message.body == b"xxxxx"
    assert isinstance(message.properties, dict)


@pytest.mark.parametrize("method", [spec.Basic.Deliver, spec.Basic.GetOk])
@pytest.mark.parametrize("name", [b"queue", b"\xff\xfe", b"\xc3", "é".encode()])
def test_a_routing_key_that_is_no_text_does_not_keep_the_rest_from_being_read(
    method: tuple[int, int], name: bytes
) -> None:
    arguments = deliver(routing_key=name)
    if method == spec.Basic.GetOk:
        arguments = pack(">HH", *method) + arguments[9:] + pack(">I", 7)
    read, _ = amqp.serialization.loads(amqp.Channel._METHODS[method].args, Arriving(arguments).frame_args, 4)
    assert 200 in read
    assert read[-1] in (name.decode(errors="replace"), "", 7)
    if name == b"queue":
        assert read[-1] in ("queue", 7)


def test_what_belongs_to_no_message_is_left_to_py_amqp() -> None:
    wire = Wire()
    assert wire.on_frame((1, 1, pack(">HH", *spec.Channel.CloseOk))) is True
    assert wire.came == [(1, spec.Channel.CloseOk, pack(">HH", *spec.Channel.CloseOk), None)]
    assert wire.on_frame((8, 0, b"")) is False
    for kind in (2, 3):
        with pytest.raises(UnexpectedFrame):
            wire.on_frame((kind, 1, b""))
    wire.on_frame((1, 1, deliver()))
    with pytest.raises(UnexpectedFrame):
        wire.on_frame((3, 1, b"a body before its header"))


def test_py_amqp_has_the_names_that_we_depend_on() -> None:
    """None of them is documented. Where one is gone, `amqp_transport` must be read again."""
    assert "frame_handler" in inspect.signature(amqp.Connection.__init__).parameters
    assert "auto_decode" in inspect.signature(amqp.Channel.__init__).parameters
    assert "self.no_ack_consumers = set()" in inspect.getsource(amqp.Channel.__init__)
    assert isinstance(amqp.Connection.bytes_recv, int)
    assert {spec.Basic.Deliver, spec.Basic.GetOk, spec.Basic.Return} == set(method_framing._CONTENT_METHODS)
    assert set(amqp_transport.CARRYING) == set(method_framing._CONTENT_METHODS)
    assert amqp.Channel._METHODS[spec.Basic.Deliver].args == "sLbss"
    assert amqp.Channel._METHODS[spec.Basic.GetOk].args == "Lbssl"
    message = amqp.Message(frame_method=spec.Basic.Deliver)
    assert (message.body_size, message.body_received, message.ready, message.properties) == (
        0,
        0,
        False,
        message.properties,
    )
    for name in ("inbound_header", "inbound_body"):
        assert callable(getattr(message, name))


class Consumer:
    """What becomes of the messages that arrive for one of some queues."""

    def __init__(self, queues: int = 1) -> None:
        self.account = Account()
        self.account.queues = {f"tag{number}": f"queue{number}" for number in range(1, queues + 1)}
        self.handed: list[int] = []

    def arrive(self, *tags: int, length: int) -> None:
        for tag in tags:
            if self.account.fits("queue1", length):
                self.account.hold(tag, "queue1", length)
                self.handed.append(tag)
            else:
                self.account.put_off(tag, "queue1", length)


def test_what_has_no_room_goes_back_as_soon_as_there_is_some() -> None:
    """In the order in which it came, and only so much of it as there is room for."""
    third = MAX_HELD_BYTES // 3
    consumer = Consumer()
    consumer.arrive(*range(1, 9), length=third)
    assert consumer.handed == [1, 2, 3]
    assert list(consumer.account.let_go(2)) == [4]
    assert list(consumer.account.let_go(2)) == [], "acknowledged once"
    consumer.arrive(14, length=third)
    assert list(consumer.account.let_go(14, multiple=True)) == [5, 6, 7], "all of it is free"
    assert list(consumer.account.end("tag1")) == [8]


def test_one_message_always_fits() -> None:
    consumer = Consumer(queues=100)
    consumer.arrive(1, 2, 3, length=MAX_MESSAGE_BYTES)
    assert consumer.handed == [1]
    assert list(consumer.account.let_go(1)) == [2]
