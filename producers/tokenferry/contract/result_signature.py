"""How a result is signed: in a message header beside the body, which stays as it is.

    tokenferry-signature: KEY_ID.SIGNATURE

The signature is Ed25519 (RFC 8032), in base64url without padding. It covers the name of the result queue, so a
result that is moved to another route does not verify. A notice is signed likewise, under another name.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tokenferry.contract.notices import BEGINNING

SIGNATURE_HEADER: Final = "tokenferry-signature"
UNVERIFIED: Final = "unverified result"
"""Why a message on a reply route was refused: no worker that is known here signed it for this route."""

LONGEST: Final = 33 + 1 + 86
"""Characters of the longest header value: a key id, a dot, 64 bytes in base64url."""
_RESULT: Final = b"tokenferry/v2/result"
_NOTICE: Final = b"tokenferry/v2/notice"
_VALUE: Final = re.compile(r"(k[0-9a-f]{16}(?:[0-9a-f]{16})?)\.([A-Za-z0-9_-]{85}[AQgw])", re.ASCII)
"""64 bytes end with four bits in their last character. The other two of its six bits must be zero, so four letters
can stand there, and each signature has one spelling."""


@dataclass(frozen=True, slots=True)
class ResultSignature:
    """Whose signature it claims to be, and the 64 bytes."""

    key_id: str
    signature: bytes


def signed_bytes(queue: str, body: bytes) -> bytes:
    """What a worker signs. A queue name holds no zero byte, so no byte can change sides."""
    return b"\0".join((_NOTICE if body.startswith(BEGINNING) else _RESULT, queue.encode(), body))


def header_value(signed: ResultSignature) -> str:
    """The value of the header."""
    return f"{signed.key_id}.{urlsafe_b64encode(signed.signature).rstrip(b'=').decode()}"


def read_header_value(value: str) -> ResultSignature | None:
    """The signature in *value*; None where it is not spelled as `header_value` spells one."""
    if len(value) > LONGEST or (found := _VALUE.fullmatch(value)) is None:
        return None
    return ResultSignature(found[1], urlsafe_b64decode(f"{found[2]}=="))


def only_signature(headers: object) -> Mapping[str, Any]:
    """What a reader keeps of a message's headers: the signature, if there is one, and nothing else.

    A value that cannot be a signature is kept as the empty text, which does not verify. It is not the same as none.

    >>> only_signature({"task": "x", "tokenferry-signature": 7}), only_signature({"task": "x"}), only_signature(None)
    ({'tokenferry-signature': ''}, {}, {})
    """
    if not isinstance(headers, Mapping) or SIGNATURE_HEADER not in headers:
        return {}
    value = headers[SIGNATURE_HEADER]
    return {SIGNATURE_HEADER: value if isinstance(value, str) and len(value) <= LONGEST else ""}
