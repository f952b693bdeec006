"""Reading results: the broker delivers each at least once, a reader returns each once.

A result is acknowledged when you ask for the next one, so a reader that dies gets the last one again. A reader
recognises a result that is delivered twice by its outcome id.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeVar

from kombu import Consumer
from kombu.message import Message as Delivery
from pydantic import TypeAdapter, ValidationError

from tokenferry.broker import connecting
from tokenferry.broker.alarm import Alarm
from tokenferry.broker.error_text import BROKER, explain
from tokenferry.broker.fork_guard import ForkGuard
from tokenferry.broker.patience import Patience, ask
from tokenferry.configuration import Configuration, load
from tokenferry.contract.envelope import LEGACY
from tokenferry.contract.names import Name
from tokenferry.contract.notices import Notice, read_message
from tokenferry.contract.problems import InvalidRequest, Problem
from tokenferry.contract.queues import QUARANTINE, results_queue
from tokenferry.contract.result_signature import UNVERIFIED, only_signature
from tokenferry.contract.results import AnyResult, OnboardingProgress
from tokenferry.contract.work_messages import Refused
from tokenferry.outbox import Outbox
from tokenferry.result_signers import ResultSigners

log = logging.getLogger(__name__)

REMEMBERED = 100_000
"""Outcome ids kept to recognise a second delivery: far more than can be under way."""
PREFETCH = 200
"""Unacknowledged results of a reader at most, fetched or held."""
WAKE_SECONDS = 0.5
"""Seconds after which a waiting reader checks whether it was stopped, and sends a heartbeat."""
FOREIGN = "not a result"
_ROUTE: TypeAdapter[str] = TypeAdapter(Name)
T = TypeVar("T")


class Results:
    """The outcomes sent to one reply route, as an iterator or through a callback.

    >>> with Results("onboarding") as results:                                          # doctest: +SKIP
    ...     for result in results:
    ...         print(result.request_id, result.token or result.failure.code)
    """

    def __init__(
        self,
        route: str,
        configuration: Configuration | str | Path | None = None,
        *,
        outbox: Outbox | Literal[False] | None = None,
        on_progress: Callable[[OnboardingProgress], None] | None = None,
        on_notice: Callable[[Notice], None] | None = None,
        patience: float | None = None,
    ) -> None:
        """*configuration*: a loaded one, or the path of a `tokenferry.toml` (default: the one in this folder).

        *outbox*: learns each outcome when its result is acknowledged. Default: the configured one; False: none.

        *on_progress*: called with the steps of accounts that were sent with `progress=True`; they are no results.
        *on_notice*: called with what workers say about why requests wait; without it such messages are dropped.
        *patience*: seconds for which a RabbitMQ that cannot answer about the route is asked again, default ten.

        Raises `InvalidInput`, `InvalidConfiguration`, `UnusableOutbox`, and `UnusableKey` when there is no key to
        verify results with. The broker is only asked when the first result is.
        """
        if not isinstance(configuration, Configuration):
            configuration = load(configuration)
        self.route = _route(route)
        self._configuration = configuration
        self._signers = ResultSigners.load(configuration)
        self._signers.warn()
        self.refused: Counter[str] = Counter()
        """By reason, how many messages on the route were no results, or not verified. They are in quarantine."""
        self._amqp = connecting.is_amqp(connecting.broker_url(configuration))
        self._connection = connecting.connect(configuration)
        self._queue = connecting.queue(results_queue(route), amqp=self._amqp)
        self._consumer: Consumer | None = None
        self._ready: deque[Delivery] = deque()
        self._unacknowledged: tuple[Delivery, AnyResult] | None = None
        self._held: dict[str, list[Delivery]] = {}
        """What `hold` returned and is not acknowledged, by outcome id: an entry for each delivery."""
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._process = ForkGuard("Results")
        self._stop = threading.Event()
        self._patience_seconds = patience
        self._patience: Patience | None = None
        """RabbitMQ only: from a lost connection until one works again."""
        self._on_progress = on_progress
        self._on_notice = on_notice
        self._own_outbox = Outbox.of(configuration) if outbox is None else None
        self._outbox = outbox or self._own_outbox
        if self._outbox is not None:
            self._outbox.reads(route)

    def take(self, timeout: float | None = None) -> AnyResult | None:
        """The next result, or None after *timeout* seconds without one. Acknowledges the one taken before.

        A connection that RabbitMQ has ended is opened again, which may take up to ten seconds more than *timeout*.

        Raises the broker client's connection error when the broker is away; the next call reconnects.
        """
        deadline = _deadline(timeout)

        def step() -> tuple[Delivery, AnyResult] | None:
            self._acknowledge()
            return self._next(deadline)

        self._unacknowledged = self._patiently(step)
        return self._unacknowledged and self._unacknowledged[1]

    def hold(self, timeout: float | None = None) -> AnyResult | None:
        """The next result, or None after *timeout* seconds without one. It stays on the route until `acknowledge`.

        What is never acknowledged is given back when the reader is closed. At most `PREFETCH` results can be held at a
        time: then no other comes. Raises as `take`; what was held on a lost connection comes again.
        """
        deadline = _deadline(timeout)
        found = self._patiently(lambda: self._next(deadline))
        if found is None:
            return None
        delivery, result = found
        self._held[result.outcome_id] = [delivery]
        return result

    def acknowledge(self, results: Iterable[AnyResult]) -> None:
        """Take these results, which `hold` returned, off the route for good.

        Raises the broker client's connection error when the broker is away. Then they come again, and this reader
        recognises them: it acknowledges them without returning them.
        """
        results = list(results)
        for result in results:
            self._processed(result)
        try:
            for result in results:
                for delivery in self._held.pop(result.outcome_id, ()):
                    delivery.ack()
        except self._connection_errors():
            self._forget_connection()
            raise

    def skip(self, outcome_ids: Collection[str]) -> None:
        """Acknowledge these outcomes when they come, and do not return them."""
        self._remember(*outcome_ids)

    @property
    def is_full(self) -> bool:
        """Whether as many results are held as can be: until some are acknowledged, no other comes."""
        return sum(map(len, self._held.values())) >= PREFETCH

    def _patiently(self, step: Callable[[], T]) -> T:
        """Return what *step* returns. A connection that RabbitMQ has ended is opened again, as long as `Patience` says.

        Raises the broker client's connection error; at once if results are held, because their holder must know.
        """
        while True:
            held = bool(self._held)
            try:
                return step()
            except self._connection_errors() as error:
                self._forget_connection()
                if held or not self._amqp:
                    raise
                self._patience = self._patience or self._new_patience()
                self._patience.again(error)

    def _new_patience(self) -> Patience:
        return Patience(self._queue.name, seconds=self._patience_seconds, sleep=self._stop.wait)

    def _next(self, deadline: float | None) -> tuple[Delivery, AnyResult] | None:
        while not self._stop.is_set():
            if self._ready:
                delivery = self._ready.popleft()
                result = self._read(delivery)
                if result is not None and result.outcome_id in self._held:
                    self._held[result.outcome_id].append(delivery)
                elif result is not None:
                    return delivery, result
                continue
            left = WAKE_SECONDS if deadline is None else min(WAKE_SECONDS, deadline - time.monotonic())
            if not self._wait(max(0.0, left)) and deadline is not None and time.monotonic() >= deadline:
                return None
        return None

    def __iter__(self) -> Iterator[AnyResult]:
        """Yield every result until `stop`, also when the broker restarts."""
        alarm = Alarm(log, "results")
        while not self._stop.is_set():
            try:
                result = self.take(timeout=0.5)
            except self._connection_errors() as error:
                failure = explain(error, BROKER)
                alarm.failed(f"the broker {failure.says}: {failure.do}; trying again")
                self._stop.wait(1.0)
                continue
            alarm.worked()
            if result is not None:
                yield result
        self._acknowledge()

    def run(self, callback: Callable[[AnyResult], None]) -> None:
        """Call *callback* with every result until `stop`. If it raises, its result is delivered again later."""
        for result in self:
            try:
                callback(result)
            except BaseException:
                self._unacknowledged = None
                raise

    def stop(self) -> None:
        """End the iteration from any thread."""
        self._stop.set()

    @property
    def is_stopped(self) -> bool:
        """True after `stop` or `close`."""
        return self._stop.is_set()

    def close(self) -> None:
        """Give back what was fetched and not returned, and close the connection."""
        self._stop.set()
        self._ready.clear()
        self._held.clear()
        self._connection.close()
        if self._own_outbox is not None:
            self._own_outbox.close()

    def delete(self) -> None:
        """Delete the route with everything in it: for a route that one program made for itself."""
        self._acknowledge()
        self._ready.extend(delivery for held in self._held.values() for delivery in held)
        self._held.clear()
        while self._ready:  # fetched already: closing the reader would put it back
            self._ready.popleft().ack()
        ask(
            self._connection,
            lambda connection: self._queue.bind(connection.default_channel).delete(),
            queue=self._queue.name,
        )

    def __enter__(self) -> Results:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            # The body raised, so it has not processed the last result: it is delivered again.
            if kind is None:
                self._acknowledge()
        finally:
            self.close()

    def _receive(self, delivery: Delivery) -> None:
        # Any sender may have filled them. Only the signature is needed.
        delivery.headers, delivery.properties = only_signature(delivery.headers), {}
        self._ready.append(delivery)

    def _read(self, delivery: Delivery) -> AnyResult | None:
        refused: Refused | None = getattr(delivery, "refused", None)
        # Before anything else: what is not verified must change nothing.
        if refused is None and not self._signers.verify(self._queue.name, delivery.body or b"", delivery.headers):
            refused = Refused(UNVERIFIED)
        if refused is None:
            try:
                result = read_message(delivery.body or b"")
            except Exception:  # pydantic's error, or any other that its content causes
                refused = Refused(FOREIGN)
        if refused is not None:
            reason = refused.reason
            log.warning("results: a message on route '%s' was noted in %s (%s)", self.route, QUARANTINE, reason)
            self._quarantine(delivery, refused)
            self.refused[reason] += 1
            return None
        if isinstance(result, OnboardingProgress):
            delivery.ack()
            if self._on_progress is not None:
                self._on_progress(result)
            return None
        if isinstance(result, Notice):
            delivery.ack()
            if self._on_notice is not None:
                self._on_notice(result)
            return None
        if result.outcome_id in self._seen:
            self._settle(result)  # it may have been sent again since
            delivery.ack()
            return None
        return result

    def _quarantine(self, delivery: Delivery, refused: Refused) -> None:
        """Put a note into the quarantine, without the content: it is not ours to publish again."""
        queue = connecting.queue(QUARANTINE, amqp=self._amqp)
        self._connection.Producer(auto_declare=False).publish(
            refused.note(getattr(delivery, "length", len(delivery.body or b""))),
            exchange=queue.exchange,
            routing_key=queue.routing_key,
            declare=[queue] if self._amqp else [],
            mandatory=self._amqp,
            content_type="application/json",
            content_encoding="utf-8",
        )
        delivery.ack()

    def _wait(self, timeout: float) -> bool:
        if self._consumer is None:
            self._process.check()
            channel = self._connection.channel()
            consumer = Consumer(
                channel, [self._queue], on_message=self._receive, prefetch_count=PREFETCH, auto_declare=self._amqp
            )
            consumer.consume()
            self._consumer = consumer
        try:
            if self._amqp:
                self._connection.heartbeat_check()  # RabbitMQ drops a silent reader
            self._connection.drain_events(timeout=timeout)
        except TimeoutError:
            arrived = False
        else:
            arrived = True
        self._patience = None
        return arrived

    def _acknowledge(self) -> None:
        taken, self._unacknowledged = self._unacknowledged, None
        if taken is not None:
            delivery, result = taken
            self._processed(result)
            delivery.ack()

    def _processed(self, result: AnyResult) -> None:
        self._remember(result.outcome_id)
        self._settle(result)  # before the acknowledgement: else the request would be sent again

    def _remember(self, *outcome_ids: str) -> None:
        self._seen.update(dict.fromkeys(outcome_ids))
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)

    def _settle(self, result: AnyResult) -> None:
        if self._outbox is not None and self._is_ours(result.outcome_id):
            self._outbox.settled(result.request_id, route=self.route)

    def _is_ours(self, outcome_id: str) -> bool:
        """False for the same id in another group than this reader's configuration names."""
        group = self._configuration.producer.group
        return group is None or (outcome_id.rpartition("/")[0] or LEGACY) == group

    def _forget_connection(self) -> None:
        self._consumer = None
        self._ready.clear()
        self._held.clear()
        self._unacknowledged = None
        self._connection.collect(socket_timeout=0.1)

    def _connection_errors(self) -> tuple[type[BaseException], ...]:
        return (*self._connection.connection_errors, *self._connection.channel_errors)


