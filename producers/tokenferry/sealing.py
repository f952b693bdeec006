"""Encrypting a request so that only a worker can read it. This half cannot decrypt it.

HPKE base mode (RFC 9180) with the header's canonical bytes as `info`; the sender is authenticated by an Ed25519
signature (RFC 8032) instead of HPKE's auth mode, so that a worker holds only public keys of producers.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, mlkem, x25519

from tokenferry import xwing
from tokenferry.contract.attach import AttachRequest, SignedAttach
from tokenferry.contract.attach import signed_bytes as attach_bytes
from tokenferry.contract.envelope import CommonHeader, Envelope, Header, Suite, signed_bytes
from tokenferry.contract.envelope2 import Envelope2, Header2
from tokenferry.contract.onboarding import Onboarding, OnboardingEnvelope, OnboardingHeader
from tokenferry.contract.plaintext import Plaintext, Plaintext2, pad
from tokenferry.contract.requests import TokenRequest
from tokenferry.contract.targets import AttachTarget
from tokenferry.errors import ProducerError

SUITES: Final[dict[Suite, hpke.Suite]] = {
    "x25519-hkdf-sha256-aes256gcm": hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM),
    "mlkem768x25519-hkdf-sha256-aes256gcm": hpke.Suite(
        hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM
    ),
}
PublicKey = x25519.X25519PublicKey | hpke.MLKEM768X25519PublicKey
BEGIN_PUBLIC: Final = b"-----BEGIN PUBLIC KEY-----"


class UnusableKey(ProducerError, ValueError):
    """A key file is missing, readable by others, or not the key it should be. Says which file and what to do."""

    exit_code = 2


def key_id(public: bytes) -> str:
    """The name of a key: `k` and 32 hex digits of the SHA-256 of its public bytes.

    >>> key_id(bytes(32))
    'k66687aadf862bd776c8fc18b8e9f8e20'
    """
    return "k" + hashlib.sha256(public).hexdigest()[:32]


def id_in(version: int, key_id: str) -> str:
    """Return *key_id* as messages of *version* spell it: version 1 has the first 16 digits only.

    >>> id_in(1, "k66687aadf862bd776c8fc18b8e9f8e20")
    'k66687aadf862bd77'
    """
    return key_id[:17] if version == 1 else key_id


def same_key(one: str, other: str) -> bool:
    """True if two ids name the same key, however many digits each of them has.

    >>> same_key("k66687aadf862bd77", "k66687aadf862bd776c8fc18b8e9f8e20")
    True
    """
    return one == other or (id_in(1, one) == id_in(1, other) and 17 in (len(one), len(other)))


@dataclass(frozen=True)
class Recipient:
    """The public key with which a producer seals."""

    key_id: str
    suite: Suite
    public: PublicKey

    @classmethod
    def load(cls, path: Path) -> Recipient:
        """Read one PEM file: an X25519 or an X-Wing public key, or (version 1) an ML-KEM-768 and an X25519 key.

        Raises `UnusableKey`.
        """
        content = read_key_file(path, "recipient", "copy recipient.pem from where `tokenferry keys generate` wrote it")
        try:
            if (raw := xwing.read_public(content)) is not None:
                return cls(key_id(raw), "mlkem768x25519-hkdf-sha256-aes256gcm", xwing.public_key(raw))
            keys = [serialization.load_pem_public_key(BEGIN_PUBLIC + part) for part in content.split(BEGIN_PUBLIC)[1:]]
        except (ValueError, UnsupportedAlgorithm):
            keys = []
        match keys:
            case [x25519.X25519PublicKey() as classic]:
                return cls(key_id(classic.public_bytes_raw()), "x25519-hkdf-sha256-aes256gcm", classic)
            case [mlkem.MLKEM768PublicKey() as quantum, x25519.X25519PublicKey() as classic]:
                return cls(
                    key_id(quantum.public_bytes_raw() + classic.public_bytes_raw()),
                    "mlkem768x25519-hkdf-sha256-aes256gcm",
                    hpke.MLKEM768X25519PublicKey(quantum, classic),
                )
        raise UnusableKey(f"{path}: is not a recipient key; copy recipient.pem from `tokenferry keys generate`")


@dataclass(frozen=True)
class Signer:
    """The private key that proves who sent it. It signs; it cannot decrypt."""

    signer_id: str
    sign: Callable[[bytes], bytes]

    @classmethod
    def load(cls, path: Path) -> Signer:
        """Read an Ed25519 private key (PEM, PKCS #8, mode 0600).

        Raises `UnusableKey`.
        """
        content = read_private_key_file(path, "signing key")
        try:
            key = serialization.load_pem_private_key(content, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise UnusableKey(f"{path}: is not an Ed25519 private key; make one with `tokenferry keys generate`")
        return cls(key_id(key.public_key().public_bytes_raw()), key.sign)


def seal(
    request: TokenRequest, header: Header, *, to: Recipient, signer: Signer, attach: AttachTarget | None = None
) -> Envelope:
    """Seal *request* under *header*, whose key id and producer id must be those of *to* and *signer*."""
    return seal_plaintext(Plaintext(form=request.form(), attach=attach), header, to=to, signer=signer)


def seal_plaintext(content: Plaintext, header: Header, *, to: Recipient, signer: Signer) -> Envelope:
    """Seal the plaintext of an earlier request: the form stays the same, byte for byte."""
    ciphertext, signature = _sealed(content.model_dump_json(), header, to, signer)
    return Envelope.model_construct(header=header, ciphertext=ciphertext, signature=signature)


def seal_onboarding(
    document: Onboarding, header: OnboardingHeader, *, to: Recipient, signer: Signer
) -> OnboardingEnvelope:
    """Seal a whole *document*, as `seal` does a request."""
    ciphertext, signature = _sealed(document.model_dump_json(exclude_none=True), header, to, signer)
    return OnboardingEnvelope.model_construct(header=header, ciphertext=ciphertext, signature=signature)


def seal2(content: Plaintext2, header: Header2, *, to: Recipient, signer: Signer) -> Envelope2:
    """Seal *content* in version 2. *header* names the keys, and the digest of the content's plan."""
    _check_keys(header, to, signer)
    if header.plan_digest != content.plan_digest():
        raise ValueError("the header names another plan than the content")
    padded = pad(content.canonical())
    return Envelope2.write(header, lambda info: SUITES[header.suite].encrypt(padded, to.public, info), signer.sign)


def _check_keys(header: CommonHeader | Header2, to: Recipient, signer: Signer) -> None:
    named = same_key(header.key_id, to.key_id) and same_key(header.producer_id, signer.signer_id)
    if not named or header.suite != to.suite:
        raise ValueError("the header names another recipient or producer than the keys given")


def _sealed(content: str, header: CommonHeader, to: Recipient, signer: Signer) -> tuple[bytes, bytes]:
    _check_keys(header, to, signer)
    bound = header.canonical()
    ciphertext = SUITES[header.suite].encrypt(pad(content.encode()), to.public, bound)
    return ciphertext, signer.sign(signed_bytes(bound, ciphertext))


def sign_attach(request: AttachRequest, signer: Signer) -> SignedAttach:
    """Sign an attach request that names *signer*."""
    if not same_key(request.signer_id, signer.signer_id):
        raise ValueError("the attach request names another signer than the key given")
    return SignedAttach.model_construct(request=request, signature=signer.sign(attach_bytes(request)))


def read_key_file(path: Path, what: str, cure: str) -> bytes:
    """The content of a key file of at most 64 KiB.

    Raises `UnusableKey` with the *cure* when it is not there.
    """
    try:
        with path.open("rb") as file:
            return file.read(65_536)
    except OSError as error:
        raise UnusableKey(f"{path}: the {what} cannot be read ({error.strerror}); {cure}") from None


def read_private_key_file(
    path: Path, what: str, cure: str = "make one with `tokenferry keys generate --out DIR`"
) -> bytes:
    """The content of a private key file, which only its owner may read. *cure*: for a missing file.

    Raises `UnusableKey`.
    """
    content = read_key_file(path, what, cure)
    if stat.S_IMODE(path.stat().st_mode) & 0o077 and not _is_credential(path):
        raise UnusableKey(f"{path}: the {what} is readable by others; run `chmod 600 {path}` and consider a new key")
    return content


def _is_credential(path: Path) -> bool:
    """Whether it is a credential that systemd gives to this unit alone.

    Since 254 it does so by an ACL, whose mask shows as the group's bits (https://github.com/systemd/systemd/issues/29435).
    """
    folder, found = os.environ.get("CREDENTIALS_DIRECTORY"), path.stat()
    there = folder is not None and path.parent == Path(folder).resolve()
    return there and found.st_uid == 0 and not found.st_mode & 0o037
