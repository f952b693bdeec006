"""Seals to the current recipient what was sealed to an earlier one, so that the earlier private key can be retired.

Only the keys change. Id, deadline, platform, plan and the form that Stripe gets stay the same, and with them the
journal entry and the idempotency key. A message that no key in [keys] signers has signed is never signed here.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenferry.configuration import Configuration, InvalidConfiguration
from tokenferry.contract.envelope2 import Envelope2, SealedRequest
from tokenferry.contract.onboarding import OnboardingEnvelope, SealedDocument
from tokenferry.sealing import (
    Recipient,
    Signer,
    UnusableKey,
    id_in,
    same_key,
    seal2,
    seal_onboarding,
    seal_plaintext,
    sign_attach,
)
from tokenferry_worker.dead_letters.record import DeadLetter
from tokenferry_worker.errors import Unopenable
from tokenferry_worker.keys.identities import Signers, load_identities
from tokenferry_worker.keys.opening import Opener


@dataclass(frozen=True)
class Resealer:
    """Opens with the private keys of this machine, seals to *recipient* and signs as *signer*."""

    opener: Opener
    recipient: Recipient
    signer: Signer

    @classmethod
    def load(cls, configuration: Configuration, signers: Signers) -> Resealer:
        """Load the configured keys.

        Raises `InvalidConfiguration` where the recipient is missing, or the signing key is missing or not among
        *signers*. Raises `UnusableKey` where there is no private key.
        """
        keys = configuration.keys
        try:
            recipient = Recipient.load(configuration.path(keys.recipient))
        except UnusableKey as error:
            raise InvalidConfiguration(f"[keys] recipient: {error}; it is what --reseal seals to") from None
        try:
            signer = Signer.load(configuration.path(keys.producer_signing_key))
        except UnusableKey as error:
            raise InvalidConfiguration(
                f"[keys] producer_signing_key: {error}; --reseal signs with it, and workers accept only signatures of "
                "keys whose public half is in [keys] signers"
            ) from None
        trial = b"tokenferry reseal"
        if not signers.verify(signer.signer_id, signer.sign(trial), trial):
            raise InvalidConfiguration(
                f"[keys] producer_signing_key: signs as {signer.signer_id}, which is not in [keys] signers: workers "
                "would move resealed messages to quarantine; copy its public half there, here and for the workers"
            )
        return cls(Opener(load_identities(configuration.path(keys.identities)), signers), recipient, signer)

    def stale(self, dead_letter: DeadLetter) -> SealedRequest | SealedDocument | None:
        """Return the envelope of *dead_letter* that is sealed to another key, or None. Opens nothing.

        The signature of *dead_letter* must be verified. Raises `Unopenable` where an order carries a request that no
        known producer has signed.
        """
        sealed = dead_letter.sealed
        if dead_letter.order is not None and dead_letter.order.request.sealed is not None:
            sealed = self.opener.read(dead_letter.order.request.sealed)
        return None if sealed is None or same_key(sealed.header.key_id, self.recipient.key_id) else sealed

    def can(self, dead_letter: DeadLetter) -> bool:
        """True if no private key is needed for *dead_letter*, or it is here. Opens nothing."""
        try:
            stale = self.stale(dead_letter)
        except Unopenable:
            return False
        return stale is None or stale.header.key_id in self.opener.identities

    def message(self, dead_letter: DeadLetter) -> str:
        """Return the message of *dead_letter*, with its envelope sealed to the current recipient.

        The signature of *dead_letter* must be verified. Raises `Unopenable`.
        """
        stale = self.stale(dead_letter)
        if stale is None:
            return dead_letter.message
        envelope = self._seal(stale).text()
        if dead_letter.order is None:
            return envelope
        order = dead_letter.order.request
        signer_id = id_in(order.version, self.signer.signer_id)
        request = order.model_copy(update={"sealed": envelope, "signer_id": signer_id})
        return sign_attach(request, self.signer).text()

    def _seal(self, stale: SealedRequest | SealedDocument) -> SealedRequest | SealedDocument:
        to, signer = self.recipient, self.signer
        version = 2 if isinstance(stale, Envelope2) else 1
        ids = {"key_id": id_in(version, to.key_id), "producer_id": id_in(version, signer.signer_id)}
        keys = {"suite": to.suite, **ids}
        # The content gets no variable: it is gone when the call returns.
        if isinstance(stale, Envelope2):
            header2 = stale.header.model_copy(update=keys)
            return seal2(self.opener.open_content(stale), header2, to=to, signer=signer)
        if isinstance(stale, OnboardingEnvelope):
            header = stale.header.model_copy(update=keys)
            return seal_onboarding(self.opener.open_onboarding(stale), header, to=to, signer=signer)
        return seal_plaintext(self.opener.open(stale), stale.header.model_copy(update=keys), to=to, signer=signer)
