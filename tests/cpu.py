"""Run a command and say at its end how much processor time it and all its descendants took.

    python tests/cpu.py COMMAND...

Orphans (daemons, children of who was killed) become ours on Linux, and are counted when they end. Not counted: servers
that somebody else started (a shared Redis or RabbitMQ), and what still runs when the command has ended.
"""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
import time
from contextlib import suppress

PR_SET_CHILD_SUBREAPER = 36


def main(command: list[str]) -> int:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    began = time.monotonic()
    process = subprocess.Popen(command)
    while True:
        try:
            pid, status = os.wait()
        except KeyboardInterrupt:  # the command has heard it as well
            continue
        if pid == process.pid:
            break
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = used.ru_utime + used.ru_stime
    print(f"{seconds:.0f} s of CPU in the process tree, {time.monotonic() - began:.0f} s on the clock", flush=True)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
