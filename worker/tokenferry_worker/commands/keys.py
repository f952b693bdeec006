"""`tokenferry keys`: generate the keys that seal, open and sign requests."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
from cryptography.hazmat.primitives.asymmetric import ed25519, mlkem, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tokenferry.sealing import key_id
from tokenferry_worker.keys.policy_text import add_missing, signers_in

Private = x25519.X25519PrivateKey | mlkem.MLKEM768PrivateKey | ed25519.Ed25519PrivateKey


@click.group()
def keys() -> None:
    """Generate the keys that seal, open and sign requests."""


@keys.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write to.")
@click.option("--post-quantum", is_flag=True, help="Seal with ML-KEM-768 and X25519 together instead of X25519 alone.")
@click.option(
    "--producer",
    "producer_out",
    type=click.Path(file_okay=False, path_type=Path),
    help="A second folder, which gets only the keys that a producer needs.",
)
@click.option("--if-missing", is_flag=True, help="Do nothing if OUT already holds a recipient.")
@click.option("--json", "as_json", is_flag=True, help="Print key ids and files as JSON.")
def generate(out: Path, post_quantum: bool, producer_out: Path | None, if_missing: bool, as_json: bool) -> None:
    """Generate a worker identity, and the signing keys of a producer and a worker.

    \b
    OUT/recipient.pem         public: producers seal to it
    OUT/identities/*.pem      private: tokenize and onboard workers open with it. Never give it to a producer
    OUT/producer.pem          private: a producer signs with it
    OUT/worker.pem            private: a tokenize worker signs attach orders with it
    OUT/signers/*.pem         public: workers accept the signatures of these keys
    OUT/policy.toml           who of them may ask for what (tokenferry signers): all workers read it

    If you run it again with the same folder, it adds a new identity and makes it the recipient. Older identities still
    open what was sealed to them. Workers that read the folder need no restart. Existing signing keys and
    entries of the policy are kept. Signers that were there before there was a policy keep every right.
    """
    if if_missing and (out / "recipient.pem").exists():
        click.echo(json.dumps({}) if as_json else f"{out} holds a recipient already; nothing to do")
        return
    try:
        before = signers_in(out / "signers")
        written = _generate(out, post_quantum)
        add_missing(out, before)
        if producer_out is not None:
            _copy_for_producer(out, producer_out)
    except OSError as error:
        raise click.UsageError(f"{out}: keys cannot be written there ({error.strerror})") from None
    if as_json:
        click.echo(json.dumps(written))
        return
    click.echo(f"wrote identity {written['identity']} to {out}")
    click.echo("  to producers:        recipient.pem, producer.pem")
    click.echo("  to tokenize workers: identities/, worker.pem, signers/, policy.toml")
    click.echo("  to attach workers:   signers/, policy.toml")
    click.echo("  to onboard workers:  identities/, signers/, policy.toml")


def _generate(out: Path, post_quantum: bool) -> dict[str, str]:
    """Write a new identity, and the signing keys that are missing. Return the key ids and the recipient's file."""
    parts: list[x25519.X25519PrivateKey | mlkem.MLKEM768PrivateKey] = []
    if post_quantum:
        parts.append(mlkem.MLKEM768PrivateKey.generate())
    parts.append(x25519.X25519PrivateKey.generate())
    identity = key_id(b"".join(part.public_key().public_bytes_raw() for part in parts))
    written = {"identity": identity, "recipient": str(out / "recipient.pem")}
    for folder in (out, out / "identities", out / "signers"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(out / "identities" / f"{identity}.pem", b"".join(map(_private, parts)), 0o600)
    _write(out / "recipient.pem", b"".join(map(_public, parts)), 0o644)
    for role in ("producer", "worker"):
        if not (out / f"{role}.pem").exists():
            signing = ed25519.Ed25519PrivateKey.generate()
            signer = key_id(signing.public_key().public_bytes_raw())
            _write(out / f"{role}.pem", _private(signing), 0o600)
            _write(out / "signers" / f"{role}-{signer}.pem", _public(signing), 0o644)
            written[role] = signer
    return written


def _copy_for_producer(out: Path, producer_out: Path) -> None:
    producer_out.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, mode in (("recipient.pem", 0o644), ("producer.pem", 0o600)):
        _write(producer_out / name, (out / name).read_bytes(), mode)


def _private(key: Private) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _public(key: Private) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write another file, then rename it. A reader sees the old file or the new one, never half or open to others."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
