"""Files as spreadsheets, databases, vaults and programs write them. Each shape stands for its kind."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import generated

from tokenferry.contract.connect import CalendarDate
from tokenferry.contract.requests import BankAccountRequest, CardRequest, InvalidRequest, PersonRequest
from tokenferry.inputs.csv_rows import CsvRows
from tokenferry.inputs.dates import read_date, read_expiry
from tokenferry.inputs.describing import described
from tokenferry.inputs.guessing import map_file
from tokenferry.inputs.json_rows import JsonRows
from tokenferry.inputs.lines import Lines
from tokenferry.inputs.mapping import READY, ColumnMap, column_map, parse_constants, parse_maps, read_map_file
from tokenferry.inputs.orders import RowDefaults, order_from
from tokenferry.inputs.rows import BrokenRow, InvalidMapping, Row, UnreadableFile

NUMBER = "4242424242424242"
CSV = f"key,kind,number,exp_month,exp_year,name\na1,card,{NUMBER},12,2040,Zoë Müller\n"


def rows_of(
    content: str | bytes, given: ColumnMap | None = None, *, encoding: str | None = None
) -> list[Row | BrokenRow]:
    raw = content if isinstance(content, bytes) else content.encode()
    lines = Lines(io.BufferedReader(io.BytesIO(raw)), encoding=encoding)
    is_json = lines.start()[:1] in ("{", "[")
    return list(JsonRows(lines, given or ColumnMap()) if is_json else CsvRows(lines, given or ColumnMap()))


def requests_of(content: str | bytes, given: ColumnMap | None = None, **more: Any) -> list[Any]:
    """The requests of all rows, or what is wrong with a row."""
    defaults = RowDefaults(frozenset({"main"}), formats=given.formats if given else {})
    found: list[Any] = []
    for row in rows_of(content, given, **more):
        if isinstance(row, BrokenRow):
            found.append(f"{row.key}: {row.field}: {row.reason}")
            continue
        try:
            found.append(order_from(row, defaults).request)
        except InvalidRequest as refused:
            found.append(f"{row.key}: {refused}")
    return found


def card_of(**fields: str) -> CardRequest:
    """The card of a one-row CSV file."""
    names = {"kind": "card", "number": NUMBER, "exp_month": "12", "exp_year": "2040", **fields}
    kept = {name: value for name, value in names.items() if value is not None}
    (request,) = requests_of(",".join(kept) + "\n" + ",".join(f'"{text}"' for text in kept.values()) + "\n")
    assert isinstance(request, CardRequest), request
    return request


# -- bytes


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_is_read_in_every_encoding_that_a_file_shows(encoding: str) -> None:
    (request,) = requests_of(CSV.encode(encoding))
    assert request.name == "Zoë Müller"


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "cp850", "mac_roman", "utf-7"])
def test_other_encodings_are_read_when_they_are_named(encoding: str) -> None:
    (request,) = requests_of(CSV.encode(encoding), encoding=encoding)
    assert request.name == "Zoë Müller"


@pytest.mark.parametrize(
    ("encoding", "named"), [("cp1252", "cp1252"), ("latin-1", "cp1252"), ("cp850", "cp850"), ("mac_roman", "mac_roman")]
)
def test_a_row_in_an_encoding_that_is_not_named_keeps_its_key_and_says_which_it_may_be(
    encoding: str, named: str
) -> None:
    said, fine = requests_of(CSV.encode(encoding) + f"a2,card,{NUMBER},12,2040,Bob\n".encode())
    assert said.startswith("a1: row: the line is not UTF-8")
    assert f"--encoding {named}" in said
    assert fine.name == "Bob"


def test_a_byte_that_the_named_encoding_does_not_know_costs_its_row() -> None:
    first, second = requests_of(
        b"key,kind,number,exp_month,exp_year\nx\x81,card,1,1,1\n" + b"b,card,4242424242424242,1,40", encoding="cp1252"
    )
    assert "not cp1252" in first
    assert isinstance(second, CardRequest)


def test_an_encoding_that_does_not_exist_is_refused_at_once() -> None:
    for name in ("klingon", "base64", "zlib"):
        with pytest.raises(UnreadableFile, match="--encoding is not known"):
            rows_of(CSV, encoding=name)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_line_ends_make_no_difference(end: str, encoding: str) -> None:
    first, second = rows_of((CSV + "a2,card,1,1,40,Bob\n").replace("\n", end).encode(encoding))
    assert [(row.number, row.record, row.key) for row in (first, second)] == [(2, 1, "a1"), (3, 2, "a2")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_gzip_is_unpacked(encoding: str) -> None:
    (request,) = requests_of(gzip.compress(CSV.encode(encoding)))
    assert request.name == "Zoë Müller"


def test_a_gzip_file_that_is_cut_off_loses_nothing_silently() -> None:
    body = CSV + "".join(f"k{n},card,{NUMBER},12,2040,Ada{n * 7919}\n" for n in range(2000))
    *read, last = rows_of(gzip.compress(body.encode())[:-3000])
    assert len(read) > 10
    assert isinstance(last, BrokenRow)
    assert "damaged or cut off" in last.reason


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04" + b"\0" * 26 + b"[Content_Types].xml", "Excel workbook (.xlsx): save the sheet as CSV"),
        (b"PK\x03\x04" + b"\0" * 26 + b"mimetypeapplication/vnd.oasis", "OpenDocument sheet"),
        (b"PK\x03\x04" + b"\0" * 26 + b"cards.csv", "unzip -p FILE | tokenferry import -"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old Excel"),
        (b"age-encryption.org/v1\n-> X25519", "age -d FILE | tokenferry import -"),
        (b"-----BEGIN PGP MESSAGE-----\n", "gpg --decrypt FILE | tokenferry import -"),
        (b"\x85\x02\x0c\x03", "gpg --decrypt FILE | tokenferry import -"),
        (b"BZh91AY&SY", "bzcat FILE | tokenferry import -"),
        (b"\xfd7zXZ\0\0", "xzcat FILE | tokenferry import -"),
        (b"PAR1\x15\0", "Parquet"),
        (b"\x1f\x8bnot gzip", "damaged gzip"),
    ],
)
def test_a_file_of_another_kind_is_named_with_the_way_to_convert_it(content: bytes, said: str) -> None:
    with pytest.raises(UnreadableFile) as refused:
        rows_of(content)
    assert said in str(refused.value)


# -- tables


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;"])
def test_the_line_with_which_excel_names_its_delimiter_is_read(line: str) -> None:
    (row,) = rows_of(f"{line}\n" + CSV.replace(",", ";"))
    assert (row.number, row.key) == (3, "a1")


@pytest.mark.parametrize("empty", [",,,,,", " , , , , , ", ",,", '"","",,,,', ",,,,,,,,"])
def test_rows_of_separators_are_no_rows(empty: str) -> None:
    assert [row.key for row in rows_of(f"{CSV}{empty}\n{empty}\n" + "a2,card,1,1,40,Bob\n")] == ["a1", "a2"]


def test_a_column_without_a_name_is_nothing_as_long_as_it_is_empty() -> None:
    (row,) = rows_of("key,name,\na1,Ada,\n")
    assert isinstance(row, Row)
    (broken,) = rows_of("key,name,\na1,Ada,note\n")
    assert isinstance(broken, BrokenRow)
    assert broken.key == "a1"
    assert 'column 3 has no name and holds a value: leave it out with --map "#3="' in broken.reason
    (left_out,) = rows_of("key,name,\na1,Ada,note\n", ColumnMap(parse_maps(["#3="])))
    (mapped,) = rows_of("key,name,\na1,Ada,usd\n", ColumnMap(parse_maps(["#3=currency"])))
    assert isinstance(left_out, Row)
    assert isinstance(mapped, Row)
    assert mapped.values == {"name": "Ada", "currency": "usd"}


def test_every_unknown_column_is_listed() -> None:
    with pytest.raises(UnreadableFile) as refused:
        rows_of("key," + ",".join(f"extra {letter}" for letter in "abcdefghij") + "\n")
    assert all(f"'extra {letter}'" in str(refused.value) for letter in "abcdefghij")


def test_what_is_not_wanted_is_left_out_at_once() -> None:
    (row,) = rows_of("key,extra,name\na1,x,Ada\n", ColumnMap(leaves_out_rest=True))
    assert isinstance(row, Row)
    assert row.values == {"name": "Ada"}


@pytest.mark.parametrize("word", ["NULL", "null", "(null)", "N/A", "#N/A", "nan", "None", "#REF!"])
def test_a_word_that_often_means_nothing_rejects_its_row_until_somebody_says_what_it_means(word: str) -> None:
    content = f"key,kind,number,exp_month,exp_year,name\na1,card,{NUMBER},12,2040,{word}\n"
    (said,) = requests_of(content)
    assert said.startswith(f"a1: name: holds {word}, which often stands for")
    (left_out,) = requests_of(content, ColumnMap(null=frozenset({word})))
    (kept,) = requests_of(content, ColumnMap(null=frozenset({""})))
    assert (left_out.name, kept.name) == (None, word)


@pytest.mark.parametrize("record", [{"name": "NULL"}, {"card": {"name": "NULL", "number": NUMBER}}])
def test_the_same_word_in_json_rejects_its_row_too(record: dict[str, Any]) -> None:
    (broken,) = rows_of(json.dumps({"key": "a1", "kind": "card", **record}))
    assert isinstance(broken, BrokenRow)
    assert broken.field == "name"


def test_what_databases_write_for_nothing_is_nothing() -> None:
    assert card_of(name=r"\N").name is None
    assert card_of(name="Na", address_country="NA").address_country == "NA"  # a name, and Namibia


def test_an_array_in_one_long_line_is_read_row_by_row() -> None:
    body = [
        {"key": f"k{n}", "kind": "card", "name": 'a "quoted" } {[ \\ name', "note": "x" * 100} for n in range(12_000)
    ]
    rows = rows_of(json.dumps(body), ColumnMap(leaves_out_rest=True))
    assert len(json.dumps(body)) > 1 << 20
    assert [row.key for row in rows] == [f"k{n}" for n in range(12_000)]
    assert {row.number for row in rows} == set(range(1, 12_001))
    assert all(isinstance(row, Row) and row.values["name"] == 'a "quoted" } {[ \\ name' for row in rows)


def test_a_broken_object_in_an_array_costs_that_row() -> None:
    rows = rows_of('[{"key": "a"}, {"key": nan}, 7, {"key": "b", "key": "c"}, {"key": "d"}]')
    assert [(row.key, isinstance(row, Row)) for row in rows] == [
        ("a", True),
        ("row-2", False),
        ("row-3", False),
        ("row-4", False),
        ("d", True),
    ]


# -- values


@pytest.mark.parametrize(
    "text",
    [
        *("04/28", "4/28", "04/2028", "04-28", "04.2028", "04 28", "0428", "042028", "2028-04", "2028/04", "202804"),
        *("2028-04-30", "2028-04-01T00:00:00", "30.04.2028", "Apr-28", "28-Apr", "Apr 2028", "April 2028", "apr/28"),
    ],
)
def test_an_expiry_in_one_column_is_read_in_every_usual_form(text: str) -> None:
    assert read_expiry(text) == ("4", "2028")
    (request,) = requests_of(f"kind,number,expiry\ncard,{NUMBER},{text}\n")
    assert (request.exp_month, request.exp_year) == ("4", "2028")


@pytest.mark.parametrize("text", ["13/28", "2804", "04/028", "soon", "28", "00/28", "1/2/28", "04/28/2028"])
def test_what_is_no_expiry_is_said_by_its_field(text: str) -> None:
    (said,) = requests_of(f"key,kind,number,expiry\na1,card,{NUMBER},{text}\n")
    assert said.startswith("a1: expiry: is not MM/YY")


def test_a_form_of_ones_own_is_named_in_the_map() -> None:
    given = column_map({"formats": {"card.expiry": "YYMM", "dob": "MM/DD/YYYY"}}, "map.toml")
    (card,) = requests_of(f"kind,number,expiry\ncard,{NUMBER},2804\n", given)
    (person,) = requests_of("kind,first_name,dob\nperson,Ada,01/31/1980\n", given)
    assert (card.exp_month, card.exp_year) == ("4", "2028")
    assert isinstance(person, PersonRequest)
    assert person.dob == CalendarDate(day=31, month=1, year=1980)


@pytest.mark.parametrize(("text", "day"), [("1980-01-31", 31), ("31.01.1980", 31), ("1980-01-31T00:00:00Z", 31)])
def test_a_date_of_birth_may_stand_in_one_column(text: str, day: int) -> None:
    (cells,) = requests_of(f"kind,first_name,dob\nperson,Ada,{text}\n")
    (member,) = requests_of(json.dumps({"kind": "person", "first_name": "Ada", "dob": text}))
    assert cells == member
    assert cells.dob.day == day


def test_a_date_that_could_be_two_dates_is_refused_with_the_way_to_name_its_form() -> None:
    assert read_date("01/02/1980") is None
    (said,) = requests_of("key,kind,first_name,dob\na1,person,Ada,01/02/1980\n")
    assert said.startswith("a1: dob: ")
    assert '[formats] "dob" = "MM/DD/YYYY"' in said


def test_first_and_last_name_become_the_holders_name() -> None:
    assert card_of(first_name="Ada", last_name="Example").name == "Ada Example"
    bank = "kind,country,currency,account_number,first_name,last_name\n"
    (account,) = requests_of(bank + "bank_account,DE,eur,DE89370400440532013000,Ada,Example\n")
    assert isinstance(account, BankAccountRequest)
    assert account.account_holder_name == "Ada Example"
    (said,) = requests_of(f"kind,number,exp_month,exp_year,name,first_name\ncard,{NUMBER},12,40,Ada,Ada\n")
    assert "name: is given twice" in said


def test_a_whole_number_that_a_program_wrote_as_a_decimal_is_read_where_nothing_can_be_lost() -> None:
    card = card_of(number=f"{NUMBER}.0", exp_month="12.0", exp_year="2040.0")
    assert (card.number, card.exp_month, card.exp_year) == (NUMBER, "12", "2040")
    (typed,) = requests_of(json.dumps({"kind": "card", "number": NUMBER, "exp_month": 12.0, "exp_year": 2040.0}))
    assert (typed.exp_month, typed.exp_year) == ("12", "2040")
    (person,) = requests_of("kind,first_name,dob.day,dob.month,dob.year\nperson,Ada,31.0,1.0,1980.0\n")
    assert person.dob.day == 31


@pytest.mark.parametrize("text", ["110000000.0", "1.1E+08", "1,1E+8"])
def test_digits_that_a_spreadsheet_may_have_lost_are_not_guessed(text: str) -> None:
    header = "key,kind,country,currency,account_number,routing_number\n"
    (said,) = requests_of(f'{header}a1,bank_account,US,usd,000123456789,"{text}"\n')
    assert "export the column as text" in said
    assert "routing_number" in said


def test_an_amount_is_never_read_from_a_decimal() -> None:
    header = "kind,number,exp_month,exp_year,attach.to,attach.amount,attach.currency\n"
    (said,) = requests_of(f"{header}card,{NUMBER},12,40,charge,10.00,usd\n")
    assert "amount" in said


def test_what_spreadsheets_write_to_keep_a_zero_is_taken_off() -> None:
    assert card_of(address_zip='=""01234""').address_zip == "01234"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_a_line_end_in_an_address_becomes_a_comma(end: str) -> None:
    card = card_of(address_line1=f"1 Example St{end}Apt 2", name=f"Ada{end}Example")
    assert card.address_line1 == "1 Example St, Apt 2"
    assert card.name == "Ada Example"


# -- maps


MAP = {
    "leave_out_rest": True,
    "null": ["-"],
    "columns": {"Card No.": "number", "Valid": "expiry", "Id": "key", "Holder": "name"},
    "constants": {"kind": "card", "attach.to": "customer_create"},
    "values": {"currency": {"US Dollar": "usd"}},
}


def test_a_map_file_says_everything_about_a_file() -> None:
    content = f"Id,Card No.,Valid,Holder,currency,junk\na1,{NUMBER},04/28,-,US Dollar,x\n"
    (row,) = rows_of(content, column_map(MAP, "map.toml"))
    assert isinstance(row, Row)
    assert (row.key, row.values) == (
        "a1",
        {"number": NUMBER, "expiry": "04/28", "currency": "usd", "kind": "card", "attach.to": "customer_create"},
    )


def test_a_map_works_on_nested_json() -> None:
    given = column_map({"columns": {"vault.pan": "number", "vault": ""}, "constants": {"kind": "card"}}, "map.toml")
    (row,) = rows_of(json.dumps({"key": "a1", "vault": {"pan": NUMBER, "other": 1}}), given)
    assert isinstance(row, Row)
    assert row.values == {"number": NUMBER, "kind": "card"}


def test_a_value_of_the_row_wins_over_a_constant() -> None:
    given = ColumnMap(constants=parse_constants(["currency=usd", "bank_account.country=US"]))
    (row,) = rows_of("key,kind,currency\na1,card,eur\n", given)
    assert isinstance(row, Row)
    assert row.values == {"kind": "card", "currency": "eur"}


@pytest.mark.parametrize("name", ["number", "card.cvc", "bank_account.account_number", "individual.id_number", "key"])
def test_what_belongs_to_one_row_is_no_constant_and_is_not_repeated(name: str) -> None:
    for refuses in (
        lambda: parse_constants([f"{name}={NUMBER}"]),
        lambda: column_map({"constants": {name: NUMBER}}, "map.toml"),
    ):
        with pytest.raises(InvalidMapping, match="cannot be the same in every row") as refused:
            refuses()
        assert NUMBER not in str(refused.value)


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"colums": {}}, "'colums' is not known"),
        ({"columns": {"A": "nubmer"}}, "'nubmer' is no field (did you mean number"),
        ({"columns": {"A": 1}}, "must hold texts only"),
        ({"constants": {"nope": "x"}}, "'nope' is not a field"),
        ({"formats": {"expiry": "MONTH"}}, "a form is made of"),
        ({"formats": {"name": "YYYY-MM-DD"}}, "neither expiry nor a date"),
        ({"values": {"currency": "usd"}}, "must hold texts only"),
        ({"null": "NULL"}, "must be a list"),
        ({"leave_out_rest": "yes"}, "must be true or false"),
    ],
)
def test_a_mistake_in_a_map_file_is_named(stored: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidMapping) as refused:
        column_map(stored, "map.toml")
    assert str(refused.value).startswith("map.toml: ")
    assert said in str(refused.value)


@pytest.mark.parametrize("name", READY)
def test_the_ready_maps_are_valid(name: str) -> None:
    assert read_map_file(name).constants == {"kind": "card"}


def test_a_vault_export_needs_no_script() -> None:
    header = (
        "audit_reference_id,merchant_account_id,buyer.external_identifier,buyer.billing_details.first_name,"
        "buyer.billing_details.last_name,buyer.billing_details.address.city,buyer.billing_details.address.country,"
        "buyer.billing_details.address.line1,buyer.billing_details.address.line2,"
        "buyer.billing_details.address.postal_code,buyer.billing_details.address.state,payment_method.number,"
        "payment_method.expiration_date,payment_method.external_identifier\n"
    )
    body = f"1,default,buyer-0001,Quill,Testerly,Exampleville,US,1 Example Street,,12345,FL,{NUMBER},12/40,pm-0001\n"
    given = read_map_file("gr4vy")
    (row,) = rows_of(header + body, given)
    (card,) = requests_of(header + body, given)
    assert row.key == "pm-0001"
    assert (card.name, card.exp_month, card.exp_year, card.address_zip) == ("Quill Testerly", "12", "2040", "12345")


def test_a_suggested_map_is_a_map_that_reads_its_file() -> None:
    header = [
        "Customer ID",
        "Card Number",
        "Expiry Date",
        "Name on Card",
        "Zip",
        "Country",
        "Notes",
        "4242424242424242",
    ]
    given = column_map(tomllib.loads(map_file(header)), "map.toml")
    assert given.columns == {
        "Customer ID": "key",
        "Card Number": "number",
        "Expiry Date": "expiry",
        "Name on Card": "name",
        "Zip": "address_zip",
        "Country": "address_country",
        "Notes": None,
        "#8": None,
    }
    assert given.constants == {"kind": "card"}


def test_every_column_is_described_by_kind_and_target() -> None:
    text = "\n".join(described())
    assert "kind = card" in text
    assert "attach.to = customer_create" in text
    (line,) = [line for line in text.splitlines() if line.split()[:1] == ["expiry"]]
    assert "04/28" in line
    assert any(line.split()[:2] == ["number", "required;"] for line in text.splitlines())


# -- encrypted files


def test_an_encrypted_file_is_imported_through_a_pipe_and_never_written_in_clear(tmp_path: Path) -> None:
    """The command of docs/files.md, with a passphrase for the test."""
    (tmp_path / "tokenferry.toml").write_text('[platforms.main]\nmode = "test"\n')
    generated(tmp_path / "keys")
    home = Path(tempfile.mkdtemp(prefix="gpg"))  # its socket's path must be short
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "test"]
    sealed = tmp_path / "cards.csv.gpg"
    try:
        made = subprocess.run([*gpg, "--symmetric", "--output", sealed], input=CSV.encode(), capture_output=True)
        assert made.returncode == 0, made.stderr
        with subprocess.Popen([*gpg, "--decrypt", sealed], stdout=subprocess.PIPE) as decrypting:
            assert decrypting.stdout is not None
            command = [sys.executable, "-m", "tokenferry", "import", "-", "--dry-run", "--json"]
            done = subprocess.run(command, stdin=decrypting.stdout, cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, json.loads(done.stdout)["sealed"]) == (0, 1), done.stderr
        refused = subprocess.run(
            [sys.executable, "-m", "tokenferry", "import", str(sealed), "--dry-run"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert refused.returncode == 2
        assert "gpg --decrypt FILE | tokenferry import -" in refused.stderr
        assert [
            path.name for path in tmp_path.rglob("*") if path.is_file() and NUMBER.encode() in path.read_bytes()
        ] == []
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)
        shutil.rmtree(home, ignore_errors=True)
