"""One wait for all channels of a connection: for answers, for changed queues, and for a ring from another thread."""

from __future__ import annotations

import contextlib
from typing import Any

from kombu.transport import redis as stock

RECHECK_SECONDS = 5.0
"""Seconds between two takes on an idle connection, so that a half-open socket is noticed."""


class Poller(stock.MultiChannelPoller):  # type: ignore[misc,unused-ignore]
    """The stock poller, with our way of asking and a bell that other threads can ring."""

    def on_poll_start(self) -> None:
        for channel in list(self._channels):
            if channel.active_fanout_queues:
                self._register_LISTEN(channel)
            if channel.active_queues:
                self._hear_bell(channel)
                channel.ask()

    def _hear_bell(self, channel: Any) -> None:
        fd = channel.bell.fileno()
        if self._fd_to_chan.get(fd) != (channel, "BELL"):
            self._fd_to_chan[fd] = (channel, "BELL")
            self.poller.register(fd, self.eventflags)

    def discard(self, channel: Any) -> None:
        super().discard(channel)
        if channel.bell is not None:
            self._fd_to_chan.pop(channel.bell.fileno(), None)
            with contextlib.suppress(KeyError, ValueError, OSError):
                self._unregister_from_poll(channel.bell.fileno())

    def on_readable(self, fileno: int) -> Any:
        """Read even without credit: what was taken must reach its consumer."""
        channel, kind = self._fd_to_chan.get(fileno, (None, None))
        return None if channel is None else channel.handlers[kind]()

    def get(self, callback: Any, timeout: float | None = None) -> Any:
        return super().get(callback, timeout=RECHECK_SECONDS if timeout is None else min(timeout, RECHECK_SECONDS))
