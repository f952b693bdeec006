"""The import itself: one thread reads, seals and sends, another follows the results, a window holds them together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Final

from tokenferry.broker.publishing import PublishError
from tokenferry.configuration import InvalidConfiguration
from tokenferry.consuming import Results
from tokenferry.contract.names import new_id
from tokenferry.contract.requests import InvalidRequest
from tokenferry.contract.results import AttachResult, TokenResult
from tokenferry.contract.targets import InvalidTarget
from tokenferry.importing.examining import Examiner, problems_in_sealing
from tokenferry.importing.interrupting import Interrupted, Interruption
from tokenferry.importing.ledger import Ledger, LedgerClosed, Outstanding, settled_line
from tokenferry.importing.outputs import OutputFailed, Outputs
from tokenferry.importing.rows import BrokenRow, Row
from tokenferry.producer import Producer

GRACE: Final = 5.0
"""Seconds for which an import that must stop still takes in results."""
SILENCE: Final = 60.0
"""Seconds without any result after which we ask whether a worker runs."""
_TICK: Final = 0.2


@dataclass(frozen=True)
class Patience:
    """How long an import waits, in seconds, and how many requests may be unfinished at once."""

    window: int = 2000
    timeout: float | None = None
    """From the start to the end of the whole import."""
    give_up_after: float | None = None
    """Without any result."""


class Following(threading.Thread):
    """Reads the import's route and settles its rows. A result is acknowledged only after its line is written."""

    def __init__(self, results: Results, ledger: Ledger, outputs: Outputs) -> None:
        super().__init__(name="tokenferry-results", daemon=True)
        self.trouble: str | None = None
        self._results = results
        self._ledger = ledger
        self._outputs = outputs
        self._tidy = False

    def run(self) -> None:
        try:
            with self._results as results:
                results.run(self._take)
                if self._tidy:
                    results.delete()
        except LedgerClosed:
            pass
        except OutputFailed as error:
            self.trouble = str(error)
        except Exception as error:
            if not self._tidy:  # once everything is settled, an untidy good-bye matters to nobody
                self.trouble = f"results can no longer be read ({type(error).__name__})"

    def end(self, *, delete: bool) -> None:
        """Stop; with *delete* the route goes too. Waits a few seconds at most."""
        self._tidy = delete
        self._results.stop()
        if self.ident is not None:
            self.join(3.0)

    def _take(self, result: TokenResult | AttachResult) -> None:
        self._ledger.settle(result, self._outputs.result)


class Import:
    """One run. `reason` says afterwards why it ended early; None means that every row was read and settled."""

    def __init__(
        self,
        producer: Producer,
        results: Results,
        examiner: Examiner,
        ledger: Ledger,
        outputs: Outputs,
        *,
        patience: Patience,
        note: Callable[[str], None],
    ) -> None:
        self.reason: str | None = None
        self.last_row = 0
        """The last row that was read."""
        self.read_all = False
        self._producer = producer
        self._examiner = examiner
        self._ledger = ledger
        self._outputs = outputs
        self._patience = patience
        self._note = note
        self._following = Following(results, ledger, outputs)
        self._publish_error: PublishError | None = None
        self._interruption = Interruption()
        self._out_of_patience = False
        self._asked = 0.0

    def run(self, rows: Iterable[Row | BrokenRow]) -> None:
        """Import *rows*. Whatever happens, every row that was read is written down before this returns or raises."""
        with self._interruption:
            try:
                self._following.start()
                self._feed(rows)
                self._wait_for_outcomes()
            except OutputFailed as error:
                self.reason = str(error)
            finally:
                self._end()

    def _feed(self, rows: Iterable[Row | BrokenRow]) -> None:
        source = iter(rows)
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
            self.last_row = item.number
            self._one(item)
            while len(self._ledger) >= self._patience.window and not self._must_stop():
                self._ask_for_workers()
                self._ledger.wait(_TICK)

    def _one(self, item: Row | BrokenRow) -> None:
        order = self._examiner.order(item)
        if order is None:
            return
        request_id = new_id()
        row = Outstanding(item.number, item.key, order.request.kind, attaches=order.attach is not None)
        self._ledger.enter(request_id, row)
        try:
            _, future = self._producer.submit(replace(order, request_id=request_id))
        except (InvalidRequest, InvalidTarget, InvalidConfiguration) as error:
            self._ledger.withdraw(request_id)
            self._examiner.refuse(item.number, item.key, problems_in_sealing(error))
            return
        future.add_done_callback(lambda done: self._handed_over(request_id, done))

    def _handed_over(self, request_id: str, done: Future[None]) -> None:
        """Runs in the publisher's thread."""
        error = None if done.cancelled() else done.exception()
        if error is None:
            self._ledger.mark(request_id, "no" if done.cancelled() else "yes")
            return
        sent_for_sure_not = isinstance(error, PublishError) and not error.maybe_sent
        self._ledger.mark(request_id, "no" if sent_for_sure_not else "unknown")
        if isinstance(error, PublishError):
            self._publish_error = error
        else:
            self._publish_error = PublishError(f"publishing failed ({type(error).__name__})", maybe_sent=True)

    def _must_stop(self) -> bool:
        """Whether reading has to end, and why."""
        reason = None
        if self._interruption.times:
            reason = "interrupted"
        elif self._following.trouble is not None:
            reason = self._following.trouble
        elif self._publish_error is not None:
            reason = str(self._publish_error)
        elif (reason := self._lost_patience()) is not None:
            self._out_of_patience = True
        if reason is not None:
            self.reason = reason
        return reason is not None

    def _lost_patience(self) -> str | None:
        now = time.monotonic()
        if (most := self._patience.timeout) is not None and now - self._ledger.started > most:
            return f"not finished within {most:g} s"
        silent = self._patience.give_up_after
        if silent is not None and len(self._ledger) and now - self._ledger.last_result > silent:
            return f"no result for {silent:g} s"
        return None

    def _wait_for_outcomes(self) -> None:
        until: float | None = None
        while len(self._ledger) and self._following.trouble is None and self._interruption.times < 2:
            if until is None and (self._must_stop() or not self.read_all):
                until = time.monotonic() + (0.0 if self._out_of_patience else GRACE)
            if until is not None and time.monotonic() >= until:
                return
            self._ask_for_workers()
            self._ledger.wait(_TICK)

    def _ask_for_workers(self) -> None:
        silence = time.monotonic() - max(self._ledger.last_result, self._asked)
        if len(self._ledger) and silence >= SILENCE:
            self._asked = time.monotonic()
            self._note(
                f"no result for {SILENCE:.0f} s: is a worker running? Start one with `tokenferry worker`; still waiting"
            )

    def _end(self) -> None:
        hurried = self.reason is not None
        self._producer.publisher.close(timeout=1.0 if hurried else 10.0)
        self._following.end(delete=not len(self._ledger))
        left = self._ledger.close()
        if self.read_all and not left:
            self.reason = None  # it was to stop, and was done before it could
        try:
            for request_id, row in left:
                self._outputs.result(settled_line(request_id, row, None))
        except OutputFailed as error:
            self.reason = str(error)
