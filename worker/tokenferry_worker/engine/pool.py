"""A Celery pool of one asyncio loop: hundreds of deliveries in flight in one process.

The loop runs in a thread of its own. Celery's consumer stays alone in the main thread with its broker connection,
which is not thread-safe: what is finished is handed back through a pipe that Celery's hub watches, and
acknowledged there.

Celery's tracer is bypassed, so signals, time limits and `self.retry` of ordinary tasks do not apply here; waiting,
repeating and giving up happen inside the delivery.
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
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvloop
from billiard.einfo import ExceptionInfo
from celery.concurrency.base import BasePool
from celery.exceptions import Reject

from tokenferry_worker.deliveries.settling import Handler
from tokenferry_worker.engine import signals

log = logging.getLogger(__name__)


Open = Callable[[], AbstractAsyncContextManager[Mapping[str, Handler]]]
"""Opens what the handlers need inside the running loop, and closes it at the end."""


@dataclass(frozen=True)
class Pauses:
    """How long a pool waits for what, in seconds."""

    called_off: float = 2.0
    """What deliveries get to end once they are called off."""
    between_timers: float = 1.0
    """While the worker stops, between two looks at what Celery's hub would do by the clock: heartbeats."""
    crashed: float = 1.0
    """Before a delivery whose handler crashed goes back: a poison message must not spin."""
    closed: float = 10.0
    """What the connections to store and endpoint get to close."""


