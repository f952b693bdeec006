"""The endpoint of the bench: lighter than everything that calls it, so that it is not what is measured.

A process of its own: an asyncio protocol on llhttp's parser (httptools) and uvloop. It answers every call after the
same time, on connections that stay open, with a canned object under an id of its own. It speaks over its standard
streams: `listening PORT`, then `mark COUNT` when that many POSTs of the counted path have been answered. When its input
ends it prints a report and ends.

    python -m bench.endpoint --latency-ms 200 --count /v1/tokens --marks 100,1100
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from typing import Any

import httptools
import uvloop

LETTERS = "abcdefghijklmnopqrstuvwxyz"
CARD: dict[str, object] = {
    "id": "card_bench",
    "object": "card",
    "brand": "Visa",
    "country": "US",
    "exp_month": 12,
    "exp_year": 2034,
    "fingerprint": "Xt5EWLLDS7FJjR1c",
    "funding": "credit",
    "last4": "4242",
    "name": "Jenny Rosen",
    **dict.fromkeys(("address_city", "address_country", "address_line1", "address_line2", "address_state")),
    **dict.fromkeys(("address_zip", "cvc_check", "address_line1_check", "address_zip_check", "dynamic_last4")),
    "metadata": {},
}
BANK: dict[str, object] = {
    "id": "ba_bench",
    "object": "bank_account",
    "bank_name": "BENCH",
    "country": "US",
    "last4": "6789",
}
NOW = int(time.time())
"""When every object was made: tokens that are too old are not spent."""
TOKEN = {"object": "token", "client_ip": "127.0.0.1", "created": NOW, "livemode": False, "used": False}
REFUSAL: dict[str, object] = {
    "error": {"type": "invalid_request_error", "code": "resource_missing", "message": "No such object"}
}
HOLE = "@" * 14
"""Where the id of an object goes: always as long, so that the head of an answer never changes."""


def _answer(prefix: str, content: dict[str, object], status: str = "200 OK") -> tuple[bytes, bytes]:
    """An answer in two halves; between them goes the id."""
    body = json.dumps({"id": prefix + HOLE, **content}, separators=(",", ":"))
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Request-Id: req_bench\r\nConnection: keep-alive\r\n\r\n"
    )
    before, _, after = (head + body).partition(HOLE)
    return before.encode(), after.encode()


TOKENS = {
    b"card": _answer("tok_", {**TOKEN, "type": "card", "card": CARD}),
    b"bank_account": _answer("btok_", {**TOKEN, "type": "bank_account", "bank_account": BANK}),
    **{
        kind.encode(): _answer(f"{prefix}_", {**TOKEN, "type": kind})
        for kind, prefix in (("pii", "pii"), ("account", "ct"), ("person", "cpt"), ("cvc_update", "cvctok"))
    },
}
OBJECTS = {
    b"customers": _answer("cus_", {"object": "customer", "created": NOW, "default_source": "card_bench"}),
    b"accounts": _answer("acct_", {"object": "account", "requirements": {"currently_due": []}}),
    b"persons": _answer("person_", {"object": "person"}),
    b"external_accounts": _answer("ba_", BANK | {"id": f"ba_{HOLE}"}),
}
MISSING = _answer("", REFUSAL, "404 Not Found")


def unique(number: int) -> str:
    """A different id for each number, in letters: 14 of them.

    >>> unique(27)
    'aaaaaaaaaaaabb'
    """
    letters = []
    for _ in HOLE:
        number, digit = divmod(number, 26)
        letters.append(LETTERS[digit])
    return "".join(reversed(letters))


class Counter:
    """What was answered, and when."""

    def __init__(self, path: str, marks: list[int]) -> None:
        """*path*: whose POSTs are counted; empty: all. *marks*: counts to tell of, in order."""
        self.path = path.encode()
        self.marks = marks
        self.made = 0
        self.answered = 0
        self.posts = 0
        self.calls: list[tuple[str, float, float]] = []
        """Of each counted call: id of the object, when the request was there, when the answer was written."""

    def add(self, made: str, arrived: float) -> None:
        """Count an answer."""
        self.answered += 1
        self.calls.append((made, arrived, time.monotonic()))
        if self.marks and self.answered == self.marks[0]:
            print("mark", self.marks.pop(0), flush=True)


class Connection(asyncio.Protocol):
    """One connection that stays open."""

    def __init__(self, counter: Counter, latency: float, loop: asyncio.AbstractEventLoop) -> None:
        self.counter, self.latency, self.loop = counter, latency, loop
        self.url = self.body = b""
        self.parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        url, body, posted = self.url, self.body, self.parser.get_method() == b"POST"
        self.url = self.body = b""
        last = url.rpartition(b"/")[2]
        if url == b"/v1/tokens":
            kind = re.match(rb"\w*", body)
            halves = TOKENS.get(kind[0] if kind else b"", MISSING)
        elif not posted and url.startswith(b"/v1/accounts/"):
            halves = OBJECTS[b"accounts"]
        else:
            # An id at the end is an update of that object.
            halves = OBJECTS.get(last) or OBJECTS.get(url.split(b"/")[-2], MISSING)
        arrived = time.monotonic()
        if not posted:
            self.answer(MISSING if url.startswith(b"/v1/tokens") else halves, "", arrived)
            return
        self.counter.posts += 1
        counted = not self.counter.path or url == self.counter.path
        self.loop.call_later(self.latency, self.answer, halves, "counted" if counted else "", arrived)

    def answer(self, halves: tuple[bytes, bytes], counted: str, arrived: float) -> None:
        """Write the answer, unless the caller has gone."""
        before, after = halves
        self.counter.made += 1
        made = unique(self.counter.made)
        if self.transport.is_closing():
            return
        self.transport.write(before + made.encode() + after)
        if counted:
            self.counter.add(made, arrived)


async def serve(latency: float, counter: Counter) -> None:
    """Answer until standard input ends, then report."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(counter, latency, loop), "127.0.0.1", 0, backlog=2048)
    print("listening", server.sockets[0].getsockname()[1], flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    cpu = time.process_time()
    await reader.read()
    used = time.process_time() - cpu
    print(json.dumps({"posts": counter.posts, "cpu": used, "calls": counter.calls}), flush=True)


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency-ms", type=float, default=200.0)
    parser.add_argument("--count", default="/v1/tokens", help="path whose POSTs are counted; empty: all of them")
    parser.add_argument("--marks", default="", help="counts to tell of, with commas between them")
    options = parser.parse_args()
    marks = [int(mark) for mark in options.marks.split(",") if mark]
    uvloop.run(serve(options.latency_ms / 1000, Counter(options.count, marks)))


if __name__ == "__main__":
    main()
