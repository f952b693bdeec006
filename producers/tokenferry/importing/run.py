"""One run of an import. Each row becomes a request whose id is the same in every run."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import replace

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
from tokenferry.inputs.rows import BrokenRow, Row
from tokenferry.producer import Producer


class Import(BulkRun[Row | BrokenRow]):
    """One run over a file of rows."""

    silence = SILENCE
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
        limits: RunLimits,
        note: Callable[[str], None],
    ) -> None:
        """*done*: rows that an earlier run has finished."""
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
        super().__init__(producer, results, window, outputs, submitter, limits=limits, note=note)
        self._examiner = examiner
        self._checkpoint = checkpoint
        self._done = done
        window.early = self._comes_later

    def _process(self, item: Row | BrokenRow) -> None:
        if item.number in self._done:
            self._examiner.skip(item)
            return
        order = self._examiner.order(item)
        if order is None:
            return
        request_id = self._checkpoint.request_id(item.number)
        try:
            _, message = self._producer.sealer.message(replace(order, request_id=request_id))
        except (InvalidRequest, InvalidTarget, InvalidConfiguration) as error:
            self._examiner.reject(item.number, item.key, problems_in_sealing(error))
            return
        row = PendingRow(item.number, item.key, order.request.kind, attaches=order.attach is not None, message=message)
        if item.number in self._checkpoint.accepted:
            row.handed_over = "yes"  # by an earlier run; if the request was lost, it is found after a silence
            self._window.enter(request_id, row, self._outputs.result)
        else:
            self._window.enter(request_id, row, self._outputs.result)
            self._submitter.submit(request_id, row)

    def _comes_later(self, request_id: str) -> bool:
        """True if an earlier run submitted the row of a result, and this run has not read that row yet."""
        row = self._checkpoint.row(request_id)
        return row is not None and row > self.last and row in self._checkpoint.accepted
