"""Opens the HTTP client that the configuration names."""

from __future__ import annotations

from typing import Literal

from tokenferry_worker.provider.exchange import Exchange
from tokenferry_worker.provider.over_http11 import Http11Exchange
from tokenferry_worker.provider.way import DIRECT, Way


def exchange_with(
    base_url: str,
    *,
    http: Literal["own", "httpx"] = "own",
    way: Way = DIRECT,
    connections: int,
    read_timeout: float,
    connect_timeout: float,
) -> Exchange:
    """Return a client of *base_url*. Time-outs in seconds. *connections*: calls that may be in flight at once."""
    url = base_url.rstrip("/")
    if http == "own":
        return Http11Exchange(
            url, way, connections=connections, read_timeout=read_timeout, connect_timeout=connect_timeout
        )
    from tokenferry_worker.provider.over_httpx import HttpxExchange  # 25 MB that others do not need

    return HttpxExchange(url, way, connections=connections, read_timeout=read_timeout, connect_timeout=connect_timeout)
