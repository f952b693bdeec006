"""One connection of the HTTP/1.1 client, as an asyncio protocol, and the tunnel that a proxy opens."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

import httptools

from tokenferry_worker.provider.exchange import MOST_BODY, MOST_HEAD, Exchanged, NoAnswer


class Link(asyncio.Protocol):
    """A connection that carries one exchange at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Exchanged] | None = None
        self._closed = False
        self._headers: dict[str, str] = {}
        self._begin()

    @property
    def reusable(self) -> bool:
        """True if the next request may use it."""
        return not self._closed and self._answer is None and self._transport is not None

    def exchange(self, request: bytes) -> asyncio.Future[Exchanged]:
        """Send *request*. The future is the answer; it fails with `NoAnswer`."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._begin()
        self._transport.write(request)
        return self._answer

    def fail(self, reason: str) -> None:
        """End the exchange without an answer, and the connection with it."""
        self.close()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(NoAnswer(reason))

    def close(self) -> None:
        """Close the connection at once."""
        self._closed = True
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's transport can write

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            self.close()  # bytes that nobody asked for: an answer to come could not be told from them
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.fail("RemoteProtocolError")
        except httptools.HttpParserError:
            self.fail(self._trouble or "RemoteProtocolError")

    def eof_received(self) -> bool:
        self._closed = True
        return False  # the transport closes itself, and `connection_lost` follows

    def connection_lost(self, error: Exception | None) -> None:
        self._closed = True
        if self._answer is not None and error is None and self._ends_with_the_connection():
            self._finish()
        else:
            self.fail("ReadError" if error is not None else "RemoteProtocolError")
        self._parser = None  # it holds this object

    # -- httptools

    def on_status(self, _: bytes) -> None:
        pass

    def on_header(self, name: bytes, value: bytes) -> None:
        self._grow(len(name) + len(value) + 4)
        if not self._headed:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._headed = True
        if self._headers.get("content-encoding", "identity").lower() != "identity":
            self._refuse("DecodingError")

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > MOST_BODY:
            self._refuse("AnswerTooLong")
        self._body.append(body)

    def on_message_begin(self) -> None:
        self._grow(16)
        if self._finished:
            self._refuse("RemoteProtocolError")

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200:  # an interim answer: the real one follows
            self._headers, self._headed = {}, False
            return
        self._finished = True
        self._finish()

    # -- inside

    def _begin(self) -> None:
        self._headers = {}
        self._headed = False
        self._body: list[bytes] = []
        self._size = 0
        self._head_size = 0
        self._finished = False
        self._trouble = ""

    def _grow(self, size: int) -> None:
        self._head_size += size
        if self._head_size > MOST_HEAD:
            self._refuse("AnswerTooLong")

    def _refuse(self, reason: str) -> None:
        """End the parsing from within a callback: the parser turns an exception into its own."""
        self._trouble = reason
        raise ValueError(reason)

    def _ends_with_the_connection(self) -> bool:
        """True if the answer has begun, and says no length: its end is the end of the connection."""
        headers = self._headers
        return self._headed and "content-length" not in headers and "transfer-encoding" not in headers

    def _finish(self) -> None:
        answer, self._answer = self._answer, None
        if not self._parser.should_keep_alive():
            self.close()
        if answer is not None and not answer.done():
            answer.set_result(Exchanged(self._parser.get_status_code(), self._headers, b"".join(self._body)))


OPENED: Final = 200
"""The status with which a proxy opens a tunnel."""


class Tunnel(asyncio.Protocol):
    """The first bytes of a connection to a proxy."""

    def __init__(self) -> None:
        self.answered: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        """The status of the proxy's answer; None where it is none. Bytes behind the answer spoil it: we speak first."""
        self._head = b""

    def data_received(self, data: bytes) -> None:
        self._head += data
        if b"\r\n\r\n" in self._head or len(self._head) > MOST_HEAD:
            self._settle(_status(self._head))

    def connection_lost(self, error: Exception | None) -> None:
        self._settle(None)

    def _settle(self, status: int | None) -> None:
        if not self.answered.done():
            self.answered.set_result(status)


def _status(head: bytes) -> int | None:
    found = re.match(rb"HTTP/1\.[01] ([0-9]{3})[ \r]", head)
    return int(found[1]) if found and head.endswith(b"\r\n\r\n") else None
