"""A stock channel that takes, waits, acknowledges and gives back in our way."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from functools import cached_property
from json import dumps as plain_dumps
from json import loads as plain_loads
from queue import Empty
from typing import Any

import redis
from kombu.log import get_logger
from kombu.transport import redis as stock
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry

from tokenferry.broker.cluster import OwnerClient, Slot, SlotAway
from tokenferry.broker.redis_transport.bell import Bell
from tokenferry.broker.redis_transport.connections import PlainConnection, TlsConnection
from tokenferry.broker.redis_transport.credit import QoS
from tokenferry.broker.redis_transport.keeper import Keeper
from tokenferry.broker.redis_transport.register import NOTED, Register, RegisterKeys, Taken
from tokenferry.broker.redis_transport.waiter import Waiter, track_changes
from tokenferry.contract.queues import QUARANTINE, register_of, results_queue
from tokenferry.contract.work_messages import ENCODED_ALREADY, UNDECODABLE, ListItem, Refused, read_item

logger = get_logger(__name__)

RESULTS = results_queue("")
FOREIGN_QUEUE = "a delivery of a queue that does not belong to its register"
LEASE_SECONDS = 6.0
"""How long a delivery stays ours without being renewed. Four times as often, each consumer renews what it holds and
looks for deliveries whose holder is gone."""


class Channel(stock.Channel):  # type: ignore[misc,unused-ignore]
    """A stock channel that takes, waits, acknowledges and gives back in our way."""

    QoS = QoS
    connection_class: Any = PlainConnection
    connection_class_ssl = TlsConnection
    lease_seconds = LEASE_SECONDS
    socket_timeout = 10.0
    socket_connect_timeout = 5.0
    socket_keepalive = True
    cluster = False
    """Whether all keys are in one slot of what may be a cluster."""
    from_transport_options = (*stock.Channel.from_transport_options, "lease_seconds", "cluster")

    bell: Bell | None = None
    giving_back_may_work = True
    _keeper: Keeper | None = None
    _consumer_thread = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.handlers |= {"BRPOP": self._read, "BELL": self._bell_rang}
        self._taken: deque[Taken] = deque()
        self._consuming: dict[str, tuple[bool, Callable[[Any], Any]]] = {}

    def _get_pool(self, asynchronous: bool = False) -> Any:
        params = self._connparams(asynchronous=asynchronous)
        self.keyprefix_fanout: str = self.keyprefix_fanout.format(db=params["db"])
        return self._pool_of(params)

    def _pool_of(self, params: dict[str, Any]) -> Any:
        """Every connection of this channel comes from here."""
        if self.cluster and "host" in params:
            params = params | {"slot": Slot(params["host"], int(params["port"]), self.global_keyprefix)}
        return redis.ConnectionPool(**params)

    @cached_property
    def bare_client(self) -> redis.Redis:
        """A client that is given whole names of keys. `client` adds the prefix to some commands only."""
        return OwnerClient(connection_pool=self.pool)

    def key_of(self, queue: str) -> str:
        """The whole name of a queue's list."""
        return f"{self.global_keyprefix}{queue}"

    def encode_body(self, body: str | bytes, encoding: str | None = None) -> tuple[str | bytes, str | None]:
        """Leave a work message of version 2 as it is: it is base64 already. Everything else is encoded as before."""
        text = body.decode("ascii") if isinstance(body, bytes) and body.isascii() else body
        if isinstance(text, str) and text.startswith(ENCODED_ALREADY):
            return text, None
        encoded: tuple[str | bytes, str | None] = super().encode_body(body, encoding)
        return encoded

    # -- consuming

    def _begin(self) -> None:
        """Open what only a consuming channel needs: two connections, a bell and a keeper."""
        if self._keeper is not None:
            return
        params = self._connparams()
        timeout = min(params.get("socket_timeout") or self.lease_seconds, self.lease_seconds / 2)
        params |= {"retry": Retry(NoBackoff(), 1), "socket_timeout": timeout}
        prefix = self.global_keyprefix
        keys = RegisterKeys(
            unacked=prefix + self.unacked_key,
            index=prefix + self.unacked_index_key,
            quarantine=prefix + QUARANTINE,
            lists_of=self._lists_of,
            lease=self.lease_seconds,
            way_back=self._way_back,
        )
        where = (params.get("path"), params.get("host"), params.get("port"), params["db"])
        self._register = Register(redis.Redis(connection_pool=self._pool_of(params)), keys, where)

        waiting = self._connparams(asynchronous=True) | {
            "protocol": 3,
            "health_check_interval": 0,
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
        }
        pool = self._pool_of(waiting | {"redis_connect_func": track_changes})
        self._waiter = Waiter(self, redis.Redis(connection_pool=pool), self._register)
        self.bell = Bell()
        self._keeper = Keeper(self)
        self._keeper.start()

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **kwargs: Any
    ) -> Any:
        result = super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)
        if queue not in self.active_fanout_queues:
            self._begin()
            self._register.use(queue)
            self._consuming[queue] = (no_ack, callback)
        return result

    def _basic_cancel(self, consumer_tag: str) -> Any:
        result = super()._basic_cancel(consumer_tag)
        for queue in set(self._consuming) - set(self._active_queues):
            del self._consuming[queue]
        return result

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        self._begin()
        more = True
        while more:
            taken, more = self._register.take(queue)
            for name, tag, payload in self._hold(taken):
                message = self._message(name, tag, payload)
                if message is not None:
                    if no_ack:
                        self.qos.ack(tag)
                    return message
                more = name != QUARANTINE  # what is unreadable there goes back to it
        return None

    def is_full(self, queue: str) -> bool:
        """Whether nothing more of *queue* is taken before something is acknowledged."""
        return self.qos.credit(queue) is None

    def ask(self) -> None:
        """Called by the poller before it waits."""
        self._consumer_thread = threading.get_ident()
        self._waiter.ask()

    def _lists_of(self, queue: str) -> list[str]:
        if queue.startswith(RESULTS):  # workers give none a priority, and a reader has rights on one list alone
            return [self.global_keyprefix + queue]
        steps = dict.fromkeys(self.priority_steps)
        return [self.global_keyprefix + self._q_for_pri(queue, step) for step in steps]

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        if not register_of(queue):  # ours are reached by their names, and this user may have no right on bindings
            super()._queue_bind(exchange, routing_key, pattern, queue)

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        if register_of(queue):
            self.bare_client.delete(*self._lists_of(queue))
        else:
            super()._delete(queue, *args, **kwargs)

    def _size(self, queue: str) -> int:
        try:
            return int(super()._size(queue))
        except SlotAway:
            return int(super()._size(queue))  # the owner is known now

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        # As the stock one, which forgets the prefix.
        return bool(
            self.bare_client.exists(*(self.key_of(self._q_for_pri(queue, step)) for step in self.priority_steps))
        )

    def _read(self) -> bool:
        self._taken.extend(self._hold(self._waiter.read()))
        return self._deliver_taken()

    def _hold(self, taken: list[Taken]) -> list[Taken]:
        for queue, tag, payload in taken:
            self.qos.hold(tag, queue, len(payload))
        return taken

    def _deliver_taken(self) -> bool:
        """Hand the taken messages to their consumers. If one raises, the rest is delivered on the next turn."""
        if not self._taken:
            raise Empty()
        try:
            while self._taken:
                queue, tag, payload = self._taken.popleft()
                if not self.qos.holds(tag):
                    continue
                if queue not in self._consuming:
                    self.qos.reject(tag, requeue=True)
                elif (message := self._message(queue, tag, payload)) is not None:
                    no_ack, callback = self._consuming[queue]
                    if no_ack:
                        self.qos.ack(tag)
                    callback(message)
        finally:
            if self._taken:
                self.ring()
        return True

    def _message(self, queue: str, tag: str, payload: bytes) -> Any:
        """The message in *payload*, or None: then it has been noted in quarantine, and its content was not logged."""
        item = read_item(payload)
        if isinstance(item, ListItem):
            return self.Message(_raw(item, queue, tag), channel=self)
        logger.error("a message of %r is not readable (%s); noted in %r", queue, item.reason, QUARANTINE)
        note = payload if queue == QUARANTINE else item.note(len(payload)).encode()
        try:
            self._register.set_aside(tag, note)
            NOTED[item.reason] += 1
        except (*self.connection_errors, ResponseError) as error:
            logger.warning("it was not moved (%s): it returns when its lease ends", type(error).__name__)
        self.qos.release(tag)
        return None

    # -- a lost connection

    def _on_connection_disconnect(self, connection: Any) -> None:
        if self._keeper is not None and self._waiter.client.connection is connection:
            self._waiter.forget_question()
        super()._on_connection_disconnect(connection)

    def _poll_error(self, type: str, **options: Any) -> None:
        if type == "LISTEN":
            super()._poll_error(type, **options)
        else:
            self.handlers[type]()

    @property
    def is_refused_to_reap(self) -> bool:
        """Whether the server has refused to give back what lost consumers had, and has not done it since."""
        return self._keeper is not None and self._keeper.is_refused_to_reap

    # -- acknowledgements and credit, from any thread

    def note_ack(self, tag: str) -> None:
        self._register.note_ack(tag)
        if self.closed:
            with contextlib.suppress(*self.connection_errors):  # else the next channel to this broker writes it
                self.write_acks()
        else:
            self.credit_returned()

    def credit_returned(self) -> None:
        self.nudge_keeper()
        if threading.get_ident() != self._consumer_thread:
            self.ring()

    def nudge_keeper(self) -> None:
        if self._keeper is not None:
            self._keeper.nudge()

    @property
    def troubled(self) -> bool:
        """Whether the server does not answer: then somebody has to wake us for another try."""
        return self._waiter.troubled or self._waiter.is_overdue

    def ring(self) -> None:
        """Wake the thread that waits for messages."""
        if (bell := self.bell) is not None:
            bell.ring()

    def _bell_rang(self) -> bool:
        if (bell := self.bell) is not None:
            bell.heard()
        return self._deliver_taken()

    def write_acks(self) -> None:
        self._register.write_acks()

    # -- leases

    def renew(self) -> None:
        """Renew what we hold; what was reaped meanwhile is not ours any more."""
        # What is being acknowledged stays ours until the server has heard of it: the take that carries it may be lost.
        ours = [*self.qos.held(), *self._waiter.acks_under_way]
        lost = sum(self.qos.release(tag) for tag in self._register.renew(ours))
        if lost:
            logger.warning("%d deliveries were held too long without renewal and went to others", lost)
            self.credit_returned()

    def reap(self) -> None:
        """Give back what the dead and the frozen have left."""
        if self._waiter.acks_under_way:
            self.renew()  # overdue as it may be after an absence: it is neither dead nor frozen
        self._register.reap(self.lease_seconds, self.visibility_timeout)

    def give_back(self, tags: list[str]) -> None:
        """Put deliveries back, the first of *tags* first in line."""
        if tags:  # else this channel may have had nothing to do with deliveries at all
            self._register.give_back(tags)

    def _way_back(self, value: bytes, register: str) -> tuple[str, str | bytes]:
        """Which list a message in *register* belongs to, and the message marked as redelivered.

        The quarantine, and a note without the message, where that is no queue of this register. Whoever may write to a
        register must not reach other lists by it.
        """
        reason = UNDECODABLE
        try:
            payload, _, queue = plain_loads(value)
            if not self._belongs(queue, register):
                reason = FOREIGN_QUEUE
                raise LookupError
            for place in (payload.get("headers"), payload["properties"].get("delivery_info")):
                if isinstance(place, dict):
                    place["redelivered"] = True
            step = 0 if queue.startswith(RESULTS) else self._get_message_priority(payload)
            return self.global_keyprefix + self._q_for_pri(queue, step), plain_dumps(payload)
        except Exception:
            # Anybody may have written it. One that cannot be given back must not keep the others from it.
            NOTED[reason] += 1
            return self.global_keyprefix + QUARANTINE, Refused(reason).note(len(value))

    def _belongs(self, queue: object, register: str) -> bool:
        """Whether the deliveries of *queue* may be in this register."""
        if not isinstance(queue, str):
            return False
        theirs = register_of(queue)
        return theirs == register if register else bool(theirs) or queue in self._register.queues

    # -- the end

    def close(self) -> None:
        """Write the acknowledgements, give the rest back. What cannot be written now is kept, or returns by lease."""
        keeper = self._keeper
        if keeper is None or self.closed:
            super().close()
            return
        keeper.stop()
        errors = (*self.connection_errors, ResponseError)
        with contextlib.suppress(*errors):
            self._hold(self._waiter.last_answer())
        self._waiter.forget_question()
        with contextlib.suppress(*errors):
            self.write_acks()
        self._taken.clear()
        self.qos.restore_unacked_once()
        self.giving_back_may_work = False  # tried: the stock close would only wait for the same answer once more
        super().close()
        self._waiter.client.connection_pool.disconnect()
        self._register.close()
        bell, self.bell = self.bell, None
        if bell is not None:
            bell.close()


def _raw(item: ListItem, queue: str, tag: str) -> dict[str, Any]:
    """*item* in the form of which kombu makes a message. Where it came from is what we know, not what it says."""
    delivery_info: dict[str, Any] = {"exchange": "", "routing_key": queue}
    if item.redelivered:
        delivery_info["redelivered"] = True
    return {
        "body": item.body,
        "headers": item.headers,
        "content-type": item.content_type,
        "content-encoding": item.content_encoding,
        "properties": {
            "body_encoding": None,
            "correlation_id": item.correlation_id,
            "reply_to": item.reply_to,
            "priority": item.priority,
            "delivery_info": delivery_info,
            "delivery_tag": tag,
        },
    }
