"""The request as the other contenders carry it: the same form in an HPKE envelope of the same size.

They neither sign nor check a signature, and keep nothing but the message and its result.
"""

from __future__ import annotations

import hashlib
import json
import struct
from urllib.parse import parse_qsl, urlencode

from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from bench.contenders.card import CARD

SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
PRIVATE = X25519PrivateKey.from_private_bytes(hashlib.sha256(b"bench").digest())
PUBLIC = PRIVATE.public_key()
INFO = b"bench"
SIZE = 512
"""Bytes that are sealed: the bucket which the product pads a card request to."""
FORM = urlencode({f"card[{name}]": value for name, value in CARD.items()}, safe="[]")


def sealed() -> bytes:
    """One sealed request."""
    content = json.dumps({"form": FORM}).encode()
    padded = struct.pack(">I", len(content)) + content + bytes(SIZE - len(content) - 4)
    return SUITE.encrypt(padded, PUBLIC, INFO)


def opened(envelope: bytes) -> str:
    """The form inside."""
    padded = SUITE.decrypt(envelope, PRIVATE, INFO)
    (length,) = struct.unpack_from(">I", padded)
    return str(json.loads(padded[4 : 4 + length])["form"])


def card_in(form: str) -> dict[str, str]:
    """The fields of the card, as the SDK wants them."""
    return {name[5:-1]: value for name, value in parse_qsl(form)}
