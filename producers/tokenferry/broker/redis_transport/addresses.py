"""Addresses of Redis and Valkey, and what kombu knows them by."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from tokenferry.broker.sentinel import Sentinels, is_sentinel


def kombu_url(url: str) -> str:
    """The URL of our transport for a plain Redis URL.

    >>> kombu_url("redis://:secret@example.org:6379/3")
    'tokenferry://:secret@example.org:6379/3'
    >>> kombu_url("unix://:secret@/run/valkey.sock?db=3")
    'tokenferry+socket://:secret@/run/valkey.sock?virtual_host=3'
    >>> kombu_url("sentinel://:secret@one,two/3?master=main")  # the rest is the transport option `sentinels`
    'tokenferry-sentinel://:secret@one:26379/3'
    """
    parts = urlsplit(url)
    if parts.scheme.startswith("tokenferry"):
        return url
    if parts.scheme in ("redis", "valkey"):
        return urlunsplit(parts._replace(scheme="tokenferry"))
    if parts.scheme in ("rediss", "valkeys"):
        return urlunsplit(parts._replace(scheme="tokenferrys"))
    if is_sentinel(url):
        return "tokenferry-" + Sentinels.parse(url).first
    if parts.scheme in ("unix", "redis+socket"):
        query = "&".join(
            "virtual_host=" + parameter.removeprefix("db=") if parameter.startswith("db=") else parameter
            for parameter in parts.query.split("&")
        )
        # Not urlunsplit: it would drop the empty host of a path without a password.
        return f"tokenferry+socket://{parts.netloc}{parts.path}" + (f"?{query}" if query else "")
    raise ValueError(f"not a Redis URL scheme: {parts.scheme!r}")