class AsyncioPool(BasePool):
    """The pool Celery is told to use. `app.tokenferry_open` gives it its handlers.

    `app.tokenferry_hold`: seconds after which a delivery that has not ended is given back, in good order; None: never.

    For the watchdog, which reads them from a thread of its own: `turns` and `loop_turns` count what each of the two
    threads has answered since it was last asked to `answer`, `taken` and `held` the deliveries by queue.
    """

    pauses = Pauses()
    signal_safe = False
    task_join_will_block = False
    started = False
    stopping = False
    turns = 0
    loop_turns = 0

    def on_start(self) -> None:
        """Start the loop's thread and open the handlers; an error in either ends the worker."""
        self._finished: deque[Callable[[], None]] = deque()
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
        """Let Celery's hub wake up for finished deliveries. Called again after every reconnect."""
        self._hub = hub
        hub.add_reader(self._read_end, self._hand_back)
        # And for signals: an idle hub would notice SIGTERM only when its next timer is due, seconds later.
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
        """Start one delivery. *args* are those of Celery's tracer: name, id, request, body, ...

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
        self._loop.call_soon_threadsafe(self._begin, name, id_, body, partial(self._let_go, queue, callback))

    def call_off(self) -> None:
        """Give back what is in hand, in good order, and go on."""
        with suppress(RuntimeError):  # the loop is closed, and nothing is in hand
            self._loop.call_soon_threadsafe(self._cancel_all)

    def on_stop(self) -> None:
        """Warm shutdown: let what is in hand finish within the grace time, then as `on_terminate`.

        The second signal cuts the grace time short.
        """
        self._wait(self.app.tokenferry_grace, unless=signals.at_once)
        self.on_terminate()

    def on_terminate(self) -> None:
        """Cold shutdown: give everything back at once, and close everything."""
        self.call_off()
        self._wait(self.pauses.called_off)
        if self._thread.is_alive():
            with suppress(RuntimeError):  # the loop has just ended by itself
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(self.pauses.closed)
        if self._thread.is_alive():
            late = "what the deliveries used was not closed within %g s; this process ends without it"
            log.error(late, self.pauses.closed)

    def _wait(self, seconds: float, unless: Callable[[], bool] = lambda: False) -> None:
        """Until nothing is in hand, for *seconds* at most. Meanwhile, do what Celery's hub does no more."""
        self.stopping = True
        deadline = time.monotonic() + seconds
        timers_at = time.monotonic() + self.pauses.between_timers
        while True:
            self._hand_back()
            if self._hub is not None:
                for acknowledge in self._hub._pop_ready():
                    acknowledge()
                if time.monotonic() >= timers_at:
                    timers_at = time.monotonic() + self.pauses.between_timers
                    with suppress(Exception):  # the connection may be gone; what is in hand is not
                        self._hub.fire_timers()
            if not self._in_hand or time.monotonic() >= deadline or unless():
                return
            time.sleep(0.01)

    # For the consumer

    @property
    def tasks(self) -> Collection[str]:
        """The names of the tasks that have a handler here."""
        return self._handlers.keys()

    @property
    def is_running(self) -> bool:
        """Whether the loop lives. Where it does not, what goes wrong says nothing about a message."""
        return self._thread.is_alive()

    # For the watchdog, from its thread

    @property
    def failed(self) -> bool:
        """True if the loop's thread has ended with an error, at work or while it closed what the deliveries used."""
        return self._failure is not None

    @property
    def in_hand(self) -> int:
        """Deliveries that have begun and are not handed back."""
        return self._in_hand

    def answer(self) -> None:
        """Ask both threads to show that they turn: soon after, `turns` and `loop_turns` are higher than now."""
        with suppress(BlockingIOError):  # full: it has been asked often enough
            os.write(self._write_end, b"?")
        with suppress(RuntimeError):  # the loop is closed, and will not answer
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
                self._end_of_the_loop(error)
        finally:
            self._opened.set()
            self._loop.close()

    def _end_of_the_loop(self, error: BaseException) -> None:
        """Say that the loop has failed, and end the process: without its loop it can only take messages."""
        # Only the type: the text of an unforeseen error could hold anything.
        what = type(error).__name__, _where(error)
        if self._stopping.is_set():
            log.error("closing what the deliveries used has failed (%s at %s); this process ends with an error", *what)
            return
        log.critical(
            "the loop of the deliveries has ended (%s at %s); this process gives back what it holds and ends", *what
        )
        signals.give_back()
        with suppress(BlockingIOError):  # full: Celery's hub wakes up all the same
            os.write(self._write_end, b"!")

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        open_: Open = self.app.tokenferry_open
        async with open_() as handlers:
            self._handlers = handlers
            self._opened.set()
            await self._stopping.wait()

    def _begin(self, name: str, id_: str, body: str, callback: Callable[..., Any]) -> None:
        task = self._loop.create_task(self._deliver(name, id_, body, callback))
        self._running.add(task)
        task.add_done_callback(partial(self._ended, callback))
        if self.app.tokenferry_hold is not None:
            late = self._loop.call_later(self.app.tokenferry_hold, self._call_off, task)
            task.add_done_callback(lambda _: late.cancel())

    def _call_off(self, task: asyncio.Task[None]) -> None:
        """Cancel it until it ends: on its way out it may wait for a store that is away."""
        if not task.done():
            task.cancel()
            self._loop.call_later(self.pauses.called_off, self._call_off, task)

    def _ended(self, callback: Callable[..., Any], task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if task.cancelled():
            # Here and not in the task: one that is called off before its first step runs none of its code.
            self._finish(partial(callback, (True, _give_back("called off"), 0.0)))

    async def _deliver(self, name: str, id_: str, body: str, callback: Callable[..., Any]) -> None:
        began = time.monotonic()
        try:
            await self._handlers[name](body)
        except Exception as error:
            # Only the type: the text or the traceback of an unforeseen error could hold anything.
            log.error(
                "delivery %s crashed (%s at %s); it goes back to the queue", id_, type(error).__name__, _where(error)
            )
        else:
            self._finish(partial(callback, (False, None, time.monotonic() - began)))
            return
        # Here and not where the error is handled: what is raised there carries the error and its text along.
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(self.pauses.crashed)
        self._finish(partial(callback, (True, _give_back("crashed"), time.monotonic() - began)))

    def _finish(self, hand_back: Callable[[], None]) -> None:
        self._finished.append(hand_back)
        if not self._signalled:
            self._signalled = True
            with suppress(BlockingIOError):
                os.write(self._write_end, b"!")

    def _cancel_all(self) -> None:
        for task in list(self._running):
            task.cancel()

    # The main thread

    def _hand_back(self) -> None:
        """Acknowledge or give back everything that is finished, in Celery's own thread."""
        with suppress(BlockingIOError):
            os.read(self._read_end, 4096)
        self.turns += 1
        self._signalled = False
        while self._finished:
            hand_back = self._finished.popleft()
            self._in_hand -= 1
            hand_back()

    def _let_go(self, queue: str, callback: Callable[..., Any], outcome: tuple[bool, Any, float]) -> None:
        self.held[queue] -= 1
        callback(outcome)


def _queue_of(request: Any) -> str:
    """The queue a delivery came from, as Celery notes it down; on every broker of ours it is the routing key."""
    try:
        return str(request["delivery_info"]["routing_key"])
    except (TypeError, KeyError):
        return ""


def _give_back(reason: str) -> ExceptionInfo:
    """What tells Celery to requeue: an exception info of `Reject(requeue=True)`, made the way Celery wants it."""
    try:
        raise Reject(reason, requeue=True)
    except Reject:
        return ExceptionInfo(sys.exc_info())


def _where(error: BaseException) -> str:
    """File and line of the innermost frame: enough to find the bug, nothing of the data."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else "?"
