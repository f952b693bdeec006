"""The command line. Entry points name the commands, which are loaded when they are called. So a producer's command
never loads code of the worker.

Every error ends here as one line on standard error: `tokenferry: ...`, without a traceback and without a value. The
exit code is 1 (it failed) or 2 (wrong usage or configuration).
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, version
from typing import IO, Any, Final

import click
from click.shell_completion import CompletionItem

from tokenferry.commands.printing import standard_output
from tokenferry.errors import OutputFailed, ProducerError
from tokenferry.masking import masked
from tokenferry.shown import LONGEST_LINE, shown

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
"""The commands of producers. They work even if the package is only on the path and not installed."""

SUMMARIES: Final = {
    "attach": "Use tokens: create the customer, charge, account, ... they are meant for.",
    "config": "Read the configuration, and say what would be used.",
    "circuits": "List what cannot be called now (refused key, outage), and how to fix it.",
    "dead-letters": "List requests that failed for good; retry or delete them.",
    "doctor": "Check everything a worker needs, before the first request.",
    "emulator": "Run a local emulator of Stripe's token API.",
    "health": "Ask the workers on this machine how they are.",
    "import": "Tokenize every row of a CSV or JSONL file.",
    "init": "Write a configuration, keys and sample files for a start.",
    "keys": "Create the keys of producers and workers.",
    "limits": "Show and change the rate budgets of running workers.",
    "outbox": "Show and send accepted requests that the broker does not have yet.",
    "onboard": "Create every connected account of a file, with its persons and bank accounts.",
    "results": "Print the results that wait on a route, or take them into a file.",
    "send": "Seal one request and send it to the broker.",
    "show": "Say what happened to one request, token, object or row.",
    "signers": "Say who may ask for what: the policy of the workers.",
    "status": "Say how far the work is, and what slows it.",
    "store": "Say when the store began, or that it is new or restored on purpose.",
    "worker": "Run a worker.",
}
"""One line for each command: the list of commands must not load them."""

OTHER_WORDS: Final = {
    "attach": ("use", "spend"),
    "dead-letters": ("dlq", "failed", "retry", "redrive"),
    "doctor": ("check", "verify"),
    "import": ("load", "tokenize"),
    "init": ("setup", "new", "start", "create"),
    "limits": ("rate", "rates", "pause", "resume"),
    "outbox": ("flush",),
    "results": ("receive", "read", "get"),
    "worker": ("run", "work", "serve"),
}
"""What people type who mean this command."""

_JSON: Final = re.compile(r"(^|['(])\{(?:.*\}|.*)", re.DOTALL)
"""A JSON object in the place of a name: it is at the beginning, or click has put it in quotes."""


class Stopped(click.ClickException):
    """The command failed: one line on standard error."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"tokenferry: {shown(_harmless(self.format_message()), LONGEST_LINE)}", file=file, err=file is None)


class NotStarted(Stopped):
    """Wrong usage or configuration: nothing was done."""

    exit_code = 2


class Commands(click.Group):
    """A group whose commands are imported one at a time."""

    def __init__(
        self, *arguments: Any, points: Callable[[], Iterable[EntryPoint]] | None = None, **options: Any
    ) -> None:
        """*points*: returns the entry points of the commands. Default: those of installed packages, and ours."""
        super().__init__(*arguments, **options)
        self._points = cache(lambda: tuple((points or _points)()))

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted({*OURS, *(point.name for point in self._points()), *super().list_commands(context)})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        point = next((point for point in self._points() if point.name == name), None)
        if point is None:
            return super().get_command(context, name)
        try:
            loaded = point.load()
        except ModuleNotFoundError as error:
            return _unavailable(point, error.name)
        return loaded if isinstance(loaded, click.Command) else None

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click. A command that does not exist is answered with those of similar names."""
        try:
            return super().resolve_command(context, arguments)
        except click.UsageError as error:
            raise _with_alike(error, arguments[0], self.list_commands(context)) from None

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command without loading any."""
        names = [name for name in self.list_commands(context) if name.startswith(incomplete)]
        options = click.Command.shell_complete(self, context, incomplete)
        return [*(CompletionItem(name, help=SUMMARIES.get(name)) for name in names), *options]

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without loading them."""
        points = {point.name: point for point in self._points()}
        rows = []
        for name in self.list_commands(context):
            summary = SUMMARIES.get(name, "")
            if name in points and not _is_there(points[name]):
                summary = f"{summary} (not available: install {_extra(points[name])})".strip()
            rows.append((name, summary))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the group. A failed write to standard output, on a full disk for instance, is one line too."""
        try:
            with standard_output():
                try:
                    return super().main(*arguments, **options)
                except SystemExit as ended:
                    if not ended.code and sys.stdout is not None:
                        sys.stdout.flush()  # now, while an error can still be reported
                    raise
        except OutputFailed as error:
            Stopped(str(error)).show()
        except BrokenPipeError:
            pass
        sys.exit(1)

    def invoke(self, context: click.Context) -> Any:
        """Run the command. An error becomes one line and an exit code."""
        if os.getpid() == 1:
            # The first process of a container gets no signal that it has no handler for, not even SIGTERM.
            signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
        try:
            return super().invoke(context)
        except click.UsageError as error:
            text = error.format_message()
            if (safe := _harmless(text)) != text:
                raise click.UsageError(safe, ctx=error.ctx) from None
            raise
        except ProducerError as error:
            raise (NotStarted if error.exit_code == 2 else Stopped)(error.on_command_line()) from None
        except click.ClickException as error:
            raise error if isinstance(error, Stopped) else Stopped(error.format_message()) from None
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click handles them
        except OSError as error:
            raise Stopped(f"{error.strerror or 'failed'} ({_place(error)})") from None
        except Exception as error:
            raise Stopped(_unexpected(error)) from None


