"""What stands in for a worker signs its results as one."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from tokenferry.broker.publishing import Outgoing
from tokenferry.contract.result_signature import SIGNATURE_HEADER, ResultSignature, header_value, signed_bytes
from tokenferry.sealing import Signer


def write_result_key(folder: Path, name: str = "result") -> Path:
    """A new key that signs results: the private half in *folder*, the public one in its `result-signers`."""
    key = ed25519.Ed25519PrivateKey.generate()
    path = folder / f"{name}.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    path.chmod(0o600)
    (folder / "result-signers").mkdir(exist_ok=True)
    (folder / "result-signers" / path.name).write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return path


signer = cache(Signer.load)


def signature(queue: str, body: str, key: Path) -> str:
    """The header value for *body* on *queue*, made with the private key in the file *key*."""
    value = signer(key).sign(signed_bytes(queue, body.encode()))
    return header_value(ResultSignature(signer(key).signer_id, value))


def signed(queue: str, body: str, key: Path) -> Outgoing:
    """*body*, whatever it is, on its way to *queue* as a worker with *key* would send it."""
    return Outgoing(queue, body, {SIGNATURE_HEADER: signature(queue, body, key)})
