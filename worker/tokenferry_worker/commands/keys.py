"""`tokenferry keys`: generate the keys that seal, open and sign requests."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

import click
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tokenferry.sealing import key_id
from tokenferry.xwing import write_public
from tokenferry_worker.keys.policy_text import add_missing, signers_in
from tokenferry_worker.keys.xwing_seed import SEED_BYTES, expand, write_seed

Private = x25519.X25519PrivateKey | ed25519.Ed25519PrivateKey


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
@click.option("--if-missing", is_flag=True, help="Where OUT holds a recipient already, add only what is missing.")
@click.option("--json", "as_json", is_flag=True, help="Print key ids and files as JSON.")
def generate(out: Path, post_quantum: bool, producer_out: Path | None, if_missing: bool, as_json: bool) -> None:
    """Generate a worker identity, and the signing keys of a producer and a worker.

    \b
    OUT/recipient.pem         public: producers seal to it
    OUT/identities/*.pem      private: tokenize and onboard workers open with it. Never give it to a producer
    OUT/producer.pem          private: a producer signs with it
    OUT/worker.pem            private: a tokenize worker signs attach orders with it
    OUT/signers/*.pem         public: workers accept the signatures of these keys
    OUT/result.pem            private: workers of every role sign results with it
    OUT/result-signers/*.pem  public: readers believe the results that these keys signed
    OUT/state.key             secret: workers of every role tag with it what they write to the store
    OUT/content.key           secret: tokenize and onboard workers tell the same content from another with it
    OUT/policy.toml           who of them may ask for what (tokenferry signers): all workers read it

    If you run it again with the same folder, it adds a new identity and makes it the recipient. Older identities still
    open what was sealed to them. Workers that read the folder need no restart. Existing signing keys and
    entries of the policy are kept. Signers that were there before there was a policy keep every right.
    """
    rotates = not if_missing and (out / "recipient.pem").exists()
    has_recipient = if_missing and (out / "recipient.pem").exists()
    try:
        written = make_keys(out, if_missing=if_missing, post_quantum=post_quantum)
        if producer_out is not None:
            _for_producer(out, producer_out, private=not has_recipient)
    except OSError as error:
        raise click.UsageError(f"{out}: keys cannot be written there ({error.strerror})") from None
    if as_json:
        click.echo(json.dumps(written))
        return
    if not written:
        click.echo(f"{out} holds a recipient already; nothing to do")
        return
    click.echo(f"wrote {'what was missing' if has_recipient else 'identity ' + written['identity']} to {out}")
    if rotates:
        click.echo("  this is a rotation: copy the new recipient.pem to every producer; the old identity still opens")
    if producer_out is not None:
        click.echo(f"  for one producer:      {producer_out}/ (copy it there as keys/)")
    click.echo("  to producers:          recipient.pem, producer.pem")
    click.echo("  to readers of results: result-signers/")
    everybody = "result.pem, state.key, signers/, policy.toml"
    click.echo(f"  to tokenize workers:   identities/, worker.pem, content.key, {everybody}")
    click.echo(f"  to attach workers:     {everybody}")
    click.echo(f"  to onboard workers:    identities/, content.key, {everybody}")


def make_keys(out: Path, *, if_missing: bool = False, post_quantum: bool = False) -> dict[str, str]:
    """Write a new identity and what else is missing to *out*. Return what was written.

    *if_missing*: no new identity where there is a recipient already. Raises `OSError` and `UnusableKey`.
    """
    written: dict[str, str] = {}
    before = signers_in(out / "signers")
    if not (if_missing and (out / "recipient.pem").exists()):
        written |= _envelope_keys(out, post_quantum=post_quantum)
    written |= _result_key(out)
    written |= _secret(out, "content") | _secret(out, "state")
    if add_missing(out, before):
        written["policy"] = str(out / "policy.toml")
    return written


def _envelope_keys(out: Path, *, post_quantum: bool) -> dict[str, str]:
    """Write a new identity, make it the recipient, and write the signing keys that are missing."""
    if post_quantum:
        seed = secrets.token_bytes(SEED_BYTES)
        _, raw = expand(seed)
        identity, private, public = key_id(raw), write_seed(seed), write_public(raw)
    else:
        classic = x25519.X25519PrivateKey.generate()
        identity = key_id(classic.public_key().public_bytes_raw())
        private, public = _private(classic), _public(classic)
    written = {"identity": identity, "recipient": str(out / "recipient.pem")}
    _folders(out, out / "identities")
    _write(out / "identities" / f"{identity}.pem", private, 0o600)
    _write(out / "recipient.pem", public, 0o644)
    for role in ("producer", "worker"):
        written |= _signing_key(out, role, out / "signers")
    return written


def _result_key(out: Path) -> dict[str, str]:
    """Write the key that signs results, if it is missing."""
    return _signing_key(out, "result", out / "result-signers")


def _secret(out: Path, name: str) -> dict[str, str]:
    """Write 32 random bytes in hex to NAME.key, if it is missing."""
    path = out / f"{name}.key"
    if path.exists():
        return {}
    _folders(out)
    _write(path, f"{secrets.token_hex(32)}\n".encode(), 0o600)
    return {name: str(path)}


def _signing_key(out: Path, name: str, signers: Path) -> dict[str, str]:
    """Write a new Ed25519 key to *out*, and its public half to *signers*. Keep one that is there."""
    _folders(out, signers)
    if (out / f"{name}.pem").exists():
        return {}
    signing = ed25519.Ed25519PrivateKey.generate()
    signer = key_id(signing.public_key().public_bytes_raw())
    # The public half first: no signature may be made that nobody can verify.
    _write(signers / f"{name}-{signer}.pem", _public(signing), 0o644)
    _write(out / f"{name}.pem", _private(signing), 0o600)
    return {name: signer}


def _for_producer(out: Path, producer: Path, *, private: bool) -> None:
    """Copy what a producer, and a reader of results, needs. *private*: its recipient and its signing key, too."""
    _folders(producer, producer / "result-signers")
    if private:
        _write(producer / "recipient.pem", (out / "recipient.pem").read_bytes(), 0o644)
        _write(producer / "producer.pem", (out / "producer.pem").read_bytes(), 0o600)
    for path in (out / "result-signers").glob("*.pem"):
        if not (copy := producer / "result-signers" / path.name).exists():
            _write(copy, path.read_bytes(), 0o644)


def _folders(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


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
