"""The transports that kombu and Celery are given: the channel of this package, plain, over TLS, behind Sentinel."""

from __future__ import annotations

from queue import Empty
from time import monotonic
from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as stock
from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

from tokenferry.broker.redis_transport.channel import Channel
from tokenferry.broker.redis_transport.connections import TlsConnection
from tokenferry.broker.redis_transport.poller import Poller
from tokenferry.broker.sentinel import Sentinels


class Transport(stock.Transport):  # type: ignore[misc,unused-ignore]
    """kombu's Redis transport, with the channel above."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Wait for events; raise `socket.timeout` after *timeout* seconds in all, however often nothing came of one."""
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            try:
                self.cycle.get(self._deliver, timeout=None if deadline is None else max(0.0, deadline - monotonic()))
                return
            except Empty:
                if deadline is not None and monotonic() >= deadline:
                    raise TimeoutError("timed out") from None


class TlsChannel(Channel):
    connection_class = TlsConnection


class TlsTransport(Transport):
    """The same over TLS; certificates as ``ssl_*`` parameters of the URL or kombu's ``ssl`` argument."""

    Channel = TlsChannel


class SentinelChannel(Channel):
    """A channel whose connections ask the Sentinels for the primary."""

    connection_class = SentinelManagedConnection
    from_transport_options = (*Channel.from_transport_options, "sentinels")
    sentinels: Sentinels

    def _pool_of(self, params: dict[str, Any]) -> Any:
        return self.sentinels.pool(**{name: value for name, value in params.items() if name not in ("host", "port")})


class SentinelTransport(Transport):
    """The same behind Sentinel. Who they are is the transport option ``sentinels``."""

    Channel = SentinelChannel


class TlsSentinelChannel(SentinelChannel):
    connection_class = SentinelManagedSSLConnection


class TlsSentinelTransport(SentinelTransport):
    """The same over TLS."""

    Channel = TlsSentinelChannel


TRANSPORT_ALIASES["tokenferry"] = f"{__name__}:Transport"
TRANSPORT_ALIASES["tokenferrys"] = f"{__name__}:TlsTransport"
TRANSPORT_ALIASES["tokenferry-sentinel"] = f"{__name__}:SentinelTransport"
TRANSPORT_ALIASES["tokenferry-sentinels"] = f"{__name__}:TlsSentinelTransport"
