"""Turns each row of an import into an order, or into lines of the rejects file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tokenferry.bulk.outputs import Outputs
from tokenferry.configuration import InvalidConfiguration
from tokenferry.contract.requests import InvalidRequest, Problem
from tokenferry.contract.targets import InvalidTarget
from tokenferry.importing.import_window import ImportCounts
from tokenferry.importing.key_set import KeySet
from tokenferry.importing.preview import Preview
from tokenferry.importing.row_ids import KeyRules
from tokenferry.inputs.orders import RowDefaults, order_from
from tokenferry.inputs.rows import BrokenRow, Row
from tokenferry.producer import Order, Sealer

NO_RULES: Final = KeyRules()


class Examiner:
    """Accepts or rejects rows."""

    def __init__(
        self,
        defaults: RowDefaults,
        outputs: Outputs,
        counts: ImportCounts,
        preview: Preview | None = None,
        *,
        rules: KeyRules = NO_RULES,
    ) -> None:
        self.rules = rules
        self._preview = preview
        self._defaults = defaults
        self._outputs = outputs
        self._counts = counts
        self._keys = KeySet()

    def order(self, item: Row | BrokenRow) -> Order | None:
        """Return the order of a row. None if it was rejected, which is recorded."""
        self._counts.rows += 1
        if isinstance(item, BrokenRow):
            self.reject(item, [Problem(item.field, item.reason)])
            return None
        if not self._keys.add(item.key):
            self.reject(item, [Problem("key", "is the key of an earlier row")])
            return None
        try:
            order = order_from(item, self._defaults)
        except InvalidRequest as error:
            self.reject(item, error.problems)
            return None
        if problems := self.rules.problems(item, order):
            self.reject(item, problems)
            return None
        return order

    def skip(self, item: Row | BrokenRow) -> None:
        """Count a row that an earlier run has finished. No other row may have its key."""
        self._counts.rows += 1
        self._keys.add(item.key)

    def reject(self, item: Row | BrokenRow, problems: Iterable[Problem]) -> None:
        """Record why a row is not sent."""
        problems = list(problems)
        self._outputs.reject(item.number, item.key, problems, record=item.record)
        self._counts.reject(problems)
        if self._preview is not None:
            self._preview.reject(item.number, problems)


def problems_in_sealing(error: InvalidRequest | InvalidTarget | InvalidConfiguration) -> list[Problem]:
    """Why the sealer raised *error* for an order."""
    match error:
        case InvalidRequest():
            return list(error.problems)
        case InvalidTarget():
            return [Problem("attach", str(error))]
        case _:
            return [Problem("platform", "is not configured")]


def examine(
    rows: Iterable[Row | BrokenRow], examiner: Examiner, sealer: Sealer, counts: ImportCounts, preview: Preview
) -> None:
    """A dry run: check and seal every row, and send nothing."""
    for item in rows:
        order = examiner.order(item)
        if order is None:
            continue
        try:
            sealer.message(order)
        except (InvalidRequest, InvalidTarget, InvalidConfiguration) as error:
            examiner.reject(item, problems_in_sealing(error))
        else:
            counts.sealed += 1
            preview.accept(order, sealer.platform(order.platform))
