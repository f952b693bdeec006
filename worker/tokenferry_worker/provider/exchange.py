"""One request over HTTP and its answer: what the two clients have in common.

Bounds hold for both: what answers is input, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

MOST_BODY: Final = 4 << 20
"""Bytes of an answer, at most. Stripe's largest objects are some 100 kB."""
MOST_HEAD: Final = 64 << 10
"""Bytes of status line and headers, at most, interim answers and trailers included."""


@dataclass(frozen=True)
class Exchanged:
    """An answer. Prints its status only."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case."""
    body: bytes = field(repr=False)


class NoAnswer(Exception):
    """There is no usable answer. The text is a fixed word, and never holds bytes of request or answer."""

    def __init__(self, reason: str, *, maybe_done: bool = True) -> None:
        """*maybe_done*: False only where it is proven that nothing of the request was sent."""
        super().__init__(reason)
        self.reason = reason
        self.maybe_done = maybe_done


class NotTrusted(NoAnswer):
    """The certificate of what answers does not verify: somebody may stand between. Nothing was sent."""

    def __init__(self) -> None:
        super().__init__("CertificateNotTrusted", maybe_done=False)


class ProxyAway(NoAnswer):
    """The proxy does not answer. Nothing was sent."""

    def __init__(self) -> None:
        super().__init__("ProxyError", maybe_done=False)


class ProxyError(NoAnswer):
    """The proxy opens no tunnel to Stripe. Nothing was sent."""

    def __init__(self, status: int | None) -> None:
        """*status*: with which it answers. None: it does not speak HTTP."""
        super().__init__("ProxyError", maybe_done=False)
        self.status = status


class Exchange(Protocol):
    """Sends requests to one base URL."""

    async def send(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Exchanged:
        """Exchange one request. Raises `NoAnswer`."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...
