"""Opens envelopes. Only here, between the queue and the call to Stripe, is a card number in clear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from cryptography.exceptions import InvalidTag

from tokenferry.contract.attach import SignedAttach, read_order
from tokenferry.contract.attach import signed_bytes as attach_bytes
from tokenferry.contract.envelope import MAX_ENVELOPE_BYTES, CommonHeader, Envelope, signed_bytes
from tokenferry.contract.envelope2 import Envelope2, Header2, SealedRequest, info, read_request
from tokenferry.contract.onboarding import Onboarding, OnboardingEnvelope, SealedDocument, read_document
from tokenferry.contract.plaintext import DOCUMENT, FORM, Plaintext, Plaintext2, unpad
from tokenferry.contract.targets import digest
from tokenferry.contract.text_form import NotCanonical
from tokenferry.sealing import SUITES
from tokenferry_worker.errors import NOT_OF_A_PRODUCER, NOT_OF_A_SIGNER, HiddenCvc, OfStranger, Unopenable
from tokenferry_worker.keys.identities import Identity, Signers

CHANGED: Final = "does not open: header or ciphertext changed"


@dataclass(frozen=True)
class Opener:
    """Opens envelopes of known producers with the private keys of this worker."""

    identities: Mapping[str, Identity]
    signers: Signers

    def read(self, body: str) -> SealedRequest:
        """Parse *body* and verify that a known producer signed it. Does not open it yet.

        Raises `Unopenable`.
        """
        if len(body) > MAX_ENVELOPE_BYTES:
            raise Unopenable("longer than any envelope")
        try:
            envelope = read_request(body)
        except NotCanonical:
            raise Unopenable("not an envelope") from None
        self._verify(envelope)
        return envelope

    def read_onboarding(self, body: str) -> SealedDocument:
        """Do as `read`, for the envelope of an onboarding. Neither accepts the envelopes of the other."""
        if len(body) > MAX_ENVELOPE_BYTES:
            raise Unopenable("longer than any envelope")
        try:
            envelope = read_document(body)
        except NotCanonical:
            raise Unopenable("not an onboarding") from None
        self._verify(envelope)
        return envelope

    def _verify(self, envelope: SealedRequest | SealedDocument) -> None:
        header = envelope.header
        signed = (
            envelope.signed
            if isinstance(envelope, Envelope2)
            else signed_bytes(envelope.header.canonical(), envelope.ciphertext)
        )
        if not self.signers.verify(header.producer_id, envelope.signature, signed):
            raise OfStranger(NOT_OF_A_PRODUCER, header.producer_id)

    def open(self, envelope: SealedRequest) -> Plaintext:
        """Return the content. The caller must not keep it longer than its call.

        Raises `Unopenable`.
        """
        if isinstance(envelope, Envelope2):
            content = self.open_content(envelope)
            if content.content_type != FORM:
                raise Unopenable("the content is not a form")
            return Plaintext(form=content.body, attach=content.plan)
        try:
            plaintext = Plaintext.model_validate_json(self._unpadded(envelope, envelope.header.canonical()))
        except ValueError:
            raise Unopenable(CHANGED) from None
        if envelope.header.attach_digest != (digest(plaintext.attach) if plaintext.attach else None):
            raise Unopenable("attach plan and header do not agree")
        return plaintext

    def open_onboarding(self, envelope: SealedDocument) -> Onboarding:
        """Return the document inside.

        Raises `Unopenable`.
        """
        try:
            if not isinstance(envelope, Envelope2):
                return Onboarding.model_validate_json(self._unpadded(envelope, envelope.header.canonical()))
            content = self.open_content(envelope)
            if content.content_type != DOCUMENT:
                raise Unopenable("the content is not a document")
            document = Onboarding.model_validate_json(content.body)
        except ValueError:
            raise Unopenable(CHANGED) from None
        return document.model_copy(update={"progress": envelope.header.progress})

    def open_content(self, envelope: Envelope2) -> Plaintext2:
        """Return all that is inside an envelope of version 2.

        Raises `Unopenable`, and `HiddenCvc` where a verification code is inside and the header does not say so.
        """
        try:
            content = Plaintext2.read(self._unpadded(envelope, info(envelope.header)))
        except ValueError:
            raise Unopenable(CHANGED) from None
        if envelope.header.plan_digest != content.plan_digest():
            raise Unopenable("attach plan and header do not agree")
        if envelope.header.operations != (content.plan.operations() if content.plan is not None else ()):
            raise Unopenable("the header names other operations than the attach plan")
        if not envelope.header.cvc and content.content_type != DOCUMENT and _carries_cvc(content):
            raise HiddenCvc("a verification code is inside and the header does not say so")
        return content

    def _unpadded(self, envelope: Envelope | OnboardingEnvelope | Envelope2, bound: bytes) -> bytes:
        """Raises `Unopenable` where there is no key for it, and `ValueError` where it does not open."""
        header: CommonHeader | Header2 = envelope.header
        identity = self.identities.get(header.key_id)
        if identity is None:
            raise Unopenable("sealed to a key that is not here")
        if identity.suite != header.suite:
            raise Unopenable("suite and key do not belong together")
        try:
            return unpad(SUITES[header.suite].decrypt(envelope.ciphertext, identity.private, bound))
        except InvalidTag:
            raise Unopenable(CHANGED) from None


def read_attach(body: str, signers: Signers) -> SignedAttach:
    """Parse an attach order and verify its signature. It needs no private key, because the order is not sealed.

    Raises `Unopenable`.
    """
    if len(body) > MAX_ENVELOPE_BYTES:
        raise Unopenable("longer than any attach request")
    try:
        signed = read_order(body)
    except NotCanonical:
        raise Unopenable("not an attach request") from None
    # Of version 2 it is what travels, in its one spelling: nothing has to be written again.
    is_second = signed.request.version == 2
    what = body.rpartition(".")[0].encode() if is_second else attach_bytes(signed.request)
    if not signers.verify(signed.request.signer_id, signed.signature, what):
        raise OfStranger(NOT_OF_A_SIGNER, signed.request.signer_id)
    return signed


def _carries_cvc(content: Plaintext2) -> bool:
    """True if a field of the body is a verification code: it has `cvc` in its name, and no other field has."""
    if content.content_type != FORM:
        return "cvc" in content.body.lower()
    fields = parse_qsl(content.body.replace(";", "&"), keep_blank_values=True)  # some servers split at both
    return any("cvc" in name.lower() for name, _ in fields)
