"""What can be handed to an import by mistake: one clear message, an exit code, nothing half-done, no value."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tokenferry.cli import main

from .conftest import CANARY, House, StandIn, write_configuration

HEADER = "key,kind,number,exp_month,exp_year\n"
GOOD = "good-{n},card,4242424242424242,12,2034\n"


def good(*numbers: int) -> str:
    return "".join(GOOD.format(n=n) for n in numbers)


def assert_silent(house: House, done: Result, source: Path | None = None) -> None:
    """The canary stands in the file it came from and nowhere else."""
    assert CANARY not in done.output
    for path in house.folder.rglob("*"):
        if path.is_file() and path != source:
            assert CANARY.encode() not in path.read_bytes(), path


def assert_refused(house: House, done: Result, message: str, code: int = 2) -> None:
    assert done.exit_code == code, done.output
    assert done.stderr.startswith("tokenferry: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr
    assert done.stdout == ""
    assert not house.results.exists()
    assert not house.rejects.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf\r\n", "the file is empty"),
        (b"%PDF-1.7\n" + CANARY.encode(), "is a PDF"),
        (b"PK\x03\x04\0\0" + CANARY.encode(), "is a zip archive"),
        (b"\0\0\0" + CANARY.encode(), "NUL byte"),
        (f"{CANARY},12,2034\n".encode(), "the file has no header line"),
        (f"key,kind,nubmer\na,card,{CANARY}\n".encode(), "'nubmer' (did you mean number"),
        (f"key,kind,nubmer\na,card,{CANARY}\n".encode("utf-16"), "'nubmer' (did you mean number"),
        (CANARY.encode() * 700_000, "longer than 1 MiB"),
    ],
)
def test_a_file_that_cannot_be_imported(offline: House, content: bytes, message: str) -> None:
    file = offline.file(content)
    done = offline.run(file)

    assert_refused(offline, done, message)
    assert str(file) in done.stderr
    assert_silent(offline, done, file)


def test_a_file_that_is_not_there(offline: House) -> None:
    assert_refused(offline, offline.run(offline.folder / "none.csv"), "No such file")
    assert_refused(offline, offline.run(offline.folder), "Is a directory")


def test_a_missing_key_file(offline: House) -> None:
    (offline.folder / "keys" / "recipient.pem").unlink()
    assert_refused(offline, offline.run(offline.file(HEADER + good(1))), "the recipient cannot be read")


def test_a_wrong_key_file(offline: House) -> None:
    (offline.folder / "keys" / "recipient.pem").write_text("not a key")
    assert_refused(offline, offline.run(offline.file(HEADER + good(1))), "is not a recipient key")


def test_a_key_that_others_can_read(offline: House) -> None:
    (offline.folder / "keys" / "producer.pem").chmod(0o644)
    assert_refused(offline, offline.run(offline.file(HEADER + good(1))), "readable by others")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("[broker]\nurll = 'redis://:secret@h'", "unknown setting"),
        ("[broker", "is not TOML"),
        ("[broker]\nurl = 'ftp://:secret@h'", "ftp://"),
    ],
)
def test_a_configuration_that_cannot_be_meant(offline: House, settings: str, message: str) -> None:
    write_configuration(offline, settings)
    done = offline.run(offline.file(HEADER + good(1)))

    assert_refused(offline, done, message)
    assert "secret" not in done.output


def test_a_configuration_that_is_not_there(offline: House) -> None:
    offline.config.unlink()
    assert_refused(offline, offline.run(offline.file(HEADER + good(1))), "cannot be read")


def test_a_platform_that_is_not_configured(offline: House) -> None:
    assert_refused(
        offline, offline.run(offline.file(HEADER + good(1)), "--platform", "other"), "'other' is not configured"
    )


def test_files_with_content_are_not_overwritten_unless_forced(house: House, worker: StandIn) -> None:
    house.results.write_text("precious\n")
    done = house.run(house.file(HEADER + good(1)))
    assert (done.exit_code, house.results.read_text(), house.rejects.exists()) == (2, "precious\n", False)
    assert "--force" in done.stderr

    assert house.run(house.file(HEADER + good(1)), "--force", "--again", "--quiet").exit_code == 0
    assert [line["key"] for line in house.lines()] == ["good-1"]


def test_the_imported_file_is_never_an_output(offline: House) -> None:
    offline.results.write_text(HEADER + good(1))
    done = offline.run(offline.results, "--force", "--format", "csv")
    assert done.exit_code == 2
    assert offline.results.read_text() == HEADER + good(1)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (f"{CANARY},card,{CANARY}\n", "the row has 3 cells"),
        (f'x,card,"{CANARY}"9,12,2034\n', "a quote stands where none may"),
        (f'x,card,"{CANARY},12,2034\n', "a quote"),
        (f"x,card,{CANARY}\0,12,2034\n", "NUL byte"),
        (f"x,card,{CANARY},13,2034\n", "must be a month"),
        (f"x,card,{CANARY}9,12,2034\n", "Luhn"),
        (f"x,{CANARY},{CANARY},12,2034\n", "must be one of"),
        (f"good-1,card,{CANARY},12,2034\n", "is the key of an earlier row"),
        (f"{CANARY},card,{CANARY}9,12,2034\n", "could be a card number"),
        (f",card,{CANARY},12,2034\n", "the file has a key column"),
        (f"x,card,{CANARY},12,2034" + "9" * 10_000_000 + "\n", "longer than 1 MiB"),
        (f"x,card,{CANARY},12,{CANARY}\r\n", "card.exp_year"),
    ],
)
def test_a_bad_row_in_the_middle_is_written_down_and_the_others_go_on(
    house: House, worker: StandIn, broken: str, reason: str
) -> None:
    file = house.file(HEADER + good(1) + broken + good(2, 3))
    done = house.run(file)

    assert done.exit_code == 1
    assert [line["key"] for line in house.lines()] == ["good-1", "good-2", "good-3"]
    rejects = house.rejects.read_text()
    assert rejects.splitlines()[1].startswith("3,")
    assert reason in rejects
    assert_silent(house, done, file)


def test_bom_and_crlf_are_no_trouble(house: House, worker: StandIn) -> None:
    file = house.file(b"\xef\xbb\xbf" + (HEADER + good(1, 2)).replace("\n", "\r\n").encode())
    assert house.run(file, "--quiet").exit_code == 0


def test_a_key_that_is_a_card_number_is_rejected_and_shortened_wherever_it_is_written(
    house: House, worker: StandIn
) -> None:
    file = house.file(HEADER + f"{CANARY},card,4242424242424242,12,2034\n" + good(1))
    done = house.run(file)

    assert done.exit_code == 1
    assert [line[:3] for line in house.refused()] == [["2", "...0002", "key"]]
    assert len(house.lines()) == 1
    assert_silent(house, done, file)


def test_a_dry_run_sends_nothing_and_needs_no_broker(offline: House) -> None:
    done = offline.run(offline.file(HEADER + good(1) + "x,card,1,12,2034\n"), "--dry-run")

    assert done.exit_code == 1
    assert "2 rows read, 1 can be sent, 1 rejected" in done.stdout
    assert not offline.results.exists()
    assert offline.refused()[0][:3] == ["3", "x", "card.number"]


def test_a_dead_broker_is_found_before_standard_input_is_used_up(offline: House) -> None:
    done = offline.run("-", "--format", "csv", input=(HEADER + good(1)).encode())
    assert_refused(offline, done, "the broker could not be reached", code=1)


def test_results_that_would_be_written_through_a_link_are_refused(house: House) -> None:
    elsewhere = house.folder / "elsewhere"
    house.results.symlink_to(elsewhere)
    done = house.run(house.file(HEADER + good(1, 2)), "--quiet")

    assert done.exit_code == 2
    assert "it is a link; name the file itself" in done.stderr
    assert not elsewhere.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_rejects_file_that_takes_nothing_is_named_before_anything_is_sent(offline: House) -> None:
    done = offline.run(offline.file(HEADER), "--dry-run", "--rejects", "/dev/full")
    assert (done.exit_code, done.stderr) == (
        2,
        "tokenferry: /dev/full: cannot be written (No space left on device)\n",
    )


def test_send_takes_no_card_data_as_an_argument_and_does_not_repeat_it(offline: House) -> None:
    for extra in ([f"--number={CANARY}"], [CANARY], ["--kind", CANARY]):
        done = CliRunner().invoke(main, ["send", "--kind", "card", "--json-input", "-", *extra])
        assert done.exit_code == 2
        assert CANARY not in done.output


def test_a_broker_that_accepts_and_never_answers_holds_up_nobody(offline: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hole:
        port = hole.getsockname()[1]
        write_configuration(offline, f"[broker]\nurl = 'amqp://guest:secret@127.0.0.1:{port}//'\npublish_timeout = 1.0")
        done = offline.run(offline.file(HEADER + good(1)))

    assert_refused(offline, done, "did not answer within 1 s", code=1)
    assert "secret" not in done.output
