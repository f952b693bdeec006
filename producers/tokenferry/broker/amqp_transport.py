"""kombu's transport for RabbitMQ, in which no message can stop its reader or fill its memory.

What differs from the stock one:

* A body that is announced to be longer than `MAX_MESSAGE_BYTES` is discarded as it arrives, frame by frame. The reader
  gets a message without content whose `refused` says why.
* Properties that py-amqp cannot decode make a refused message, not an exception that ends the connection.
* Nothing is inflated and no text is decoded: a body is the bytes that were published.
* Every queue of a channel has room for so many bytes (`held_bytes`). A message that does not fit is put off: its body
  is discarded, it stays unacknowledged, and it goes back to its queue as soon as there is room. RabbitMQ's prefetch
  counts messages only (it knows no `prefetch_size`), and heartbeats forbid to stop reading.
* With a prefix, every exchange, queue and routing key begins with it on the broker. Callers use the plain names.
* The routing key of a delivery is the name of its queue. The publisher may have written anything there: with the `CC`
  header a message reaches queues that its routing key does not name.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from functools import partial
from struct import unpack_from
from typing import Any, Final

import amqp
from amqp import method_framing, spec
from kombu.transport import TRANSPORT_ALIASES, pyamqp

from tokenferry.contract.queues import MAX_MESSAGE_BYTES, full_name, held_bytes
from tokenferry.contract.work_messages import TOO_LONG, UNDECODABLE, Refused

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
CARRYING: Final = (spec.Basic.Deliver, spec.Basic.GetOk, spec.Basic.Return)
"""Methods that are followed by a message."""


class Arriving(amqp.Message):
    """A message that arrives: its header first, then its body in pieces. Discards pieces that are not wanted."""

    def __init__(self, arguments: bytes) -> None:
        """*arguments*: the frame of the method before it."""
        method = unpack_from(">HH", arguments)
        super().__init__(frame_method=method, frame_args=_readable(method, arguments))
        self.body = b""
        self.expects = HEADER
        self.refused: Refused | None = None
        self.put_off = False
        """Whether its queue has no room for it now."""

    @property
    def held(self) -> int:
        """Bytes that it takes."""
        return 0 if self.refused is not None else int(self.body_size)

    def inbound_header(self, buf: bytes, offset: int = 0) -> int:
        self.expects = BODY
        try:
            offset = super().inbound_header(buf, offset)
        except Exception:
            # Text that is not UTF-8, impossible dates, nested tables: a publisher may send them.
            self.properties: dict[str, Any] = {}
            self.refused = Refused(UNDECODABLE)
            self.ready = not self.body_size
        if self.body_size > MAX_MESSAGE_BYTES:
            self.refused = Refused(TOO_LONG)
        return offset

    def inbound_body(self, buf: bytes) -> None:
        if self.refused is None and not self.put_off:
            super().inbound_body(buf)
        else:
            self.body_received += len(buf)
            self.ready = self.body_received >= self.body_size


def _readable(method: tuple[int, ...], arguments: bytes) -> bytes:
    """*arguments* without the exchange and the routing key where these may be no text: py-amqp would raise."""
    if method == spec.Basic.Deliver:
        names, rest = 14 + arguments[4], b""  # behind the consumer tag, the delivery tag and a flag
    elif method == spec.Basic.GetOk:
        names, rest = 13, arguments[-4:]
    else:
        return arguments
    try:
        arguments[names:].decode()
    except UnicodeDecodeError:
        return arguments[:names] + b"\0\0" + rest
    return arguments


def frame_handler(connection: Any, callback: Callable[..., Any]) -> Callable[[Any], bool]:
    """As py-amqp's, for `Arriving` messages. Frames that belong to no message go to py-amqp."""
    others = method_framing.frame_handler(connection, callback)
    arriving: dict[int, Arriving] = {}

    def on_frame(frame: Any) -> bool:
        kind, channel, buf = frame
        message = arriving.get(channel)
        begins = message is None and kind == METHOD and unpack_from(">HH", buf) in CARRYING
        if not begins and (message is None or kind != message.expects):
            return bool(others(frame))  # which refuses a header and a body that it does not expect
        connection.bytes_recv += 1  # heartbeats go by it
        if message is None:
            arriving[channel] = Arriving(buf)
            return False
        if kind == HEADER:
            message.inbound_header(buf)
            open_channel = connection.channels.get(channel)
            message.put_off = open_channel is not None and not open_channel.has_room_for(message)
        else:
            message.inbound_body(buf)
        if message.ready:
            del arriving[channel]
            callback(channel, message.frame_method, message.frame_args, message)
        return bool(message.ready)

    return on_frame


