"""Version 2 of the envelope: a sealed request or onboarding document as one line of signed text (docs/formats.md).

The header is readable by everybody who can read the broker. Its text is the HPKE `info` (RFC 9180, section 5.1): a
ciphertext under another header does not open. The producer signs header and ciphertext together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from tokenferry.contract import text_form
from tokenferry.contract.envelope import MAX_ENVELOPE_BYTES, Envelope, Header, Milliseconds, Suite
from tokenferry.contract.message import Message
from tokenferry.contract.names import EndpointId, Id, Lane, Name
from tokenferry.contract.requests import Kind
from tokenferry.contract.text_form import NotCanonical

PREFIX: Final = "tf2e"

Operation = Annotated[
    str, StringConstraints(pattern=r"^(GET|POST|DELETE) /v[12](/[a-z0-9_]+|/\{[a-z_]+\})+$", max_length=120)
]
"""A method and a path template of the API: `POST /v1/customers/{customer}`."""
Generation = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
TraceParent = Annotated[str, StringConstraints(pattern=r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")]
"""W3C Trace Context, version 00: https://www.w3.org/TR/trace-context/#traceparent-header."""


class Header2(Message):
    """The header of version 2. Fields that are None or False are not written."""

    version: ClassVar[Literal[2]] = 2
    suite: Suite
    key_id: Name
    producer_id: Name
    request_id: Id
    generation: Generation = 1
    group: Name
    kind: Kind | Literal["onboarding"]
    platform: Name
    connected_account: EndpointId | None = None
    lane: Lane
    cvc: bool = False
    """A verification code is inside. A worker refuses a request that carries one and does not say so."""
    operations: tuple[Operation, ...] = ()
    """What the plan will call besides the token, sorted."""
    plan_digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    reply_to: Name | None = None
    batch: Name | None = None
    traceparent: TraceParent | None = None
    progress: bool = False
    issued_at: Milliseconds
    expires_at: Milliseconds

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if list(self.operations) != sorted(set(self.operations)):
            raise ValueError("operations must be sorted, each once")
        if self.cvc and self.lane != "realtime":
            raise ValueError("a verification code travels in the realtime lane only")
        if self.cvc and self.kind not in ("card", "cvc_update"):
            raise ValueError("this kind carries no verification code")
        if self.kind == "cvc_update" and not self.cvc:
            raise ValueError("a cvc_update carries a verification code")
        return self

    @property
    def answer_version(self) -> Literal[1, 2]:
        """The version of the answer that the requester reads."""
        return 2

    @property
    def has_plan(self) -> bool:
        """Whether the token is to be spent at once."""
        return self.plan_digest is not None

    @property
    def may_carry_cvc(self) -> bool:
        """Whether a verification code is inside."""
        return self.cvc

    def canonical(self) -> bytes:
        """Return the one spelling of this header."""
        usual = {"generation": 1, "cvc": False, "progress": False, "operations": []}
        given = self.model_dump(mode="json")
        return text_form.to_json({name: value for name, value in given.items() if usual.get(name, ...) != value})


@dataclass(frozen=True)
class Envelope2:
    """Header, ciphertext (HPKE encapsulated key first) and the producer's Ed25519 signature over both."""

    header: Header2
    ciphertext: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    signed: bytes = field(repr=False)
    """What the signature covers: the text before the last dot."""

    @classmethod
    def read(cls, text: str) -> Envelope2:
        """Read the one line of text. Its signature is not verified here.

        Raises `NotCanonical`, which quotes nothing.
        """
        if len(text) > MAX_ENVELOPE_BYTES:
            raise NotCanonical("longer than any envelope")
        (spelled, ciphertext), signed, signature = text_form.read(PREFIX, text, parts=2)
        try:
            header = Header2.model_validate(text_form.read_json(spelled))
        except ValidationError:
            raise NotCanonical("the header is not one of version 2") from None
        if header.canonical() != spelled:
            raise NotCanonical("the header is not in its one spelling")
        return cls(header, ciphertext, signature, signed)

    @classmethod
    def write(cls, header: Header2, seal: Callable[[bytes], bytes], sign: Callable[[bytes], bytes]) -> Envelope2:
        """Make an envelope. *seal* gets the HPKE `info` and returns the ciphertext; *sign* returns the signature."""
        ciphertext = seal(info(header))
        signed = text_form.unsigned(PREFIX, header.canonical(), ciphertext).encode()
        return cls(header, ciphertext, sign(signed), signed)

    def text(self) -> str:
        """Return the envelope as it travels."""
        return text_form.signed_text(self.signed, self.signature)


SealedRequest = Envelope | Envelope2
"""A sealed tokenization request of either version."""
RequestHeader = Header | Header2


def read_request(text: str) -> SealedRequest:
    """Read a sealed request of either version. Its signature is not verified here.

    Raises `NotCanonical`, which quotes nothing.
    """
    if text.startswith(f"{PREFIX}."):
        envelope = Envelope2.read(text)
        if envelope.header.kind == "onboarding":
            raise NotCanonical("is a document, not a request")
        return envelope
    if len(text) > MAX_ENVELOPE_BYTES:
        raise NotCanonical("longer than any envelope")
    try:
        return Envelope.model_validate_json(text)
    except ValidationError:
        raise NotCanonical("is not an envelope") from None


def info(header: Header2) -> bytes:
    """Return the HPKE `info` under which *header*'s plaintext is sealed: the header's text, with its prefix."""
    return text_form.unsigned(PREFIX, header.canonical()).encode()
