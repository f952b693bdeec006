"""A kombu transport for Redis and Valkey that has no moment in which a message is in neither place.

Same keys and same message format as kombu's own Redis transport, so stock producers and consumers can share a queue.
What differs:

* *Taking* is one Lua script for all queues of a channel: registered as unacknowledged, then popped (``take.lua``).
* *Waiting* removes nothing. The script's reads arm ``CLIENT TRACKING`` on the connection it came over, and the
  server pushes a line to us when one of the lists changes. One connection for any number of queues, no polling.
* *Leases*: a thread renews every delivery this channel holds. A process that dies or freezes stops renewing, and any
  other consumer puts its messages back at the consumed end of the queue. The server's clock decides, nobody else's.
* *Credit* is per queue: ``prefetch_count`` deliveries of each queue, so that a busy queue never blocks another.
* *Acknowledgements* are noted, and travel with the next take or a few milliseconds later. They outlive a lost
  connection, and the credit comes back at once whether the broker can be reached or not.

Delivery is at least once. A consumer that is frozen for longer than its lease, or a server clock that jumps by more
than a lease, leads to a second delivery, never to a loss. Broadcast (fanout) messages stay as in the stock transport,
except that they are not registered: acknowledging one does nothing. Needs Redis 6.2 or any Valkey, not a cluster.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from json import dumps as plain_dumps
from json import loads as plain_loads
from pathlib import Path
from queue import Empty
from time import monotonic
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import redis
from kombu.log import get_logger
from kombu.transport import TRANSPORT_ALIASES
from kombu.utils.json import loads as kombu_loads
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ResponseError
from redis.retry import Retry

stock: Any = importlib.import_module("kombu.transport.redis")  # untyped
logger = get_logger(__name__)

LEASE_SECONDS = 8.0
"""How long a delivery stays ours without being renewed. Four times as often, each consumer renews what it holds and
looks for deliveries whose holder is gone."""
RECHECK_SECONDS = 5.0
"""An armed connection is asked again this often: a half-open socket must not stay unnoticed."""
ACK_DELAY_SECONDS = 0.005
"""How long an acknowledgement may wait for a take to travel with."""
RETRY_SECONDS = 0.1
"""Pause before the next attempt after the server could not be reached or refused to serve."""
MOST_PER_TAKE = 250
"""Messages per queue in one take, also when the prefetch count is unlimited (0)."""
MOST_PER_CALL = 500
"""Tags in one call of any other script: the server serves nobody else meanwhile."""
QUARANTINE = "quarantine"
"""The list that receives payloads which no consumer could decode, as they were, newest at the head."""

_TAKE, _RENEW, _OVERDUE, _GIVE_BACK = (
    Path(__file__).with_name(f"{name}.lua").read_text() for name in ("take", "renew", "overdue", "give_back")
)

_unsent_acks: dict[tuple[object, ...], deque[str]] = {}
"""Acknowledgements not yet written, by broker. They survive the channel they were made on."""


@dataclass(frozen=True, slots=True)
class Question:
    """A take that is under way: when it was asked (monotonic seconds), with which credit, and what it acknowledges."""

    at: float
    credit: dict[str, int]
    acks: list[str]


class QoS(stock.QoS):  # type: ignore[misc,unused-ignore]
    """What this channel holds, and how much more of each queue it may take. Safe to use from any thread."""

    def __init__(self, channel: Channel, prefetch_count: int = 0) -> None:
        super().__init__(channel, prefetch_count)
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._held: dict[str, str] = {}  # delivery tag -> queue, in the order taken
        self._used: Counter[str] = Counter()

    def credit(self, queue: str) -> int:
        """Messages that may still be taken from *queue*."""
        if not self.prefetch_count:
            return MOST_PER_TAKE
        return min(MOST_PER_TAKE, max(0, int(self.prefetch_count) - self._used[queue]))

    def can_consume(self) -> bool:
        return any(self.credit(queue) for queue in self.channel.active_queues)

    def hold(self, tag: str, queue: str) -> None:
        """Count a delivery as ours: its lease is renewed from now on."""
        with self._lock:
            if tag not in self._held:  # else it was reaped and came back to us: two deliveries, one credit
                self._held[tag] = queue
                self._used[queue] += 1

    def holds(self, tag: str) -> bool:
        return tag in self._held

    def held(self) -> list[str]:
        with self._lock:
            return list(self._held)

    def release(self, tag: str) -> bool:
        """Give the credit of a delivery back. False if it is not ours (any more): somebody else has it by now."""
        with self._lock:
            queue = self._held.pop(tag, None)
            if queue is not None:
                self._used[queue] -= 1
            return queue is not None

    def append(self, message: Any, delivery_tag: str) -> None:
        """Do nothing: the take has registered it."""

    def ack(self, delivery_tag: str) -> None:
        if self.release(delivery_tag):
            self.channel.note_ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if not requeue:
            self.ack(delivery_tag)
        elif self.release(delivery_tag):
            try:
                self.channel.give_back([delivery_tag])
            except (*self.channel.connection_errors, ResponseError) as error:
                logger.warning("not given back (%s): returns when its lease ends", type(error).__name__)
            self.channel.credit_returned()

    def restore_unacked(self, client: Any = None) -> list[Any]:
        """Give everything back at once. What could not be given back stays known, for a late acknowledgement."""
        try:
            for tag in self.channel.give_back(self.held()):
                self.release(tag)
        except (*self.channel.connection_errors, ResponseError) as error:
            logger.warning("deliveries not given back (%s): return when their lease ends", type(error).__name__)
        return []

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """The end of the channel or of the process. Never dumps messages to a file: the broker has them all."""
        self._on_collect.cancel()
        if self._pid != os.getpid():
            return  # a forked child has inherited the channel: the deliveries are its parent's
        if self.restore_at_shutdown and self.channel.do_restore and self.channel.giving_back_may_work:
            self.restore_unacked()

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the stock sweep does not know leases. `Keeper` does the work."""


