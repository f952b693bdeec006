"""Opens envelopes. Only here, between the queue and the call to Stripe, is a card number in clear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from cryptography.exceptions import InvalidTag
from pydantic import ValidationError

from tokenferry.contract.attach import SignedAttach
from tokenferry.contract.attach import signed_bytes as attach_bytes
from tokenferry.contract.envelope import MAX_ENVELOPE_BYTES, Envelope, signed_bytes
from tokenferry.contract.onboarding import Onboarding, OnboardingEnvelope
from tokenferry.contract.plaintext import Plaintext, unpad
from tokenferry.contract.targets import digest
from tokenferry.sealing import SUITES
from tokenferry_worker.errors import Unopenable
from tokenferry_worker.keys.identities import Identity, Signers

Sealed = TypeVar("Sealed", Envelope, OnboardingEnvelope)
Content = TypeVar("Content", Plaintext, Onboarding)


@dataclass(frozen=True)
class Opener:
    """Opens envelopes of known producers with the private keys of this worker."""

    identities: Mapping[str, Identity]
    signers: Signers

    def read(self, body: str) -> Envelope:
        """Parse *body* and verify that a known producer signed it. Does not open it yet.

        Raises `Unopenable`.
        """
        return self._read(body, Envelope, "not an envelope")

    def read_onboarding(self, body: str) -> OnboardingEnvelope:
        """Do as `read`, for the envelope of an onboarding. Neither accepts the envelopes of the other."""
        return self._read(body, OnboardingEnvelope, "not an onboarding")

    def _read(self, body: str, model: type[Sealed], or_else: str) -> Sealed:
        if len(body) > MAX_ENVELOPE_BYTES:
            raise Unopenable("longer than any envelope")
        try:
            envelope = model.model_validate_json(body)
        except ValidationError:
            raise Unopenable(or_else) from None
        header = envelope.header
        signed = signed_bytes(header.canonical(), envelope.ciphertext)
        if not self.signers.verify(header.producer_id, envelope.signature, signed):
            raise Unopenable("not signed by a known producer")
        return envelope

    def open(self, envelope: Envelope) -> Plaintext:
        """Return the content. The caller must not keep it longer than its call.

        Raises `Unopenable`.
        """
        plaintext = self._open(envelope, Plaintext)
        header = envelope.header
        if header.attach_digest != (digest(plaintext.attach) if plaintext.attach else None):
            raise Unopenable("attach plan and header do not agree")
        return plaintext

    def open_onboarding(self, envelope: OnboardingEnvelope) -> Onboarding:
        """Return the document inside.

        Raises `Unopenable`.
        """
        return self._open(envelope, Onboarding)

    def _open(self, envelope: Envelope | OnboardingEnvelope, model: type[Content]) -> Content:
        header = envelope.header
        identity = self.identities.get(header.key_id)
        if identity is None:
            raise Unopenable("sealed to a key that is not here")
        if identity.suite != header.suite:
            raise Unopenable("suite and key do not belong together")
        try:
            padded = SUITES[header.suite].decrypt(envelope.ciphertext, identity.private, header.canonical())
            return model.model_validate_json(unpad(padded))
        except (InvalidTag, ValueError):
            raise Unopenable("does not open: header or ciphertext changed") from None


def read_attach(body: str, signers: Signers) -> SignedAttach:
    """Parse an attach order and verify its signature. It needs no private key, because the order is not sealed.

    Raises `Unopenable`.
    """
    if len(body) > MAX_ENVELOPE_BYTES:
        raise Unopenable("longer than any attach request")
    try:
        signed = SignedAttach.model_validate_json(body)
    except ValidationError:
        raise Unopenable("not an attach request") from None
    if not signers.verify(signed.request.signer_id, signed.signature, attach_bytes(signed.request)):
        raise Unopenable("not signed by a known signer")
    return signed
