"""The command line. Commands are named by entry points and loaded when they are called, so that this half of the
house never loads the other one.

What goes wrong is said here, once, in one line: `tokenferry: ...` on standard error, without a traceback and without
a value, and with exit code 1 (it failed) or 2 (wrong usage or configuration).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import IO, Any, Final

import click

from tokenferry.broker.embedded import EmbeddedServerError
from tokenferry.broker.publishing import PublishError
from tokenferry.bulk.outputs import OutputFailed, UnusableOutput, masked
from tokenferry.commands.printing import standard_output
from tokenferry.configuration import InvalidConfiguration
from tokenferry.contract.requests import InvalidRequest
from tokenferry.contract.targets import InvalidTarget
from tokenferry.inputs.columns import InvalidMapping
from tokenferry.inputs.rows import UnreadableFile
from tokenferry.outbox import UnusableOutbox
from tokenferry.sealing import UnusableKey

GROUP: Final = "tokenferry.commands"
"""The entry-point group that names commands: `import = "tokenferry.commands.importing:import_"`."""

OURS: Final = {
    "attach": "tokenferry.commands.attaching:attach",
    "config": "tokenferry.commands.config:config",
    "import": "tokenferry.commands.importing:import_",
    "outbox": "tokenferry.commands.outbox:outbox",
    "onboard": "tokenferry.commands.onboarding:onboard",
    "results": "tokenferry.commands.reading:results",
    "send": "tokenferry.commands.sending:send",
}
"""Commands of this half: there even where the package was not installed, only put on the path."""

SUMMARIES: Final = {
    "attach": "Use tokens: create the customer, charge, account, ... they are meant for.",
    "config": "Read the configuration, and say what would be used.",
    "circuits": "List what cannot be called now (refused key, outage), and how to fix it.",
    "dead-letters": "List requests that failed for good; retry or delete them.",
    "doctor": "Check everything a worker needs, before the first request.",
    "emulator": "Run a stand-in for the token endpoint.",
    "health": "Ask the workers on this machine how they are.",
    "import": "Tokenize every row of a CSV or JSONL file.",
    "keys": "Make the keys of producers and workers.",
    "limits": "See and change the rate budgets of a running fleet.",
    "outbox": "Show and send accepted requests that the broker does not have yet.",
    "onboard": "Create every connected account of a file, with its persons and bank accounts.",
    "results": "Look at the results that wait on a route, or take them into a file.",
    "send": "Seal one request and hand it to the broker.",
    "worker": "Run a worker.",
}
"""For the list of commands, which must not load them to ask."""

REFUSED: Final = (InvalidConfiguration, UnusableKey, UnreadableFile, InvalidMapping, UnusableOutput, UnusableOutbox)
FAILED: Final = (InvalidRequest, InvalidTarget, EmbeddedServerError, OutputFailed)

_JSON: Final = re.compile(r"(^|['(])\{(?:.*\}|.*)", re.DOTALL)
"""A JSON object typed where a name was meant: it stands at the beginning, or is quoted by click."""


class Stopped(click.ClickException):
    """It was tried, and failed: one line on standard error."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"tokenferry: {_harmless(self.format_message())}", file=file, err=file is None)


class NotStarted(Stopped):
    """Wrong usage or configuration: nothing was done."""

    exit_code = 2


