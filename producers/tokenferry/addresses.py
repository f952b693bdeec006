"""URLs of brokers, stores and Stripe. They are checked whole when the configuration is read.

A reason names the part that is wrong and never repeats it, because a URL may hold a password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

EMBEDDED: Final = "embedded"

REDIS_SCHEMES: Final = ("redis", "rediss", "unix", "sentinel", "sentinels")
AMQP_SCHEMES: Final = ("amqp", "amqps")
SENTINEL_SCHEMES: Final = ("sentinel", "sentinels")
SOCKET_SCHEMES: Final = ("unix", "redis+socket")
SENTINEL_PORT: Final = 26379

ENVIRONMENT: Final = "environment"
"""Instead of the URL of a proxy: the one that the environment names."""
NO_PROXY: Final = "none"
"""Instead of the URL of a proxy: there is none."""

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
"""Names of this machine."""
ENCODED: Final = "in a user name or password write / as %2F, ? as %3F, # as %23, @ as %40, % as %25 (percent-encoding)"

_CERTIFICATES: Final = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_password")
_SENTINEL: Final = ("master", "sentinel_username", "sentinel_password")
_PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = {
    "rediss": _CERTIFICATES,
    "unix": ("db", "username", "password"),
    "redis+socket": ("db", "username", "password"),
    "sentinel": _SENTINEL,
    "sentinels": (*_SENTINEL, "ssl_ca_certs"),
}
"""What may stand behind the `?`: what redis-py and kombu both understand, in the same way. Other schemes: nothing."""
_CURES: Final[Mapping[str, str]] = {
    "db": "write the database behind the host, as in /0",
    "username": "write the user name before the host, as in USER:PASSWORD@HOST",
    "password": "write the password before the host, as in :PASSWORD@HOST",
    "ssl_cert_reqs": "it is for rediss:// alone; for another authority set ca_file",
    "ssl_ca_certs": "for another authority set ca_file",
    "socket_timeout": "set [broker] publish_timeout instead",
    "socket_connect_timeout": "set [broker] publish_timeout instead",
}
"""What to do about parameters that people take from the documentation of client libraries."""

_WORD: Final = re.compile(r"[a-z][a-z+]{0,20}")
_PARAMETER: Final = re.compile(r"[a-z_]{2,40}")
_DATABASE: Final = re.compile(r"/?|/\d{1,9}")
_HOST: Final = re.compile(r"[\w.-]+|[0-9a-f:.%]*:[0-9a-f:.%\w]*")
_SENTINEL_HOST: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:@/,]+)(?::(?P<port>\d{1,5}))?")
_VERSION: Final = re.compile(r"(?i)/v1(/tokens)?/*$")
"""What every call adds by itself."""
_SECRET_PARAMETER: Final = re.compile(r"(?i)([?&;][^=&;]*(?:pass|pwd|secret|token|key|auth|cred)[^=&;]*=)[^&;]*")


def checked(url: str, *, amqp: bool) -> str:
    """Return *url* if it names a Redis or Valkey, with *amqp* also a RabbitMQ, or is `embedded`.

    Raises `ValueError` with what to write instead.

    >>> checked("redis://:secret@example.org/0", amqp=False)
    'redis://:secret@example.org/0'
    >>> checked("redis://:secret@example.org:notaport/0", amqp=False)
    Traceback (most recent call last):
    ...
    ValueError: the port is no number from 1 to 65535
    >>> checked("redis://user:1234#ss@example.org/0", amqp=False)
    Traceback (most recent call last):
    ...
    ValueError: has a # in it; in a user name or password write / as %2F, ? as %3F, # as %23, @ as %40, % as %25 \
(percent-encoding)
    """
    if url == EMBEDDED:
        return url
    forms = " or ".join(("embedded", *(f"{scheme}://" for scheme in REDIS_SCHEMES + AMQP_SCHEMES * amqp)))
    if "://" not in url:
        raise ValueError(f"is {'not an address' if url else 'empty'}; write {forms}")
    scheme = url.partition("://")[0].lower()
    if scheme not in REDIS_SCHEMES + AMQP_SCHEMES * amqp + ("redis+socket",) * amqp:
        begins = f"'{scheme}://'" if _WORD.fullmatch(scheme) else "something else"
        raise ValueError(f"begins with {begins}; write {forms}")
    if wrong := _not_encoded(url):
        raise ValueError(wrong)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("its brackets do not match; in a password write [ as %5B and ] as %5D") from None
    if wrong := _wrong_place(parts) or _wrong_parameters(parts):
        raise ValueError(wrong)
    return url


def sentinel_hosts(places: str) -> tuple[tuple[str, int], ...]:
    """Host and port of each Sentinel in `host:port,host:port`. Raises `ValueError`."""
    found = [_SENTINEL_HOST.fullmatch(place) for place in places.split(",")]
    if not all(found):
        raise ValueError("the Sentinels are written host:port, several of them with commas between")
    return tuple((one["host"].strip("[]"), int(one["port"] or SENTINEL_PORT)) for one in found if one)


def trusts_anybody(url: str) -> bool:
    """Whether the certificate of the server at *url* is not checked.

    >>> trusts_anybody("rediss://example.org/0?ssl_cert_reqs=none"), trusts_anybody("rediss://example.org/0")
    (True, False)
    """
    return dict(parse_qsl(urlsplit(url).query)).get("ssl_cert_reqs") == "none"


def masked(url: str) -> str:
    """*url* without its password, wherever it is written and whatever characters it is made of.

    >>> masked("redis://:s3cret@example.org/0"), masked("amqp://ada:a/b#c@d@example.org/vhost")
    ('redis://***@example.org/0', 'amqp://ada:***@example.org/vhost')
    >>> masked("rediss://example.org/0?ssl_password=x&db=3"), masked("embedded")
    ('rediss://example.org/0?ssl_password=***&db=3', 'embedded')
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


