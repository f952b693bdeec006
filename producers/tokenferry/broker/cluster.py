"""Redis Cluster and Valkey in cluster mode, for clients whose keys are all in one slot.

A prefix in braces (`[broker] prefix = "{ferry}"`) is a hash tag: every key that begins with it is in the same slot, so
one node has them all, and scripts may touch several. A connection begins at the node of the URL. Where another node
owns the slot, it says so (MOVED), and every later connection of this process goes there.

While a slot is on its way to another node, that answers ASK, TRYAGAIN or CLUSTERDOWN. All three count as a server that
is away: half of our keys may be on either side, and nothing may be done with half of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import redis
import redis.asyncio
from redis.exceptions import AskError, ClusterDownError, MovedError, ResponseError, TryAgainError

from tokenferry.broker import sentinel
from tokenferry.contract.names import is_hash_tag

ON_ITS_WAY: Final = (AskError, TryAgainError, ClusterDownError)
"""Answers of a node that has not all keys of the slot now."""
HALF_A_SCRIPT: Final = "attempted to access a non local key"
"""How a script ends that meets a key which has gone to another node already."""

_untyped: Any = redis
_untyped_async: Any = redis.asyncio


class SlotAway(redis.ConnectionError):
    """The node does not serve our slot now: the slot has moved, is on its way, or the cluster is down."""


_owners: dict[tuple[str, int, str], tuple[str, int]] = {}
"""The node that owns the slot, by the address of the URL and the prefix: as the last MOVED said."""


@dataclass(frozen=True)
class Slot:
    """The slot of one prefix, in the cluster that the node at *host* and *port* belongs to."""

    host: str
    port: int
    prefix: str

    @property
    def _known_by(self) -> tuple[str, int, str]:
        return self.host, self.port, self.prefix

    def owner(self) -> tuple[str, int]:
        """Host and port of the node that owns the slot, as far as this process knows."""
        return _owners.get(self._known_by, (self.host, self.port))

    def forget_owner(self) -> None:
        """Ask the node of the URL again."""
        _owners.pop(self._known_by, None)

    def is_away(self, error: ResponseError) -> bool:
        """True if *error* says that the node does not serve the slot now. A new owner is remembered."""
        if isinstance(error, MovedError):
            # An empty host is the one that answered.
            _owners[self._known_by] = error.host or self.owner()[0], error.port
            return True
        return isinstance(error, ON_ITS_WAY) or HALF_A_SCRIPT in str(error)


class OwnerConnection:
    """A connection that begins at the owner of its slot, and ends once the node does not serve the slot."""

    slot: Slot | None = None

    def __init__(self, *args: Any, slot: Slot | None = None, **kwargs: Any) -> None:
        """*slot*: None where the server is no cluster."""
        super().__init__(*args, **kwargs)
        self.slot = slot

    def _connect(self) -> Any:
        slot = self.slot
        if slot is None:
            return super()._connect()  # type: ignore[misc]
        self.host, self.port = slot.owner()
        try:
            return super()._connect()  # type: ignore[misc]
        except BaseException:
            slot.forget_owner()
            raise

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().read_response(*args, **kwargs)  # type: ignore[misc]
        except ResponseError as error:
            if self.slot is None or not self.slot.is_away(error):
                raise
            self.disconnect()  # type: ignore[attr-defined]
            raise SlotAway(type(error).__name__) from None


class PlainOwnerConnection(OwnerConnection, redis.Connection):
    """Over TCP."""


class TlsOwnerConnection(OwnerConnection, redis.SSLConnection):
    """Over TLS."""


class AsyncOwnerConnection:
    """`OwnerConnection` for asyncio."""

    def __init__(self, *args: Any, slot: Slot, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slot = slot

    async def _connect(self) -> Any:
        self.host, self.port = self.slot.owner()
        try:
            return await super()._connect()  # type: ignore[misc]
        except BaseException:
            self.slot.forget_owner()
            raise

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().read_response(*args, **kwargs)  # type: ignore[misc]
        except ResponseError as error:
            if not self.slot.is_away(error):
                raise
            await self.disconnect()  # type: ignore[attr-defined]
            raise SlotAway(type(error).__name__) from None


class PlainAsyncOwnerConnection(AsyncOwnerConnection, redis.asyncio.Connection):
    """Over TCP."""


class TlsAsyncOwnerConnection(AsyncOwnerConnection, redis.asyncio.SSLConnection):
    """Over TLS."""


_CLASSES: Final = {
    redis.Connection: PlainOwnerConnection,
    redis.SSLConnection: TlsOwnerConnection,
    redis.asyncio.Connection: PlainAsyncOwnerConnection,
    redis.asyncio.SSLConnection: TlsAsyncOwnerConnection,
}


class OwnerClient(redis.Redis):
    """A client for single commands and scripts: one that met the wrong node is sent to the owner at once."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except SlotAway:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


def client(url: str, prefix: str, **options: Any) -> redis.Redis:
    """A client for *url*, whose keys begin with *prefix*. *options*: redis-py's, for a connection."""
    if sentinel.is_sentinel(url):
        return sentinel.Sentinels.parse(url).client(**options)
    return OwnerClient.from_pool(_following(_untyped.ConnectionPool.from_url(url, **options), prefix))


def async_client(url: str, prefix: str, **options: Any) -> redis.asyncio.Redis:
    """A client for *url*, whose keys begin with *prefix*, for asyncio."""
    if sentinel.is_sentinel(url):
        return sentinel.Sentinels.parse(url).async_client(**options)
    return redis.asyncio.Redis.from_pool(_following(_untyped_async.ConnectionPool.from_url(url, **options), prefix))


def _following(pool: Any, prefix: str) -> Any:
    """*pool*, with connections that follow the slot of *prefix* if it is a hash tag."""
    kind = _CLASSES.get(pool.connection_class)
    if is_hash_tag(prefix) and kind is not None:  # a Unix socket leads to one server alone
        address = pool.connection_kwargs
        pool.connection_class = kind
        address["slot"] = Slot(address.get("host", "localhost"), int(address.get("port", 6379)), prefix)
    return pool
