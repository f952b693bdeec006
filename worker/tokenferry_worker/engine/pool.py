"""A Celery pool of one asyncio loop: hundreds of deliveries in flight in one process.

The loop runs in its own thread. Celery's consumer and its broker connection stay in the main thread, because the
connection is not thread-safe. A finished delivery is handed back through a pipe that Celery's hub watches, and is
acknowledged in the main thread.

Celery's tracer is bypassed, so signals, time limits and `self.retry` of ordinary tasks do not apply here. A delivery
waits, retries and gives up by itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import uvloop
from billiard.einfo import ExceptionInfo
from celery.concurrency.base import BasePool
from celery.exceptions import Reject

from tokenferry_worker.deliveries.settling import Handler
from tokenferry_worker.engine import signals
from tokenferry_worker.engine.engine import EngineApp

log = logging.getLogger(__name__)


class AsyncioPool(BasePool):
    """The pool that Celery is told to use. It gets its handlers from the `Engine` of the application.

    The watchdog reads these from its own thread: `turns` and `loop_turns` count how often the two threads have run
    since `answer` asked them to; `taken` and `held` count deliveries by queue.
    """

    app: EngineApp
    """Celery's base class sets it."""
    signal_safe = False
    task_join_will_block = False
    started = False
    stopping = False
    turns = 0
    loop_turns = 0

    def on_start(self) -> None:
        """Start the thread of the loop and open the handlers. An error in either ends the worker."""
        self._finished: deque[Callable[[], None]] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._signalled = False
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)
        self._running: set[asyncio.Task[None]] = set()
        self._in_hand = 0
        self._hub: Any = None
        self.taken: Counter[str] = Counter()
        self.held: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()  # a tenth less CPU per token
        self._stopping: asyncio.Event
        self._opened = threading.Event()
        self._failure: BaseException | None = None
        self._handlers: Mapping[str, Handler] = {}
        self._thread = threading.Thread(target=self._run, name="tokenferry-loop", daemon=True)
        self._thread.start()
        self.started = True
        self._opened.wait()
        if self._failure is not None:
            raise self._failure

    def register_with_event_loop(self, hub: Any) -> None:
        """Let Celery's hub wake up for finished deliveries. Celery calls this again after every reconnect."""
        self._hub = hub
        hub.add_reader(self._read_end, self._hand_back)
        # Wake up for signals too: an idle hub would notice SIGTERM only when its next timer is due, seconds later.
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        **_: Any,
    ) -> None:
        """Start one delivery. *args* are the arguments of Celery's tracer: name, id, request, body, ...

        The body is the one argument of the task, as the consumer has read it.
        """
        assert args is not None
        assert callback is not None
        name, id_, request, body, *_rest = args
        if accept_callback is not None:
            accept_callback(os.getpid(), time.monotonic())
        queue = _queue_of(request)
        self._in_hand += 1
        self.held[queue] += 1
        self.taken[queue] += 1
        self._loop.call_soon_threadsafe(self._begin, name, id_, (body, queue), partial(self._ended_in, queue, callback))

    def cancel_all(self) -> None:
        """Cancel every running delivery, so that each gives itself back. The pool goes on."""
        with suppress(RuntimeError):  # the loop is closed, and no delivery runs
            self._loop.call_soon_threadsafe(self._cancel_all)

    def on_stop(self) -> None:
        """Warm shutdown: let deliveries finish within the grace time, then do as `on_terminate`.

        A second signal ends the grace time.
        """
        self._wait(self.app.engine.grace_seconds, unless=signals.at_once)
        self.on_terminate()

    def on_terminate(self) -> None:
        """Cold shutdown: give every delivery back at once, and close everything."""
        pauses = self.app.engine.pauses
        self.cancel_all()
        self._wait(pauses.cancelled)
        if self._thread.is_alive():
            with suppress(RuntimeError):  # the loop has just ended by itself
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(pauses.closed)
        if self._thread.is_alive():
            log.error("the connections did not close within %g s; this process ends without waiting", pauses.closed)

    def _wait(self, seconds: float, unless: Callable[[], bool] = lambda: False) -> None:
        """Wait until no delivery runs, for *seconds* at most. Do the work of Celery's hub, which no longer turns."""
        self.stopping = True
        between_timers = self.app.engine.pauses.between_timers
        deadline = time.monotonic() + seconds
        timers_at = time.monotonic() + between_timers
        while True:
            self._hand_back()
            if self._hub is not None:
                for acknowledge in self._hub._pop_ready():
                    acknowledge()
                if time.monotonic() >= timers_at:
                    timers_at = time.monotonic() + between_timers
                    with suppress(Exception):  # the connection may be gone; the deliveries are not
                        self._hub.fire_timers()
            if not self._in_hand or time.monotonic() >= deadline or unless():
                return
            time.sleep(0.01)

    # For the consumer

    def soon(self, call: Callable[[], None]) -> None:
        """Run *call* in the main thread, the only one that may use the broker's connection. From any thread."""
        self._calls.append(call)
        self._signal()

    @property
    def tasks(self) -> Collection[str]:
        """Names of the tasks that have a handler here."""
        return self._handlers.keys()

    @property
    def is_running(self) -> bool:
        """True while the loop lives. Without it, an error says nothing about the message that met it."""
        return self._thread.is_alive()

    # For the watchdog, from its thread

    @property
    def failed(self) -> bool:
        """True if the thread of the loop ended with an error, at work or while it closed the connections."""
        return self._failure is not None

    @property
    def in_hand(self) -> int:
        """Number of deliveries that have begun and are not handed back yet."""
        return self._in_hand

    def answer(self) -> None:
        """Ask both threads to show that they run. Soon after, `turns` and `loop_turns` are higher than now."""
        with suppress(BlockingIOError):  # the pipe is full, so the hub wakes up anyway
            os.write(self._write_end, b"?")
        with suppress(RuntimeError):  # the loop is closed, and cannot answer
            self._loop.call_soon_threadsafe(self._turned)

    def _turned(self) -> None:
        self.loop_turns += 1

    def _get_info(self) -> dict[str, Any]:
        return {**super()._get_info(), "max-concurrency": self.limit, "in-hand": self._in_hand}

    # The loop's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            self._failure = error
            if self._opened.is_set():  # else `on_start` raises it
                self._on_loop_failed(error)
        finally:
            self._opened.set()
            self._loop.close()

    def _on_loop_failed(self, error: BaseException) -> None:
        """Log that the loop has failed, and end the process: without its loop it would take messages and do nothing."""
        # Only the type: the text of an unforeseen error could hold anything.
        where = type(error).__name__, _where(error)
        if self._stopping.is_set():
            log.error("closing the connections failed (%s at %s); this process ends with an error", *where)
            return
        log.critical(
            "the loop of the deliveries has ended (%s at %s); this process gives its deliveries back and ends", *where
        )
        signals.give_back()
        with suppress(BlockingIOError):  # the pipe is full, so the hub wakes up anyway
            os.write(self._write_end, b"!")

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        async with self.app.engine.open_handlers() as handlers:
            self._handlers = handlers
            self._opened.set()
            await self._stopping.wait()

    def _begin(self, name: str, id_: str, found: tuple[str, str], callback: Callable[..., Any]) -> None:
        task = self._loop.create_task(self._deliver(name, id_, found, callback))
        self._running.add(task)
        task.add_done_callback(partial(self._ended, callback))
        if (hold := self.app.engine.hold_seconds) is not None:
            timer = self._loop.call_later(hold, self._cancel, task)
            task.add_done_callback(lambda _: timer.cancel())

    def _cancel(self, task: asyncio.Task[None]) -> None:
        """Cancel *task* again and again until it ends: its clean-up may wait for a store that is away."""
        if not task.done():
            task.cancel()
            self._loop.call_later(self.app.engine.pauses.cancelled, self._cancel, task)

    def _ended(self, callback: Callable[..., Any], task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if task.cancelled():
            # Here and not in the task: a task that is cancelled before its first step runs none of its code.
            self._finish(partial(callback, (True, _give_back("cancelled"), 0.0)))

    async def _deliver(self, name: str, id_: str, found: tuple[str, str], callback: Callable[..., Any]) -> None:
        """*found*: the body, and the queue it came from."""
        began = time.monotonic()
        try:
            await self._handlers[name](*found)
        except Exception as error:
            # Only the type: the text or the traceback of an unforeseen error could hold anything.
            log.error(
                "delivery %s crashed (%s at %s); it goes back to the queue", id_, type(error).__name__, _where(error)
            )
        else:
            self._finish(partial(callback, (False, None, time.monotonic() - began)))
            return
        # Outside the except block: what is raised inside it carries the error and its text along.
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(self.app.engine.pauses.crashed)
        self._finish(partial(callback, (True, _give_back("crashed"), time.monotonic() - began)))

    def _finish(self, hand_back: Callable[[], None]) -> None:
        self._finished.append(hand_back)
        self._signal()

    def _signal(self) -> None:
        """Wake the main thread."""
        if not self._signalled:
            self._signalled = True
            with suppress(BlockingIOError):
                os.write(self._write_end, b"!")

    def _cancel_all(self) -> None:
        for task in list(self._running):
            task.cancel()

    # The main thread

    def _hand_back(self) -> None:
        """Acknowledge or give back every finished delivery and what was set aside, in Celery's own thread."""
        with suppress(BlockingIOError):
            os.read(self._read_end, 4096)
        self.turns += 1
        self._signalled = False
        while self._finished:
            hand_back = self._finished.popleft()
            self._in_hand -= 1
            hand_back()
        while self._calls:
            self._calls.popleft()()

    def _ended_in(self, queue: str, callback: Callable[..., Any], outcome: tuple[bool, Any, float]) -> None:
        self.held[queue] -= 1
        callback(outcome)


def _queue_of(request: Any) -> str:
    """Return the queue that a delivery came from. On both brokers it is the routing key."""
    try:
        return str(request["delivery_info"]["routing_key"])
    except (TypeError, KeyError):
        return ""


def _give_back(reason: str) -> ExceptionInfo:
    """Return what makes Celery requeue a delivery: the exception info of `Reject(requeue=True)`."""
    try:
        raise Reject(reason, requeue=True)
    except Reject:
        return ExceptionInfo(sys.exc_info())


def _where(error: BaseException) -> str:
    """Return file and line of the innermost frame: enough to find the bug, and nothing of the data."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else "?"
