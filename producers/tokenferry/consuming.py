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
from pathlib import Path
from typing import Any, Literal, TypeVar

from kombu import Consumer
from kombu.message import Message as Delivery
from pydantic import TypeAdapter

from tokenferry.broker import connecting
from tokenferry.broker.alarm import Alarm
from tokenferry.broker.error_text import BROKER, explain
from tokenferry.broker.patience import Patience, ask
from tokenferry.configuration import Configuration, load
from tokenferry.contract.names import Name
from tokenferry.contract.notices import Notice, read_message
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
        configuration: Configuration | Path | None = None,
        *,
        outbox: Outbox | Literal[False] | None = None,
        on_progress: Callable[[OnboardingProgress], None] | None = None,
        on_notice: Callable[[Notice], None] | None = None,
        patience: float | None = None,
    ) -> None:
        """*outbox*: learns each outcome when its result is acknowledged. Default: the configured one; False: none.

        *on_progress*: called with the steps of accounts that were sent with `progress=True`; they are no results.
        *on_notice*: called with what workers say about why requests wait; without it such messages are dropped.
        *patience*: seconds for which a RabbitMQ that cannot answer about the route is asked again, default ten.

        Raises `InvalidConfiguration`, `UnusableOutbox`, and `UnusableKey` when there is no key to verify results with.
        The broker is only asked when the first result is.
        """
        if not isinstance(configuration, Configuration):
            configuration = load(configuration)
        self.route = _ROUTE.validate_python(route)
        self._configuration = configuration
        self._signers = ResultSigners.load(configuration)
        self._signers.warn()
        self.refused: Counter[str] = Counter()
        """By reason, how many messages on the route were no results, or not verified. They are in quarantine."""
        self._foreign = Alarm(log, f"results: route '{self.route}'")
        self._amqp = connecting.is_amqp(connecting.broker_url(configuration))
        self._connection = connecting.connect(configuration)
        self._queue = connecting.queue(results_queue(route), amqp=self._amqp)
        self._consumer: Consumer | None = None
        self._ready: deque[Delivery] = deque()
        self._unacknowledged: tuple[Delivery, AnyResult] | None = None
        self._held: dict[str, list[Delivery]] = {}
        """What `hold` returned and is not acknowledged, by outcome id: an entry for each delivery."""
        self._seen: OrderedDict[str, None] = OrderedDict()
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
        while not self._stop.is_set():
            try:
                result = self.take(timeout=0.5)
            except self._connection_errors() as error:
                log.warning("results: the broker is away (it %s); trying again", explain(error, BROKER).says)
                self._stop.wait(1.0)
                continue
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
            self._foreign.failed(f"a message was noted in {QUARANTINE} ({reason}); {self.refused.total() + 1} so far")
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
        if self._outbox is not None:
            self._outbox.settled(result.request_id, route=self.route)

    def _forget_connection(self) -> None:
        self._consumer = None
        self._ready.clear()
        self._held.clear()
        self._unacknowledged = None
        self._connection.collect(socket_timeout=0.1)

    def _connection_errors(self) -> tuple[type[BaseException], ...]:
        return (*self._connection.connection_errors, *self._connection.channel_errors)


class AsyncResults:
    """`Results` for asyncio: a thread waits for the broker, the loop never does."""

    def __init__(
        self,
        route: str,
        configuration: Configuration | Path | None = None,
        *,
        outbox: Outbox | Literal[False] | None = None,
        on_notice: Callable[[Notice], None] | None = None,
    ) -> None:
        """As `Results`. *on_notice* is called in the loop that reads."""
        self._on_notice = on_notice
        self._results = Results(
            route, configuration, outbox=outbox, on_notice=None if on_notice is None else self._pass_on
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._iterator = iter(self._results)
        self._thread = ThreadPoolExecutor(1, "tokenferry-results")
        self._taking: asyncio.Future[AnyResult | None] | None = None
        """The next result, under way. It outlives a cancelled wait, so that no result is lost."""

    def _pass_on(self, notice: Notice) -> None:
        """Called in the thread that reads."""
        if self._loop is not None and self._on_notice is not None:
            self._loop.call_soon_threadsafe(self._on_notice, notice)

    async def __aiter__(self) -> AsyncIterator[AnyResult]:
        self._loop = asyncio.get_running_loop()
        while True:
            if self._taking is None:
                self._taking = asyncio.get_running_loop().run_in_executor(self._thread, next, self._iterator, None)
            result = await asyncio.shield(self._taking)
            self._taking = None
            if result is None:
                return
            yield result

    def stop(self) -> None:
        """End the iteration."""
        self._results.stop()

    async def __aenter__(self) -> AsyncResults:
        return self

    async def __aexit__(self, *exc: Any) -> None:
        self._results.stop()
        taken = None if self._taking is None else (await asyncio.gather(self._taking, return_exceptions=True))[0]
        if taken is not None:
            self._results._unacknowledged = None  # it was not returned: it is delivered again
        await asyncio.get_running_loop().run_in_executor(self._thread, self._results.__exit__, *exc)
        self._thread.shutdown()


def _deadline(timeout: float | None) -> float | None:
    """The end of *timeout* seconds from now, in monotonic seconds."""
    return None if timeout is None else time.monotonic() + timeout
