"""Addresses of brokers, stores and endpoints: read once, with the configuration: nobody meets a broken one later.

Reasons name the part that is wrong and repeat nothing: an address may hold a password.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

EMBEDDED: Final = "embedded"

REDIS_SCHEMES: Final = ("redis", "rediss", "unix", "sentinel", "sentinels")
AMQP_SCHEMES: Final = ("amqp", "amqps")

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
"""Names of this machine."""
_WORD: Final = re.compile(r"[a-z][a-z+]{0,20}")
_DATABASE: Final = re.compile(r"/?|/\d{1,9}")
_VERSION: Final = re.compile(r"(?i)/v1(/tokens)?/*$")
"""What every call adds by itself."""


def checked(url: str, *, amqp: bool) -> str:
    """*url*, which names a Redis or Valkey, with *amqp* also a RabbitMQ, or is `embedded`.

    Raises `ValueError` with what to write instead.

    >>> checked("redis://:secret@example.org/0", amqp=False)
    'redis://:secret@example.org/0'
    >>> checked("redis://:secret@example.org:notaport/0", amqp=False)
    Traceback (most recent call last):
    ...
    ValueError: the port is no number from 1 to 65535; a password with / ? # or @ in it is written in percent-encoding
    """
    if url == EMBEDDED:
        return url
    forms = " or ".join(("embedded", *(f"{scheme}://" for scheme in REDIS_SCHEMES + AMQP_SCHEMES * amqp)))
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("is not an address: its brackets do not match") from None
    if "://" not in url:
        raise ValueError(f"is {'not an address' if url else 'empty'}; write {forms}")
    if parts.scheme not in REDIS_SCHEMES + AMQP_SCHEMES * amqp + ("redis+socket",) * amqp:
        begins = f"'{parts.scheme}://'" if _WORD.fullmatch(parts.scheme) else "something else"
        raise ValueError(f"begins with {begins}; write {forms}")
    if wrong := _wrong(parts):
        raise ValueError(wrong)
    return url


def checked_endpoint(url: str, *, live: bool) -> str:
    """*url*, to which the paths of the endpoint, as `/v1/tokens`, can be added. A prefix of a proxy may be in it.

    *live*: whether real keys go there. Raises `ValueError` with what to write instead.

    >>> checked_endpoint("http://127.0.0.1:12111/stripe", live=False)
    'http://127.0.0.1:12111/stripe'
    >>> checked_endpoint("https://api.stripe.com/v1/", live=True)
    Traceback (most recent call last):
    ...
    ValueError: ends in /v1, which every call adds by itself; leave /v1 out
    """
    try:
        parts = urlsplit(url)
        known = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError("is not an address: look at its brackets and its port") from None
    if not url.isprintable() or " " in url:
        raise ValueError("has a space or a line break in it; leave it out")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError("must begin with https:// and a host")
    if "@" in parts.netloc:
        raise ValueError("has a user or a password in it; leave them out: the key goes to secret_key")
    if not parts.hostname or not known:
        raise ValueError("names no host, or port 0; write https://HOST or https://HOST:PORT")
    if "?" in url or "#" in url:
        raise ValueError("has a ? or a # in it; leave out everything from there on")
    if version := _VERSION.search(parts.path):
        extra = version[0].rstrip("/")
        raise ValueError(f"ends in {extra}, which every call adds by itself; leave {extra} out")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ValueError("is plain http to another machine; write https://")
    if parts.scheme == "http" and live:
        raise ValueError("is plain http with live keys; write https://")
    return url


def _wrong(parts: SplitResult) -> str | None:
    if parts.scheme in ("sentinel", "sentinels"):  # has a list of hosts, and a reader of its own
        return None
    if parts.scheme in ("unix", "redis+socket"):
        return None if len(parts.path) > 1 else "names no socket; write unix:///path/to/the.sock"
    try:
        known = parts.port is None or parts.port > 0
    except ValueError:
        known = False
    if not known:
        return "the port is no number from 1 to 65535; a password with / ? # or @ in it is written in percent-encoding"
    if not parts.hostname:
        return f"names no host; write {parts.scheme}://HOST"
    if parts.scheme in REDIS_SCHEMES:
        database = dict(parse_qsl(parts.query)).get("db", "0")
        if not (_DATABASE.fullmatch(parts.path) and database.isdecimal()):
            return "behind the host comes the number of a database, as in /0"
    return None
