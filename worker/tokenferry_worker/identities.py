"""The private keys that open envelopes, and the public keys of everybody whose signature counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, mlkem, x25519

from tokenferry.contract.envelope import Suite
from tokenferry.sealing import UnusableKey, key_id, read_key_file, read_private_key_file

PrivateKey = x25519.X25519PrivateKey | hpke.MLKEM768X25519PrivateKey
BEGIN_PRIVATE = b"-----BEGIN PRIVATE KEY-----"


@dataclass(frozen=True)
class Identity:
    """One private key of the ring. Its `repr` names it and shows nothing."""

    key_id: str
    suite: Suite
    private: PrivateKey

    def __repr__(self) -> str:
        return f"Identity({self.key_id})"


def load_identities(folder: Path) -> Mapping[str, Identity]:
    """Every `*.pem` of *folder* by key id: new ones and old ones, all of them open.

    Raises `UnusableKey` when one cannot be used or there is none.
    """
    ring = {identity.key_id: identity for identity in map(_load_identity, sorted(folder.glob("*.pem")))}
    if not ring:
        raise UnusableKey(f"{folder}: holds no private key (*.pem); make one with `tokenferry keys generate --out DIR`")
    return ring


def _load_identity(path: Path) -> Identity:
    content = read_private_key_file(path, "private key")
    try:
        parts = content.split(BEGIN_PRIVATE)[1:]
        keys = [serialization.load_pem_private_key(BEGIN_PRIVATE + part, password=None) for part in parts]
    except (ValueError, TypeError, UnsupportedAlgorithm):
        keys = []
    match keys:
        case [x25519.X25519PrivateKey() as classic]:
            name = key_id(classic.public_key().public_bytes_raw())
            return Identity(name, "x25519-hkdf-sha256-aes256gcm", classic)
        case [mlkem.MLKEM768PrivateKey() as quantum, x25519.X25519PrivateKey() as classic]:
            name = key_id(quantum.public_key().public_bytes_raw() + classic.public_key().public_bytes_raw())
            both = hpke.MLKEM768X25519PrivateKey(quantum, classic)
            return Identity(name, "mlkem768x25519-hkdf-sha256-aes256gcm", both)
    raise UnusableKey(f"{path}: is not an identity; make one with `tokenferry keys generate --out DIR`")


class Signers:
    """Who may send: Ed25519 public keys by key id."""

    def __init__(self, keys: Mapping[str, ed25519.Ed25519PublicKey]) -> None:
        self._keys = dict(keys)

    @classmethod
    def load(cls, folder: Path) -> Signers:
        """Every `*.pem` of *folder*.

        Raises `UnusableKey`.
        """
        keys = {}
        for path in sorted(folder.glob("*.pem")):
            content = read_key_file(path, "signer's public key", "copy it again")
            try:
                key = serialization.load_pem_public_key(content)
            except (ValueError, UnsupportedAlgorithm):
                key = None
            if not isinstance(key, ed25519.Ed25519PublicKey):
                raise UnusableKey(f"{path}: is not an Ed25519 public key; copy it from `tokenferry keys generate`")
            keys[key_id(key.public_bytes_raw())] = key
        if not keys:
            raise UnusableKey(f"{folder}: holds no public key of a producer (*.pem); copy them here")
        return cls(keys)

    def verify(self, signer_id: str, signature: bytes, signed: bytes) -> bool:
        """Whether *signer_id* is known and *signature* is theirs over exactly *signed*."""
        key = self._keys.get(signer_id)
        if key is None:
            return False
        try:
            key.verify(signature, signed)
        except InvalidSignature:
            return False
        return True
