"""One run over a file. One thread reads, seals and submits; another reads the results; a window connects them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from tokenferry.broker import depth
from tokenferry.bulk.interrupting import Interrupted, Interruption
from tokenferry.bulk.outputs import OutputFailed, Outputs
from tokenferry.bulk.results_reader import ResultsReader
from tokenferry.bulk.submitter import Submitter
from tokenferry.bulk.window import Window
from tokenferry.consuming import Results
from tokenferry.producer import Producer

GRACE: Final = 5.0
"""Seconds for which a run that must stop still processes results."""
ASK_AGAIN: Final = 60.0
"""Seconds after which a run that still gets no result says so again."""
_TICK: Final = 0.2


@dataclass(frozen=True)
class RunLimits:
    """How many items may be without an outcome at once, and how many seconds a run waits."""

    window: int
    timeout: float | None = None
    """For the whole run."""
    give_up_after: float | None = None
    """Without a result and without an answer of the broker."""


class NumberedItem(Protocol):
    """A row or a document of a file."""

    @property
    def number(self) -> int:
        """Its line or position in the file."""
        ...


Read = TypeVar("Read", bound=NumberedItem)


class BulkRun(ABC, Generic[Read]):
    """One run. Afterwards `reason` says why it ended early. None: everything was read and has its outcome."""

    silence: ClassVar[float]
    """Seconds without a result after which the run asks whether a worker runs."""
    start: ClassVar[str]
    """The command that starts such a worker."""

    def __init__(
        self,
        producer: Producer,
        results: Results,
        window: Window[Any, Any],
        outputs: Outputs,
        submitter: Submitter,
        *,
        limits: RunLimits,
        note: Callable[[str], None],
        is_explained: Callable[[], bool] = lambda: False,
    ) -> None:
        """*is_explained*: true while workers say why nothing moves. Then nobody is asked whether one runs."""
        self.reason: str | None = None
        self.last = 0
        """Number of the last row or document that was read."""
        self.read_all = False
        self._producer = producer
        self._window = window
        self._outputs = outputs
        self._submitter = submitter
        self._limits = limits
        self._note = note
        self._is_explained = is_explained
        self._reader = ResultsReader(results, window, outputs)
        self._interruption = Interruption()
        self._limit_reached = False
        self._asked_at = 0.0

    @abstractmethod
    def _process(self, item: Read) -> None:
        """Reject *item*, or seal it, enter it into the window and submit it."""

    def run(self, items: Iterable[Read]) -> None:
        """Send *items*. However this ends, each item that was read is in one of the files."""
        with self._interruption:
            try:
                self._reader.start()
                self._read(items)
                self._wait_for_outcomes()
            except OutputFailed as error:
                self.reason = str(error)
            finally:
                self._end()

    def _read(self, items: Iterable[Read]) -> None:
        source = iter(items)
        while not self._must_stop():
            try:
                with self._interruption.reading():
                    item = next(source, None)
            except Interrupted:
                self.reason = "interrupted"
                return
            except OSError as error:
                self.reason = f"the file cannot be read any further ({error.strerror})"
                return
            if item is None:
                self.read_all = True
                return
            self._process(item)
            self.last = item.number
            self._submitter.retry()
            while (len(self._window) >= self._limits.window or self._submitter.is_stuck) and not self._must_stop():
                self._submit_and_wait()

    def _wait_for_outcomes(self) -> None:
        until: float | None = None
        while len(self._window) and self._reader.trouble is None and self._interruption.times < 2:
            if until is None and (self._must_stop() or not self.read_all):
                until = time.monotonic() + (0.0 if self._limit_reached else GRACE)
            if until is None:
                self._submit_and_wait()
            elif time.monotonic() < until:
                self._wait()
            else:
                return

    def _submit_and_wait(self) -> None:
        self._submitter.retry()
        self._submitter.find_lost()
        self._wait()

    def _wait(self) -> None:
        """Wait a moment for a change. After a silence, ask whether a worker runs."""
        now, last = time.monotonic(), self._window.last_result
        asked = self._asked_at > last
        if len(self._window) and now - last >= self.silence and (not asked or now - self._asked_at >= ASK_AGAIN):
            self._asked_at = now
            if not self._is_explained():
                self._window.guess = depth.why_silent(self._submitter.waiting(), self.start)
                self._note(f"no result for {now - last:.0f} s: {self._window.guess}; still waiting")
        self._window.wait(_TICK)

    def _must_stop(self) -> bool:
        """True if reading must end. `reason` then says why."""
        reason: str | None
        if self._interruption.times:
            reason = "interrupted"
        elif (reason := self._reader.trouble or self._submitter.failure) is None:
            reason = self._reached_limit()
            self._limit_reached |= reason is not None
            reason = reason or self._too_many_failures()
        self.reason = reason or self.reason
        return reason is not None

    def _too_many_failures(self) -> str | None:
        """Why no more should be sent, if so many items failed. The outcomes of those under way are still read."""
        return None

    def _reached_limit(self) -> str | None:
        now = time.monotonic()
        if (longest := self._limits.timeout) is not None and now - self._window.started > longest:
            return f"not finished within {longest:g} s"
        silent = self._limits.give_up_after
        last_sign = max(self._window.last_result, self._submitter.last_accepted)
        if silent is not None and len(self._window) and now - last_sign > silent:
            trouble = self._submitter.trouble
            return f"no result for {silent:g} s" + (f", and {trouble}" if trouble else "")
        return None

    def _end(self) -> None:
        self._producer.publisher.close(timeout=1.0 if self.reason is not None else 10.0)
        self._reader.end(delete=not len(self._window))
        unfinished = self._window.close()
        if self.read_all and not unfinished:
            self.reason = None  # it was to stop, and was finished before it did
        try:
            for request_id, item in unfinished:
                self._outputs.result(self._window.line(request_id, item, None))
            self._window.pass_on_early()
        except OutputFailed as error:
            self.reason = str(error)
