"""A bulk run: one thread reads, seals and sends, another follows the results, a window holds them together."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from tokenferry.bulk.interrupting import Interrupted, Interruption
from tokenferry.bulk.outputs import OutputFailed, Outputs
from tokenferry.bulk.results_reader import ResultsReader
from tokenferry.bulk.submitter import Submitter
from tokenferry.bulk.window import Window
from tokenferry.consuming import Results
from tokenferry.producer import Producer

GRACE: Final = 5.0
"""Seconds for which a run that must stop still takes in results."""
_TICK: Final = 0.2


@dataclass(frozen=True)
class RunLimits:
    """How long a run waits, in seconds, and how much of it may be under way at once."""

    window: int
    timeout: float | None = None
    """From the start to the end of the whole run."""
    give_up_after: float | None = None
    """Without any result, and without any word of the broker."""


class NumberedItem(Protocol):
    """What is read from a file."""

    @property
    def number(self) -> int:
        """Its place in the file."""
        ...


Read = TypeVar("Read", bound=NumberedItem)


class BulkRun(ABC, Generic[Read]):
    """One run. `reason` says afterwards why it ended early; None means that all was read and has its outcome."""

    silence: ClassVar[float]
    """Seconds without any result after which we ask whether a worker runs."""
    question: ClassVar[str]
    """What we ask then."""

    def __init__(
        self,
        producer: Producer,
        results: Results,
        window: Window[Any, Any],
        outputs: Outputs,
        handing: Submitter,
        *,
        patience: RunLimits,
        note: Callable[[str], None],
    ) -> None:
        self.reason: str | None = None
        self.last = 0
        """The last row or document that was read."""
        self.read_all = False
        self._producer = producer
        self._window = window
        self._outputs = outputs
        self._handing = handing
        self._patience = patience
        self._note = note
        self._following = ResultsReader(results, window, outputs)
        self._interruption = Interruption()
        self._out_of_patience = False
        self._asked = 0.0

    @abstractmethod
    def _one(self, item: Read) -> None:
        """Refuse what was read, or seal it, enter it into the window and hand it over."""

    def run(self, items: Iterable[Read]) -> None:
        """Send *items*. Whatever happens, each that was read is written down before this returns or raises."""
        with self._interruption:
            try:
                self._following.start()
                self._feed(items)
                self._wait_for_outcomes()
            except OutputFailed as error:
                self.reason = str(error)
            finally:
                self._end()

    def _feed(self, items: Iterable[Read]) -> None:
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
            self._one(item)
            self.last = item.number
            self._handing.again()
            while (len(self._window) >= self._patience.window or self._handing.is_stuck) and not self._must_stop():
                self._tick()

    def _wait_for_outcomes(self) -> None:
        until: float | None = None
        while len(self._window) and self._following.trouble is None and self._interruption.times < 2:
            if until is None and (self._must_stop() or not self.read_all):
                until = time.monotonic() + (0.0 if self._out_of_patience else GRACE)
            if until is not None and time.monotonic() >= until:
                return
            self._tick(handing=until is None)

    def _tick(self, *, handing: bool = True) -> None:
        """Do what is due, and wait for a change."""
        if handing:
            self._handing.again()
            self._handing.find_lost()
        silence = time.monotonic() - max(self._window.last_result, self._asked)
        if len(self._window) and silence >= self.silence:
            self._asked = time.monotonic()
            self._note(f"no result for {self.silence:.0f} s: {self.question}; still waiting")
        self._window.wait(_TICK)

    def _must_stop(self) -> bool:
        """Whether reading has to end, and why."""
        reason: str | None
        if self._interruption.times:
            reason = "interrupted"
        elif (reason := self._following.trouble or self._handing.failure) is None:
            reason = self._lost_patience()
            self._out_of_patience |= reason is not None
        self.reason = reason or self.reason
        return reason is not None

    def _lost_patience(self) -> str | None:
        now = time.monotonic()
        if (most := self._patience.timeout) is not None and now - self._window.started > most:
            return f"not finished within {most:g} s"
        silent = self._patience.give_up_after
        last_sign = max(self._window.last_result, self._handing.last_taken)
        if silent is not None and len(self._window) and now - last_sign > silent:
            trouble = self._handing.trouble
            return f"no result for {silent:g} s" + (f", and {trouble}" if trouble else "")
        return None

    def _end(self) -> None:
        self._producer.publisher.close(timeout=1.0 if self.reason is not None else 10.0)
        self._following.end(delete=not len(self._window))
        left = self._window.close()
        if self.read_all and not left:
            self.reason = None  # it was to stop, and was done before it could
        try:
            for request_id, item in left:
                self._outputs.result(self._window.line(request_id, item, None))
        except OutputFailed as error:
            self.reason = str(error)
