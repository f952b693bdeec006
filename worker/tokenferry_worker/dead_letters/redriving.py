"""Sending what was set aside on its way again: only what can still succeed, and so that no death on the way loses it.

The order is what makes it safe: the message is sealed anew where that is asked for; the journal forgets that the
request was given up on; the message is published to its own queue and confirmed; and only then it leaves the queue it
rested in. Whoever dies in between leaves it there, and to redrive it once more is harmless: one id, one idempotency
key.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Collection
from dataclasses import dataclass
from typing import Literal, Protocol

from tokenferry.broker.publishing import CanPublish, Outgoing, wait_async
from tokenferry_worker.dead_letters.record import DeadLetter
from tokenferry_worker.dead_letters.resealing import Resealer
from tokenferry_worker.errors import Unopenable
from tokenferry_worker.keys.identities import Signers
from tokenferry_worker.keys.opening import Opener, read_attach

Fate = Literal["redriven", "told_again", "expired", "not_kept", "not_openable", "not_verified", "unknown_platform"]
"""`redriven`: begins once more. `told_again`: has an outcome of the endpoint, which is told once more.

The others stay where they are. `expired`: its own deadline has passed. `not_kept`: it may have carried a verification
code, so only its header is here. `not_openable`: to be sealed anew, and not opened by the private keys that are here.
`not_verified`: nobody whom the workers know has signed it. `unknown_platform`: not in the configuration.
"""
GONE: tuple[Fate, ...] = ("redriven", "told_again")


class Reopens(Protocol):
    """What is needed of a journal."""

    def reopen(self, id_: str, *, told: int) -> Awaitable[Literal["open", "done"]]: ...


@dataclass(frozen=True)
class Redriver:
    """Decides about one message after the other, and publishes those that may go."""

    signers: Signers
    platforms: Collection[str]
    requests: Reopens
    orders: Reopens
    publisher: CanPublish
    publish_timeout: float
    """Seconds."""
    resealer: Resealer | None = None
    """Seals anew what is not sealed to the current recipient. None: everything goes as it came."""

    def fate(self, letter: DeadLetter) -> Fate:
        """What would become of it. Changes nothing."""
        if letter.header is not None and letter.sealed is None:
            return "not_kept"
        try:
            if letter.order is not None:
                read_attach(letter.message, self.signers)
            elif letter.kind == "onboarding":
                Opener({}, self.signers).read_onboarding(letter.message)
            else:
                Opener({}, self.signers).read(letter.message)
        except Unopenable:
            return "not_verified"
        if letter.platform not in self.platforms:
            return "unknown_platform"
        if letter.ends is not None and letter.ends <= time.time() * 1000:
            return "expired"
        if self.resealer is not None and not self.resealer.can(letter):
            return "not_openable"
        return "redriven"

    async def redrive(self, letter: DeadLetter) -> Fate:
        """Let it begin once more. Afterwards, and only where its fate is one of `GONE`, it may be removed.

        Raises `PublishError` where the broker has not confirmed it.
        """
        fate = self.fate(letter)
        if fate != "redriven":
            return fate
        assert letter.id is not None
        try:
            body = self.resealer.message(letter) if self.resealer is not None else letter.message
        except Unopenable:
            return "not_openable"
        journal = self.orders if letter.order else self.requests
        word = await journal.reopen(letter.id, told=letter.round)
        queue, task = letter.task()
        message = Outgoing.task(queue, task, letter.id, body)
        await wait_async(self.publisher.submit(message, timeout=self.publish_timeout), self.publish_timeout)
        return "redriven" if word == "open" else "told_again"