class Keeper(threading.Thread):
    """Renews what a channel holds, returns what the dead have left, writes acknowledgements that nobody took along."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(name="tokenferry-leases", daemon=True)
        self._channel = channel
        self._nudged = threading.Event()
        self._stopping = threading.Event()

    def nudge(self) -> None:
        self._nudged.set()

    def stop(self) -> None:
        self._stopping.set()
        self._nudged.set()
        if threading.current_thread() is not self:
            self.join(timeout=self._channel.lease_seconds)

    def run(self) -> None:
        channel, beat = self._channel, self._channel.lease_seconds / 4
        renew_at, reap_at, retry_at = monotonic() + beat, monotonic() + random.uniform(0, beat), float("inf")
        while not self._stopping.is_set():
            if self._nudged.wait(max(0.0, min(renew_at, reap_at, retry_at) - monotonic())):
                self._nudged.clear()
                self._stopping.wait(ACK_DELAY_SECONDS)
            now, retry_at = monotonic(), float("inf")
            try:
                if now >= renew_at:
                    renew_at = now + beat
                    channel.renew()
                channel.write_acks()
                if now >= reap_at:
                    reap_at = now + beat * random.uniform(0.75, 1.25)  # not all consumers at once
                    channel.reap()
            except Exception as error:
                # Whatever it was, a keeper that dies would give everything away that this channel holds.
                retry_at = now + RETRY_SECONDS
                logger.debug("leases: %s, will retry", type(error).__name__)
            if channel.troubled:
                retry_at = now + RETRY_SECONDS
                channel.ring()


class Poller(stock.MultiChannelPoller):  # type: ignore[misc,unused-ignore]
    """The stock poller, with our way of asking and a bell that other threads can ring."""

    def on_poll_start(self) -> None:
        for channel in list(self._channels):
            if channel.active_fanout_queues:
                self._register_LISTEN(channel)
            if channel.active_queues:
                self._hear_bell(channel)
                channel.ask()

    def _hear_bell(self, channel: Channel) -> None:
        fd = channel.bell.fileno()
        if self._fd_to_chan.get(fd) != (channel, "BELL"):
            self._fd_to_chan[fd] = (channel, "BELL")
            self.poller.register(fd, self.eventflags)

    def discard(self, channel: Channel) -> None:
        super().discard(channel)
        if channel.bell is not None:
            self._fd_to_chan.pop(channel.bell.fileno(), None)
            with contextlib.suppress(KeyError, ValueError, OSError):
                self._unregister_from_poll(channel.bell.fileno())

    def on_readable(self, fileno: int) -> Any:
        """Read whatever the credit: what was taken under it must reach its consumer."""
        channel, kind = self._fd_to_chan.get(fileno, (None, None))
        return None if channel is None else channel.handlers[kind]()

    def get(self, callback: Any, timeout: float | None = None) -> Any:
        return super().get(callback, timeout=RECHECK_SECONDS if timeout is None else min(timeout, RECHECK_SECONDS))


class Channel(stock.Channel):  # type: ignore[misc,unused-ignore]
    """A stock channel that takes, waits, acknowledges and gives back in our way."""

    QoS = QoS
    lease_seconds = LEASE_SECONDS
    socket_timeout = 10.0
    socket_connect_timeout = 5.0
    socket_keepalive = True
    from_transport_options = (*stock.Channel.from_transport_options, "lease_seconds")

    bell: Any = None
    troubled = False
    giving_back_may_work = True
    _keeper: Keeper | None = None
    _asked: Question | None = None
    _armed: frozenset[str] = frozenset()
    _answered_at = _pause_until = 0.0
    _lost_since: float | None = None
    _consumer_thread = 0
    _rung = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.handlers |= {"BRPOP": self._read, "BELL": self._bell_rang}
        self._taken: deque[tuple[str, str, bytes]] = deque()
        self._consuming: dict[str, tuple[bool, Callable[[Any], Any]]] = {}
        self._unacked, self._index, self._quarantine = (
            self.global_keyprefix + key for key in (self.unacked_key, self.unacked_index_key, QUARANTINE)
        )

    # -- consuming

    def _begin(self) -> None:
        """Open what only a consuming channel needs: two clients, a bell and a keeper."""
        if self._keeper is not None:
            return
        params = self._connparams()
        timeout = min(params.get("socket_timeout") or self.lease_seconds, self.lease_seconds / 2)
        params |= {"retry": Retry(NoBackoff(), 1), "socket_timeout": timeout}
        self._ledger: Any = redis.Redis(connection_pool=redis.ConnectionPool(**params))
        self._take, self._renew, self._overdue, self._give_back = (
            self._ledger.register_script(text) for text in (_TAKE, _RENEW, _OVERDUE, _GIVE_BACK)
        )
        where = (params.get("path"), params.get("host"), params.get("port"), params["db"], self._unacked)
        self._acks = _unsent_acks.setdefault(where, deque())

        waiting = self._connparams(asynchronous=True) | {"protocol": 3, "health_check_interval": 0}
        self._waiter: Any = redis.Redis(
            connection_pool=redis.ConnectionPool(**waiting, redis_connect_func=_track_changes)
        )
        self.bell, self._bell_rope = socket.socketpair()
        self.bell.setblocking(False)
        self._bell_rope.setblocking(False)
        self._keeper = Keeper(self)
        self._keeper.start()

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **kwargs: Any
    ) -> Any:
        result = super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)
        if queue not in self.active_fanout_queues:
            self._begin()
            self._consuming[queue] = (no_ack, callback)
        return result

    def _basic_cancel(self, consumer_tag: str) -> Any:
        result = super()._basic_cancel(consumer_tag)
        for queue in set(self._consuming) - set(self._active_queues):
            del self._consuming[queue]
        return result

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        self._begin()
        reply = self._take(**self._take_arguments({queue: 1}, []))
        for name, tag, payload in self._held_from(reply):
            message = self._message(name, tag, payload)
            if message is not None and no_ack:
                self.qos.ack(tag)
            return message
        return None

    def ask(self) -> None:
        """Send a take if there is credit that is not already waiting for its queue to change."""
        now = monotonic()
        self._consumer_thread = threading.get_ident()
        if self._asked is not None:
            sock = self._waiter.connection._sock
            if now - self._asked.at > self.socket_timeout and not (sock and stock._socket_readable(sock)):
                self._lost(redis.TimeoutError("no reply to a take"))
            return
        credit = {queue: n for queue in self.active_queues if (n := self.qos.credit(queue))}
        settled = credit.keys() <= self._armed and not self._acks and now - self._answered_at < RECHECK_SECONDS
        if not credit or settled or now < self._pause_until:
            return
        self._asked = Question(now, credit, list(_drain(self._acks)))
        arguments = self._take_arguments(credit, self._asked.acks)
        poller = self.connection.cycle
        try:
            if not poller._client_registered(self, self._waiter, "BRPOP"):
                poller._register(self, self._waiter, "BRPOP")
            keys = arguments["keys"]
            self._waiter.connection.send_command("EVALSHA", self._take.sha, len(keys), *keys, *arguments["args"])
        except self.connection_errors as error:
            self._lost(error)

    def _take_arguments(self, credit: dict[str, int], acks: list[str]) -> dict[str, Any]:
        steps = list(dict.fromkeys(self.priority_steps))
        lists = [self.global_keyprefix + self._q_for_pri(queue, step) for queue in credit for step in steps]
        counts = [word for pair in credit.items() for word in pair]
        return {
            "keys": [self._unacked, self._index, self._quarantine, *lists],
            "args": [uuid4().hex, len(steps), len(credit), *counts, *acks],
        }

    def _read(self) -> bool:
        """Read what the server sent: the answer to a take, or the news that a queue has changed."""
        connection, asked = self._waiter.connection, self._asked
        try:
            reply = connection.read_response(disable_decoding=True, push_request=asked is None)
        except NoScriptError:
            self._forget_question()
            self._ledger.script_load(_TAKE)
            raise Empty() from None
        except ResponseError as error:
            # A full or read-only server: it may serve us again, and to die of it would help nobody.
            self._forget_question()
            self._try_again(10 * RETRY_SECONDS)
            logger.warning("the broker refuses to hand out messages: %s", type(error).__name__)
            raise Empty() from None
        except self.connection_errors as error:
            self._lost(error)
            raise Empty() from None
        if asked is None:
            self._armed = frozenset()
            raise Empty()
        self._asked, self._lost_since, self.troubled, self._answered_at = None, None, False, monotonic()
        if self._answered_at - asked.at > self.lease_seconds:
            # We slept while nobody renewed these: they are, or will be, somebody else's.
            self._armed = frozenset()
            raise Empty()
        taken = self._held_from(reply)
        counts = Counter(queue for queue, _, _ in taken)
        self._armed = frozenset(queue for queue, credit in asked.credit.items() if counts[queue] < credit)
        if connection.can_read(timeout=0):
            self._armed = frozenset()  # a change arrived behind the answer, where no poller sees it
        self._taken.extend(taken)
        return self._deliver_taken()

    def _held_from(self, reply: list[Any]) -> list[tuple[str, str, bytes]]:
        if reply[0]:
            logger.error("%d undecodable messages moved to %r", reply[0], self._quarantine)
        words = iter(reply[1:])
        taken = [
            (queue.decode(), tag.decode(), payload) for queue, tag, payload in zip(words, words, words, strict=True)
        ]
        for queue, tag, _ in taken:
            self.qos.hold(tag, queue)
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
        """The message in *payload*, or None: then it has been moved to the quarantine, and its body was not logged."""
        try:
            raw: Any = kombu_loads(payload.decode())  # type: ignore[no-untyped-call,unused-ignore]
            raw["properties"]["delivery_tag"] = tag
            return self.Message(raw, channel=self)
        except Exception as error:
            logger.error("undecodable message from %r moved to %r: %s", queue, self._quarantine, type(error).__name__)
        self._give_back(keys=[self._unacked, self._index, self._quarantine], args=[tag, "", payload])
        self.qos.release(tag)
        return None

    # -- a lost connection

    def _lost(self, error: Exception) -> None:
        """Try again in a moment; after half a lease without an answer, let the application reconnect.

        A short absence is nobody's business: what is in flight here stays ours, and is not delivered twice.
        """
        now = monotonic()
        if self._waiter.connection is not None:
            self._waiter.connection.disconnect()
        self._forget_question()
        if self._lost_since is None:
            self._lost_since = now
            self._try_again(0.0)
        elif now - self._lost_since <= self.lease_seconds / 2:
            self._try_again(RETRY_SECONDS)
        else:
            self._lost_since = None
            raise error

    def _try_again(self, seconds: float) -> None:
        """Not before *seconds* have passed. Until the server answers, the keeper wakes whoever waits."""
        self._pause_until, self.troubled = monotonic() + seconds, True
        if self._keeper is not None:
            self._keeper.nudge()

    def _forget_question(self) -> None:
        asked, self._asked, self._armed = self._asked, None, frozenset()
        if asked is not None:
            self._acks.extend(asked.acks)

    def _on_connection_disconnect(self, connection: Any) -> None:
        if self._keeper is not None and self._waiter.connection is connection:
            self._forget_question()
        super()._on_connection_disconnect(connection)

    def _poll_error(self, type: str, **options: Any) -> None:
        if type == "LISTEN":
            super()._poll_error(type, **options)
        else:
            self.handlers[type]()

    # -- acknowledgements and credit, from any thread

    def note_ack(self, tag: str) -> None:
        self._acks.append(tag)
        if self.closed:
            with contextlib.suppress(*self.connection_errors):  # else the next channel to this broker writes it
                self.write_acks()
        else:
            self.credit_returned()

    def credit_returned(self) -> None:
        if self._keeper is not None:
            self._keeper.nudge()
        if threading.get_ident() != self._consumer_thread:
            self.ring()

    def ring(self) -> None:
        """Wake the thread that waits for messages."""
        if not self._rung and self.bell is not None:
            self._rung = True
            with contextlib.suppress(OSError):  # closed: nobody waits
                self._bell_rope.send(b"!")

    def _bell_rang(self) -> bool:
        with contextlib.suppress(BlockingIOError, AttributeError):
            self.bell.recv(64)
        self._rung = False  # only now: a ring that came in between has left its reason where we look next
        return self._deliver_taken()

    def write_acks(self) -> None:
        while acks := list(_drain(self._acks)):
            try:
                with self._ledger.pipeline(transaction=True) as pipe:
                    pipe.hdel(self._unacked, *acks).zrem(self._index, *acks).execute()
            except BaseException:
                self._acks.extend(acks)
                raise

    # -- leases

    def renew(self) -> None:
        """Renew what we hold; what was reaped meanwhile is not ours any more."""
        held = self.qos.held()
        for start in range(0, len(held), MOST_PER_CALL):
            gone = self._renew(keys=[self._unacked, self._index], args=held[start : start + MOST_PER_CALL])
            lost = [tag for tag in gone if self.qos.release(tag.decode())]
            if lost:
                logger.warning("%d deliveries were held too long without renewal and went to others", len(lost))
                self.credit_returned()

    def reap(self) -> None:
        """Give back what the dead and the frozen have left."""
        limits = [self.lease_seconds, self.visibility_timeout, MOST_PER_CALL]
        while found := self._overdue(keys=[self._unacked, self._index], args=limits):
            words = iter(found)
            moved = self._move_back(
                (tag.decode(), lease, value) for tag, lease, value in zip(words, words, words, strict=True)
            )
            if moved:
                logger.warning("%d deliveries of a lost consumer given back", len(moved))
            if len(moved) < MOST_PER_CALL:
                return

    def give_back(self, tags: list[str]) -> list[str]:
        """Put deliveries back, the first of *tags* first in line. Returns those that are not ours any more."""
        tags = tags[::-1]
        for start in range(0, len(tags), MOST_PER_CALL):
            some = tags[start : start + MOST_PER_CALL]
            values = self._ledger.hmget(self._unacked, some)
            self._move_back((tag, b"", value) for tag, value in zip(some, values, strict=True) if value is not None)
        return tags

    def _move_back(self, registered: Iterable[tuple[str, bytes, bytes]]) -> list[bytes]:
        lists: list[str] = []
        words: list[Any] = []
        for tag, lease, value in registered:
            name, payload = self._way_back(value)
            lists.append(self.global_keyprefix + name)
            words += [tag, lease, payload]
        return list(self._give_back(keys=[self._unacked, self._index, *lists], args=words)) if words else []

    def _way_back(self, value: bytes) -> tuple[str, str | bytes]:
        """Which list a registered message belongs to, and the message marked as redelivered."""
        try:
            payload, exchange, routing_key = plain_loads(value)
            for place in (payload.get("headers"), payload["properties"].get("delivery_info")):
                if isinstance(place, dict):
                    place["redelivered"] = True
            priority = self._get_message_priority(payload)
            text = plain_dumps(payload)
        except (ValueError, TypeError, KeyError, AttributeError):
            return QUARANTINE, value
        queues = self._lookup(exchange, routing_key) or [routing_key]
        return self._q_for_pri(queues[0], priority), text

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
            if self._asked is not None:
                self._held_from(self._waiter.connection.read_response(disable_decoding=True))
                self._asked = None
        self._forget_question()
        with contextlib.suppress(*errors):
            self.write_acks()
        self._taken.clear()
        self.qos.restore_unacked_once()
        self.giving_back_may_work = False  # tried: the stock close would only wait for the same answer once more
        super().close()
        self._waiter.connection_pool.disconnect()
        self._ledger.connection_pool.disconnect()
        bell, self.bell = self.bell, None
        for end in (bell, self._bell_rope):
            if end is not None:
                end.close()


def _track_changes(connection: Any) -> None:
    """Connect so that a list we have read to its end tells us when it changes. Our own changes are no news."""
    connection.on_connect()
    connection.send_command("CLIENT", "TRACKING", "ON", "NOLOOP")
    connection.read_response()


def _drain(acks: deque[str]) -> Iterator[str]:
    for _ in range(MOST_PER_CALL):
        try:
            yield acks.popleft()
        except IndexError:
            return


class Transport(stock.Transport):  # type: ignore[misc,unused-ignore]
    """kombu's Redis transport, with the channel above."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Wait for events; raise `socket.timeout` after *timeout* seconds in all, however often nothing came of one."""
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            try:
                self.cycle.get(self._deliver, timeout=None if deadline is None else max(0.0, deadline - monotonic()))
                return
            except Empty:
                if deadline is not None and monotonic() >= deadline:
                    raise TimeoutError("timed out") from None