class AsyncResults:
    """The outcomes sent to one reply route, for asyncio: a thread waits for the broker, the loop never does.

    A result is taken off the route when the next one is asked for, so a reader that dies gets the last one again. Each
    outcome is returned once, even if the broker delivers it twice. It belongs to the event loop that first uses it.

    >>> async def main() -> None:
    ...     async with AsyncResults("onboarding") as results:
    ...         async for result in results:
    ...             print(result.request_id, result.ok)
    """

    def __init__(
        self,
        route: str,
        configuration: Configuration | str | Path | None = None,
        *,
        outbox: Outbox | Literal[False] | None = None,
        on_progress: Callable[[OnboardingProgress], None] | None = None,
        on_notice: Callable[[Notice], None] | None = None,
        patience: float | None = None,
    ) -> None:
        """*configuration*: a loaded one, or the path of a `tokenferry.toml` (default: the one in this folder).

        *outbox*: learns each outcome when its result is acknowledged. Default: the configured one; False: none.
        *on_notice*: called in the loop that reads with what workers say about why requests wait.
        *on_progress*: called in the loop that reads with the steps of accounts that were sent with `progress=True`.
        *patience*: seconds for which a RabbitMQ that cannot answer about the route is asked again, default ten.

        Raises `InvalidInput`, `InvalidConfiguration`, `UnusableOutbox`, and `UnusableKey` when there is no key to
        verify results with. The broker is only asked when the first result is.
        """
        self._loop: asyncio.AbstractEventLoop | None = None
        self._results = Results(
            route,
            configuration,
            outbox=outbox,
            on_progress=self._in_loop(on_progress),
            on_notice=self._in_loop(on_notice),
            patience=patience,
        )
        self._thread = ThreadPoolExecutor(1, "tokenferry-results")
        self._taking: asyncio.Future[AnyResult | None] | None = None
        """The next result, under way. It outlives a cancelled wait, so that no result is lost."""

    async def take(self, timeout: float | None = None) -> AnyResult | None:
        """Return the next result, or None after *timeout* seconds without one. Acknowledges the one taken before.

        A wait that is cancelled loses nothing: the result is returned by the next call.

        Raises the broker client's connection error when the broker is away; the next call reconnects. Raises
        `RuntimeError` in another event loop than the first.
        """
        deadline = _deadline(timeout)
        while not self._results.is_stopped:
            left = WAKE_SECONDS if deadline is None else min(WAKE_SECONDS, deadline - time.monotonic())
            result = await self._next(lambda left=left: self._results.take(max(0.0, left)))  # type: ignore[misc]
            if result is not None or (deadline is not None and time.monotonic() >= deadline):
                return result
        return None

    def _in_loop(self, callback: Callable[[T], None] | None) -> Callable[[T], None] | None:
        """A callback for the thread that reads: it calls *callback* in the loop."""

        def pass_on(message: T) -> None:
            if self._loop is not None and callback is not None:
                self._loop.call_soon_threadsafe(callback, message)

        return None if callback is None else pass_on

    async def __aiter__(self) -> AsyncIterator[AnyResult]:
        """Yield every result until `stop`, also when the broker restarts."""
        iterator = iter(self._results)
        while (result := await self._next(lambda: next(iterator, None))) is not None:
            yield result

    async def _next(self, take: Callable[[], AnyResult | None]) -> AnyResult | None:
        """What the thread takes next, or what a cancelled wait has left under way."""
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise RuntimeError(
                "these AsyncResults belong to another event loop; make one in each loop, where it is used"
            )
        if self._taking is None:
            self._taking = loop.run_in_executor(self._thread, take)
        try:
            result = await asyncio.shield(self._taking)
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._taking = None
            raise
        self._taking = None
        return result

    def stop(self) -> None:
        """End the iteration."""
        self._results.stop()

    async def close(self) -> None:
        """Give back what was fetched and not returned, and close the connection."""
        await self.__aexit__(None, None, None)

    async def __aenter__(self) -> AsyncResults:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._results.stop()
        taken = None if self._taking is None else (await asyncio.gather(self._taking, return_exceptions=True))[0]
        if taken is not None:
            self._results._unacknowledged = None  # it was not returned: it is delivered again
        leave = partial(self._results.__exit__, kind, error, trace)
        await asyncio.get_running_loop().run_in_executor(self._thread, leave)
        self._thread.shutdown()


def _route(name: object) -> str:
    """Return *name*. Raises `InvalidRequest` if it cannot be the name of a route."""
    try:
        return _ROUTE.validate_python(name)
    except ValidationError:
        pass  # its error would quote the value
    raise InvalidRequest([Problem("route", "must look like main-eu: lower case letters, digits, - and _, at most 63")])


def _deadline(timeout: float | None) -> float | None:
    """The end of *timeout* seconds from now, in monotonic seconds."""
    return None if timeout is None else time.monotonic() + timeout
