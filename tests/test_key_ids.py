"""Ids and files of keys: 32 digits for new things, 16 where version 1 wrote them, and X-Wing as in its draft."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import KeyFolder
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tokenferry.contract.requests import CardRequest
from tokenferry.key_ring import KeyRing
from tokenferry.result_signers import load_result_signers
from tokenferry.sealing import SUITES, Recipient, UnusableKey, id_in, key_id, same_key
from tokenferry.xwing import PUBLIC_BYTES, from_pem, read_public, write_public
from tokenferry_worker.keys.identities import KeyFolder as Folder
from tokenferry_worker.keys.identities import load_identities
from tokenferry_worker.keys.policy import Policy, everything
from tokenferry_worker.keys.xwing_seed import expand, read_seed, write_seed

ONE = "k" + "1" * 16 + "a" * 16
ALIKE = "k" + "1" * 16 + "b" * 16
OTHER = "k" + "2" * 32
CARD = CardRequest(number="4242424242424242", exp_month="12", exp_year="2034")

DRAFT_SEED = bytes.fromhex("7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26")
"""The first test vector of draft-connolly-cfrg-xwing-kem-10."""
DRAFT_PUBLIC = "2e816deebcd76c5c80d0cd2d174478871658e8e2ff42bc9d4a6e486372e856bb"
"""SHA-256 of its public key."""


# -- ids


@pytest.mark.parametrize("spelled", [ONE, id_in(1, ONE)])
def test_a_key_is_found_by_its_id_and_by_the_beginning_that_version_1_wrote(spelled: str) -> None:
    ring = KeyRing({ONE: "one", OTHER: "other"})
    assert (ring[spelled], spelled in ring, len(ring), list(ring)) == ("one", True, 2, [ONE, OTHER])


@pytest.mark.parametrize("spelled", [ALIKE, ONE[:16], ONE[:18], ONE[:-1], ONE + "a", "", "k", "k" + "3" * 16])
def test_nothing_else_names_a_key(spelled: str) -> None:
    assert spelled not in KeyRing({ONE: "one", OTHER: "other"})
    assert not same_key(spelled, ONE)


def test_two_keys_with_one_beginning_in_one_folder_are_refused_with_both_names(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / f"{name}.pem").write_text(name)
    ids = {"first.pem": ONE, "second.pem": ALIKE}
    with pytest.raises(UnusableKey) as error:
        Folder(tmp_path, lambda path: (ids[path.name], path.name))
    assert "second.pem" in str(error.value)
    assert "first.pem" in str(error.value)
    assert "remove one of the two files" in str(error.value)


def test_a_copy_of_a_key_under_another_name_does_no_harm(key_folder: KeyFolder, tmp_path: Path) -> None:
    shutil.copytree(key_folder.result_signers, tmp_path / "signers")
    (file,) = (tmp_path / "signers").iterdir()
    shutil.copy(file, tmp_path / "signers" / "again.pem")
    assert len(load_result_signers(tmp_path / "signers")) == 1


def test_a_running_worker_keeps_its_keys_where_a_second_one_with_the_same_beginning_appears(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    time = 0.0
    ids = {"first.pem": ONE, "second.pem": ALIKE}
    (tmp_path / "first.pem").write_text("first")
    keys = Folder(tmp_path, lambda path: (ids[path.name], path.name), monotonic=lambda: time)
    (tmp_path / "second.pem").write_text("second")
    time = 10.0
    assert keys[ONE] == keys[id_in(1, ONE)] == "first.pem"
    assert ALIKE not in keys
    assert "begins like that of first.pem" in caplog.text


@pytest.mark.parametrize("entry", [ONE, id_in(1, ONE)])
@pytest.mark.parametrize("asked", [ONE, id_in(1, ONE)])
def test_an_entry_of_the_policy_counts_however_many_digits_it_and_the_message_have(entry: str, asked: str) -> None:
    assert Policy({entry: everything(), OTHER: everything()}).grant_of(asked) is not None
    assert Policy({entry: everything()}).grant_of(ALIKE) is (None if entry == ONE else everything()) or entry != ONE


# -- X-Wing


def test_a_seed_makes_the_public_key_that_the_draft_says() -> None:
    _, public = expand(DRAFT_SEED)
    assert len(public) == PUBLIC_BYTES
    assert hashlib.sha256(public).hexdigest() == DRAFT_PUBLIC


def test_the_files_hold_the_seed_and_the_public_bytes_and_nothing_else(quantum_key_folder: KeyFolder) -> None:
    (identity,) = quantum_key_folder.identities.glob("*.pem")
    seed, public = read_seed(identity.read_bytes()), read_public(quantum_key_folder.recipient.read_bytes())
    assert seed is not None
    assert expand(seed)[1] == public
    assert identity.stem == key_id(public or b"")
    der = from_pem("PRIVATE KEY", identity.read_bytes())
    assert der is not None
    assert len(der) == 22 + 32


def two_keys(folder: Path) -> tuple[Path, Path]:
    """Write a recipient and an identity as version 1 did."""
    parts = mlkem.MLKEM768PrivateKey.generate(), x25519.X25519PrivateKey.generate()
    (folder / "identities").mkdir()
    private, public = folder / "identities" / "old.pem", folder / "recipient.pem"
    private.write_bytes(
        b"".join(part.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) for part in parts)
    )
    private.chmod(0o600)
    public.write_bytes(
        b"".join(part.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for part in parts)
    )
    return private, public


def seeded(folder: Path) -> tuple[Path, Path]:
    (folder / "identities").mkdir()
    private, public = folder / "identities" / "new.pem", folder / "recipient.pem"
    private.write_bytes(write_seed(DRAFT_SEED))
    private.chmod(0o600)
    public.write_bytes(write_public(expand(DRAFT_SEED)[1]))
    return private, public


@pytest.mark.parametrize("written", [two_keys, seeded])
def test_both_forms_of_a_hybrid_key_seal_and_open(tmp_path: Path, written: Callable[[Path], tuple[Path, Path]]) -> None:
    private, public = written(tmp_path)
    recipient, identities = Recipient.load(public), load_identities(private.parent)
    identity = identities[recipient.key_id]
    assert identity.suite == recipient.suite == "mlkem768x25519-hkdf-sha256-aes256gcm"
    sealed = SUITES[recipient.suite].encrypt(b"content", recipient.public, b"info")
    assert SUITES[identity.suite].decrypt(sealed, identity.private, b"info") == b"content"


@pytest.mark.parametrize(
    "content",
    [
        write_seed(DRAFT_SEED[:-1]),
        write_seed(DRAFT_SEED + b"x"),
        write_seed(DRAFT_SEED) * 2,
        write_seed(DRAFT_SEED).replace(b"PRIVATE", b"PUBLIC"),
        write_seed(DRAFT_SEED).replace(b"M", b"!", 1),
        b"-----BEGIN PRIVATE KEY-----\n",
    ],
)
def test_what_is_no_seed_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    assert read_seed(content) is None
    path = tmp_path / "broken.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(UnusableKey, match="is not an identity") as error:
        load_identities(tmp_path)
    assert DRAFT_SEED.hex()[:8] not in str(error.value)


@pytest.mark.parametrize("cut", [lambda raw: raw[:-1], lambda raw: raw + b"x", lambda raw: b"\xff" * 1184 + raw[1184:]])
def test_what_is_no_public_key_is_refused(tmp_path: Path, cut: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "recipient.pem"
    path.write_bytes(write_public(cut(expand(DRAFT_SEED)[1])))
    with pytest.raises(UnusableKey, match="is not a recipient key"):
        Recipient.load(path)
