"""`tokenferry keys generate`: who holds which file is the whole security of the house."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tokenferry.contract.envelope import Header
from tokenferry.contract.requests import CardRequest
from tokenferry.result_signers import load_result_signers
from tokenferry.sealing import Recipient, Signer, UnusableKey, seal
from tokenferry_worker.commands.keys import keys
from tokenferry_worker.keys.identities import Signers, load_identities
from tokenferry_worker.keys.opening import Opener
from tokenferry_worker.keys.state_keys import StateKey

CARD = CardRequest(number="4242424242424242", exp_month="12", exp_year="2034")


def generate(out: Path, *options: str) -> Result:
    return CliRunner().invoke(keys, ["generate", "--out", str(out), *options])


def written(out: Path) -> dict[str, Any]:
    return {str(path.relative_to(out)): path for path in sorted(out.rglob("*")) if path.is_file()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def sealed(to: Recipient, signer: Signer) -> str:
    header = Header(
        suite=to.suite,
        key_id=to.key_id,
        request_id="req-1",
        kind="card",
        platform="main",
        lane="bulk",
        issued_at=1,
        expires_at=2,
        producer_id=signer.signer_id,
    )
    return seal(CARD, header, to=to, signer=signer).model_dump_json()


@pytest.mark.parametrize("options", [[], ["--post-quantum"]])
def test_it_writes_its_files_each_with_the_doors_it_needs(tmp_path: Path, options: list[str]) -> None:
    out = tmp_path / "deep" / "keys"
    answer = generate(out, *options, "--json")
    assert answer.exit_code == 0
    told = json.loads(answer.output)
    files = written(out)
    assert set(files) == {
        "recipient.pem",
        "producer.pem",
        "worker.pem",
        "policy.toml",
        f"identities/{told['identity']}.pem",
        f"signers/producer-{told['producer']}.pem",
        f"signers/worker-{told['worker']}.pem",
        "result.pem",
        "content.key",
        f"result-signers/result-{told['result']}.pem",
        "state.key",
    }
    private = {name for name, path in files.items() if b"PRIVATE" in path.read_bytes()}
    assert private == {"producer.pem", "worker.pem", "result.pem", f"identities/{told['identity']}.pem"}
    assert {mode(files[name]) for name in (*private, "content.key", "state.key")} == {0o600}
    assert len(bytes.fromhex(files["content.key"].read_text())) == 32
    assert files["content.key"].read_text().strip() not in answer.output
    assert StateKey.load(files["state.key"]).secret.hex() not in answer.output
    assert mode(out) == mode(out / "identities") == 0o700
    assert Recipient.load(out / "recipient.pem").key_id == told["identity"]
    assert Signer.load(out / "producer.pem").signer_id == told["producer"]
    assert "PRIVATE" not in answer.output


def test_private_files_are_closed_from_the_first_moment_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert generate(tmp_path / "keys").exit_code == 0
    finally:
        os.umask(before)
    for name, path in written(tmp_path / "keys").items():
        public = name == "recipient.pem" or name.startswith(("signers/", "result-signers/"))
        assert mode(path) == (0o644 if public else 0o600)


def test_without_json_it_says_who_gets_what(tmp_path: Path) -> None:
    answer = generate(tmp_path / "keys")
    assert "to producers:" in answer.output
    assert "identities/, worker.pem, content.key, result.pem, state.key, signers/" in answer.output
    assert "to readers of results: result-signers/" in answer.output


def test_run_again_it_adds_an_identity_makes_it_the_recipient_and_keeps_the_rest(tmp_path: Path) -> None:
    out = tmp_path / "keys"
    first = json.loads(generate(out, "--json").output)
    old, signer = Recipient.load(out / "recipient.pem"), Signer.load(out / "producer.pem")
    kept = {name: path.read_bytes() for name, path in written(out).items() if name != "recipient.pem"}
    body = sealed(old, signer)
    second = json.loads(generate(out, "--json", "--post-quantum").output)
    assert "producer" not in second
    assert second["identity"] != first["identity"]
    assert all((out / name).read_bytes() == content for name, content in kept.items())
    new = Recipient.load(out / "recipient.pem")
    assert (new.key_id, new.suite) == (second["identity"], "mlkem768x25519-hkdf-sha256-aes256gcm")
    opener = Opener(load_identities(out / "identities"), Signers.load(out / "signers"))
    for each in (body, sealed(new, signer)):
        assert opener.open(opener.read(each)).form == CARD.form()


def test_where_a_recipient_is_already_it_can_be_told_to_leave_it(tmp_path: Path) -> None:
    out = tmp_path / "keys"
    generate(out)
    before = {name: path.read_bytes() for name, path in written(out).items()}
    assert generate(out, "--if-missing").exit_code == 0
    assert {name: path.read_bytes() for name, path in written(out).items()} == before


@pytest.mark.parametrize("producer", [[], ["--producer", "for-producer"]])
def test_where_the_version_before_made_the_keys_only_what_is_missing_is_added(
    tmp_path: Path, in_folder: Callable[[Path], None], producer: list[str]
) -> None:
    """No new identity and no new recipient: an upgrade rotates nothing."""
    in_folder(tmp_path)
    out = tmp_path / "keys"
    generate(out)
    (out / "result.pem").unlink()
    (out / "state.key").unlink()
    shutil.rmtree(out / "result-signers")
    before = {name: path.read_bytes() for name, path in written(out).items()}
    (out / "producer.pem").rename(tmp_path / "given-away.pem")
    answer = generate(out, "--if-missing", *producer)
    assert answer.exit_code == 0, answer.output
    assert answer.output.startswith(f"wrote what was missing to {out}\n")
    (tmp_path / "given-away.pem").rename(out / "producer.pem")
    after = written(out)
    assert {name: after[name].read_bytes() for name in before} == before
    (signers,) = (out / "result-signers").iterdir()
    assert after.keys() - before.keys() == {"result.pem", "state.key", f"result-signers/{signers.name}"}
    if producer:
        assert set(written(tmp_path / "for-producer")) == {f"result-signers/{signers.name}"}


def test_a_producers_own_folder_can_seal_and_cannot_open(tmp_path: Path) -> None:
    """The whole of a producer's environment: two files, and the folder with which it verifies results."""
    out, producer = tmp_path / "keys", tmp_path / "producer"
    assert generate(out, "--producer", str(producer)).exit_code == 0
    (signers,) = (out / "result-signers").iterdir()
    assert set(written(producer)) == {"recipient.pem", "producer.pem", f"result-signers/{signers.name}"}
    assert load_result_signers(producer / "result-signers").keys() == {Signer.load(out / "result.pem").signer_id}
    assert mode(producer / "producer.pem") == 0o600
    body = sealed(Recipient.load(producer / "recipient.pem"), Signer.load(producer / "producer.pem"))
    for folder in (producer, producer / "identities"):
        with pytest.raises(UnusableKey):
            load_identities(folder)
    opener = Opener(load_identities(out / "identities"), Signers.load(out / "signers"))
    assert opener.open(opener.read(body)).form == CARD.form()


