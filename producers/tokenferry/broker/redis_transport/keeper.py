"""The thread that keeps a channel's deliveries ours, whatever its consumer is busy with."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from kombu.log import get_logger

logger = get_logger(__name__)

ACK_DELAY_SECONDS = 0.005
"""How long an acknowledgement may wait for a take to travel with."""
RETRY_SECONDS = 0.1
"""Pause before the next attempt after the server could not be reached or refused to serve."""


class Keeper(threading.Thread):
    """Renews what a channel holds, returns what the dead have left, writes acknowledgements that nobody took along."""

    def __init__(self, channel: Any) -> None:
        super().__init__(name="tokenferry-leases", daemon=True)
        self._channel = channel
        self._nudged = threading.Event()
        self._stopping = threading.Event()

    def nudge(self) -> None:
        self._nudged.set()

    def stop(self) -> None:
        self._stopping.set()
        self._nudged.set()
        if threading.current_thread() is not self:
            self.join(timeout=self._channel.lease_seconds)

    def run(self) -> None:
        channel, beat = self._channel, self._channel.lease_seconds / 4
        renew_at, reap_at, retry_at = monotonic() + beat, monotonic() + random.uniform(0, beat), float("inf")
        while not self._stopping.is_set():
            if self._nudged.wait(max(0.0, min(renew_at, reap_at, retry_at) - monotonic())):
                self._nudged.clear()
                self._stopping.wait(ACK_DELAY_SECONDS)
            now = monotonic()
            if now >= renew_at:
                renew_at = now + (beat if self._does(channel.renew) else RETRY_SECONDS)
            written = self._does(channel.write_acks)
            retry_at = float("inf") if written else now + RETRY_SECONDS
            if now >= reap_at and not written:
                # After an absence longer than a lease it would give back what is only waiting to be acknowledged.
                reap_at = retry_at
            elif now >= reap_at:
                reap_at = now + beat * random.uniform(0.75, 1.25)  # not all consumers at once
                self._does(channel.reap)
            if channel.troubled:
                retry_at = now + RETRY_SECONDS
                channel.ring()

    def _does(self, work: Callable[[], None]) -> bool:
        """Whether it could be done: one failure keeps nothing else from being tried."""
        try:
            work()
        except Exception as error:
            # Whatever it was, a keeper that dies would give everything away that this channel holds.
            logger.debug("leases: %s, will retry", type(error).__name__)
            return False
        return True
