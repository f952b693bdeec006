"""The sets in which a long import keeps rows and keys: as right as Python's own, and small."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from tokenferry.importing.key_set import KeySet
from tokenferry.importing.row_set import MOST, RowSet


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 300))))
def test_a_row_set_holds_what_a_set_holds(steps: list[tuple[bool, int]]) -> None:
    rows, model = RowSet(), set[int]()
    for adds, row in steps:
        (rows.add if adds else rows.discard)(row)
        (model.add if adds else model.discard)(row)
    assert (list(rows), len(rows)) == (sorted(model), len(model))
    assert all((row in rows) == (row in model) for row in range(310))


def test_a_number_that_is_no_line_costs_no_memory() -> None:
    rows = RowSet([MOST + 1, -1])
    assert (len(rows), MOST + 1 in rows, -1 in rows) == (0, False, False)


@given(st.lists(st.text()))
def test_a_key_set_knows_each_key_again(texts: list[str]) -> None:
    keys, model = KeySet(), set[str]()
    for text in texts:
        assert keys.add(text) == (text not in model)
        model.add(text)
    assert len(keys) == len(model)


def test_many_keys_need_few_bytes_each() -> None:
    keys = KeySet()
    assert all(keys.add(f"seller-{number}") for number in range(20_000))
    assert not any(keys.add(f"seller-{number}") for number in range(20_000))
    assert sys.getsizeof(keys._table) <= 20_000 * 60
