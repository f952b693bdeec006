"""One run of an import. Each row becomes a request whose id is the same in every run."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import replace
from functools import partial
from typing import Final

from tokenferry.broker.publishing import Outgoing
from tokenferry.bulk.bulk_run import BulkRun, RunLimits
from tokenferry.bulk.outputs import Outputs
from tokenferry.bulk.submitter import RESUMED_SILENCE, SILENCE, Submitter
from tokenferry.configuration import InvalidConfiguration
from tokenferry.consuming import Results
from tokenferry.contract.requests import InvalidRequest
from tokenferry.contract.targets import InvalidTarget
from tokenferry.importing.checkpoint import Checkpoint
from tokenferry.importing.import_window import ImportWindow, PendingRow
from tokenferry.importing.row_checks import Examiner, problems_in_sealing
from tokenferry.importing.row_ids import KeyedRow
from tokenferry.inputs.rows import BrokenRow, Row
from tokenferry.producer import Order, Producer

SAME_FAILURES: Final = 50
"""A run stops when its first so many outcomes are all the same failure: the next ones would be the same."""


class Import(BulkRun[Row | BrokenRow]):
    """One run over a file of rows."""

    silence = 15.0
    start = "`tokenferry worker`"

    def __init__(
        self,
        producer: Producer,
        results: Results,
        examiner: Examiner,
        window: ImportWindow,
        outputs: Outputs,
        checkpoint: Checkpoint,
        *,
        done: Container[int] = (),
        max_failures: int | None = None,
        limits: RunLimits,
        note: Callable[[str], None],
        is_explained: Callable[[], bool] = lambda: False,
    ) -> None:
        """*done*: rows that an earlier run has finished.

        *max_failures*: stop when so many rows have failed; 0 never stops. None stops only if the first outcomes are
        all the same failure.
        """
        submitter = Submitter(
            producer.publisher.submit,
            producer.configuration,
            window,
            accepted=lambda row: checkpoint.accept(row.number),
            while_waiting="The import continues by itself; Ctrl-C ends it"
            + (", and --resume continues it later" if checkpoint.path is not None else ""),
            note=note,
            silence=RESUMED_SILENCE if checkpoint.is_resumed else SILENCE,
        )
        super().__init__(
            producer, results, window, outputs, submitter, limits=limits, note=note, is_explained=is_explained
        )
        self._examiner = examiner
        self._checkpoint = checkpoint
        self._done = done
        self._counts = window.counts
        self._max_failures = max_failures
        self._settled_before = window.counts.settled
        self._failures_before = window.counts.failures.copy()
        self._rows_window = window
        window.began = checkpoint.began
        window.early = self._comes_later
        window.late = lambda result: checkpoint.append([result])

    def _process(self, item: Row | BrokenRow) -> None:
        if item.number in self._done:
            self._examiner.skip(item)
            return
        order = self._examiner.order(item)
        if order is None:
            return
        assert isinstance(item, Row)
        try:
            order = self._named(item, order)
            generation = self._generation(item, order)
            request_id, message = self._producer.sealer.message(order, generation=generation)
        except (InvalidRequest, InvalidTarget, InvalidConfiguration) as error:
            self._examiner.reject(item, problems_in_sealing(error))
            return
        key = self._examiner.rules.shown(item.key) if item.has_key else item.key
        row = PendingRow(item.number, key, order.request.kind, attaches=order.attach is not None, message=message)
        row.to = order.attach.to if order.attach is not None else None
        row.generation = generation
        if self._producer.sealer.version > 1 and not order.request.carries_cvc:
            row.again = partial(self._sealed_again, order)
        if item.number in self._checkpoint.accepted:
            row.handed_over = "yes"  # by an earlier run; if the request was lost, it is found after a silence
            self._window.enter(request_id, row, self._outputs.result)
        else:
            self._window.enter(request_id, row, self._outputs.result)
            if self._window.item(request_id) is not None:  # else its outcome had come already
                self._submitter.submit(request_id, row)

    def _named(self, item: Row, order: Order) -> Order:
        """Return *order* with the request id of its row. Raises `InvalidRequest`, `InvalidConfiguration`."""
        platform = self._producer.sealer.platform(order.platform)
        keyed = KeyedRow.of(order, platform, item.key) if item.has_key else None
        return replace(order, request_id=self._checkpoint.request_id(item.number, keyed), batch=order.reply_to)

    def _generation(self, item: Row, order: Order) -> int:
        """As which generation of its request id a row is sent. A row that is sent again after a failure: as the next.

        Without a key it has a new id instead. Version 1 knows no generations.
        """
        if not item.has_key or self._checkpoint.namespace is None or self._producer.sealer.version == 1:
            return 1
        return 1 if order.request.carries_cvc else self._checkpoint.attempt(item.number)

    def _sealed_again(self, order: Order, generation: int) -> Outgoing:
        return self._producer.sealer.message(order, generation=generation)[1]

    def _submit_and_wait(self) -> None:
        for request_id, row in self._rows_window.to_begin_again():
            assert row.again is not None
            row.message = row.again(row.generation)
            self._submitter.submit(request_id, row)
        super()._submit_and_wait()

    def _too_many_failures(self) -> str | None:
        counts = self._counts
        failures = counts.failures - self._failures_before
        failed, settled = failures.total(), counts.settled - self._settled_before
        if self._max_failures is None:
            if settled < SAME_FAILURES or failed < settled or len(failures) != 1:
                return None
            ((code, param),) = failures
            what = f"{code} ({param})" if param else code
            return f"the first {failed} rows all failed with {what} (--max-failures 0 goes on all the same)"
        if self._max_failures and failed >= self._max_failures:
            return f"{failed} rows failed (--max-failures {self._max_failures})"
        return None

    def _comes_later(self, request_id: str) -> bool:
        """True if this run has not read the row of a result yet, and an earlier run did not finish it.

        An earlier run may have submitted the row and died before it stored that the broker had accepted it.
        """
        row = self._checkpoint.row(request_id)
        if row is None:  # made of a key: of which row it is shows when that row is read
            return self._checkpoint.is_resumed and not self.read_all
        return row > self.last and row not in self._done