def test_a_producers_key_and_a_public_key_are_no_identity(tmp_path: Path) -> None:
    out = tmp_path / "keys"
    generate(out)
    for name in ("producer.pem", "recipient.pem"):
        folder = tmp_path / name.removesuffix(".pem")
        folder.mkdir()
        (folder / name).write_bytes((out / name).read_bytes())
        (folder / name).chmod(0o600)
        with pytest.raises(UnusableKey, match=f"{name}: is not an identity"):
            load_identities(folder)


def test_signers_must_be_ed25519_public_keys(tmp_path: Path) -> None:
    generate(tmp_path / "keys")
    folder = tmp_path / "signers"
    folder.mkdir()
    with pytest.raises(UnusableKey, match="holds no public key"):
        Signers.load(folder)
    (folder / "wrong.pem").write_bytes((tmp_path / "keys" / "recipient.pem").read_bytes())
    with pytest.raises(UnusableKey, match=r"wrong\.pem: is not an Ed25519 public key"):
        Signers.load(folder)


@pytest.mark.parametrize("in_the_way", ["identities", "signers", "result-signers"])
def test_where_it_cannot_write_it_says_so_in_one_line(tmp_path: Path, in_the_way: str) -> None:
    out = tmp_path / "keys"
    out.mkdir()
    (out / in_the_way).write_text("a file where a folder should be")
    answer = generate(out)
    assert answer.exit_code == 2
    assert "keys cannot be written there" in answer.output
    assert "Traceback" not in answer.output


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_leave_to_write_is_said_too(tmp_path: Path) -> None:
    out = tmp_path / "keys"
    out.mkdir(mode=0o500)
    assert "keys cannot be written there (Permission denied)" in generate(out).output


def test_what_it_writes_is_what_everybody_can_read(tmp_path: Path) -> None:
    generate(tmp_path / "keys")
    load_pem_public_key((tmp_path / "keys" / "recipient.pem").read_bytes())


def test_a_key_that_is_put_there_later_is_found_and_what_is_no_key_disturbs_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "keys"
    generate(out)
    opener = Opener(load_identities(out / "identities"), Signers.load(out / "signers"))
    before = sealed(Recipient.load(out / "recipient.pem"), Signer.load(out / "producer.pem"))
    (out / "identities" / "spoilt.pem").write_text("no key")
    (out / "identities" / "spoilt.pem").chmod(0o600)
    generate(out)
    after = sealed(Recipient.load(out / "recipient.pem"), Signer.load(out / "producer.pem"))
    assert opener.open(opener.read(after)).form == CARD.form()
    assert opener.open(opener.read(after)).form == CARD.form()
    assert caplog.text.count("spoilt.pem: is not an identity") == 1
    (out / "identities" / "spoilt.pem").unlink()
    for body in (before, after):
        assert opener.open(opener.read(body)).form == CARD.form()
