"""Python programs for tests, forked from one process that has loaded everything instead of started anew.

Loading the worker takes about 1.6 seconds of a processor, a fork takes a hundredth of one. `Forked` is a
`subprocess.Popen` whose process is a fork of that server: with the arguments, folder, environment and standard files
it is given, in a session of its own, and with the signals of a new process. What differs from a started program: its
parent is the server, and the process table shows the server's command line and environment. At its end it runs its
exit handlers and flushes its standard files, but takes nothing else apart: that costs more than all the rest of it.

`start` and `run` fork where that is possible, and start a program as usual where it is not: another program than
Python, or another `PYTHONPATH`. Tests of the real start use `subprocess`, or say `real=True` to a house.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

ADDRESS = "TESTS_FORK_SERVER"
"""In the environment of the tests: the server's socket."""
OURS = {"tokenferry", "tokenferry.cli", "tokenferry_worker", "tokenferry_emulator", "faults.workload"}
"""Modules that are forked when they are run as programs."""
TESTS = str(Path(__file__).parent)
_PATHS = os.environ.get("PYTHONPATH")
_address = os.environ.get(ADDRESS, "")


# -- the side of the tests


@contextmanager
def server() -> Iterator[None]:
    """Run the server, and let this process and those it starts find it. It loads its modules when first asked."""
    with tempfile.TemporaryDirectory(prefix="forks-") as folder, socket.socket(socket.AF_UNIX) as listener:
        address = f"{folder}/socket"
        listener.bind(address)
        listener.listen(100)
        command = [sys.executable, "-m", "forking", str(listener.fileno()), address]
        process = subprocess.Popen(
            command,
            cwd=TESTS,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C is for the tests
        )
        find(address)
        os.environ[ADDRESS] = address
        try:
            yield
        finally:
            del os.environ[ADDRESS]
            find("")
            process.communicate()  # the end of its standard input tells it to end


def find(address: str) -> None:
    """Let `Forked` use the server at *address*."""
    global _address
    _address = address


def can_fork(command: Sequence[str], env: dict[str, str] | None = None) -> bool:
    """Whether a fork does what starting *command* would do."""
    python = len(command) > 2 and command[0] == sys.executable
    known = python and (command[1] == "-c" or (command[1] == "-m" and command[2] in OURS))
    paths = (os.environ if env is None else env).get("PYTHONPATH")
    return bool(_address) and known and _others(paths) == _others(_PATHS)


def _others(paths: str | None) -> list[str]:
    """What PYTHONPATH adds beside this folder, which every fork has on its path."""
    return [path for path in (paths or "").split(os.pathsep) if path not in ("", TESTS)]


