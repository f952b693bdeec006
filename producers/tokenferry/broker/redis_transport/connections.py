"""Connections that leave a server which has become a replica.

Behind one name (a managed Redis, a proxy, a virtual address) a failover leaves the old primary alive, and every
connection to it: it answers READONLY for ever, while a new connection would reach the new primary.
"""

from __future__ import annotations

from typing import Any

import redis
from redis.exceptions import ReadOnlyError

from tokenferry.broker.cluster import OwnerConnection


class Primary:
    """A connection that ends once its server has become a replica: the next one may reach the new primary."""

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().read_response(*args, **kwargs)  # type: ignore[misc]
        except ReadOnlyError:
            self.disconnect()  # type: ignore[attr-defined]
            raise redis.ConnectionError("the server has become a replica") from None


class PlainConnection(Primary, OwnerConnection, redis.Connection):
    """Over TCP."""


class TlsConnection(Primary, OwnerConnection, redis.SSLConnection):
    """Over TLS. The handshake belongs to connecting: redis-py would wait for it as long as for an answer."""

    def _wrap_socket_with_ssl(self, sock: Any) -> Any:
        sock.settimeout(self.socket_connect_timeout)
        encrypted = super()._wrap_socket_with_ssl(sock)  # type: ignore[no-untyped-call]
        encrypted.settimeout(self.socket_timeout)
        return encrypted
