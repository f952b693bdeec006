"""Our HTTP/1.1 client: whatever a server sends or leaves out, an answer is that of its own call, or there is none.

The other client, httpx, is the judge: where both get an answer, they get the same one.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tokenferry_worker.provider.exchange import MOST_BODY, Exchange, Exchanged, NoAnswer
from tokenferry_worker.provider.exchanges import exchange_with
from tokenferry_worker.provider.over_http11 import Http11Exchange
from tokenferry_worker.provider.over_httpx import HttpxExchange
from tokenferry_worker.provider.way import DIRECT

pytestmark = pytest.mark.anyio

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
SECRET = "4000" + "0000" + "0000" + "0002"


@asynccontextmanager
async def served(serve: Serve) -> AsyncIterator[str]:
    """The URL of a server that handles every connection with *serve*."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def own(url: str, *, connections: int = 4, read_timeout: float = 5.0) -> Http11Exchange:
    return Http11Exchange(url, DIRECT, connections=connections, read_timeout=read_timeout, connect_timeout=5.0)


async def request_of(reader: asyncio.StreamReader) -> tuple[dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    return headers, await reader.readexactly(int(headers["content-length"]))


def answer(body: bytes = b'{"id": "tok_1"}', *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def always(raw: bytes, *, then_close: bool = False) -> Serve:
    """Answer every request of a connection with the same bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request_of(reader)
            writer.write(raw)
            await writer.drain()
            if then_close:
                return

    return serve


async def call(exchange: Exchange, key: str = "key-1", body: bytes = SECRET.encode()) -> Exchanged | str:
    """The answer to one call, or why there is none: `reason`, with `!` where it may have been done."""
    try:
        return await exchange.send("POST", "/v1/tokens", {"Idempotency-Key": key}, body)
    except NoAnswer as error:
        told = f"{error!r} {error}"
        return "the number is in the error" if SECRET in told else error.reason + ("!" if error.maybe_done else "")


WHOLE = {
    "plain": answer(),
    "empty": answer(b""),
    "chunked": b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"a":\r\n2;x=y\r\n1}\r\n0\r\n\r\n',
    "trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2\r\n{}\r\n0\r\nX: 1\r\n\r\n",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answer(),
    "closing": answer(b"{}", "Connection: close"),
    "old": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "no reason": b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n{}",
    "refused": answer(b'{"error": {}}', status="402 Payment Required"),
}


@pytest.mark.parametrize("name", WHOLE)
async def test_both_clients_read_every_form_of_an_answer_alike(name: str) -> None:
    async with served(always(WHOLE[name], then_close=name in ("closing", "old"))) as url:
        seen = []
        for http in ("own", "httpx"):
            exchange = exchange_with(url, http=http, connections=2, read_timeout=5, connect_timeout=5)  # type: ignore[arg-type]
            got = [await call(exchange) for _ in range(3)]
            assert all(isinstance(each, Exchanged) for each in got), (http, got)
            seen.append([(each.status, each.body) for each in got if isinstance(each, Exchanged)])
            await exchange.aclose()
        assert seen[0] == seen[1]


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    async with served(always(b"HTTP/1.1 200 OK\r\n\r\n{}", then_close=True)) as url:
        exchange = own(url)
        got = await call(exchange)
        assert isinstance(got, Exchanged)
        assert got.body == b"{}"
        await exchange.aclose()


@pytest.mark.parametrize("name", ["plain", "chunked", "interim"])
async def test_a_connection_that_is_cut_at_any_byte_of_an_answer_gives_no_answer_that_may_have_been_done(
    name: str,
) -> None:
    whole = WHOLE[name]
    for cut in range(len(whole)):
        async with served(always(whole[:cut], then_close=True)) as url:
            exchange = own(url)
            got = await call(exchange)
            assert isinstance(got, str), (name, cut, got)
            assert got.endswith("!"), (name, cut, got)
            await exchange.aclose()


async def test_a_connection_that_is_cut_at_any_byte_of_a_request_may_have_carried_it() -> None:
    length = 0

    async def measure(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal length
        raw = await reader.readuntil(b"\r\n\r\n")
        length = len(raw) + len(SECRET)
        writer.write(answer(b"", "Connection: close"))

    async with served(measure) as url:
        exchange = own(url)
        await call(exchange)
        await exchange.aclose()
    assert length > 80
    for cut in range(0, length, 7):

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: int = cut) -> None:
            await reader.readexactly(cut)
            writer.transport.abort()

        async with served(serve) as url:
            exchange = own(url)
            got = await call(exchange)
            assert got in ("ReadError!", "RemoteProtocolError!"), (cut, got)
            await exchange.aclose()


async def test_many_calls_at_once_each_get_their_own_answer() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            headers, body = await request_of(reader)
            await asyncio.sleep(random.random() / 100)
            writer.write(answer(body, f"Idempotency-Key: {headers['idempotency-key']}"))
            await writer.drain()

    async with served(serve) as url:
        exchange = own(url, connections=20)
        got = await asyncio.gather(*(call(exchange, f"k{n}", f"body {n}".encode()) for n in range(500)))
        assert [each.body for each in got if isinstance(each, Exchanged)] == [f"body {n}".encode() for n in range(500)]
        await exchange.aclose()


async def test_a_call_that_is_cancelled_takes_its_connection_with_it() -> None:
    asked = asyncio.Event()
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            _, body = await request_of(reader)
            if body == b"slow":
                asked.set()
                await asyncio.sleep(0.05)
            writer.write(answer(body))
            await writer.drain()

    async with served(serve) as url:
        exchange = own(url, connections=1)
        slow = asyncio.ensure_future(call(exchange, body=b"slow"))
        await asked.wait()
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        got = await call(exchange, body=b"next")
        assert isinstance(got, Exchanged)
        assert (got.body, connections) == (b"next", 2)
        await exchange.aclose()


async def test_the_answer_of_another_call_is_believed_by_nobody() -> None:
    async with served(always(answer(b"{}", "Idempotency-Key: another"))) as url:
        exchange = own(url)
        assert await call(exchange) == "AnswerOfAnotherCall!"
        await exchange.aclose()


async def test_a_second_answer_that_nobody_asked_for_is_not_given_to_the_next_call() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, body = await request_of(reader)
        writer.write(answer(body) + answer(b"stale"))
        await writer.drain()
        _, body = await request_of(reader)
        writer.write(answer(body))
        await writer.drain()

    async with served(serve) as url:
        exchange = own(url, connections=1)
        for body in (b"first", b"second", b"third"):
            got = await call(exchange, body=body)
            assert isinstance(got, Exchanged)
            assert got.body == body
        await exchange.aclose()


async def test_a_kept_connection_that_the_server_has_closed_is_not_used_again() -> None:
    async with served(always(answer(), then_close=True)) as url:
        exchange = own(url, connections=1)
        for _ in range(5):
            assert isinstance(await call(exchange), Exchanged)
            await asyncio.sleep(0.01)  # the end of the connection arrives
        await exchange.aclose()


@pytest.mark.parametrize("http", ["own", "httpx"])
@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(answer(b"x" * (MOST_BODY + 1)), id="long"),
        pytest.param(answer(b"", "X: " + "y" * 80_000), id="long header"),
        pytest.param(answer(b"\x1f\x8b" + b"0" * 50, "Content-Encoding: gzip"), id="encoded"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", id="upgrade"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", id="two lengths"),
        pytest.param(b"220 mail.example.com ESMTP\r\n", id="another protocol"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100, id="TLS"),
        pytest.param(b"\0" * 2000, id="zeros"),
    ],
)
async def test_an_answer_that_is_none_may_have_been_done(http: str, raw: bytes) -> None:
    async with served(always(raw, then_close=True)) as url:
        exchange = exchange_with(url, http=http, connections=2, read_timeout=2, connect_timeout=5)  # type: ignore[arg-type]
        got = await call(exchange)
        assert isinstance(got, str), got
        assert got.endswith("!"), got
        await exchange.aclose()


async def test_a_drip_of_bytes_does_not_outlast_the_time_of_a_call() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with served(serve) as url:
        exchange = own(url, read_timeout=0.2)
        assert await asyncio.wait_for(call(exchange), 3) == "ReadTimeout!"
        await exchange.aclose()


async def test_interim_answers_without_end_are_bounded() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        while True:
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100)
            await writer.drain()

    async with served(serve) as url:
        exchange = own(url)
        assert await call(exchange) == "AnswerTooLong!"
        await exchange.aclose()


@pytest.mark.parametrize("bad", [("Stripe-Account", "a\r\nX-Evil: 1"), ("X", "a\nb"), ("X\r\nY", "a"), ("X", "\u20ac")])
async def test_no_header_can_be_smuggled(bad: tuple[str, str]) -> None:
    exchange = own("http://127.0.0.1:1")
    with pytest.raises(NoAnswer) as refused:
        await exchange.send("POST", "/v1/tokens", dict([bad]), b"")
    assert (refused.value.reason, refused.value.maybe_done) == ("LocalProtocolError", False)


async def test_without_a_free_connection_a_call_waits_and_was_not_sent() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with served(serve) as url:
        exchange = own(url, connections=1, read_timeout=0.3)
        first, second = await asyncio.gather(call(exchange), call(exchange))
        assert first == "ReadTimeout!"
        assert second in ("PoolTimeout", "ReadTimeout!")
        await exchange.aclose()


def mutated(chance: random.Random) -> bytes:
    """An answer that is broken in one of many ways."""
    raw = bytearray(chance.choice(list(WHOLE.values())))
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(raw) + 1)
        match chance.randrange(5):
            case 0 if raw:
                del raw[place : place + chance.randint(1, 20)]
            case 1:
                raw[place:place] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 20)))
            case 2 if place < len(raw):
                raw[place] ^= 1 << chance.randrange(8)
            case 3:
                raw[place:place] = chance.choice(
                    [b"\r\n", b"\r\n\r\n", b": ", b"0\r\n", b"HTTP/1.1 ", b"-1", b"9" * 30]
                )
            case _:
                raw += raw[: chance.randrange(len(raw) + 1)]
    return bytes(raw)


async def test_generated_answers_are_the_calls_own_or_none() -> None:
    """5,000 broken answers, each followed by a call whose answer is known."""
    chance = random.Random(7)
    broken = b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            headers, body = await request_of(reader)
            if body == b"broken":
                for part in (broken[: len(broken) // 2], broken[len(broken) // 2 :]):
                    writer.write(part)
                    await writer.drain()
                if len(broken) % 3 == 0:
                    return
            else:
                writer.write(answer(body, f"Idempotency-Key: {headers['idempotency-key']}"))
                await writer.drain()

    async with served(serve) as url:
        exchange = own(url, connections=1, read_timeout=0.02)
        careful = own(url, connections=1)
        tracemalloc.start()
        wrong = []
        for n in range(5000):
            broken = mutated(chance)
            got = await call(exchange, f"key-{n}", b"broken")
            if isinstance(got, str) and not got.endswith("!"):
                wrong.append((n, got))
            if n % 10 == 0:
                after = await call(careful, f"key-{n}", json.dumps(n).encode())
                if not isinstance(after, Exchanged) or after.body != json.dumps(n).encode():
                    wrong.append((n, str(after)))
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        await exchange.aclose()
        await careful.aclose()
    assert wrong == []
    assert held < 20 << 20


async def test_the_client_of_tools_is_httpx() -> None:
    exchange = exchange_with("http://127.0.0.1:1", http="httpx", connections=1, read_timeout=1, connect_timeout=1)
    assert isinstance(exchange, HttpxExchange)
    await exchange.aclose()