def start(command: Sequence[str], *, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[Any]:
    """As `subprocess.Popen`, but forked where that is possible."""
    kind = Forked if can_fork(command, env) and options.get("preexec_fn") is None else subprocess.Popen
    return kind(command, env=env, **options)


def run(
    command: Sequence[str], *, input: str | None = None, timeout: float = 60.0, check: bool = False, **options: Any
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` with captured text, but forked where that is possible."""
    files = {"stdin": subprocess.PIPE if input is not None else subprocess.DEVNULL}
    files |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start(command, text=True, **{**files, **options}) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(list(command), process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def stand_in(*arguments: str, address: str = "") -> str:
    """A shell command that is forked if it can be: with *arguments* of an interpreter, and those that follow it.

    *address*: of another server than that of the tests.
    """
    return shlex.join([sys.executable, "-S", __file__, f"stand-in:{address}", *arguments])


@contextmanager
def tests_imported(paths: Sequence[str]) -> Iterator[str]:
    """A shell command that stands for Python and has imported the test modules below *paths* when it begins.

    They are read, rewritten and imported once for all processes of a run.
    """
    with tempfile.TemporaryDirectory(prefix="tests-") as folder:
        address = f"{folder}/socket"
        code = f"import forking; forking.serve_tests({address!r}, {list(paths)!r})"
        with start([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            ready = process.stdout.readline()
            yield stand_in(address=address if ready else "")  # a module that cannot be imported is for pytest to say
            process.communicate()


def stand_in_path(folder: Path) -> str:
    """A search path on which `tokenferry` and `python` are forked. Both commands are in the new folder *folder*."""
    folder.mkdir()
    for name, arguments in {"tokenferry": ("-m", "tokenferry"), "python": ()}.items():
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {stand_in(*arguments)} "$@"\n')
        program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def children_of(pid: int) -> list[int]:
    """The forked processes that process *pid* has started and that live."""
    if not _address:
        return []
    with _asked({"children_of": pid}) as line:
        return [int(child) for child in json.loads(_line(line))]


class Forked(subprocess.Popen[Any]):
    """A process forked by the server. It tells its end over a line of its own, as it is no child of ours."""

    _told: socket.socket

    def _execute_child(self, args: Sequence[str], *rest: Any) -> None:  # type: ignore[override]
        # preexec_fn and the like are for started programs; these are the files, whether pipes or not.
        _, preexec_fn, _, pass_fds, cwd, env, _, _, shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = (
            rest[:15]
        )
        assert (preexec_fn, pass_fds, shell) == (None, (), False), "only a started program can have these"
        files = [mine if mine != -1 else usual for mine, usual in ((p2cread, 0), (c2pwrite, 1), (errwrite, 2))]
        request = {"command": list(args), "cwd": os.fspath(cwd or os.getcwd()), "env": dict(env or os.environ)}
        try:
            self._told = _asked(request, files)
            self.pid = int(_line(self._told))
            self._child_created = True
        finally:
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]

    def _try_wait(self, flags: int) -> tuple[int, int]:
        """As waitpid. A server that is gone leaves us with an end by SIGKILL."""
        try:
            self._told.setblocking(not flags & os.WNOHANG)
            status = int(_line(self._told) or signal.SIGKILL)
        except BlockingIOError:
            return 0, 0
        except OSError:  # a test left it behind, and its line was collected before it
            status = signal.SIGKILL
        self._told.close()
        return self.pid, status

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        lock = self._waitpid_lock  # type: ignore[attr-defined]
        if self.returncode is None and lock.acquire(False):
            try:
                if self.returncode is None and (ended := self._try_wait(os.WNOHANG))[0]:
                    self._handle_exitstatus(ended[1])  # type: ignore[attr-defined]
            finally:
                lock.release()
        return self.returncode


def _asked(request: dict[str, Any], files: Sequence[int] = ()) -> socket.socket:
    """A line to the server, after a request."""
    line = socket.socket(socket.AF_UNIX)
    line.connect(_address)
    body = json.dumps(request).encode()
    socket.send_fds(line, [len(body).to_bytes(4, "big")], files)
    line.sendall(body)
    return line


def _line(line: socket.socket) -> bytes:
    """What was said on *line* in one go: an answer is short."""
    return line.recv(65_536)


# -- the side of the server


def load() -> None:
    """Import what the forked programs need. No thread may come of it."""
    from tokenferry import cli

    for name in set(cli.main.list_commands(None)) - {"emulator"}:  # type: ignore[arg-type]
        cli.main.get_command(None, name)  # type: ignore[arg-type]
    import tokenferry_worker.engine.consumer
    import tokenferry_worker.engine.pool  # noqa: F401

    for name in (
        # Loaded late, by their names.
        "billiard.pool",
        "celery.app.amqp",
        "celery.app.control",
        "celery.app.events",
        "celery.app.log",
        "celery.apps.worker",
        "celery.backends.base",
        "celery.bin.celery",
        "celery.fixups.django",
        "celery.loaders.app",
        "celery.worker.autoscale",
        "celery.worker.components",
        "celery.worker.strategy",
        "certifi",
        "click._textwrap",
        "cryptography.hazmat.backends.openssl.backend",
        "encodings.idna",
        "fakeredis",
        "hypothesis",
        "kombu.pidbox",
        "kombu.transport.pyamqp",
        "kombu.utils.amq_manager",
        "pytest",
        "rich._emoji_codes",
        "starlette.applications",
        "tokenferry_emulator.server",
        "uvicorn.lifespan.off",
        "uvicorn.loops.auto",
        "uvicorn.loops.uvloop",
        "uvicorn.protocols.http.h11_impl",
        "uvloop",
        "yaml",
    ):
        importlib.import_module(name)
    os.register_at_fork(after_in_child=sys.modules["tokenferry_emulator.ids"]._dice.seed)
    gc.collect()
    gc.freeze()  # a collection must not write to what is shared


def serve_tests(address: str, paths: Sequence[str]) -> None:
    """In a fork: import the test modules below *paths*, and fork from there."""
    from _pytest.assertion.rewrite import AssertionRewritingHook
    from _pytest.config import _prepareconfig
    from _pytest.pathlib import import_path

    search = list(sys.path)
    config = _prepareconfig(["--capture=no"])
    for path in paths:
        top = Path(path.partition("::")[0]).resolve()
        for file in [top] if top.is_file() else sorted((*top.rglob("conftest.py"), *top.rglob("test_*.py"))):
            import_path(file, mode="importlib", root=config.rootpath, consider_namespace_packages=False)
    sys.path[:] = search
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, AssertionRewritingHook)]
    gc.collect()
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(100)
        print("ready", flush=True)
        if (asked := Server(listener, loaded=True).serve()) is not None:
            become(asked)


class Server:
    """Forks programs, and says how they end."""

    def __init__(self, listener: socket.socket, *, loaded: bool = False) -> None:
        self._listener = listener
        self._programs: dict[int, tuple[int, socket.socket]] = {}
        self._loaded = loaded
        self._woken, self._wakes = socket.socketpair()
        self._woken.setblocking(False)
        self._wakes.setblocking(False)
        signal.set_wakeup_fd(self._wakes.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector = selectors.DefaultSelector()
        for file in (listener, self._woken, sys.stdin.fileno()):
            self._selector.register(file, selectors.EVENT_READ)

    def serve(self) -> dict[str, Any] | None:
        """Fork until standard input ends. Returns twice and more: in each fork, with what it was asked to be."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._woken:
                    with suppress(BlockingIOError):
                        self._woken.recv(1000)
                    self._bury()
                elif key.fileobj is not self._listener:
                    return None
                elif (request := self._answer()) is not None:
                    return request

    def _answer(self) -> dict[str, Any] | None:
        line, _ = self._listener.accept()
        head, files, _, _ = socket.recv_fds(line, 4, 3)
        length, body = int.from_bytes(head, "big"), b""
        while len(body) < length and (more := line.recv(length - len(body))):
            body += more
        if not length or len(body) < length:  # who asked is gone
            line.close()
            return None
        request: dict[str, Any] = json.loads(body)
        if "children_of" in request:
            found = [pid for pid, (asker, _) in self._programs.items() if asker == request["children_of"]]
            line.sendall(json.dumps(found).encode())
            line.close()
            return None
        if not self._loaded:
            load()
            self._loaded = True
        asker = int.from_bytes(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), sys.byteorder)
        pid = os.fork()
        if not pid:
            line.close()
            self._leave(files)
            return request
        for file in files:
            os.close(file)
        self._programs[pid] = (asker, line)
        with suppress(OSError):
            line.sendall(str(pid).encode())
        return None

    def _bury(self) -> None:
        while self._programs:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            _, line = self._programs.pop(pid)
            with suppress(OSError):  # nobody waits for it
                line.sendall(str(status).encode())
            line.close()

    def _leave(self, files: list[int]) -> None:
        """In a fork: nothing of the server is open, and its one signal handler is gone."""
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            if signal.getsignal(number) not in (signal.SIG_DFL, None) and number not in (
                signal.SIGPIPE,
                signal.SIGXFSZ,
            ):
                signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._selector.close()
        for _, line in self._programs.values():
            line.close()
        for each in (self._listener, self._woken, self._wakes):
            each.close()
        os.setsid()
        for target, file in enumerate(files):
            os.dup2(file, target)
        for file in files:
            os.close(file)


def become(request: dict[str, Any]) -> NoReturn:
    """In a fork: be the program, as a new interpreter would be, and end."""
    code = 0
    try:
        _run(request)
    except SystemExit as end:
        code = _exit_code(end)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
        if isinstance(error, KeyboardInterrupt):  # the program ends by this signal, for a shell to see
            code = -signal.SIGINT
    leave(code)


def _exit_code(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


def leave(code: int) -> NoReturn:
    """End as an interpreter does, but for its last step: it would take every module of this process apart."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except Exception as error:
            code = 120  # as the interpreter does
            if stream is sys.stdout:
                with suppress(Exception):
                    print(f"Exception ignored in: {stream!r}\n{type(error).__name__}: {error}", file=sys.stderr)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)


def _run(request: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    os.chdir(request["cwd"])
    sys.path[:] = [request["cwd"] if request["command"][1] == "-m" else "", *sys.path[1:], TESTS]
    sys.stdin, sys.stdout, sys.stderr = map(_stream, range(3))
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    _, how, what, *arguments = request["command"]
    sys.argv = [how, *arguments]
    if how == "-c":
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), sys.modules["__main__"].__dict__)
    elif what in ("tokenferry", "tokenferry.cli"):
        from tokenferry.cli import main

        main(prog_name="tokenferry", obj=Forked)  # a supervisor's processes are forked as well
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)


def _stream(number: int) -> Any:
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED")) and number > 0
    mode = "wb" if number else "rb"
    raw = open(number, mode, buffering=0 if unbuffered else -1, closefd=False)  # noqa: SIM115
    errors = "backslashreplace" if number == 2 else "strict"
    lines = number == 2 or (number == 1 and raw.isatty())
    return io.TextIOWrapper(raw, "utf-8", errors, line_buffering=lines, write_through=unbuffered)


def _stand_in(arguments: list[str]) -> int:
    """Be a fork: it has our standard files and gets the signals that end us, and our end is its own."""
    command = [sys.executable, *(["-c", sys.stdin.read()] if arguments == ["-"] else arguments)]
    if not can_fork(command):
        os.execv(sys.executable, command)
    passed_on = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
    signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)  # until there is somebody to pass them on to
    process = Forked(command)
    for number in passed_on:
        signal.signal(number, lambda number, _: process.send_signal(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__" and sys.argv[1].startswith("stand-in:"):
    find(sys.argv[1].partition(":")[2] or _address)
    sys.exit(_stand_in([argument for argument in sys.argv[2:] if argument != "-u"]))
elif __name__ == "__main__":
    find(sys.argv[2])
    asked = Server(socket.socket(fileno=int(sys.argv[1]))).serve()
    if asked is not None:
        become(asked)