class Commands(click.Group):
    """A group whose commands are imported one at a time."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted({*OURS, *(point.name for point in _points()), *super().list_commands(context)})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        point = next((point for point in _points() if point.name == name), None)
        if point is None:
            return super().get_command(context, name)
        try:
            loaded = point.load()
        except ModuleNotFoundError as error:
            return _unavailable(point, error.name)
        return loaded if isinstance(loaded, click.Command) else None

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """As click does, but without loading a command to learn what it does."""
        points = {point.name: point for point in _points()}
        rows = []
        for name in self.list_commands(context):
            summary = SUMMARIES.get(name, "")
            if name in points and not _is_there(points[name]):
                summary = f"{summary} (not available: install {_extra(points[name])})".strip()
            rows.append((name, summary))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def main(self, *arguments: Any, **options: Any) -> Any:
        """As click's. What standard output does not take, on a full disk for instance, is one line too."""
        try:
            with standard_output():
                try:
                    return super().main(*arguments, **options)
                except SystemExit as ended:
                    if not ended.code and sys.stdout is not None:
                        sys.stdout.flush()  # now, while it can still be said
                    raise
        except OutputFailed as error:
            Stopped(str(error)).show()
        except BrokenPipeError:
            pass
        sys.exit(1)

    def invoke(self, context: click.Context) -> Any:
        """Run the command; whatever of ours it raises becomes one line and an exit code."""
        if os.getpid() == 1:
            # The first process of a container is sent no signal that it has no handler for, not even to end.
            signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
        try:
            return super().invoke(context)
        except click.UsageError as error:
            text = error.format_message()
            if (safe := _harmless(text)) != text:
                raise click.UsageError(safe, ctx=error.ctx) from None
            raise
        except REFUSED as error:
            raise NotStarted(str(error)) from None
        except PublishError as error:
            raise Stopped(_with_id(error)) from None
        except FAILED as error:
            raise Stopped(str(error)) from None
        except click.ClickException as error:
            raise error if isinstance(error, Stopped) else Stopped(error.format_message()) from None
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own business
        except OSError as error:
            raise Stopped(f"{error.strerror or 'failed'} ({_place(error)})") from None
        except Exception as error:
            raise Stopped(_unexpected(error)) from None


def _with_id(error: PublishError) -> str:
    if error.request_id is None:
        return str(error)
    doubt = "it may have been sent all the same: " if error.maybe_sent else "nothing was sent: "
    return f"{error}; {doubt}repeat it with --request-id {error.request_id}"


def _harmless(text: str) -> str:
    """*text* without a card number or a whole request that was typed in the wrong place."""
    return masked(_JSON.sub(r"\1{...}", text))


def _unexpected(error: Exception) -> str:
    """A bug, without its message, which may quote a value."""
    return f"stopped by a bug: {_place(error)}"


def _place(error: Exception) -> str:
    """The type of *error*, and where it happened."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else "an unknown place"
    if os.environ.get("TOKENFERRY_DEBUG"):
        place = " <- ".join(f"{os.path.basename(frame.filename)}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__} in {place}"


def _points() -> Iterator[EntryPoint]:
    """The commands: of what is installed, and ours in any case."""
    installed = entry_points(group=GROUP)
    yield from installed
    names = {point.name for point in installed}
    yield from (EntryPoint(name, value, GROUP) for name, value in OURS.items() if name not in names)


def _is_there(point: EntryPoint) -> bool:
    """Whether the package of a command is installed, found out without importing it."""
    return importlib.util.find_spec(point.module.partition(".")[0]) is not None


def _extra(point: EntryPoint) -> str:
    """What to install for a command: the extra is called like its half, `worker` or `emulator`."""
    package = point.module.partition(".")[0]
    return f"tokenferry[{package.removeprefix('tokenferry_')}]" if "_" in package else "tokenferry"


def _unavailable(point: EntryPoint, module: str | None) -> click.Command:
    cure = f"install {_extra(point)}"

    def refuse() -> None:
        raise NotStarted(f"`{point.name}` is not available here ({module} is missing): {cure}")

    return click.Command(
        point.name,
        callback=refuse,
        help=f"Not available here: {cure}.",
        add_help_option=True,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


def _version() -> str:
    try:
        return version("tokenferry")
    except PackageNotFoundError:
        return "(not installed)"


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(_version(), prog_name="tokenferry")
def main() -> None:
    """Encrypted card and bank data in, Stripe tokens out.

    Requests are encrypted here with a public key and put on a queue. Workers decrypt them, call Stripe's token endpoint
    at the account's rate, and send token ids back. Start with `tokenferry import --help` or `tokenferry send --help`.

    Exit codes of every command: 0 done, 1 some of it failed, 2 wrong usage or configuration.
    """


if __name__ == "__main__":
    main()