def checked_endpoint(url: str, *, live: bool) -> str:
    """Return *url* if paths such as `/v1/tokens` can be added to it. It may have the path prefix of a proxy.

    *live*: whether live keys go there. Raises `ValueError` with what to write instead.

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


def checked_proxy(url: str) -> str:
    """Return *url* if it names a proxy: `http://` or `https://`, a host, a port, and perhaps user and password.

    Also returned: `environment` and `none`. Raises `ValueError` with what to write instead.

    >>> checked_proxy("http://ada:secret@proxy.example.org:3128")
    'http://ada:secret@proxy.example.org:3128'
    >>> checked_proxy("socks5://proxy.example.org:1080")
    Traceback (most recent call last):
    ...
    ValueError: begins with something else; write http://HOST:PORT, https://HOST:PORT, environment or none
    """
    if url in (ENVIRONMENT, NO_PROXY):
        return url
    if url.partition("://")[0].lower() not in ("http", "https") or "://" not in url:
        raise ValueError("begins with something else; write http://HOST:PORT, https://HOST:PORT, environment or none")
    if wrong := _not_encoded(url):
        raise ValueError(wrong)
    try:
        parts = urlsplit(url)
        known = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError("is not an address: look at its brackets and its port") from None
    if not parts.hostname or not known:
        raise ValueError("names no host, or port 0; write http://HOST:PORT")
    if parts.path.strip("/") or "?" in url:
        raise ValueError("has something behind the port; leave it out")
    return url


def _not_encoded(url: str) -> str | None:
    """What stands in *url* as it is, and would be read as something else."""
    rest = url.partition("://")[2]
    if not url.isprintable() or " " in url:
        return "has a space or a line break in it; leave it out, or write a space as %20"
    if "#" in rest:
        return f"has a # in it; {ENCODED}"
    if rest.count("@") > 1:
        return f"has more than one @ in it; {ENCODED}"
    if "@" in rest and re.search(r"[/?]", rest.partition("@")[0]):
        return f"has a / or ? before its @; {ENCODED}"
    if re.search(r"%(?![0-9A-Fa-f]{2})", rest):
        return f"has a % that begins no code such as %2F; {ENCODED}"
    return None


def _wrong_place(parts: SplitResult) -> str | None:
    """What is wrong with the host, port, path or database."""
    if parts.scheme in SENTINEL_SCHEMES:
        return _wrong_sentinels(parts)
    if parts.scheme in SOCKET_SCHEMES:
        place = parts.netloc.rpartition("@")[2]
        return None if len(parts.path) > 1 and not place else "names no socket; write unix:///path/to/the.sock"
    try:
        known = parts.port is None or parts.port > 0
    except ValueError:
        known = False
    if not known:
        return "the port is no number from 1 to 65535"
    if not parts.hostname:
        return f"names no host; write {parts.scheme}://HOST"
    if not _HOST.fullmatch(parts.hostname):
        return "the host has other characters than letters, digits, dots and dashes; name one server"
    if parts.scheme in REDIS_SCHEMES and not _DATABASE.fullmatch(parts.path):
        return "behind the host comes the number of a database, as in /0"
    return None


def _wrong_sentinels(parts: SplitResult) -> str | None:
    try:
        hosts = sentinel_hosts(parts.netloc.rpartition("@")[2])
    except ValueError as error:
        return str(error)
    if not all(0 < port < 65536 for _, port in hosts):
        return "the port is no number from 1 to 65535"
    if not _DATABASE.fullmatch(parts.path):
        return "behind the hosts comes the number of a database, as in /0"
    if not dict(parse_qsl(parts.query)).get("master"):
        return "the name the Sentinels give your servers is missing: add ?master=NAME"
    return None


def _wrong_parameters(parts: SplitResult) -> str | None:
    """What is wrong behind the `?`. Names a parameter only if it looks like one: it may be the rest of a password."""
    known = _PARAMETERS.get(parts.scheme, ())
    takes = f"{parts.scheme}:// takes {', '.join(known) or 'none'}"
    given: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            named = f"the parameter {name}" if value and _PARAMETER.fullmatch(name) else "a parameter"
            return f"has {named} behind the ?, which is not understood: {_CURES.get(name, 'leave it out')} ({takes})"
        if not value or name in given:
            return f"the parameter {name} {'is there twice' if name in given else 'has no value'}"
        given[name] = value
    if given.get("ssl_cert_reqs", "required") not in ("none", "optional", "required"):
        return "the parameter ssl_cert_reqs is required, optional or none; for another authority set ca_file"
    if not given.get("db", "0").isdecimal():
        return "the parameter db is the number of a database"
    return None