class TlsChannel(Channel):
    connection_class = redis.SSLConnection


class TlsTransport(Transport):
    """The same over TLS; certificates as ``ssl_*`` parameters of the URL or kombu's ``ssl`` argument."""

    Channel = TlsChannel


def register() -> None:
    """Make ``tokenferry://``, ``tokenferry+socket://`` and ``tokenferrys://`` known to kombu and Celery."""
    TRANSPORT_ALIASES["tokenferry"] = f"{__name__}:Transport"
    TRANSPORT_ALIASES["tokenferrys"] = f"{__name__}:TlsTransport"


def kombu_url(url: str) -> str:
    """The URL of our transport for a plain Redis URL.

    >>> kombu_url("redis://:secret@example.org:6379/3")
    'tokenferry://:secret@example.org:6379/3'
    >>> kombu_url("unix://:secret@/run/valkey.sock?db=3")
    'tokenferry+socket://:secret@/run/valkey.sock?virtual_host=3'
    """
    parts = urlsplit(url)
    if parts.scheme.startswith("tokenferry"):
        return url
    if parts.scheme in ("redis", "valkey"):
        return urlunsplit(parts._replace(scheme="tokenferry"))
    if parts.scheme in ("rediss", "valkeys"):
        return urlunsplit(parts._replace(scheme="tokenferrys"))
    if parts.scheme in ("unix", "redis+socket"):
        query = "&".join(
            "virtual_host=" + word.removeprefix("db=") if word.startswith("db=") else word
            for word in parts.query.split("&")
        )
        # Not urlunsplit: it would drop the empty host of a path without a password.
        return f"tokenferry+socket://{parts.netloc}{parts.path}" + (f"?{query}" if query else "")
    raise ValueError(f"not a Redis URL scheme: {parts.scheme!r}")


register()
