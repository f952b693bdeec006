"""Errors of client libraries and addresses in words that are safe to print."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from amqp import exceptions as amqp
from redis import exceptions as redis

from tokenferry.broker.embedded import EmbeddedServerError
from tokenferry.broker.patience import QueueUnanswered
from tokenferry.configuration import InvalidConfiguration
from tokenferry.sealing import UnusableKey

_OURS: Final = (EmbeddedServerError, InvalidConfiguration, QueueUnanswered, UnusableKey)
_SECRET_PARAMETER: Final = re.compile(r"(?i)([?&;][^=&;]*(?:pass|pwd|secret|token|key|auth|cred)[^=&;]*=)[^&;]*")


def why(error: BaseException) -> str:
    """The reason behind *error*, from its type and the system's own words. Client libraries quote too much."""
    if isinstance(error, _OURS):
        return str(error)
    for cause in _chain(error):
        match cause:
            case redis.AuthenticationError():
                return "refuses the user name or password"
            case redis.NoPermissionError():
                return "does not allow this user to ask (access control list)"
            case amqp.AccessRefused():
                return "refuses the user name or password, or this user may not use it"
            case amqp.NotAllowed():
                return "has no such virtual host, or this user may not enter it"
            case TimeoutError() | redis.TimeoutError():
                return "does not answer in time"
            case OSError(errno=int(number), strerror=str(reason)) if reason:
                # asyncio writes a sentence of its own where the system's words belong
                return f"cannot be reached ({os.strerror(number) if number > 0 else reason})"
    return f"cannot be used ({type(error).__name__})"


def masked(url: str) -> str:
    """*url* without its password, wherever it is written and whatever characters it is made of.

    >>> masked("redis://:s3cret@example.org/0"), masked("amqp://ada:a/b#c@d@example.org/vhost")
    ('redis://***@example.org/0', 'amqp://ada:***@example.org/vhost')
    >>> masked("rediss://example.org/0?ssl_keyfile_password=x&db=3"), masked("embedded")
    ('rediss://example.org/0?ssl_keyfile_password=***&db=3', 'embedded')
    """
    scheme, mark, rest = url.rpartition("://") if "@" not in url else url.partition("://")
    credentials, at, address = rest.rpartition("@")
    if at:
        user, colon, _ = credentials.partition(":")
        # A user name alone is as likely a password in the wrong place.
        rest = f"{user}:***@{address}" if user and colon else f"***@{address}"
    return _SECRET_PARAMETER.sub(r"\1***", f"{scheme}{mark}{rest}")


def has_password(url: str) -> bool:
    """Whether *url* holds something that `masked` hides."""
    return masked(url) != url


def host(url: str) -> str:
    """Scheme, host and port of *url*, for a line that a person reads."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    except ValueError:
        return "(not a URL)"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """*error* and what it was raised from, the outermost first."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__
