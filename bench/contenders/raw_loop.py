"""The floor: an asyncio loop on raw sockets. It takes, opens, posts and publishes, and is safe against nothing.

What it has taken is lost when it dies, an answer that is not the expected one ends it, and it knows no limit.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import hiredis
import redis
import uvloop
from redis.asyncio import Redis

from bench.contenders.arrivals import WARM, Arrivals
from bench.contenders.listed import RESULTS, collect, result, watch
from bench.contenders.sealed import opened, sealed

SERVER, ENDPOINT = urlsplit(os.environ["BENCH_SERVER"]), urlsplit(os.environ["BENCH_ENDPOINT"])
REQUESTS = "requests"
ID = 32
"""Characters of a request's id, in front of its envelope."""
HEAD = (
    f"POST /v1/tokens HTTP/1.1\r\nHost: {ENDPOINT.netloc}\r\nAuthorization: Bearer {os.environ['BENCH_KEY']}\r\n"
    "Content-Type: application/x-www-form-urlencoded\r\n"
)


class Wire(asyncio.Protocol):
    """A connection to Redis: commands go out as they come, answers come back in order."""

    def __init__(self) -> None:
        self.reader = hiredis.Reader()
        self.waiting: list[asyncio.Future[Any]] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        while (said := self.reader.gets()) is not False:
            self.waiting.pop(0).set_result(said)

    def connection_lost(self, error: Exception | None) -> None:
        for future in self.waiting:
            future.set_exception(error or ConnectionError("Redis has closed the connection"))

    def ask(self, *words: object) -> asyncio.Future[Any]:
        """Send a command: its answer, later."""
        self.transport.write(hiredis.pack_command(words))
        self.waiting.append(asyncio.get_running_loop().create_future())
        return self.waiting[-1]


class Call(asyncio.Protocol):
    """A connection to the endpoint, for one call at a time."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] | None = None
        self.read = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.read += data
        head, _, body = self.read.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or -1)
        if self.answer is not None and len(body) == length:
            if not head.startswith(b"HTTP/1.1 200"):
                raise SystemExit("the endpoint refuses")
            self.answer.set_result(body)

    async def post(self, request: str, form: str) -> bytes:
        """The body of the answer."""
        self.read, self.answer = b"", asyncio.get_running_loop().create_future()
        head = f"{HEAD}Idempotency-Key: {request}\r\nContent-Length: {len(form)}\r\n\r\n{form}"
        self.transport.write(head.encode())
        return await self.answer


async def wire() -> Wire:
    """Connect to the contender's Redis."""
    connected: Wire
    loop = asyncio.get_running_loop()
    _, connected = await loop.create_connection(Wire, SERVER.hostname, SERVER.port)
    await connected.ask("AUTH", SERVER.password)
    return connected


async def work(in_flight: int) -> None:
    """Take requests, so many at a time, for ever."""
    loop = asyncio.get_running_loop()
    taking, publishing = await wire(), await wire()
    idle = [(await loop.create_connection(Call, ENDPOINT.hostname, ENDPOINT.port))[1] for _ in range(in_flight)]
    freed, tasks = asyncio.Event(), set[asyncio.Task[None]]()
    results: list[str] = []

    def publish() -> None:
        publishing.ask("RPUSH", RESULTS, *results)
        results.clear()

    async def one(call: Call, taken: bytes) -> None:
        request = taken[:ID].decode()
        body = await call.post(request, opened(taken[ID:]))
        if not results:
            loop.call_soon(publish)  # with those that arrive in the same turn of the loop
        results.append(result(request, json.loads(body)["id"]))
        idle.append(call)
        freed.set()

    while True:
        if not idle:
            freed.clear()
            await freed.wait()
        answer = await taking.ask("BLMPOP", 1, 1, REQUESTS, "LEFT", "COUNT", len(idle))
        if isinstance(answer, Exception):
            raise SystemExit(str(answer))
        for taken in answer[1] if answer else ():
            task = asyncio.create_task(one(idle.pop(), taken))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


def request() -> tuple[str, bytes]:
    """The id of a new request, and what is put into the list."""
    id_ = uuid4().hex
    return id_, id_.encode() + sealed()


async def latency(rate: float, count: int, seed: int) -> str:
    """Random arrivals; a result is seen when it is popped."""
    arrivals = Arrivals()
    async with Redis.from_url(SERVER.geturl(), max_connections=WARM) as client:

        async def send() -> str:
            id_, content = request()
            await client.rpush(REQUESTS, content)
            return id_

        watching = asyncio.create_task(watch(SERVER.geturl(), arrivals))
        await arrivals.run(send, rate=rate, count=count, seed=seed)
        watching.cancel()
    return arrivals.report()


def main() -> None:
    """Do what the first argument says."""
    verb, count = sys.argv[1], int(sys.argv[2])
    match verb:
        case "work":
            uvloop.run(work(count))
        case "feed":
            client = redis.Redis.from_url(SERVER.geturl())
            for _ in range(count):
                client.rpush(REQUESTS, request()[1])
        case "collect":
            print(collect(SERVER.geturl(), count))
        case "latency":
            print(asyncio.run(latency(float(sys.argv[3]), count, int(sys.argv[4]))))


if __name__ == "__main__":
    main()