class Message(pyamqp.Message):
    """kombu's message, without decompression."""

    def __init__(self, msg: Any, channel: Any = None, **kwargs: Any) -> None:
        msg.properties.get("application_headers", {}).pop("compression", None)
        super().__init__(msg, channel=channel, **kwargs)
        self.refused: Refused | None = msg.refused
        """Why it has no content; None: it has."""
        self.length: int = msg.body_size
        """Bytes of its body, as the header says."""


class Account:
    """The bytes that a channel holds of each queue, and the messages that had no room."""

    def __init__(self) -> None:
        self.prefetch = 0
        self.queues: dict[str, str] = {}
        """The queues that are consumed, by consumer tag."""
        self._held: dict[int, tuple[str, int]] = {}
        """What is not acknowledged, by delivery tag: queue and bytes."""
        self._put_off: dict[str, deque[tuple[int, int]]] = {}
        """What had no room, by queue, the oldest first: delivery tag and bytes."""
        self._bytes: Counter[str] = Counter()

    def fits(self, queue: str, length: int, coming: int = 0) -> bool:
        """True if it fits, or if nothing else of that queue is held. *coming*: bytes that are under way already."""
        taken = self._bytes[queue] + coming
        return not taken or taken + length <= held_bytes(len(self.queues), self.prefetch)

    def hold(self, tag: int, queue: str, length: int) -> None:
        """Count a message that has arrived."""
        self._held[tag] = queue, length
        self._bytes[queue] += length

    def put_off(self, tag: int, queue: str, length: int) -> None:
        """Remember a message whose body was not kept."""
        self._put_off.setdefault(queue, deque()).append((tag, length))

    def is_full(self, queue: str) -> bool:
        """True if something of it was put off."""
        return bool(self._put_off.get(queue))

    def let_go(self, tag: int, *, multiple: bool = False) -> Iterator[int]:
        """Forget what is not held any more. Yields what fits now: the broker delivers it again."""
        gone = [held for held in self._held if held <= tag] if multiple else [tag]
        queues = set()
        for queue, length in [self._held.pop(one) for one in gone if one in self._held]:
            self._bytes[queue] -= length
            queues.add(queue)
        for queue in queues:
            waiting, coming = self._put_off.get(queue), 0
            while waiting and self.fits(queue, waiting[0][1], coming):
                again, length = waiting.popleft()
                coming += length
                yield again

    def end(self, consumer_tag: str) -> Iterator[int]:
        """Stop to count a consumer. Yields what had no room: another consumer may have some."""
        for again, _ in self._put_off.pop(self.queues.pop(consumer_tag, ""), ()):
            yield again


DEAD_LETTER_NAMES: Final = ("x-dead-letter-exchange", "x-dead-letter-routing-key")
"""Arguments of a queue that are names."""


class NamingChannel(pyamqp.Channel):
    """A stock channel on whose broker every name begins with the prefix of its connection."""

    def _full(self, name: str) -> str:
        """*name* on the broker. The nameless exchange, and a queue that the broker names, stay as they are."""
        return full_name(self.connection.name_prefix, name) if name else name

    def exchange_declare(self, exchange: str, *args: Any, **kwargs: Any) -> Any:
        return super().exchange_declare(self._full(exchange), *args, **kwargs)

    def exchange_delete(self, exchange: str, *args: Any, **kwargs: Any) -> Any:
        return super().exchange_delete(self._full(exchange), *args, **kwargs)

    def queue_declare(self, queue: str = "", *args: Any, arguments: Any = None, **kwargs: Any) -> Any:
        names = {name: self._full(arguments[name]) for name in DEAD_LETTER_NAMES if name in (arguments or {})}
        arguments = {**arguments, **names} if names else arguments
        return super().queue_declare(self._full(queue), *args, arguments=arguments, **kwargs)

    def queue_bind(self, queue: str, exchange: str = "", routing_key: str = "", *args: Any, **kwargs: Any) -> Any:
        return super().queue_bind(self._full(queue), self._full(exchange), self._full(routing_key), *args, **kwargs)

    def queue_unbind(self, queue: str, exchange: str, routing_key: str = "", *args: Any, **kwargs: Any) -> Any:
        return super().queue_unbind(self._full(queue), self._full(exchange), self._full(routing_key), *args, **kwargs)

    def queue_purge(self, queue: str = "", *args: Any, **kwargs: Any) -> Any:
        return super().queue_purge(self._full(queue), *args, **kwargs)

    def queue_delete(self, queue: str = "", *args: Any, **kwargs: Any) -> Any:
        return super().queue_delete(self._full(queue), *args, **kwargs)

    def basic_consume(self, queue: str = "", *args: Any, **kwargs: Any) -> Any:
        return super().basic_consume(self._full(queue), *args, **kwargs)

    def basic_get(self, queue: str = "", *args: Any, **kwargs: Any) -> Any:
        return super().basic_get(self._full(queue), *args, **kwargs)

    def _basic_publish(self, msg: Any, exchange: str = "", routing_key: str = "", *args: Any, **kwargs: Any) -> Any:
        return super()._basic_publish(msg, self._full(exchange), self._full(routing_key), *args, **kwargs)

    basic_publish = _basic_publish


