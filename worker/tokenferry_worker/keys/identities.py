"""Loads the private keys that open envelopes, and the public keys whose signatures are accepted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, mlkem, x25519

from tokenferry.contract.envelope import Suite
from tokenferry.key_ring import KeyRing
from tokenferry.sealing import UnusableKey, key_id, read_key_file, read_private_key_file
from tokenferry_worker.keys.xwing_seed import expand, read_seed

log = logging.getLogger(__name__)

Key = TypeVar("Key")

PrivateKey = x25519.X25519PrivateKey | hpke.MLKEM768X25519PrivateKey
RECHECK_SECONDS: Final = 1.0
"""How often a worker looks whether a folder has changed."""
BEGIN_PRIVATE = b"-----BEGIN PRIVATE KEY-----"


@dataclass(frozen=True)
class Identity:
    """One private key. Its `repr` shows only the key id."""

    key_id: str
    suite: Suite
    private: PrivateKey

    def __repr__(self) -> str:
        return f"Identity({self.key_id})"


def load_identities(folder: Path) -> Mapping[str, Identity]:
    """Return the key of every `*.pem` in *folder* by key id. All of them open envelopes, new and old.

    Raises `UnusableKey` where one cannot be used, or there is none.
    """
    identities = KeyFolder(folder, _load_identity)
    if not identities:
        raise UnusableKey(f"{folder}: holds no private key (*.pem); make one with `tokenferry keys generate --out DIR`")
    return identities


class KeyFolder(Mapping[str, Key]):
    """The keys of a folder by key id, as the folder is now.

    For an unknown id, it looks at once: a new key works as soon as its file is there. For a known one it looks once a
    second at most: a key whose file was removed is of no use from then on.
    """

    def __init__(
        self,
        folder: Path,
        read: Callable[[Path], tuple[str, Key]],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """*read* returns key id and key of a file. It raises `UnusableKey`.

        So does this where two keys have one beginning.
        """
        self._folder = folder
        self._read = read
        self._monotonic = monotonic
        self._seen = self._state()
        self._files = {path.name: read(path) for path in sorted(folder.glob("*.pem"))}
        self._keys = self._ring()
        self._next_look = monotonic() + RECHECK_SECONDS

    def __getitem__(self, key_id: str) -> Key:
        if key_id not in self._keys or self._monotonic() >= self._next_look:
            self._next_look = self._monotonic() + RECHECK_SECONDS
            if (state := self._state()) != self._seen:
                self._seen = state
                self._read_again()
        return self._keys[key_id]

    def _read_again(self) -> None:
        if not self._folder.is_dir():
            log.error("keys: %s is not there; the keys read before stay in use", self._folder)
            return
        files = {}
        for path in sorted(self._folder.glob("*.pem")):
            try:
                files[path.name] = self._read(path)
            except UnusableKey as error:
                log.warning("keys: %s; the key read from it before stays in use", error)
                if path.name in self._files:
                    files[path.name] = self._files[path.name]
        before, self._files = self._files, files
        try:
            self._keys = self._ring()
        except UnusableKey as error:
            self._files = before
            log.error("keys: %s; the keys read before stay in use", error)
        else:
            log.warning("keys: read %s again", self._folder)

    def _ring(self) -> KeyRing[Key]:
        return KeyRing.of((self._folder / name, each) for name, each in self._files.items())

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def _state(self) -> Sequence[tuple[str, int, int]]:
        """Return names, times and sizes of the files. Cheap, because anybody may send unknown key ids."""
        found = []
        for path in self._folder.glob("*.pem"):
            with suppress(OSError):
                status = path.stat()
                found.append((path.name, status.st_mtime_ns, status.st_size))
        return sorted(found)


def _load_identity(path: Path) -> tuple[str, Identity]:
    content = read_private_key_file(path, "private key")
    if (seed := read_seed(content)) is not None:
        private, public = expand(seed)
        return key_id(public), Identity(key_id(public), "mlkem768x25519-hkdf-sha256-aes256gcm", private)
    try:
        parts = content.split(BEGIN_PRIVATE)[1:]
        keys = [serialization.load_pem_private_key(BEGIN_PRIVATE + part, password=None) for part in parts]
    except (ValueError, TypeError, UnsupportedAlgorithm):
        keys = []
    match keys:
        case [x25519.X25519PrivateKey() as classic]:
            name = key_id(classic.public_key().public_bytes_raw())
            return name, Identity(name, "x25519-hkdf-sha256-aes256gcm", classic)
        case [mlkem.MLKEM768PrivateKey() as quantum, x25519.X25519PrivateKey() as classic]:
            name = key_id(quantum.public_key().public_bytes_raw() + classic.public_key().public_bytes_raw())
            both = hpke.MLKEM768X25519PrivateKey(quantum, classic)
            return name, Identity(name, "mlkem768x25519-hkdf-sha256-aes256gcm", both)
    raise UnusableKey(f"{path}: is not an identity; make one with `tokenferry keys generate --out DIR`")


class Signers:
    """The Ed25519 public keys, by key id, of the programs that may send requests."""

    def __init__(self, keys: Mapping[str, ed25519.Ed25519PublicKey]) -> None:
        self._keys = keys if isinstance(keys, KeyFolder) else KeyRing(keys)

    @classmethod
    def load(cls, folder: Path) -> Signers:
        """Load every `*.pem` in *folder*.

        Raises `UnusableKey`.
        """
        keys = KeyFolder(folder, load_signer)
        if not keys:
            raise UnusableKey(f"{folder}: holds no public key of a producer (*.pem); copy them here")
        return cls(keys)

    def verify(self, signer_id: str, signature: bytes, signed: bytes) -> bool:
        """True if *signer_id* is known and *signature* is its signature over exactly *signed*."""
        key = self._keys.get(signer_id)
        if key is None:
            return False
        try:
            key.verify(signature, signed)
        except InvalidSignature:
            return False
        return True


def load_signer(path: Path) -> tuple[str, ed25519.Ed25519PublicKey]:
    """Return key id and public key of a signer's file.

    Raises `UnusableKey`.
    """
    content = read_key_file(path, "signer's public key", "copy it again")
    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise UnusableKey(f"{path}: is not an Ed25519 public key; copy it from `tokenferry keys generate`")
    return key_id(key.public_bytes_raw()), key
