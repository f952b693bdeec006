"""What each import of a data folder last said of itself: for `tokenferry status` and `tokenferry show --key`.

An import writes two small files into `DATA/imports/`: its counts, and the keys of the rows that are under way. Nothing
depends on them. They hold counts, paths, keys and request ids, as the results file does, and nothing that is sealed.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from tokenferry.owned_files import new_beside

FOLDER: Final = "imports"
EVERY: Final = 2.0
"""Seconds between two notes of one import."""
SILENT: Final = 15.0
"""Seconds after which an import that has not noted anything is dead."""
KEPT: Final = 50
"""Imports whose notes are kept: the latest."""

State = Literal["running", "finished", "stopped", "dead"]


@dataclass(frozen=True)
class ImportNote:
    """How far one import is."""

    name: str
    """Every request id of it begins with this."""
    file: str
    results: str | None
    """Path of the results file."""
    started: float
    """Unix seconds."""
    noted: float
    """Unix seconds of this note."""
    state: State
    """stopped: it ended with unfinished rows. dead: it ended without saying so."""
    counts: Mapping[str, int]
    """rows, sealed, tokenized, attached, failed, rejected, unfinished."""
    rows_expected: int | None = None
    """An estimate. None: not known."""
    seconds_left: float | None = None
    waits: str | None = None
    """What it waits for, if that is not a result."""


Pending = Mapping[str, str]
"""The request id of each row that is under way, by the row's key."""


@contextmanager
def noting(
    data: Path, note: Callable[[State], ImportNote], pending: Callable[[], Pending], *, every: float = EVERY
) -> Iterator[Callable[[State], None]]:
    """Write notes while the block runs. The block says at its end how the import ended.

    A folder that cannot be written is no reason to stop an import.
    """
    done = threading.Event()
    ended: list[State] = []

    def write(state: State) -> None:
        with suppress(OSError):
            _write(data / FOLDER, note(state), pending())

    def repeat() -> None:
        while not done.wait(every):
            write("running")

    with suppress(OSError):
        _make_room(data / FOLDER)
    write("running")
    thread = threading.Thread(target=repeat, name="tokenferry-import-notes", daemon=True)
    thread.start()
    try:
        yield ended.append
    finally:
        done.set()
        thread.join()
        write(ended[-1] if ended else "stopped")


def notes(data: Path) -> list[ImportNote]:
    """Return the notes of all imports of a data folder, the oldest first. What cannot be read is left out."""
    now = time.time()
    found = []
    for path in (data / FOLDER).glob("*.json") if (data / FOLDER).is_dir() else ():
        with suppress(OSError, ValueError, TypeError):
            read = ImportNote(**json.loads(path.read_text()))
            dead = read.state == "running" and now - read.noted > SILENT
            found.append(ImportNote(**{**asdict(read), "state": "dead"}) if dead else read)
    return sorted(found, key=lambda each: each.started)


def request_ids_of_key(data: Path, key: str) -> list[tuple[str, str]]:
    """Return the request ids of all rows with this *key* in the imports of a data folder, each with its results file.

    An import derives the id of a row from its own name and the row's number. So the key leads to it through what the
    import wrote: the results file for a row with an outcome, the notes for a row that is under way.
    """
    found: dict[str, str] = {}
    for note in notes(data):
        for request_id in [*_in_results(note.results, key), *_under_way(data, note.name, key)]:
            found.setdefault(request_id, note.results or "")
    return list(found.items())


def _in_results(results: str | None, key: str) -> Iterator[str]:
    if results is None:
        return
    spelled = json.dumps(key).encode()
    with suppress(OSError), open(results, "rb") as file:
        for line in file:
            if spelled not in line:
                continue
            with suppress(ValueError, TypeError, AttributeError):
                read = json.loads(line)
                if read.get("key") == key and isinstance(read.get("request_id"), str):
                    yield read["request_id"]


def _under_way(data: Path, name: str, key: str) -> Iterator[str]:
    with suppress(OSError, ValueError, TypeError, AttributeError):
        request_id = json.loads((data / FOLDER / f"{name}.pending").read_text()).get(key)
        if isinstance(request_id, str):
            yield request_id


def _write(folder: Path, note: ImportNote, pending: Pending) -> None:
    _replace(folder / f"{note.name}.pending", dict(pending))
    _replace(folder / f"{note.name}.json", asdict(note))


def _replace(path: Path, content: Mapping[str, Any]) -> None:
    descriptor, new = new_beside(path)
    with open(descriptor, "w") as file:
        json.dump(content, file)
    new.replace(path)


def _make_room(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    by_age = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for path in by_age[: max(0, len(by_age) - KEPT + 1)]:
        for each in (path, path.with_suffix(".pending")):
            each.unlink(missing_ok=True)
