"""Fingerprints: the same number, the same short text; never the way back (keyed, with a key of this run only)."""

import hashlib
import hmac
import string

_ALPHABET = string.ascii_letters + string.digits


def fingerprint(secret: bytes, number: str) -> str:
    """Sixteen characters, as on the wire."""
    digest = hmac.digest(secret, number.encode(), hashlib.sha256)
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in digest[:16])
