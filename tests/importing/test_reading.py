"""Lines, rows and headers: whatever a file holds, one broken row is one broken row."""

from __future__ import annotations

import csv
import io
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenferry.inputs.csv_rows import CsvRows
from tokenferry.inputs.json_rows import JsonRows
from tokenferry.inputs.lines import LONGEST, Lines
from tokenferry.inputs.mapping import ColumnMap, parse_maps
from tokenferry.inputs.rows import BrokenRow, InvalidMapping, Row, UnreadableFile


def lines(content: str | bytes) -> Lines:
    return Lines(io.BytesIO(content if isinstance(content, bytes) else content.encode()))


def csv_rows(content: str | bytes, *maps: str, delimiter: str | None = None) -> list[Row | BrokenRow]:
    return list(CsvRows(lines(content), ColumnMap(parse_maps(maps)), delimiter=delimiter))


def jsonl_rows(content: str | bytes, *maps: str) -> list[Row | BrokenRow]:
    return list(JsonRows(lines(content), ColumnMap(parse_maps(maps))))


def said(rows: Iterable[Row | BrokenRow]) -> list[str]:
    return [f"{row.key}: {row.reason}" if isinstance(row, BrokenRow) else row.key for row in rows]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_bom_line_ends_and_delimiters_make_no_difference(bom: bytes, delimiter: str, end: str) -> None:
    content = "key,kind,number\na,card,1\nb,card,2\n".replace(",", delimiter).replace("\n", end)

    rows = csv_rows(bom + content.encode())

    assert [(row.key, row.values) for row in rows if isinstance(row, Row)] == [
        ("a", {"kind": "card", "number": "1"}),
        ("b", {"kind": "card", "number": "2"}),
    ]


def test_a_row_is_numbered_as_editors_number_its_first_line() -> None:
    rows = csv_rows('key,name\n\na,"two\nlines"\nb,one\n')

    assert [(row.number, row.key) for row in rows] == [(3, "a"), (5, "b")]


def test_without_a_key_column_the_line_is_the_key() -> None:
    assert said(csv_rows("name\nZ\nY\n")) == ["row-2", "row-3"]
    assert said(jsonl_rows('{"name": "Z"}\n\n{"name": "Y"}')) == ["row-1", "row-3"]


def test_an_empty_cell_is_a_field_that_is_not_given() -> None:
    (row,) = csv_rows("key,name,cvc\na,,\n")
    assert isinstance(row, Row)
    assert row.values == {}


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("x,1,2,3", "the row has 4 cells, the header has 2"),
        ("x", "the row has 1 cells, the header has 2"),
        ('x,"1"2', "a quote stands where none may"),
        ('x,"1', "a quote"),
        ("x,\0", "the line contains a NUL byte"),
        (b"x,\xff\xfe", "the line is not UTF-8"),
    ],
)
def test_a_broken_row_in_the_middle_costs_that_row_only(broken: str | bytes, reason: str) -> None:
    middle = broken if isinstance(broken, bytes) else broken.encode()

    first, second, *rest = said(csv_rows(b"key,name\na,1\n" + middle + b'\nb,2\nc,"3"\nd,4\n'))

    assert first == "a"
    assert second.startswith(("row-3: ", "x: "))  # its key, as far as it can be read
    assert reason in second
    assert rest == ["b", "c", "d"]


def test_a_quote_that_is_never_closed_does_not_swallow_the_file() -> None:
    rows = csv_rows('key,name\n"x,1\n' + "".join(f"k{n},1\n" for n in range(500)))

    assert said(rows)[0].endswith(": a quote in the row is not closed")
    assert said(rows)[1:] == [f"k{n}" for n in range(500)]


def test_a_line_of_ten_megabytes_is_one_rejected_row_and_is_never_in_memory() -> None:
    stream = io.BytesIO(b"key,name\na,1\nx," + b"9" * 10_000_000 + b"\nb,2\n")
    tracemalloc.start()
    rows = said(CsvRows(Lines(stream), ColumnMap()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert rows == ["a", "row-3: the line is longer than 1 MiB", "b"]
    assert peak < 4 * LONGEST


def test_a_line_of_ten_megabytes_of_json_is_one_rejected_row() -> None:
    assert said(jsonl_rows(b'{"key":"a"}\n"' + b"9" * 10_000_000 + b'"\n{"key":"b"}')) == [
        "a",
        "row-2: the line is longer than 1 MiB",
        "b",
    ]


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("[1]", "is not a JSON object: it is a list"),
        ("7", "is not a JSON object: it is a number"),
        ("[" * 100_000, "is not a JSON object: it is not JSON"),
        ("not json", "is not a JSON object: it is not JSON"),
        *(
            (text, "is not a JSON object: it has a mistake, or its end is missing")
            for text in ("{", '{"a": ' + "9" * 5000 + "}")
        ),
        ('{"a": NaN}', "holds NaN or Infinity, which are no numbers of JSON"),
        ('{"a": 1, "a": 2}', "holds an object with the same name twice"),
    ],
)
def test_broken_json_in_the_middle_costs_that_row_only(broken: str, why: str) -> None:
    assert said(jsonl_rows(f'{{"key": "a"}}\n{broken}\n{{"key": "b"}}\n')) == ["a", f"row-2: the line {why}", "b"]


