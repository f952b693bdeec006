"""The files of X-Wing's public keys: 1,216 raw bytes as SubjectPublicKeyInfo in PEM (draft-connolly-cfrg-xwing-kem)."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519

ALGORITHM: Final = bytes.fromhex("300d060b2b0601040183e62d81c87a")
"""DER of the draft's object identifier, 1.3.6.1.4.1.62253.25722. The key itself has no wrapping of its own."""
LATTICE_BYTES: Final = 1184
PUBLIC_BYTES: Final = LATTICE_BYTES + 32
"""The public key of ML-KEM-768, then the one of X25519."""
_BEFORE_PUBLIC: Final = bytes.fromhex("308204d4") + ALGORITHM + bytes.fromhex("038204c100")


def write_public(public: bytes) -> bytes:
    """Return the file of a public key of 1,216 bytes."""
    return to_pem("PUBLIC KEY", _BEFORE_PUBLIC + public)


def read_public(content: bytes) -> bytes | None:
    """Return the 1,216 bytes in a file. None: it is no file of an X-Wing key."""
    der = from_pem("PUBLIC KEY", content)
    is_ours = der is not None and der.startswith(_BEFORE_PUBLIC) and len(der) == len(_BEFORE_PUBLIC) + PUBLIC_BYTES
    return der[len(_BEFORE_PUBLIC) :] if der is not None and is_ours else None


def public_key(public: bytes) -> hpke.MLKEM768X25519PublicKey:
    """Return the key of these 1,216 bytes. Raises `ValueError` where they are none."""
    return hpke.MLKEM768X25519PublicKey(
        mlkem.MLKEM768PublicKey.from_public_bytes(public[:LATTICE_BYTES]),
        x25519.X25519PublicKey.from_public_bytes(public[LATTICE_BYTES:]),
    )


def to_pem(label: str, der: bytes) -> bytes:
    """Return *der* in the text form of RFC 7468."""
    text = base64.b64encode(der).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()


def from_pem(label: str, content: bytes) -> bytes | None:
    """Return the DER of a file with exactly one block of *label*. None: it has another form."""
    _, begin, rest = content.partition(f"-----BEGIN {label}-----".encode())
    text, end, after = rest.partition(f"-----END {label}-----".encode())
    if not begin or not end or after.strip():
        return None
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error:
        return None