class Channel(NamingChannel):
    """A channel that counts the bytes it holds, and returns bodies as bytes."""

    Message = Message

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._account = Account()
        super().__init__(*args, **kwargs)
        self.auto_decode = False  # else the publisher would choose the codec

    def has_room_for(self, message: Arriving) -> bool:
        """True if its body may be kept."""
        if message.frame_method != spec.Basic.Deliver or message.refused is not None or self.no_ack_consumers:
            return True
        tag = message.frame_args[5 : 5 + message.frame_args[4]].decode()
        return self._account.fits(self._account.queues.get(tag, ""), message.held)

    def is_full(self, queue: str) -> bool:
        """Whether nothing more of *queue* is taken before something is acknowledged."""
        return self._account.is_full(queue)

    def basic_qos(self, prefetch_size: int, prefetch_count: int, a_global: bool, **kwargs: Any) -> Any:
        self._account.prefetch = prefetch_count
        return super().basic_qos(prefetch_size, prefetch_count, a_global, **kwargs)

    def basic_consume(
        self,
        queue: str = "",
        consumer_tag: str = "",
        no_ack: bool = False,
        callback: Callable[[Any], Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        self._account.queues[consumer_tag] = queue
        callback = partial(self._arrived, queue, no_ack, callback or (lambda _: None))
        return super().basic_consume(queue=queue, consumer_tag=consumer_tag, no_ack=no_ack, callback=callback, **kwargs)

    def basic_cancel(self, consumer_tag: str, **kwargs: Any) -> Any:
        done = super().basic_cancel(consumer_tag, **kwargs)
        self._send_back(self._account.end(consumer_tag))
        return done

    def basic_ack(self, delivery_tag: int, multiple: bool = False, **kwargs: Any) -> Any:
        done = super().basic_ack(delivery_tag, multiple, **kwargs)
        self._send_back(self._account.let_go(delivery_tag, multiple=multiple))
        return done

    def basic_reject(self, delivery_tag: int, requeue: bool, **kwargs: Any) -> Any:
        done = super().basic_reject(delivery_tag, requeue, **kwargs)
        self._send_back(self._account.let_go(delivery_tag))
        return done

    def _arrived(self, queue: str, no_ack: bool, callback: Callable[[Any], Any], message: Any) -> Any:
        message.delivery_info["routing_key"] = queue
        if message.put_off:
            return self._account.put_off(message.delivery_tag, queue, message.held)
        if not no_ack:
            self._account.hold(message.delivery_tag, queue, message.held)
        return callback(message)

    def _send_back(self, tags: Iterator[int]) -> None:
        for tag in tags:
            super().basic_reject(tag, requeue=True)


class Connection(pyamqp.Connection):
    """A stock connection whose messages arrive as above."""

    Channel = Channel

    def __init__(self, *args: Any, name_prefix: str | None = None, **kwargs: Any) -> None:
        """*name_prefix*: what every name on the broker begins with; it is kombu's transport option of this name."""
        self.name_prefix = name_prefix
        super().__init__(*args, frame_handler=frame_handler, **kwargs)


class Transport(pyamqp.Transport):
    """kombu's transport for RabbitMQ, with the connection above."""

    Connection = Connection


class TlsTransport(pyamqp.SSLTransport):
    """The same over TLS."""

    Connection = Connection


NAMES: Final = {"amqp": "tokenferry-amqp", "amqps": "tokenferry-amqps"}
"""What kombu knows these transports by, for each scheme of a URL."""

TRANSPORT_ALIASES[NAMES["amqp"]] = f"{__name__}:{Transport.__name__}"
TRANSPORT_ALIASES[NAMES["amqps"]] = f"{__name__}:{TlsTransport.__name__}"
