"""A forked program is what was asked for: what it is given and how it ends are as if it had been started."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import forking
import pytest

SAY = """\
import json, os, signal, sys, threading
print(json.dumps({
    "arguments": sys.argv[1:], "folder": os.getcwd(), "variable": os.environ.get("VARIABLE"), "path": sys.path[0],
    "names": [name for name in os.environ if name.startswith("LEAKED")], "leader": os.getsid(0) == os.getpid(),
    "threads": threading.active_count(),
    "child": signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
    "read": sys.stdin.read(),
}))
"""


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def test_it_has_the_arguments_folder_environment_and_files_it_was_given(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    environment["LEAKED"] = "into this process only"
    command = python(SAY, "one", "two words")
    assert forking.can_fork(command)
    inside = {"VARIABLE": "ü"} | ({"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {})
    done = forking.run(command, cwd=tmp_path, env=inside, input="from a pipe")
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert said == {
        "arguments": ["one", "two words"],
        "folder": str(tmp_path),
        "variable": "ü",
        "path": "",
        "names": [],
        "leader": True,
        "threads": 1,
        "child": True,
        "read": "from a pipe",
    }


OPEN = """\
import os
for number in range(3, 100):
    try:
        print(os.readlink(f"/proc/self/fd/{number}"))
    except OSError:
        pass
"""


def test_it_holds_no_file_of_the_server_nor_of_another_fork() -> None:
    with forking.start(python("input()"), stdin=subprocess.PIPE) as beside:
        opened = forking.run(python(OPEN)).stdout
        beside.communicate(b"\n")
    assert "socket" not in opened
    assert "pipe" not in opened


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("pass", 0),
        ("import sys; sys.exit(3)", 3),
        ("import sys; sys.exit('a reason')", 1),
        ("raise RuntimeError", 1),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("import sys; sys.stdout = open('/dev/full', 'w'); print('lost')", 120),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    ],
)
def test_its_end_is_told(code: str, ended: int) -> None:
    assert forking.run(python(code)).returncode == ended


@pytest.mark.parametrize(
    ("code", "said"),
    [("import sys; sys.exit('a reason')", "a reason"), ("1 / 0", "ZeroDivisionError: division by zero")],
)
def test_why_it_ends_is_said(code: str, said: str) -> None:
    assert forking.run(python(code)).stderr.splitlines()[-1] == said


def test_it_ends_after_its_threads_as_an_interpreter_does() -> None:
    wait = "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('the thread'))).start()"
    assert forking.run(python(f"{wait}; print('the program')")).stdout == "the program\nthe thread\n"


def test_what_it_prints_is_there_when_it_ends_and_its_exit_handlers_run() -> None:
    done = forking.run(python("import atexit; atexit.register(print, 'at last'); print('first', end='; ')"))
    assert done.stdout == "first; at last\n"


def test_it_is_waited_for_signalled_and_known_as_a_child_while_it_lives() -> None:
    with forking.start(python("input()"), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
        assert process.pid in forking.children_of(os.getpid())
        process.terminate()
        assert process.wait(30) == -signal.SIGTERM
    assert process.pid not in forking.children_of(os.getpid())


def test_another_search_path_or_program_is_really_started(tmp_path: Path) -> None:
    assert not forking.can_fork(["/bin/true"])
    assert not forking.can_fork([sys.executable, "-m", "pytest"])
    changed = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert not forking.can_fork(python("pass"), changed)
    (tmp_path / "sitecustomize.py").write_text("print('customized')")
    assert forking.run(python("pass"), env=changed).stdout == "customized\n"


def test_a_command_that_stands_for_python_passes_its_files_and_signals_to_a_fork(tmp_path: Path) -> None:
    code = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    with subprocess.Popen(shlex.split(forking.stand_in("-c", code)), stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        assert int(command.stdout.readline()) != command.pid
        command.terminate()
        assert command.wait(30) == 128 + signal.SIGTERM
    environment = {**os.environ, "PATH": forking.stand_in_path(tmp_path / "bin")}
    said = subprocess.run(["python", "-"], input="print(6 * 7)", env=environment, capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (0, "42\n")


def test_two_forks_have_different_dice() -> None:
    commands = [python("import random, secrets; print(random.random())") for _ in range(2)]
    assert len({forking.run(command).stdout for command in commands}) == 2
