"""A line in front of a server, for one client to be hurt on: passes bytes on, until it is told to do worse."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

Direction = Literal["asked", "answered"]
OVERLAP: Final = 120
"""Bytes kept of what went before, so that words which arrive in two pieces are still recognised."""


@dataclass
class Trap:
    """Stops a connection at the *nth* sight of *words*, *before* they pass or just *after*: then nothing more passes.

    After means: the question goes on and the server acts, but the answer to it never arrives.
    """

    words: re.Pattern[bytes]
    nth: int = 1
    direction: Direction = "asked"
    after: bool = False
    sprung: threading.Event = field(default_factory=threading.Event)
    seen: int = 0

    def look(self, data: bytes, fresh_from: int) -> int | None:
        """Where in *data* the words end (after) or begin (before), if this is the time."""
        for match in self.words.finditer(data):
            if match.end() > fresh_from:
                self.seen += 1
                if self.seen == self.nth:
                    return match.end() if self.after else match.start()
        return None


class Wire:
    """One connection through the line."""

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.free.set()
        self.writers: list[asyncio.StreamWriter] = []


class Line:
    """A port on loopback in front of *to*, a TCP address or a Unix socket. Its loop runs in a thread of its own."""

    def __init__(self, to: tuple[str, int] | Path) -> None:
        self._to = to
        self._traps: list[Trap] = []
        self._wires: set[Wire] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._bytes_per_second: float | None = None
        self._swallows = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faults-line", daemon=True)
        self._thread.start()
        self._reserved = _bound(0)  # never listens: it keeps the port while the line refuses connections
        self.port = int(self._reserved.getsockname()[1])
        self._run(self._listen())

    # -- what a test may say

    def set_trap(self, trap: Trap) -> Trap:
        """Wait for *trap*."""
        self._traps.append(trap)
        return trap

    def swallow(self) -> None:
        """Pass nothing on from now on, and say nothing: a black hole. New connections are accepted, and starve."""
        self._loop.call_soon_threadsafe(self._hold)

    def throttle(self, bytes_per_second: float | None) -> None:
        """Pass so much in each direction of each connection; None: all there is."""
        self._bytes_per_second = bytes_per_second

    def release(self) -> None:
        """Pass everything on again, what was held up first."""
        self._traps.clear()
        self._bytes_per_second = None
        self._loop.call_soon_threadsafe(self._let_go)

    def lead(self, to: tuple[str, int] | Path) -> None:
        """Lead to another server from now on, as a name does after a failover. The connections there are stay."""
        self._to = to

    def cut(self) -> None:
        """Reset every connection there is."""
        self._loop.call_soon_threadsafe(self._reset)

    def refuse(self) -> None:
        """Refuse every new connection, and reset those there are: nobody listens any more."""
        self._run(self._shut())

    def accept(self) -> None:
        """Listen on the same port again."""
        self._run(self._listen())

    def close(self) -> None:
        """Cut everything and be gone."""
        self._run(self._end())
        self._reserved.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    # -- the loop's thread

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(10.0)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=_bound(self.port), backlog=200)

    async def _shut(self) -> None:
        self._server.close()
        self._reset()

    async def _end(self) -> None:
        await self._shut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _hold(self) -> None:
        self._swallows = True
        for wire in self._wires:
            wire.free.clear()

    def _let_go(self) -> None:
        self._swallows = False
        for wire in self._wires:
            wire.free.set()

    def _reset(self) -> None:
        for wire in self._wires:
            for writer in wire.writers:
                writer.transport.abort()
            wire.free.set()

    async def _serve(self, near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        if not self._server.is_serving():  # accepted just before the line began to refuse
            to_near.transport.abort()
            return
        wire = Wire()
        wire.writers.append(to_near)
        self._wires.add(wire)
        me = asyncio.current_task()
        assert me is not None
        self._tasks.add(me)
        try:
            if self._swallows:
                wire.free.clear()
            await wire.free.wait()
            if isinstance(self._to, Path):
                far, to_far = await asyncio.open_unix_connection(str(self._to))
            else:
                far, to_far = await asyncio.open_connection(*self._to)
            wire.writers.append(to_far)
            pumps = [
                asyncio.create_task(self._pump(wire, near, to_far, "asked")),
                asyncio.create_task(self._pump(wire, far, to_near, "answered")),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the server is away, or the line: the client learns it by the end of its connection
        finally:
            for writer in wire.writers:
                writer.close()
            self._wires.discard(wire)
            self._tasks.discard(me)

    async def _pump(
        self, wire: Wire, source: asyncio.StreamReader, target: asyncio.StreamWriter, direction: Direction
    ) -> None:
        before = b""
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                await wire.free.wait()
                known = before + data
                stop = self._stop_at(known, len(before), direction)
                if stop is not None:
                    at, trap = stop
                    cut = max(0, at - len(before))
                    # After: the whole question goes on and its answer is held. Before: not one byte of the words.
                    wire.free.clear()
                    if trap.after:
                        target.write(data)
                        data = b""
                    else:
                        target.write(data[:cut])
                        data = data[cut:]
                    await target.drain()
                    trap.sprung.set()
                    await wire.free.wait()
                before = known[-OVERLAP:]
                await self._write(target, data)

    def _stop_at(self, data: bytes, fresh_from: int, direction: Direction) -> tuple[int, Trap] | None:
        for trap in self._traps:
            if trap.direction == direction and not trap.sprung.is_set():
                at = trap.look(data, fresh_from)
                if at is not None:
                    return at, trap
        return None

    async def _write(self, target: asyncio.StreamWriter, data: bytes) -> None:
        while data:
            rate = self._bytes_per_second
            piece = data if rate is None else data[: max(1, int(rate / 20))]
            target.write(piece)
            await target.drain()
            data = data[len(piece) :]
            if data:
                await asyncio.sleep(0.05)


def _bound(port: int) -> socket.socket:
    """A socket bound to *port* on loopback, 0 for a free one. Several may share it; those that listen get the calls."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind(("127.0.0.1", port))
    return one
