"""The vectors of version 2 for other languages, and Node as a second oracle."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ed25519, mlkem, x25519

from tokenferry.contract.queues import ATTACH_TASK, ONBOARD_TASK, TOKENIZE_TASK
from tokenferry.key_ring import KeyRing
from tokenferry.sealing import key_id
from tokenferry_worker.dead_letters.record import DeadLetter
from tokenferry_worker.dead_letters.retention import retained
from tokenferry_worker.errors import Unopenable
from tokenferry_worker.keys.identities import Identity, Signers
from tokenferry_worker.keys.opening import Opener, read_attach
from tokenferry_worker.keys.xwing_seed import expand

FOLDER = Path(__file__).parent / "vectors" / "version2"
NODE = Path(__file__).parent / "node"
SEALED = sorted([*FOLDER.glob("*25519_*.json"), *FOLDER.glob("xwing_*.json")])


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return content


def opener(vector: dict[str, Any]) -> Opener:
    signer = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(vector["producer_public"]))
    signers = Signers({key_id(signer.public_bytes_raw()): signer})
    if "xwing_seed" in vector["identity"]:
        private, public = expand(bytes.fromhex(vector["identity"]["xwing_seed"]))
        identity = Identity(key_id(public), "mlkem768x25519-hkdf-sha256-aes256gcm", private)
        return Opener({identity.key_id: identity}, signers)
    classic = x25519.X25519PrivateKey.from_private_bytes(bytes.fromhex(vector["identity"]["x25519_private"]))
    lattice = mlkem.MLKEM768PrivateKey.from_seed_bytes(bytes.fromhex(vector["identity"]["mlkem768_seed"]))
    raw = classic.public_key().public_bytes_raw()
    both = lattice.public_key().public_bytes_raw() + raw
    identities = [
        Identity(key_id(raw), "x25519-hkdf-sha256-aes256gcm", classic),
        Identity(key_id(both), "mlkem768x25519-hkdf-sha256-aes256gcm", hpke.MLKEM768X25519PrivateKey(lattice, classic)),
    ]
    return Opener(KeyRing({each.key_id: each for each in identities}), signers)


@pytest.mark.parametrize("path", SEALED, ids=lambda path: path.stem)
def test_a_good_text_opens_to_what_its_vector_says(path: Path) -> None:
    vector = read(path.stem)
    envelope = opener(vector).read(vector["text"])
    assert json.loads(envelope.header.canonical()) == vector["header"]
    opened = opener(vector).open(envelope)
    assert opened.form == vector["opens_to"]["body"]
    plan = opened.attach.model_dump(mode="json", exclude_none=True) if opened.attach else None
    assert plan == vector["opens_to"].get("plan")


def test_there_are_vectors_of_both_suites_with_and_without_a_plan() -> None:
    headers = [read(path.stem)["header"] for path in SEALED]
    assert len({(header["suite"], "plan_digest" in header) for header in headers}) == 4


def test_the_order_is_read_and_verified() -> None:
    vector = read("order")
    signed = read_attach(vector["text"], opener(vector).signers)
    assert json.loads(signed.request.canonical()) == vector["order"]


@pytest.mark.parametrize("case", read("refused")["texts"], ids=lambda case: case["why"])
def test_a_text_that_must_be_refused_is_refused(case: dict[str, str]) -> None:
    with pytest.raises(Unopenable):
        opener(read("refused")).read(case["text"])


@pytest.mark.skipif(
    os.environ.get("TOKENFERRY_NODE_SDK") != "1" or not (NODE / "node_modules" / "@hpke").is_dir(),
    reason="run `npm install --no-package-lock` in tests/node and set TOKENFERRY_NODE_SDK=1",
)
def test_node_opens_the_vectors_and_what_it_seals_opens_here() -> None:
    run = subprocess.run(
        ["node", "vectors.mjs", str(FOLDER)], cwd=NODE, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    for name, text in zip(("x25519", "xwing"), run.stdout.split(), strict=True):
        vector = read(f"{name}_bank_account_with_plan")
        envelope = opener(vector).read(text)
        assert envelope.header.request_id == "req-node"
        assert opener(vector).open(envelope).form == vector["opens_to"]["body"]


def test_what_a_producer_of_version_1_wrote_is_read_by_new_workers() -> None:
    """The texts were written by the code of the version before. They are never written again."""
    old = json.loads((FOLDER.parent / "version1" / "texts.json").read_text())
    new = opener(old)
    request = new.read(old["request"])
    header = request.header
    assert (header.version, header.group, header.generation, header.batch, header.traceparent) == (
        1, "legacy", 1, None, None,
    )  # fmt: skip
    assert (header.operations, header.has_plan, header.may_carry_cvc) == (None, True, False)
    plan = new.open(request).attach
    document = new.open_onboarding(new.read_onboarding(old["document"]))
    assert (document.reference, document.progress) == ("seller-7", True)
    order = read_attach(old["order"], new.signers)
    assert (order.request.target, order.request.sealed, order.request.group) == (plan, old["request"], "legacy")
    assert (request.text(), order.text()) == (old["request"], old["order"])
    for text, task in ((old["request"], TOKENIZE_TASK), (old["document"], ONBOARD_TASK), (old["order"], ATTACH_TASK)):
        dead_letter = DeadLetter.read(retained(text, "attempts_exhausted", at=1.0))
        assert (dead_letter.message, dead_letter.task()[1]) == (text, task)
