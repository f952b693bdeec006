"""What others wrote into a queue, the store or a file acts on no terminal, log, spreadsheet or other file."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tokenferry.bulk.outputs import Outputs, UnusableOutput
from tokenferry.cli import Commands
from tokenferry.commands.result_file import ResultFile
from tokenferry.contract.requests import Problem
from tokenferry.importing.checkpoint import Checkpoint
from tokenferry.importing.results_file import tidy
from tokenferry.outbox import UnusableOutbox
from tokenferry.outbox.database import OutboxDatabase
from tokenferry.owned_files import NotOurs, open_owned
from tokenferry.shown import OneLine, cell, shown, visible

HOSTILE = "\x1b[2J\x9b31m\u202egpj.\u2066exe\u200b\u2028\U000e0041\x07\r"
HIDDEN = set(HOSTILE) - set("[2J31mgpj.exe")


@given(st.text())
def test_what_is_shown_is_one_line_without_any_hidden_character(text: str) -> None:
    line = shown(text, 80)
    assert len(line) <= 80
    assert len(line.splitlines()) <= 1
    assert not HIDDEN & set(line)


@given(st.text())
def test_json_has_the_same_value_after_the_filter(text: str) -> None:
    assert json.loads(visible(json.dumps({"key": text}, ensure_ascii=False))) == {"key": text}


@pytest.mark.parametrize("text", ["Müller", "名前", "a b", "no\u00a0break"])
def test_ordinary_text_of_any_language_stays_as_it_is(text: str) -> None:
    assert shown(text) == visible(text) == cell(text) == text


@pytest.mark.parametrize("err", [False, True])
def test_no_command_can_print_an_escape_to_either_stream(err: bool) -> None:
    import click

    @click.group(cls=Commands, points=list)
    def group() -> None: ...

    @group.command()
    def speak() -> None:
        click.echo(f"before {HOSTILE} after", err=err)

    done = CliRunner().invoke(group, ["speak"])
    printed = done.stderr if err else done.stdout
    assert printed.startswith("before ")
    assert not HIDDEN & set(printed)
    assert "\\u009b31m" in printed


def test_a_failed_command_says_why_in_one_visible_line() -> None:
    import click

    @click.group(cls=Commands, points=list)
    def group() -> None: ...

    @group.command()
    def fail() -> None:
        raise click.ClickException(f"bad\nroot: all keys stolen {HOSTILE}")

    done = CliRunner().invoke(group, ["fail"])
    assert done.stderr.count("\n") == 1
    assert not HIDDEN & set(done.stderr)


def test_a_text_in_a_log_cannot_look_like_another_line() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneLine("%(levelname)s %(message)s"))
    log = logging.Logger("test of log lines")
    log.addHandler(handler)
    log.warning("paused: %s", f"x\nCRITICAL all keys stolen {HOSTILE}")
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log.exception("failed")
    lines = stream.getvalue().split("\n")
    assert lines[0].startswith("WARNING paused: x\\u000aCRITICAL")
    assert not HIDDEN & set(stream.getvalue())
    assert lines[1] == "ERROR failed"
    assert lines[-2].startswith("ValueError: \\u001b[2J")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_the_rejects_is_a_formula(tmp_path: Path, start: str) -> None:
    rejects = tmp_path / "rejects.csv"
    outputs = Outputs(None, rejects)
    outputs.reject(2, f"{start}HYPERLINK(1)", [Problem(f"{start}field", f"{start}reason")])
    outputs.close()
    row = rejects.read_text().splitlines()[1].split(",")
    assert [text[:2] for text in row[1:4]] == [f"'{visible(start)}"[:2]] * 3


def test_a_key_with_hidden_characters_is_the_same_key_in_the_results(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    outputs = Outputs(results, None)
    outputs.result({"row": 2, "key": f"k{HOSTILE}"})
    outputs.close()
    written = results.read_text()
    assert not HIDDEN & set(written)
    assert json.loads(written)["key"] == f"k{HOSTILE}"


# -- files


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text("precious\n")
    path.chmod(0o644)
    return path


def untouched(victim: Path) -> bool:
    return victim.read_text() == "precious\n" and victim.stat().st_mode & 0o777 == 0o644


def test_results_and_rejects_are_never_written_through_a_link(tmp_path: Path, victim: Path) -> None:
    link = tmp_path / "out"
    link.symlink_to(victim)
    for results, rejects in ((link, None), (None, link)):
        with pytest.raises(UnusableOutput, match="it is a link"):
            Outputs(results, rejects, force=True)
    assert untouched(victim)


def test_a_link_to_nothing_creates_nothing(tmp_path: Path) -> None:
    link = tmp_path / "out"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnusableOutput, match="it is a link"):
        Outputs(link, None)
    assert not (tmp_path / "elsewhere").exists()


def test_results_are_not_taken_into_a_link(tmp_path: Path, victim: Path) -> None:
    link = tmp_path / "taken.jsonl"
    link.symlink_to(victim)
    with pytest.raises(UnusableOutput, match="it is a link"):
        ResultFile(link)
    assert untouched(victim)


def test_an_outbox_is_not_opened_through_a_link(tmp_path: Path, victim: Path) -> None:
    link = tmp_path / "outbox"
    link.symlink_to(victim)
    with pytest.raises(UnusableOutbox, match="it is a link"):
        OutboxDatabase(link, durable=False)
    assert untouched(victim)


def test_a_file_that_somebody_prepared_does_not_become_the_results(tmp_path: Path, victim: Path) -> None:
    results = tmp_path / "out.jsonl"
    results.write_text("")
    (tmp_path / "out.jsonl.new").symlink_to(victim)
    tidy(results, Checkpoint())
    assert untouched(victim)
    assert not results.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.new", "victim"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of another user")
def test_a_file_of_another_user_is_not_written(tmp_path: Path, victim: Path) -> None:
    os.chown(victim, 4711, 4711)
    with pytest.raises(NotOurs):
        open_owned(victim, os.O_WRONLY | os.O_TRUNC)
    assert untouched(victim)


def test_what_the_system_itself_links_can_be_written() -> None:
    os.close(open_owned(Path(f"/dev/fd/{sys.__stderr__.fileno()}" if sys.__stderr__ else "/dev/null"), os.O_WRONLY))
