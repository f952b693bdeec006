"""The data directory of an embedded server: its lock, its configuration, its socket."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tokenferry.owned_files import open_owned

from .errors import EmbeddedServerError
from .socket_paths import is_private, short_path

_CONFIGURATION = """\
# Written by tokenferry at every start of the embedded server: changes are lost, except that the password is kept.
requirepass {password}
port 0
unixsocket {socket}
unixsocketperm 700
protected-mode yes
dir {directory}
pidfile {pidfile}
logfile {log}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
"""


@dataclass(frozen=True)
class Home:
    """A data directory, and the files in it."""

    directory: Path

    @classmethod
    def of(cls, directory: Path) -> Home:
        """Return the home at the real path, so that two spellings of one directory lead to one server."""
        return cls(directory.expanduser().resolve())

    @property
    def configuration(self) -> Path:
        return self.directory / "valkey.conf"

    @property
    def lock(self) -> Path:
        return self.directory / "valkey.lock"

    @property
    def log(self) -> Path:
        return self.directory / "valkey.log"

    @property
    def pidfile(self) -> Path:
        return self.directory / "valkey.pid"

    def socket(self) -> Path:
        """Return where clients connect. Raises EmbeddedServerError where a long path cannot be made short."""
        try:
            return short_path(self._socket)
        except OSError as error:
            raise EmbeddedServerError(
                f"the path {self._socket} is too long for a socket, and no short link to it can be made ({error}); "
                "or choose a data directory with a shorter path"
            ) from error

    @property
    def _socket(self) -> Path:
        return self.directory / "valkey.sock"

    def _earlier_socket(self) -> Path | None:
        """Return the socket of an earlier version: where the path was long, it put one elsewhere and linked to it."""
        with suppress(OSError):
            return Path(os.readlink(self._socket))
        return None

    def _is_reachable(self) -> bool:
        """Return False where the link of an earlier version leads to a directory of other users, or to another server.

        A directory that was copied or moved holds such a link: it leads to the server of the old directory.
        """
        earlier = self._earlier_socket()
        digest = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:16]
        return earlier is None or (
            earlier.parent.name == f"tokenferry-{os.geteuid()}-{digest}" and is_private(earlier.parent)
        )

    def password(self) -> str | None:
        """Return the password from the configuration, or None before the first start."""
        with suppress(OSError):
            if found := re.search(r"^requirepass (\S+)$", self.configuration.read_text(errors="replace"), re.MULTILINE):
                return found[1]
        return None

    def pid(self) -> int | None:
        with suppress(OSError, ValueError):
            return int(self.pidfile.read_text())
        return None

    def prepare(self) -> None:
        """Create the directory with mode 0700, or close it to other users, unless it holds files of theirs."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.directory.stat().st_mode & 0o077:
                if any(self.directory.iterdir()) and not self.lock.exists():
                    raise EmbeddedServerError(
                        f"{self.directory} is open to other users and holds files which are not the embedded server's: "
                        "choose a directory of its own for it, or chmod this one to 0700"
                    )
                self.directory.chmod(0o700)
        except OSError as error:
            raise EmbeddedServerError(
                f"cannot use {self.directory} as data directory of the embedded server ({error.strerror}): "
                "choose one that this user may write to, or set [broker] url to a server of yours"
            ) from error

    def take_lock(self) -> int | None:
        """Return the lock as an open file, or None if another process holds it. Closing the file releases it."""
        try:
            lock = open_owned(self.lock, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise EmbeddedServerError(
                f"cannot open {self.lock} ({error.strerror}): the embedded server needs a data directory "
                "that this user may write to"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except OSError as error:
            os.close(lock)
            raise EmbeddedServerError(
                f"cannot lock {self.lock} ({error.strerror}): the data directory must be on a local file system"
            ) from error
        return lock

    def is_locked(self) -> bool:
        """True if a server, or a process that starts one, holds the lock."""
        try:
            lock = os.open(self.lock, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(lock)  # releases the shared lock; at worst, a process that starts a server now must try again
        return False

    def is_server(self, pid: int) -> bool:
        """True if process *pid* has our lock file open: a process id alone may belong to another program by now.

        macOS does not say. There the process id is trusted, because it is read only while the lock is held.
        """
        if sys.platform != "linux":
            return True
        try:
            held = [entry.stat() for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.exists()]
            return any(os.path.samestat(file, self.lock.stat()) for file in held)
        except OSError:
            return False

    def configure(self) -> None:
        """Write the configuration, and remove what a killed server left. Only under the lock."""
        password = self.password() or secrets.token_urlsafe(32)
        self.sweep()
        text = _CONFIGURATION.format(
            password=password,
            socket=_quoted(self.socket()),
            directory=_quoted(self.directory),
            pidfile=_quoted(self.pidfile),
            log=_quoted(self.log),
        )
        # Replaced as a whole, because other processes may read the password at any moment.
        draft = self.directory / "valkey.conf.new"
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(os.fsencode(text))
        draft.replace(self.configuration)

    def sweep(self) -> None:
        """Remove the socket and the pid file of a server that is gone. Only under the lock."""
        if (earlier := self._earlier_socket()) is not None and self._is_reachable():
            earlier.unlink(missing_ok=True)
            with suppress(OSError):
                earlier.parent.rmdir()
        self._socket.unlink(missing_ok=True)
        self.pidfile.unlink(missing_ok=True)

    def ask(self) -> str:
        """Return the reply to AUTH and PING: `+PONG` from a server that is ready, another line from one that is not.

        The reply is empty if no server listens, or none answers within a second.
        """
        return self._say("PING")

    @property
    def is_new(self) -> bool:
        """True if no server has kept data here."""
        return not (self.directory / "appendonlydir").exists()

    def note_birth(self, key: str) -> None:
        """Write under *key* when the data began, in Unix milliseconds, unless it is there."""
        self._say(f"SET {key} {int(time.time() * 1000)} NX")

    def _say(self, command: str) -> str:
        """Return the last line of the reply to AUTH and *command*."""
        password = self.password()
        if password is None or not self._is_reachable():
            return ""
        reply = b""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(1.0)
                connection.connect(str(self.socket()))
                connection.sendall(f"AUTH {password}\r\n{command}\r\n".encode())
                while reply.count(b"\r\n") < 2 and (more := connection.recv(4096)):
                    reply += more
        except OSError:
            return ""
        return reply.decode(errors="replace").strip().rpartition("\r\n")[2]

    def last_words(self, *, since: int) -> str:
        """Return the last lines of the log from the byte *since* on, without the password."""
        with self.log.open("rb") as log:
            log.seek(since)
            text = log.read().decode(errors="replace")
        if password := self.password():
            text = text.replace(password, "***")
        return "\n".join(text.strip().splitlines()[-6:]) or "(none)"


def _quoted(path: Path) -> str:
    """Return a path as a string in the grammar of the configuration file."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{text}"'
