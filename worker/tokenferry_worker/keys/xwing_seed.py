"""The files of X-Wing's private keys: the 32-byte seed as PKCS #8 in PEM (draft-connolly-cfrg-xwing-kem)."""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519

from tokenferry.xwing import ALGORITHM, from_pem, to_pem

SEED_BYTES: Final = 32
_BEFORE_SEED: Final = bytes.fromhex("3034020100") + ALGORITHM + bytes.fromhex("0420")


def write_seed(seed: bytes) -> bytes:
    """Return the file of a seed."""
    return to_pem("PRIVATE KEY", _BEFORE_SEED + seed)


def read_seed(content: bytes) -> bytes | None:
    """Return the seed in a file. None: it is no file of an X-Wing key."""
    der = from_pem("PRIVATE KEY", content)
    is_ours = der is not None and der.startswith(_BEFORE_SEED) and len(der) == len(_BEFORE_SEED) + SEED_BYTES
    return der[len(_BEFORE_SEED) :] if der is not None and is_ours else None


def expand(seed: bytes) -> tuple[hpke.MLKEM768X25519PrivateKey, bytes]:
    """Return the private key of a seed, and its 1,216 public bytes (section "Key Generation" of the draft)."""
    expanded = hashlib.shake_256(seed).digest(96)
    lattice = mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
    classic = x25519.X25519PrivateKey.from_private_bytes(expanded[64:])
    public = lattice.public_key().public_bytes_raw() + classic.public_key().public_bytes_raw()
    return hpke.MLKEM768X25519PrivateKey(lattice, classic), public