def _with_alike(error: click.UsageError, name: str, known: Iterable[str]) -> click.UsageError:
    """*error* with the commands that *name* may mean. click has a suggestion for options already."""
    known = list(known)
    alike = list(dict.fromkeys([*(each for each in known if name in OTHER_WORDS.get(each, ())), *_alike(name, known)]))
    text = error.format_message()
    if alike and "Did you mean" not in text:
        text = f"{text.rstrip('.')}. Did you mean {' or '.join(f'`{each}`' for each in alike)}?"
    return click.UsageError(text, ctx=error.ctx)


def _alike(name: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, list(known), n=2, cutoff=0.65)


def _harmless(text: str) -> str:
    """Remove card numbers and JSON objects that were typed in the wrong place from *text*."""
    return masked(_JSON.sub(r"\1{...}", text))


def _unexpected(error: Exception) -> str:
    """Report a bug without its message, which may contain a value."""
    return f"stopped by a bug: {_place(error)}"


def _place(error: Exception) -> str:
    """The type of *error*, and the line where it happened."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else "an unknown place"
    if os.environ.get("TOKENFERRY_DEBUG"):
        place = " <- ".join(f"{os.path.basename(frame.filename)}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__} in {place}"


def _points() -> Iterator[EntryPoint]:
    """The commands of this distribution, and ours in any case. Other distributions are not searched: it takes time."""
    try:
        installed = tuple(distribution("tokenferry").entry_points.select(group=GROUP))
    except PackageNotFoundError:
        installed = ()
    yield from installed
    names = {point.name for point in installed}
    yield from (EntryPoint(name, value, GROUP) for name, value in OURS.items() if name not in names)


def _is_there(point: EntryPoint) -> bool:
    """True if the package of a command is installed. Does not import it."""
    return importlib.util.find_spec(point.module.partition(".")[0]) is not None


def _extra(point: EntryPoint) -> str:
    """What to install for a command. The extra is `worker` or `emulator`."""
    package = point.module.partition(".")[0]
    return f"tokenferry[{package.removeprefix('tokenferry_')}]" if "_" in package else "tokenferry"


def _unavailable(point: EntryPoint, module: str | None) -> click.Command:
    advice = f"install {_extra(point)}"

    def refuse() -> None:
        raise NotStarted(f"`{point.name}` is not available here ({module} is missing): {advice}")

    return click.Command(
        point.name,
        callback=refuse,
        help=f"Not available here: {advice}.",
        add_help_option=True,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


def _show_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if not asked or context.resilient_parsing:
        return
    try:
        number = version("tokenferry")
    except PackageNotFoundError:
        number = "(not installed)"
    click.echo(f"tokenferry, version {number}")
    context.exit()


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def main() -> None:
    """Encrypted card and bank data in, Stripe tokens out.

    Requests are encrypted here with a public key and put on a queue. Workers decrypt them, call Stripe's token endpoint
    at the account's rate, and send token ids back. Start with `tokenferry import --help` or `tokenferry send --help`.

    Exit codes of every command: 0 done, 1 some of it failed, 2 wrong usage or configuration.
    """


if __name__ == "__main__":
    main()
