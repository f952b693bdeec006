"""A worker one of whose processes can be harmed: the first that finds the file that SABOTAGE names, and how in it."""

from __future__ import annotations

import ctypes
import gc
import os
import runpy
import sys
import threading
import time
from pathlib import Path
from typing import Any

import forking

PROGRAM = [sys.executable, "-c", "from e2e.saboteur import supervise; supervise()"]
"""The command line whose workers can be harmed."""


class Harmed(forking.Forked):
    """A worker process that looks for the file as well."""

    def __init__(self, command: list[str], **options: Any) -> None:
        assert command[1:3] == ["-m", "tokenferry_worker"]
        super().__init__([sys.executable, "-c", "from e2e.saboteur import work; work()", *command[3:]], **options)


def supervise() -> None:
    from tokenferry.cli import main

    main(prog_name="tokenferry", obj=Harmed)


def work() -> None:
    threading.Thread(target=_lurk, args=(Path(os.environ["SABOTAGE"]),), daemon=True).start()
    runpy.run_module("tokenferry_worker", run_name="__main__", alter_sys=True)


def _lurk(order: Path) -> None:
    from kombu.asynchronous import get_event_loop

    from tokenferry_worker.engine.consumer import CarefulConsumer
    from tokenferry_worker.engine.pool import AsyncioPool

    while not order.exists():
        time.sleep(0.05)
    kind = order.read_text()
    hub = get_event_loop()
    (pool,) = [one for one in gc.get_objects() if isinstance(one, AsyncioPool)]
    (consumer,) = [one for one in gc.get_objects() if isinstance(one, CarefulConsumer)]

    def hear_nothing_more() -> None:
        consumer.task_consumer.cancel()
        order.unlink()

    if kind == "deaf":
        hub.call_soon(hear_nothing_more)
        return
    order.unlink()
    match kind:
        case "consumer":
            hub.call_soon(time.sleep, 600)
        case "loop":
            pool._loop.call_soon_threadsafe(time.sleep, 600)
        case "everything":
            ctypes.PyDLL(None).sleep(600)  # and keeps the interpreter's lock
