"""The thread that keeps the deliveries of a channel, however busy its consumer is."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from kombu.log import get_logger
from redis import exceptions as redis

from tokenferry.broker.alarm import Alarm
from tokenferry.broker.error_text import BROKER, explain

logger = get_logger(__name__)

ACK_DELAY_SECONDS = 0.005
"""How long an acknowledgement may wait for a take to travel with."""
RETRY_SECONDS = 0.1
"""Pause before the next attempt after the server could not be reached or refused to serve."""


def refusal(error: Exception) -> str:
    """What a server has refused, and what to do about it, for a line of the log."""
    failure = explain(error, BROKER)
    return f"the broker {failure.says}: {failure.do}; trying again"


@dataclass
class _Duty:
    """Something that a keeper does again and again."""

    act: Callable[[], None]
    about: str
    """What it is, and what follows while it cannot be done, for the log."""
    patience: float = float("inf")
    """Seconds without an answer that need no line in the log: the consumer reports a lost connection."""
    level: int = logging.WARNING
    """Of the lines about failures."""
    refused: bool = False
    """Whether the server has refused it the last time."""
    alarm: Alarm = field(init=False)

    def __post_init__(self) -> None:
        self.alarm = Alarm(logger, self.about, level=self.level)

    def does(self) -> bool:
        """Try it. Returns True if it could be done; a failure is logged, and other duties go on."""
        try:
            self.act()
        except redis.AuthenticationError as error:
            self.alarm.failed(refusal(error))
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            self.alarm.failed(refusal(error), patience=self.patience)
        except Exception as error:
            # If the keeper died of it, other consumers would get everything that this channel holds.
            self.refused = True
            self.alarm.failed(refusal(error))
        else:
            self.refused = False
            self.alarm.worked()
            return True
        return False


class Keeper(threading.Thread):
    """Renews the leases of a channel, puts back deliveries of lost consumers, and writes late acknowledgements."""

    def __init__(self, channel: Any) -> None:
        super().__init__(name="tokenferry-leases", daemon=True)
        self._channel = channel
        lease = channel.lease_seconds
        self._renewing = _Duty(
            channel.renew,
            f"renewing the leases of deliveries in hand (after {lease:g} s without it, other consumers get them too)",
            patience=lease,
        )
        self._acknowledging = _Duty(
            channel.write_acks, "writing acknowledgements (without them, finished deliveries come again)"
        )
        self._reaping = _Duty(
            channel.reap,
            "giving back the deliveries of lost consumers (without it, they wait for another consumer)",
            level=logging.ERROR,
        )
        self._nudged = threading.Event()
        self._stopping = threading.Event()

    @property
    def is_refused_to_reap(self) -> bool:
        """Whether the server refuses to give back what lost consumers had."""
        return self._reaping.refused

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
                renew_at = now + (beat if self._renewing.does() else RETRY_SECONDS)
            written = self._acknowledging.does()
            retry_at = float("inf") if written else now + RETRY_SECONDS
            if now >= reap_at and not written:
                # After an absence longer than a lease it would give back what is only waiting to be acknowledged.
                reap_at = retry_at
            elif now >= reap_at:
                reap_at = now + beat * random.uniform(0.75, 1.25)  # not all consumers at once
                self._reaping.does()
            if channel.troubled:
                retry_at = now + RETRY_SECONDS
                channel.ring()
