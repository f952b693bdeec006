"""Sealing to the current recipient what was sealed to an earlier one, so that the earlier private key can be retired.

Only the keys change: id, deadline, platform, plan and the form that the endpoint gets stay as they were, and with them
the journal entry and the idempotency key. What nobody whom the workers know has signed is never signed here.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenferry.configuration import Configuration, InvalidConfiguration
from tokenferry.contract.envelope import Envelope
from tokenferry.contract.onboarding import OnboardingEnvelope
from tokenferry.sealing import Recipient, Signer, UnusableKey, seal_onboarding, seal_plaintext, sign_attach
from tokenferry_worker.dead_letters.record import DeadLetter
from tokenferry_worker.errors import Unopenable
from tokenferry_worker.keys.identities import Signers, load_identities
from tokenferry_worker.keys.opening import Opener


@dataclass(frozen=True)
class Resealer:
    """Opens with the ring of this machine, seals to *recipient* and signs as *signer*."""

    opener: Opener
    recipient: Recipient
    signer: Signer

    @classmethod
    def load(cls, configuration: Configuration, signers: Signers) -> Resealer:
        """With the configured keys.

        Raises `InvalidConfiguration` where there is nobody to seal to or to sign whom *signers* know, and `UnusableKey`
        where there is no ring.
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
                f"[keys] producer_signing_key: {error}; somebody whom the workers trust must sign what --reseal seals: "
                "its public half must be in [keys] signers"
            ) from None
        trial = b"tokenferry reseal"
        if not signers.verify(signer.signer_id, signer.sign(trial), trial):
            raise InvalidConfiguration(
                f"[keys] producer_signing_key: signs as {signer.signer_id}, which is not in [keys] signers: workers "
                "would put what --reseal seals into quarantine; copy its public half there, here and for the workers"
            )
        return cls(Opener(load_identities(configuration.path(keys.identities)), signers), recipient, signer)

    def stale(self, letter: DeadLetter) -> Envelope | OnboardingEnvelope | None:
        """What of *letter*, whose signature is verified, is sealed to another key. None: nothing. Opens nothing.

        Raises `Unopenable` where the request that travels with an order is none of a known producer.
        """
        sealed = letter.sealed
        if letter.order is not None and letter.order.request.sealed is not None:
            sealed = self.opener.read(letter.order.request.sealed)
        return None if sealed is None or sealed.header.key_id == self.recipient.key_id else sealed

    def can(self, letter: DeadLetter) -> bool:
        """Whether the key to *letter* is here, if one is needed. Opens nothing."""
        try:
            stale = self.stale(letter)
        except Unopenable:
            return False
        return stale is None or stale.header.key_id in self.opener.identities

    def message(self, letter: DeadLetter) -> str:
        """The message of *letter*, whose signature is verified, with nothing in it that is sealed to another key.

        Raises `Unopenable`.
        """
        stale = self.stale(letter)
        if stale is None:
            return letter.message
        anew = self._seal(stale).model_dump_json()
        if letter.order is None:
            return anew
        request = letter.order.request.model_copy(update={"sealed": anew, "signer_id": self.signer.signer_id})
        return sign_attach(request, self.signer).model_dump_json()

    def _seal(self, stale: Envelope | OnboardingEnvelope) -> Envelope | OnboardingEnvelope:
        to, signer = self.recipient, self.signer
        keys = {"key_id": to.key_id, "suite": to.suite, "producer_id": signer.signer_id}
        # What is inside gets no name here: it is gone when the call returns.
        if isinstance(stale, OnboardingEnvelope):
            header = stale.header.model_copy(update=keys)
            return seal_onboarding(self.opener.open_onboarding(stale), header, to=to, signer=signer)
        return seal_plaintext(self.opener.open(stale), stale.header.model_copy(update=keys), to=to, signer=signer)
