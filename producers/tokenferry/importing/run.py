"""The import itself: each row becomes a request, under an id that is the same in every run."""

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
    question = "is a worker running? Start one with `tokenferry worker`"

    def __init__(
        self,
        producer: Producer,
        results: Results,
        examiner: Examiner,
        ledger: ImportWindow,
        outputs: Outputs,
        memory: Checkpoint,
        *,
        done: Container[int] = (),
        patience: RunLimits,
        note: Callable[[str], None],
    ) -> None:
        """*done*: rows that an earlier run has dealt with."""
        handing = Submitter(
            producer.publisher.submit,
            producer.configuration,
            ledger,
            taken=lambda row: memory.take(row.number),
            goes_on="The import goes on by itself; Ctrl-C ends it"
            + (", and --resume goes on later" if memory.path is not None else ""),
            note=note,
            silence=RESUMED_SILENCE if memory.is_resumed else SILENCE,
        )
        super().__init__(producer, results, ledger, outputs, handing, patience=patience, note=note)
        self._examiner = examiner
        self._memory = memory
        self._done = done
        ledger.early = self._comes_later

    def _one(self, item: Row | BrokenRow) -> None:
        if item.number in self._done:
            self._examiner.pass_over(item)
            return
        order = self._examiner.order(item)
        if order is None:
            return
        request_id = self._memory.request_id(item.number)
        try:
            _, message = self._producer.sealer.message(replace(order, request_id=request_id))
        except (InvalidRequest, InvalidTarget, InvalidConfiguration) as error:
            self._examiner.refuse(item.number, item.key, problems_in_sealing(error))
            return
        row = PendingRow(item.number, item.key, order.request.kind, attaches=order.attach is not None, message=message)
        if item.number in self._memory.taken:  # by an earlier run: should it be lost, the silence will tell
            row.handed_over = "yes"
        self._window.enter(request_id, row, self._outputs.result)
        if item.number not in self._memory.taken:
            self._handing.hand_over(request_id, row)

    def _comes_later(self, request_id: str) -> bool:
        """Whether the row of a result was handed over by an earlier run and is still to be read."""
        row = self._memory.row(request_id)
        return row is not None and row > self.last and row in self._memory.taken
