"""Starting a server program: one that outlives us, or one that dies with us."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from tokenferry.owned_files import open_owned

from .home import Home

_DIE_WITH_PARENT = """\
import ctypes, os, sys
PR_SET_PDEATHSIG, SIGTERM = 1, 15
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
"""Asks Linux for SIGTERM at the death of the parent, then becomes the server, unless the parent has died already.
A program of its own, because Python code between fork and exec is not safe in a process with threads."""


def start(home: Home, lock: int, program: Path, *, owner: bool) -> None:
    """Start *program* with a copy of the lock, and do not wait for its first answer.

    It gets none of our environment: a server that outlives us must not keep our secrets in its process table entry.
    """
    home.configure()
    with os.fdopen(open_owned(home.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab") as log:
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
        else:
            # The server detaches itself from the process we start, so that no zombie of it is ever left with us.
            # The lock and the socket show whether it came up.
            subprocess.run([*command, "--daemonize", "yes"], check=False, **how)


def _start_owned(command: list[str], how: dict[str, Any]) -> None:
    """Start a server that dies with us.

    The kernel watches the *thread* that started a process, not the whole parent. So one thread only starts the server
    and waits for it; that leaves no zombie either.
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