@pytest.mark.parametrize("key", ["true", "[]", '""', '" "'])
def test_a_key_in_json_is_a_string_or_a_whole_number(key: str) -> None:
    assert said(jsonl_rows(f'{{"key": {key}}}')) == ["row-1: must be a string or a whole number"]


def test_an_empty_key_is_refused_where_there_is_a_key_column() -> None:
    assert said(csv_rows("key,name\n,Z\n")) == ["row-2: is required: the file has a key column"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        (b"\xef\xbb\xbf", "the file is empty"),
        (b"\x00\x01\x02\x03", "NUL byte"),
        (b"k" * 3_000_000, "longer than 1 MiB"),
        ('"key,name\n', "a quote in it is not closed"),
        ("key,nmae\n", "'nmae' (did you mean name"),
        ("key,Card Number\n", "'Card Number' (did you mean"),
        ("key,name,name\n", "columns 'name' and 'name' both hold name"),
        ("key,4242424242424242\n", "column 2 of the header looks like data: the file has no header line"),
        ("4242 4242 4242 4242;12\n", "column 1 of the header looks like data"),
        ("key,z@example.com\n", "column 2 of the header looks like data"),
        ('{"key": "a"}\n', "looks like data"),
    ],
)
def test_a_file_that_cannot_be_csv_is_refused_with_one_reason_and_no_value(content: str | bytes, message: str) -> None:
    with pytest.raises(UnreadableFile) as refused:
        csv_rows(content)

    assert message in str(refused.value)
    assert "4242" not in str(refused.value)
    assert "example.com" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("key,name\n", "not JSON"),
        (b"\x00\x01", "not JSON"),
        (b"\xff{", "not JSON"),
    ],
)
def test_a_file_that_cannot_be_jsonl_is_refused(content: str | bytes, message: str) -> None:
    with pytest.raises(UnreadableFile, match=message):
        jsonl_rows(content)


def test_map_names_and_leaves_out_columns() -> None:
    (row,) = csv_rows("Ref,Card No.,Notes\na,1,hello\n", "Ref=key", "Card No.=card.number", "Notes=")

    assert isinstance(row, Row)
    assert (row.key, row.values) == ("a", {"card.number": "1"})


def test_map_works_on_json_as_well() -> None:
    (row,) = jsonl_rows('{"Ref": "a", "Notes": "hello", "number": "1"}', "Ref=key", "Notes=")

    assert isinstance(row, Row)
    assert (row.key, row.values) == ("a", {"number": "1"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Ref", "wants"),
        ("=number", "wants"),
        ("Ref=nunber", "did you mean number"),
        ("A=4242424242424242", "not shown"),
    ],
)
def test_a_map_that_cannot_be_meant_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidMapping) as refused:
        parse_maps([text])
    assert message in str(refused.value)
    assert "4242" not in str(refused.value)


def test_a_map_of_a_column_that_is_not_there_is_refused() -> None:
    with pytest.raises(UnreadableFile, match="no such column"):
        csv_rows("key,name\n", "Reference=key")


@given(st.binary(max_size=300))
def test_no_bytes_make_reading_fail_in_another_way_or_show_themselves(rest: bytes) -> None:
    for row in csv_rows(b"key,name\n" + rest):
        assert isinstance(row, Row | BrokenRow)


@given(st.lists(st.tuples(st.text("ab,\"\n '", min_size=1), st.text('xy,"\n')), max_size=8))
def test_what_a_csv_writer_writes_is_read_row_by_row(pairs: list[tuple[str, str]]) -> None:
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["name", "cvc"])
    writer.writerows(pairs)

    rows = csv_rows(written.getvalue(), delimiter=",")

    expected = [(name.strip(), cvc.strip()) for name, cvc in pairs if name.strip() or cvc.strip()]
    read = [(row.values.get("name", ""), row.values.get("cvc", "")) for row in rows if isinstance(row, Row)]
    assert read == expected
