"""The command line as a whole: what it loads, what it says, how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tokenferry import cli
from tokenferry.cli import GROUP, main
from tokenferry.sealing import UnusableKey

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


@pytest.mark.parametrize("command", ["import", "send", "results"])
def test_help_teaches_exit_codes_and_shows_an_example(command: str) -> None:
    done = CliRunner().invoke(main, [command, "--help"])
    assert done.exit_code == 0
    assert "Exit codes" in done.stdout
    assert f"tokenferry {command} " in done.stdout
    assert "--json" in done.stdout


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(main, ["--version"]).stdout.startswith("tokenferry, version ")


def test_a_command_whose_half_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("distil", "tokenferry_distillery.command:distil", GROUP)
    monkeypatch.setattr(cli, "entry_points", lambda group: (point,))

    listed = CliRunner().invoke(main, ["--help"], terminal_width=200).stdout
    assert "distil   (not available: install tokenferry[distillery])" in listed
    assert "import" in listed
    done = CliRunner().invoke(main, ["distil", "--some", "option"])
    assert done.exit_code == 2
    assert done.stderr == (
        "tokenferry: `distil` is not available here (tokenferry_distillery is missing): "
        "install tokenferry[distillery]\n"
    )


class TestErrors:
    @pytest.fixture
    def raising(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, BaseException]:
        raised: dict[str, BaseException] = {}

        @click.command()
        def fail() -> None:
            raise raised["error"]

        monkeypatch.setitem(main.commands, "fail", fail)  # type: ignore[attr-defined]
        return raised

    def test_ours_are_one_line(self, raising: dict[str, BaseException]) -> None:
        raising["error"] = UnusableKey("keys/producer.pem: is no key")
        done = CliRunner().invoke(main, ["fail"])
        assert (done.exit_code, done.stderr) == (2, "tokenferry: keys/producer.pem: is no key\n")

    @pytest.mark.parametrize("debug", ["", "1"])
    def test_bugs_are_a_type_and_a_place_and_never_a_value(
        self, raising: dict[str, BaseException], debug: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TOKENFERRY_DEBUG", debug)
        raising["error"] = RuntimeError("4242424242424242")
        done = CliRunner().invoke(main, ["fail"])
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
