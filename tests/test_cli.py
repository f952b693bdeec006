"""The command line as a whole: what it loads, what it says, how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click
import forking
import pytest
from click.testing import CliRunner, Result

from tokenferry import cli
from tokenferry.broker import embedded
from tokenferry.cli import GROUP, OURS, Commands, main
from tokenferry.sealing import UnusableKey

from .conftest import generated

PRODUCERS = Path(__file__).parents[1] / "producers"


def ran(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(PRODUCERS)}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout


def test_listing_commands_and_importing_rows_never_loads_the_secret_half_or_the_emulator() -> None:
    loaded = ran(
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from tokenferry.cli import main\n"
        "for arguments in (['--help'], ['import', '--help'], ['send', '--help'], ['results', '--help']):\n"
        "    assert CliRunner().invoke(main, arguments).exit_code == 0\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    ).split()
    assert not {"tokenferry_worker", "tokenferry_emulator", "httpx", "aiohttp", "celery", "starlette"} & set(loaded)


def test_a_command_is_loaded_only_when_it_is_called() -> None:
    loaded = ran(
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from tokenferry.cli import main\n"
        "CliRunner().invoke(main, ['--help'])\n"
        "print(*sys.modules)\n"
    ).split()
    assert "tokenferry.commands.importing" not in loaded


def test_every_command_has_its_line_in_the_list_and_every_line_its_command() -> None:
    assert set(cli.SUMMARIES) == set(main.list_commands(click.Context(main)))  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", ["import", "send", "results"])
def test_help_teaches_exit_codes_and_shows_an_example(command: str) -> None:
    done = CliRunner().invoke(main, [command, "--help"])
    assert done.exit_code == 0
    assert "Exit codes" in done.stdout
    assert f"tokenferry {command} " in done.stdout
    assert "--json" in done.stdout


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["limist"]], ids=" ".join)
def test_what_needs_no_command_loads_neither_broker_nor_models(arguments: list[str]) -> None:
    """It is typed often, and completion runs it at every Tab."""
    loaded = ran(
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from tokenferry.cli import main\n"
        f"CliRunner().invoke(main, {arguments})\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    ).split()
    assert not {"pydantic", "kombu", "redis", "cryptography", "rich", "stdnum"} & set(loaded)


def test_completion_lists_commands_without_loading_them() -> None:
    loaded = ran(
        "import os, sys\n"
        "os.environ |= {'_TOKENFERRY_COMPLETE': 'bash_complete', 'COMP_WORDS': 'tokenferry d', 'COMP_CWORD': '1'}\n"
        "from tokenferry.cli import main\n"
        "try:\n    main(prog_name='tokenferry')\n"
        "except SystemExit:\n    print(*sys.modules)\n"
    )
    assert "plain,dead-letters" in loaded
    assert "plain,doctor" in loaded
    assert "pydantic" not in loaded.split()


@pytest.mark.parametrize(
    ("typed", "meant"), [("limist", "limits"), ("retry", "dead-letters"), ("setup", "init"), ("reslts", "results")]
)
def test_a_command_that_does_not_exist_is_answered_with_the_one_that_is_meant(typed: str, meant: str) -> None:
    done = CliRunner().invoke(main, [typed])
    assert (done.exit_code, f"Did you mean `{meant}`?" in done.stderr) == (2, True), done.stderr


def test_the_json_itself_in_the_place_of_a_file_is_answered_with_how_to_give_it(
    tmp_path: Path, in_folder: Callable[[Path], None]
) -> None:
    in_folder(tmp_path)
    done = CliRunner().invoke(main, ["send", "--kind", "card", "--json-input", '{"number": "4242424242424242"}'])
    assert done.exit_code == 2
    assert "give the name of a file, or - and pipe it in" in done.stderr
    assert "4242" not in done.output


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(main, ["--version"]).stdout.startswith("tokenferry, version ")


def test_a_command_whose_half_is_not_installed_says_what_to_install() -> None:
    names = {"distil": "tokenferry_distillery.command:distil", "import": OURS["import"]}
    group = Commands("tokenferry", points=lambda: [EntryPoint(name, value, GROUP) for name, value in names.items()])

    listed = CliRunner().invoke(group, ["--help"], terminal_width=200).stdout
    assert "distil   (not available: install tokenferry[distillery])" in listed
    assert "import" in listed
    done = CliRunner().invoke(group, ["distil", "--some", "option"])
    assert done.exit_code == 2
    assert done.stderr == (
        "tokenferry: `distil` is not available here (tokenferry_distillery is missing): "
        "install tokenferry[distillery]\n"
    )


def failed(error: Exception) -> Result:
    """What a command says that fails with *error*."""

    @click.command()
    def fail() -> None:
        raise error

    return CliRunner().invoke(Commands("tokenferry", commands={"fail": fail}), ["fail"])


class TestErrors:
    def test_those_of_click_speak_as_we_do(self) -> None:
        done = failed(click.ClickException("the store does not answer"))
        assert (done.exit_code, done.stderr) == (1, "tokenferry: the store does not answer\n")

    def test_ours_are_one_line(self) -> None:
        done = failed(UnusableKey("keys/producer.pem: is no key"))
        assert (done.exit_code, done.stderr) == (2, "tokenferry: keys/producer.pem: is no key\n")

    @pytest.mark.parametrize("debug", ["", "1"])
    def test_bugs_are_a_type_and_a_place_and_never_a_value(self, debug: str, environment: dict[str, str]) -> None:
        environment["TOKENFERRY_DEBUG"] = debug
        done = failed(RuntimeError("4242424242424242"))
        assert done.exit_code == 1
        assert done.stderr.startswith("tokenferry: stopped by a bug: RuntimeError in test_cli.py:")
        assert "4242" not in done.output
        assert "Traceback" not in done.output

    def test_wrong_usage_does_not_repeat_a_long_number(self) -> None:
        for arguments in (["4242424242424242"], ["results", "route", "4242 4242 4242 4242"]):
            done = CliRunner().invoke(main, arguments)
            assert done.exit_code == 2
            assert "4242424242424242" not in done.output
            assert "4242 4242 4242" not in done.output


@pytest.mark.parametrize(
    "command",
    [
        ["results", "route"],
        ["circuits"],
        ["limits", "show"],
        ["limits", "history"],
        ["dead-letters", "list"],
        ["health"],
    ],
    ids=" ".join,
)
def test_a_command_that_only_looks_starts_nothing_where_nothing_says_what_to_look_at(
    command: list[str], tmp_path: Path, in_folder: Callable[[Path], None]
) -> None:
    """An empty server in the wrong folder would answer that all is well."""
    in_folder(tmp_path)
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"tokenferry: no tokenferry.toml in {tmp_path}, no ")
    assert str(tmp_path / ".tokenferry") in done.stderr
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".tokenferry").mkdir(mode=0o700)
    (tmp_path / "tokenferry.toml").write_text(
        '[broker]\nurl = "redis://127.0.0.1:1/0"\n[store]\nurl = "redis://127.0.0.1:1/0"\n'
    )
    assert "no tokenferry.toml" not in CliRunner().invoke(main, command).output


@pytest.mark.parametrize(
    "command",
    [
        ["results", "route"],
        ["results", "route", "--out", "out.jsonl"],
        ["attach", "--from-route", "route", "--rejects", "rejects.jsonl", "--to", "customer_create"],
        ["circuits"],
        ["limits", "show"],
        ["limits", "history"],
        ["dead-letters", "list"],
    ],
    ids=" ".join,
)
def test_a_command_that_only_looks_starts_no_embedded_server(
    command: list[str], tmp_path: Path, in_folder: Callable[[Path], None]
) -> None:
    """Neither in a fresh folder nor where one ran before: it would be empty, or would stay."""
    in_folder(tmp_path)
    generated(tmp_path / "keys")
    (tmp_path / "tokenferry.toml").write_text("[platforms.main]\n")
    for _ in range(2):
        done = CliRunner().invoke(main, command)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith(
            f"tokenferry: no embedded server runs with the data folder {tmp_path}/.tokenferry"
        )
        assert "`tokenferry worker`" in done.stderr
        assert not embedded.is_running(tmp_path / ".tokenferry")
        embedded.ensure(tmp_path / ".tokenferry")
        embedded.stop(tmp_path / ".tokenferry")


needs_dev_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")


def onto_a_full_disk(*command: str, unbuffered: str, **options: Any) -> subprocess.CompletedProcess[str]:
    with open("/dev/full", "wb") as full:
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        return forking.run([sys.executable, "-m", "tokenferry", *command], stdout=full, env=environment, **options)


@needs_dev_full
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["--version"],
        ["limits", "--help"],
        ["keys", "generate", "--out", "keys"],
        ["health", "--json"],
        ["doctor", "--json"],
        ["doctor"],
        ["import", "--dry-run", "--json", "rows.csv"],
    ],
    ids=" ".join,
)
def test_what_standard_output_does_not_take_is_one_line(command: list[str], unbuffered: str, tmp_path: Path) -> None:
    nobody = 'url = "redis://127.0.0.1:1/0"'  # else the doctor would leave an embedded server behind
    (tmp_path / "tokenferry.toml").write_text(f"[platforms.main]\n[broker]\n{nobody}\n[store]\n{nobody}\n")
    (tmp_path / "rows.csv").write_text("kind,number\n")
    if "import" in command:
        generated(tmp_path / "keys")
    done = onto_a_full_disk(*command, unbuffered=unbuffered, cwd=tmp_path)
    *progress, said = done.stderr.splitlines()
    assert (done.returncode, said) == (1, "tokenferry: standard output cannot be written (No space left on device)")
    assert progress == [] or "import" in command


@pytest.mark.parametrize(
    "arguments",
    [
        ["send", "--kind", "card", "--json-input", '{"number": "4242424242424242", "cvc": "123"}'],
        ["send", "--kind", "card", "--json-input", '{"number": "4242424242424242", "cvc": "123"'],
        ["send", "--kind", '{"number": "4242424242424242", "cvc": "123"}', "--json-input", "-"],
        ["attach", "--file", '{"number": "4242 4242 4242 4242", "cvc": "123"}'],
        ["import", "4242424242424242.csv", "--dry-run"],
        ["import", '{"number": "4242424242424242", "cvc": "123"}', "--dry-run"],
        ["send", "--kind", "card", "--json-input", "card.json", "--platform", "4242424242424242"],
        ["limits", "show", "--config", '{"number": "4242424242424242", "cvc": "123"}'],
        ['{"number": "4242424242424242", "cvc": "123"}'],
    ],
)
def test_what_was_typed_in_the_wrong_place_is_not_repeated(
    arguments: list[str], tmp_path: Path, in_folder: Callable[[Path], None]
) -> None:
    in_folder(tmp_path)
    (tmp_path / "tokenferry.toml").write_text("[platforms.main]\n")
    (tmp_path / "card.json").write_text("{}")
    generated(tmp_path / "keys")
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert "tokenferry: " in done.stderr or "Error: " in done.stderr
    assert "4242424242424242" not in done.output
    assert "4242 4242" not in done.output
    assert "123" not in done.output


@pytest.mark.parametrize(
    "command",
    [
        ["attach", "tok_1", "--kind", "card", "--to", "customer_create"],
        ["import", "rows.csv", "--dry-run"],
        ["send", "--kind", "card", "--json-input", "card.json"],
    ],
    ids=lambda words: words[0],
)
def test_where_no_platform_is_configured_that_is_said(
    command: list[str], tmp_path: Path, in_folder: Callable[[Path], None]
) -> None:
    in_folder(tmp_path)
    (tmp_path / "card.json").write_text("{}")
    (tmp_path / "rows.csv").write_text("kind,number\n")
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2
    assert done.stderr.startswith("tokenferry: no platform is configured; add [platforms.NAME]")


@pytest.mark.parametrize(
    "command",
    [
        ["send", "--kind", "card", "--json-input", "-"],
        ["attach", "--kind", "card", "--to", "customer_create"],
        ["import", "-", "--dry-run"],
    ],
    ids=lambda words: words[0],
)
def test_a_standard_input_that_is_closed_is_said(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "tokenferry.toml").write_text("[platforms.main]\n")
    generated(tmp_path / "keys")
    words = [sys.executable, "-m", "tokenferry", *command]
    if command[0] == "import":  # as a shell closes it
        done = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", *words], cwd=tmp_path, capture_output=True, text=True)
    else:  # as Python tells it
        code = f"import sys; sys.stdin = None; from tokenferry.cli import main; main({command!r})"
        done = forking.run([sys.executable, "-c", code], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "tokenferry: standard input: is closed\n")
