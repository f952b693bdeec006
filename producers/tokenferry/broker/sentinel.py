"""Redis and Valkey behind Sentinel: every new connection asks the Sentinels for the primary.

The address: ``sentinel://user:password@host:26379,host2:26379/0?master=mymaster``. User and password are those of the
servers. If the Sentinels want some too, they are ``sentinel_username`` and ``sentinel_password`` behind the ``?``.
``sentinels://`` is the same over TLS, to the Sentinels and to the servers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel

from tokenferry.addresses import SENTINEL_SCHEMES, sentinel_hosts

SCHEME, TLS_SCHEME = SENTINEL_SCHEMES
PATIENCE: Final = 2.0
"""Seconds for one Sentinel to answer; then the next one is asked."""

_untyped: Any = redis.sentinel
_untyped_async: Any = redis.asyncio.sentinel


@dataclass(frozen=True)
class Sentinels:
    """The Sentinels, the name they give our servers, and the credentials for both."""

    hosts: tuple[tuple[str, int], ...]
    master: str
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls: bool = field(default=False, repr=False)
    ca_file: str | None = field(default=None, repr=False)
    """PEM file of the authority behind every certificate. None: those this machine trusts."""

    @classmethod
    def parse(cls, url: str) -> Sentinels:
        """Read a URL that the configuration has checked.

        >>> Sentinels.parse("sentinel://:secret@one,two:26380/3?master=main")
        Sentinels(hosts=(('one', 26379), ('two', 26380)), master='main', db=3, username=None, sentinel_username=None)
        """
        parts = urlsplit(url)
        credentials, _, places = parts.netloc.rpartition("@")
        user, _, password = credentials.partition(":")
        parameters = dict(parse_qsl(parts.query))
        return cls(
            hosts=sentinel_hosts(places),
            master=parameters["master"],
            db=int(parts.path.strip("/") or "0"),
            username=unquote(user) or None,
            password=unquote(password) or None,
            sentinel_username=parameters.get("sentinel_username"),
            sentinel_password=parameters.get("sentinel_password"),
            tls=parts.scheme == TLS_SCHEME,
            ca_file=parameters.get("ssl_ca_certs"),
        )

    @property
    def first(self) -> str:
        """The same servers as a URL with one host, for libraries that take only one."""
        host, port = self.hosts[0]
        user = "" if self.username is None else quote(self.username, safe="")
        password = "" if self.password is None else ":" + quote(self.password, safe="")
        at = "@" if user or password else ""
        scheme = TLS_SCHEME if self.tls else SCHEME
        return f"{scheme}://{user}{password}{at}{f'[{host}]' if ':' in host else host}:{port}/{self.db}"

    def pool(self, **options: Any) -> Any:
        """Connections to the current primary. *options*: redis-py's, for a connection."""
        sentinel = _untyped.Sentinel(self.hosts, sentinel_kwargs=self._asking())
        return _untyped.SentinelConnectionPool(self.master, sentinel, **self._secured(), **options)

    def client(self, **options: Any) -> redis.Redis:
        """A client of the primary. *options*: redis-py's, for a connection."""
        return redis.Redis.from_pool(self.pool(**self._serving(), **options))

    def async_client(self, **options: Any) -> redis.asyncio.Redis:
        """A client of the primary, for asyncio."""
        sentinel = _untyped_async.Sentinel(self.hosts, sentinel_kwargs=self._asking())
        client: redis.asyncio.Redis = sentinel.master_for(self.master, **self._serving(), **self._secured(), **options)
        return client

    def _serving(self) -> dict[str, Any]:
        return {"username": self.username, "password": self.password, "db": self.db}

    def _secured(self) -> dict[str, Any]:
        return {"ssl": True, "ssl_ca_certs": self.ca_file} if self.tls else {}

    def _asking(self) -> dict[str, Any]:
        return {
            "username": self.sentinel_username,
            "password": self.sentinel_password,
            "socket_timeout": PATIENCE,
            "socket_connect_timeout": PATIENCE,
            "retry": None,  # the next one is asked instead
            **self._secured(),
        }


def is_sentinel(url: str) -> bool:
    """Whether *url* names Sentinels."""
    return urlsplit(url).scheme in SENTINEL_SCHEMES
