"""The SQLite file of an outbox. Several processes may use it. Its errors become errors of the outbox."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from tokenferry.broker import fork_guard
from tokenferry.outbox.errors import OutboxFailed, OutboxFull, UnusableOutbox
from tokenferry.owned_files import check_owned, open_owned

APPLICATION: Final = 0x54464F42
"""`PRAGMA application_id`: "TFOB". It tells an outbox from the database of another program."""
VERSION: Final = 1

SCHEMA: Final = """
CREATE TABLE messages (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    queue TEXT NOT NULL,
    route TEXT,
    accepted_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    waiting INTEGER NOT NULL DEFAULT 1,
    sends INTEGER NOT NULL DEFAULT 0,
    sent_at INTEGER,
    due_at INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE bodies (seq INTEGER PRIMARY KEY, task TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX to_send ON messages (seq) WHERE waiting;
CREATE INDEX confirmed ON messages (queue, seq) WHERE NOT waiting;
CREATE TABLE routes (name TEXT PRIMARY KEY, read_at INTEGER NOT NULL);
CREATE TABLE state (held INTEGER NOT NULL, unanswered INTEGER NOT NULL, trouble TEXT, trouble_at INTEGER);
INSERT INTO state VALUES (0, 0, NULL, NULL);
CREATE TRIGGER came AFTER INSERT ON messages BEGIN UPDATE state SET held = held + 1; END;
CREATE TRIGGER went AFTER DELETE ON messages BEGIN
    UPDATE state SET held = held - 1;
    DELETE FROM bodies WHERE seq = old.seq;
END;
"""
"""Times are Unix milliseconds. `sent_at`: first confirmation. `due_at`: when a confirmed message may be sent again.
`held`: number of all messages, because counting them would be slow. Bodies have a table of their own, so that a sweep
does not read them."""


_opening = threading.Lock()

BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _make(path: Path) -> None:
    """Create the file if it is missing. Only its owner can read it, and its WAL and index get the same mode.

    An existing file is not opened: closing it would remove every lock that SQLite has on it in this process
    (https://www.sqlite.org/howtocorrupt.html, 2.2).
    """
    check_owned(path)
    with suppress(FileExistsError):
        os.close(open_owned(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))


class OutboxDatabase:
    """One connection. Several threads may use it, but not a process that was forked later."""

    def __init__(self, path: Path, *, durable: bool, wait: float = 10.0) -> None:
        """*durable*: a commit returns when it is on the disk. Otherwise it survives a crash of the process only.

        *wait*: seconds for which another process may hold the file. Raises `UnusableOutbox`.
        """
        self.path = path
        self._lock = threading.Lock()
        self._process = fork_guard.ForkGuard("an outbox")
        try:
            with _opening:
                _make(path)
                self._connection = sqlite3.connect(path, timeout=wait, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise self._not_opened(error.strerror if isinstance(error, OSError) else _reason(error)) from None
        try:
            self._prepare(durable=durable, until=time.monotonic() + wait)
        except BaseException as error:
            self._connection.close()
            if isinstance(error, OSError):
                raise self._not_opened(error.strerror) from None
            if isinstance(error, sqlite3.Error):
                raise UnusableOutbox(f"{path}: {_cure(error)}") from None
            raise

    def _not_opened(self, reason: str | None) -> UnusableOutbox:
        return UnusableOutbox(f"{self.path}: the outbox cannot be opened ({reason}); see [outbox] path")

    def _prepare(self, *, durable: bool, until: float) -> None:
        """Change nothing before it is certain that the file is an outbox, or empty."""
        while True:
            try:
                if self._is_empty():
                    self._create()
                self._keep_private()
                self._connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                # If several processes open it at once, SQLite refuses some of them without waiting.
                if _code(error) not in BUSY or time.monotonic() >= until:
                    raise
                time.sleep(0.01)
        self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self._connection.execute("PRAGMA journal_size_limit = 16777216")

    def _is_empty(self) -> bool:
        """True if the file has no content yet. Raises `UnusableOutbox` if it is not an outbox of this version."""
        application, version, tables = self._connection.execute(
            "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)"
            " FROM pragma_application_id, pragma_user_version"
        ).fetchone()
        if application == 0 and not tables:
            return True
        if application != APPLICATION:
            raise UnusableOutbox(f"{self.path}: is another program's database; name another [outbox] path")
        if version != VERSION:
            raise UnusableOutbox(
                f"{self.path}: was written by another version of tokenferry (format {version}, this one reads "
                f"{VERSION}); empty it with that version, or name another [outbox] path"
            )
        return False

    def _create(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            if self._is_empty():  # otherwise another process was faster
                for statement in _statements(SCHEMA):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA application_id = {APPLICATION}")
                self._connection.execute(f"PRAGMA user_version = {VERSION}")
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise

    def _keep_private(self) -> None:
        """Let only the owner read the file, its WAL and its index, whoever created them."""
        for end in ("", "-wal", "-shm"):
            path = self.path.with_name(self.path.name + end)
            with suppress(FileNotFoundError):
                if path.stat().st_mode & 0o077:
                    path.chmod(0o600)

    def close(self) -> None:
        """Close the connection."""
        if self._process.is_this:  # a forked child must not close the connection of its parent
            with self._lock, suppress(sqlite3.Error):
                self._connection.close()

    def examine(self) -> None:
        """Read the whole file. Raises `UnusableOutbox` if it is damaged."""
        try:
            state = self._ask("PRAGMA quick_check(1)", ())
        except OutboxFailed:
            state = "unreadable"
        if state != "ok":
            raise UnusableOutbox(f"{self.path}: {_DAMAGED}")

    def _used(self) -> int:
        """Bytes of the file that are in use. Call it inside a transaction."""
        pages = self._one("PRAGMA page_count") - self._one("PRAGMA freelist_count")
        return int(pages * self._one("PRAGMA page_size"))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit everything that happens inside, or nothing of it."""
        self._process.check()
        with self._lock, self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _failed(self.path, error) from None

    def _select(self, query: str, values: Any) -> list[Any]:
        self._process.check()
        with self._lock, self._translated():
            return self._connection.execute(query, values).fetchall()

    def _ask(self, query: str, values: Any) -> Any:
        return self._select(query, values)[0][0]

    def _one(self, query: str) -> Any:
        """Return a single value. Call it inside a transaction."""
        return self._connection.execute(query).fetchone()[0]


_DAMAGED: Final = (
    "the outbox is damaged; move it away, start with a new one, and send requests without an outcome again. "
    "`sqlite3 FILE .recover` may still read what it held"
)


def _failed(path: Path, error: sqlite3.Error) -> OutboxFailed:
    code = _code(error)
    if code == sqlite3.SQLITE_FULL:
        return OutboxFull(f"{path}: the disk is full; nothing was accepted", maybe_sent=False)
    if code in BUSY:
        return OutboxFailed(f"{path}: another process holds the outbox for too long", maybe_sent=False)
    # After an error in the middle of a commit it is not known whether the commit happened.
    return OutboxFailed(f"{path}: {_cure(error)}", maybe_sent=code == sqlite3.SQLITE_IOERR)


def _cure(error: sqlite3.Error) -> str:
    code = _code(error)
    if code == sqlite3.SQLITE_NOTADB:
        return "is not an outbox; name another [outbox] path"
    if code == sqlite3.SQLITE_CORRUPT:
        return _DAMAGED
    return f"the outbox cannot be used ({_reason(error)})"


def _code(error: sqlite3.Error) -> int:
    """The primary code of the error."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _reason(error: sqlite3.Error) -> str:
    """The name of the error. Its text could contain a statement."""
    return str(getattr(error, "sqlite_errorname", type(error).__name__))


def _statements(script: str) -> Iterator[str]:
    """Split a script into statements: `executescript` would end the open transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
