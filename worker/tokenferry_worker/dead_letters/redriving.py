"""Puts dead letters back on their work queues: only those that can still succeed, and without losing one.

The order makes it safe. First the message is sealed again, if asked for. Then the journal forgets the failure. Then the
message is published to its own queue and confirmed. Only then the caller removes it from the dead letters. A process
that dies in between leaves the message there. To redrive it once more is harmless: one id, one idempotency key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Literal, Protocol

from tokenferry.broker.publishing import CanPublish, Outgoing, wait_async
from tokenferry.contract.codes import Code
from tokenferry.contract.envelope import LEGACY
from tokenferry.contract.lifetimes import Lifetimes
from tokenferry.contract.targets import MOVES_MONEY
from tokenferry_worker.dead_letters.record import DeadLetter
from tokenferry_worker.dead_letters.resealing import Resealer
from tokenferry_worker.errors import Unopenable
from tokenferry_worker.keys.identities import Signers
from tokenferry_worker.keys.opening import Opener, read_attach
from tokenferry_worker.keys.policy import Policy
from tokenferry_worker.tokens.grouped_ids import GroupedId

Fate = Literal[
    "redriven",
    "told_again",
    "expired",
    "not_kept",
    "not_openable",
    "other_group",
    "not_verified",
    "unknown_platform",
    "invalid_lifetime",
    "store_is_younger",
]
"""`redriven`: starts again. `told_again`: has an outcome from Stripe, which is published again.

The others stay in their queue. `expired`: its deadline has passed. `not_kept`: it may have carried a verification code,
so only its header was kept. `not_openable`: it must be sealed again, and no private key here opens it. `not_verified`:
no key in [keys] signers has signed it. `other_group`: it must be sealed again, and the key that would sign it is of
another group. `unknown_platform`: its platform is not in the configuration.
`invalid_lifetime`: workers refuse it. `store_is_younger`: it moves money and is older than the store.
"""
GONE: tuple[Fate, ...] = ("redriven", "told_again")


class Reopens(Protocol):
    """What redriving needs of a journal."""

    def reopen(self, id_: str, *, told: int, generation: int = 1) -> Awaitable[Literal["open", "done"]]: ...


@dataclass(frozen=True)
class Redriver:
    """Decides about one dead letter after the other, and publishes those that may go."""

    signers: Signers
    platforms: Collection[str]
    requests: Reopens
    orders: Reopens
    publisher: CanPublish
    publish_timeout: float
    """Seconds."""
    lifetimes: Lifetimes
    born: int
    """When the store began, in Unix milliseconds. 0 or less: nothing is refused because of it."""
    now: Callable[[], float]
    """Unix seconds on the store's clock."""
    policy: Policy | None = None
    """Says whose ids version 1 means. None: those of `legacy`."""
    resealer: Resealer | None = None
    """Seals to the current recipient what is sealed to another. None: every message goes as it came."""

    def fate(self, dead_letter: DeadLetter) -> Fate:
        """Return what would become of the dead dead_letter. Changes nothing."""
        if dead_letter.header is not None and dead_letter.sealed is None:
            return "not_kept"
        try:
            if dead_letter.order is not None:
                read_attach(dead_letter.message, self.signers)
            elif dead_letter.kind == "onboarding":
                Opener({}, self.signers).read_onboarding(dead_letter.message)
            else:
                Opener({}, self.signers).read(dead_letter.message)
        except Unopenable:
            return "not_verified"
        if dead_letter.platform not in self.platforms:
            return "unknown_platform"
        if dead_letter.ends is not None and dead_letter.ends <= self.now() * 1000:
            return "expired"
        if not self._lives_as_allowed(dead_letter):
            return "invalid_lifetime"
        if self._is_older_than_the_store(dead_letter):
            return "store_is_younger"
        if self.resealer is not None and not self.resealer.can(dead_letter):
            return "not_openable"
        return "redriven" if self._keeps_its_group(dead_letter) else "other_group"

    def _keeps_its_group(self, dead_letter: DeadLetter) -> bool:
        """False if sealing it again would make it a request of another group."""
        if self.policy is None or self.resealer is None or self.resealer.stale(dead_letter) is None:
            return True
        return self.policy.group_of(self.resealer.signer.signer_id) == self._name(dead_letter).group

    def _name(self, dead_letter: DeadLetter) -> GroupedId:
        assert dead_letter.id is not None
        assert dead_letter.signer_id is not None
        group = dead_letter.group
        if group is None:
            is_order = dead_letter.order is not None
            group = self.policy.group_of(dead_letter.signer_id, orders=is_order) if self.policy else LEGACY
        return GroupedId(dead_letter.id, group, dead_letter.generation)

    def _lives_as_allowed(self, dead_letter: DeadLetter) -> bool:
        if dead_letter.order is not None:
            return self.lifetimes.allow_order(dead_letter.order.request, self.now())
        return dead_letter.header is not None and self.lifetimes.allow(dead_letter.header, self.now())

    def _is_older_than_the_store(self, dead_letter: DeadLetter) -> bool:
        """True if a worker would refuse it. The plan of a sealed request is seen by workers only: they decide."""
        if dead_letter.order is not None:
            order = dead_letter.order.request
            return order.target.to in MOVES_MONEY and order.token_created_at < self.born
        refused = dead_letter.reason == Code.STORE_IS_YOUNGER
        return refused and dead_letter.header is not None and dead_letter.header.issued_at < self.born

    async def redrive(self, dead_letter: DeadLetter) -> Fate:
        """Put the message back on its work queue. The caller may remove it only if its fate is one of `GONE`.

        Raises `PublishError` where the broker did not confirm the message.
        """
        fate = self.fate(dead_letter)
        if fate != "redriven":
            return fate
        assert dead_letter.id is not None
        try:
            body = self.resealer.message(dead_letter) if self.resealer is not None else dead_letter.message
        except Unopenable:
            return "not_openable"
        journal = self.orders if dead_letter.order else self.requests
        name = self._name(dead_letter)
        state = await journal.reopen(name.key, told=dead_letter.round, generation=name.generation)
        queue, task = dead_letter.task()
        message = Outgoing.task(queue, task, dead_letter.id, body)
        await wait_async(self.publisher.submit(message, timeout=self.publish_timeout), self.publish_timeout)
        return "redriven" if state == "open" else "told_again"
