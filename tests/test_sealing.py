"""Sealing and opening: known envelopes open, altered, moved and foreign ones never do, and nobody says a number."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import struct
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ed25519, mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.envelope import MAX_ENVELOPE_BYTES, Envelope, Header, signed_bytes
from tokenferry.contract.plaintext import SMALLEST_BUCKET, Plaintext, pad, unpad
from tokenferry.contract.requests import CardRequest
from tokenferry.contract.targets import CustomerSource, digest
from tokenferry.sealing import SUITES, Recipient, Signer, UnusableKey, key_id, seal, sign_attach
from tokenferry_worker.errors import Unopenable
from tokenferry_worker.keys.identities import Identity, Signers, load_identities
from tokenferry_worker.keys.opening import Opener, read_attach

VECTORS = sorted((Path(__file__).parent / "vectors").glob("*x25519_*.json"))
CANARY = "4000000000000002"


class Vector:
    """One known envelope with every key it needs."""

    def __init__(self, path: Path) -> None:
        content = json.loads(path.read_text())
        self.opens_to: dict[str, Any] = content["opens_to"]
        self.envelope = Envelope.model_validate(content["envelope"])
        self.producer = ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(content["producer_private"]))
        public = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(content["producer_public"]))
        self.signers = Signers({key_id(public.public_bytes_raw()): public})
        classic = x25519.X25519PrivateKey.from_private_bytes(bytes.fromhex(content["identity"]["x25519_private"]))
        lattice = mlkem.MLKEM768PrivateKey.from_seed_bytes(bytes.fromhex(content["identity"]["mlkem768_seed"]))
        quantum = content["suite"].startswith("mlkem")
        private = hpke.MLKEM768X25519PrivateKey(lattice, classic) if quantum else classic
        self.identity = Identity(self.envelope.header.key_id, content["suite"], private)
        self.opener = Opener({self.identity.key_id: self.identity}, self.signers)

    def signed(self, header: Header, ciphertext: bytes) -> Envelope:
        """What a producer who is known, but wants to cheat, could send."""
        signature = self.producer.sign(signed_bytes(header.canonical(), ciphertext))
        return Envelope.model_construct(header=header, ciphertext=ciphertext, signature=signature)


@pytest.fixture(params=VECTORS, ids=lambda path: path.stem)
def vector(request: pytest.FixtureRequest) -> Vector:
    return Vector(request.param)


def refused(opener: Opener, envelope: Envelope | str) -> str:
    """Why reading or opening it fails: by `Unopenable`, and with nothing in hand that shows what was inside."""
    body = envelope if isinstance(envelope, str) else envelope.model_dump_json()
    with pytest.raises(Unopenable) as caught:
        opener.open(opener.read(body))
    told = "".join(traceback.format_exception(caught.value))
    for secret in ("4242424242424242", "000123456789", CANARY, "Jenny"):
        assert secret not in told
    return str(caught.value)


def test_there_are_vectors_of_both_suites() -> None:
    assert {json.loads(path.read_text())["suite"] for path in VECTORS} == set(SUITES)


def test_a_known_envelope_opens_to_what_was_sealed(vector: Vector) -> None:
    envelope = vector.opener.read(vector.envelope.model_dump_json())
    opened = vector.opener.open(envelope)
    assert opened.form == vector.opens_to["form"]
    plan = opened.attach.model_dump(exclude_none=True) if opened.attach else None
    assert plan == vector.opens_to["attach"]
    assert envelope.header.key_id in vector.opener.identities


@pytest.mark.skipif(os.getuid() != 0, reason="only root can hand a credential over")
@pytest.mark.parametrize(
    ("mode", "theirs", "taken"),
    [(0o440, True, True), (0o440, False, False), (0o444, True, False), (0o460, True, False)],
    ids=["a credential", "beside the folder", "open to all", "writable"],
)
def test_a_key_that_systemd_hands_over_by_an_access_list_is_taken(
    tmp_path: Path, key_folder: Any, environment: dict[str, str], mode: int, theirs: bool, taken: bool
) -> None:
    """Its mask shows as the rights of the group: https://github.com/systemd/systemd/issues/29435."""
    key = tmp_path / "worker.pem"
    key.write_bytes(Path(key_folder.worker).read_bytes())
    key.chmod(mode)
    environment["CREDENTIALS_DIRECTORY"] = str(tmp_path if theirs else tmp_path / "elsewhere")
    if taken:
        assert Signer.load(key).signer_id
    else:
        with pytest.raises(UnusableKey, match="readable by others"):
            Signer.load(key)


OTHER: dict[str, Any] = {
    "key_id": "k0000000000000000",
    "request_id": "req-other",
    "kind": "pii",
    "platform": "other",
    "connected_account": "acct_other",
    "lane": "realtime",
    "reply_to": "thief",
    "attach_digest": "0" * 64,
    "issued_at": 1_800_000_000_001,
    "expires_at": 1_900_000_000_000,
    "producer_id": "k0000000000000000",
}
ABSENT = {"connected_account": None, "reply_to": None}


def other_suite(suite: str) -> str:
    return next(name for name in SUITES if name != suite)


@pytest.mark.parametrize(
    ("field", "value"), [*OTHER.items(), *ABSENT.items(), ("suite", None)], ids=lambda value: str(value)[:20]
)
class TestAHeaderThatWasChanged:
    def header(self, vector: Vector, field: str, value: Any) -> Header:
        value = other_suite(vector.envelope.header.suite) if field == "suite" else value
        return vector.envelope.header.model_copy(update={field: value})

    def test_no_longer_fits_the_signature(self, vector: Vector, field: str, value: Any) -> None:
        moved = vector.envelope.model_copy(update={"header": self.header(vector, field, value)})
        assert refused(vector.opener, moved) == "not signed by a known producer"

    def test_does_not_open_even_when_a_known_producer_signs_it_anew(
        self, vector: Vector, field: str, value: Any
    ) -> None:
        header = self.header(vector, field, value)
        reason = refused(vector.opener, vector.signed(header, vector.envelope.ciphertext))
        expected = {
            "key_id": "sealed to a key that is not here",
            "suite": "suite and key do not belong together",
            "producer_id": "not signed by a known producer",
        }
        assert reason == expected.get(field, "does not open: header or ciphertext changed")


def flipped(content: bytes, at: int) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 1
    return bytes(changed)


def test_no_byte_of_the_signature_can_be_changed(vector: Vector) -> None:
    for at in range(len(vector.envelope.signature)):
        forged = vector.envelope.model_copy(update={"signature": flipped(vector.envelope.signature, at)})
        assert refused(vector.opener, forged) == "not signed by a known producer"


def test_no_byte_of_the_ciphertext_can_be_changed_by_anybody(vector: Vector) -> None:
    ciphertext = vector.envelope.ciphertext
    for at in sorted({*range(0, len(ciphertext), 13), len(ciphertext) - 1}):
        changed = flipped(ciphertext, at)
        unsigned = vector.envelope.model_copy(update={"ciphertext": changed})
        assert refused(vector.opener, unsigned) == "not signed by a known producer"
        assert refused(vector.opener, vector.signed(vector.envelope.header, changed)).startswith("does not open")


@pytest.mark.parametrize("length", [0, 1, 31, 32, 47, 48, 1000, 1119, 1120, -1])
def test_a_ciphertext_cut_short_does_not_open(vector: Vector, length: int) -> None:
    cut = vector.envelope.ciphertext[: min(length, len(vector.envelope.ciphertext) - 1)]
    assert refused(vector.opener, vector.signed(vector.envelope.header, cut)).startswith("does not open")


def test_the_ciphertext_of_one_request_does_not_open_under_the_header_of_another() -> None:
    card, bank = (Vector(path) for path in VECTORS if path.stem.startswith("x25519"))
    moved = card.signed(card.envelope.header, bank.envelope.ciphertext)
    assert refused(card.opener, moved).startswith("does not open")


def test_an_unknown_signer_is_not_listened_to(vector: Vector) -> None:
    stranger = ed25519.Ed25519PrivateKey.generate()
    name = key_id(stranger.public_key().public_bytes_raw())
    header = vector.envelope.header.model_copy(update={"producer_id": name})
    signature = stranger.sign(signed_bytes(header.canonical(), vector.envelope.ciphertext))
    envelope = Envelope.model_construct(header=header, ciphertext=vector.envelope.ciphertext, signature=signature)
    assert refused(vector.opener, envelope) == "not signed by a known producer"


def test_a_retired_key_opens_nothing(vector: Vector) -> None:
    opener = Opener({}, vector.signers)
    assert vector.envelope.header.key_id not in opener.identities
    assert refused(opener, vector.envelope) == "sealed to a key that is not here"


def test_another_private_key_under_the_right_name_opens_nothing(vector: Vector) -> None:
    classic = x25519.X25519PrivateKey.generate()
    quantum = vector.identity.suite.startswith("mlkem")
    private = hpke.MLKEM768X25519PrivateKey(mlkem.MLKEM768PrivateKey.generate(), classic) if quantum else classic
    wrong = Identity(vector.identity.key_id, vector.identity.suite, private)
    assert refused(Opener({wrong.key_id: wrong}, vector.signers), vector.envelope).startswith("does not open")


@pytest.mark.parametrize(
    "body",
    [
        "",
        "not json",
        "[]",
        "null",
        '{"header": {}}',
        f'{{"card": "{CANARY}"}}',
        "\udc80" + CANARY,
        CANARY,
        "[" * 10_000,
    ],
)
def test_what_is_no_envelope_is_refused_without_quoting_it(body: str) -> None:
    assert refused(Vector(VECTORS[0]).opener, body) == "not an envelope"


def test_what_is_longer_than_any_envelope_is_not_even_parsed() -> None:
    assert refused(Vector(VECTORS[0]).opener, CANARY * (MAX_ENVELOPE_BYTES // 16 + 1)) == "longer than any envelope"


def test_an_extra_field_in_header_or_envelope_is_refused(vector: Vector) -> None:
    body = json.loads(vector.envelope.model_dump_json())
    assert refused(vector.opener, json.dumps({**body, "extra": CANARY})) == "not an envelope"
    body["header"]["extra"] = CANARY
    assert refused(vector.opener, json.dumps(body)) == "not an envelope"


def sealed_by_hand(vector: Vector, inside: bytes, **changed: Any) -> Envelope:
    header = vector.envelope.header.model_copy(update=changed)
    public = vector.identity.private.public_key()
    return vector.signed(header, SUITES[header.suite].encrypt(inside, public, header.canonical()))


def test_a_plan_that_is_not_the_one_named_in_the_header_is_refused(vector: Vector) -> None:
    plan = CustomerSource(customer="cus_1")
    with_plan = pad(Plaintext(form=f"card[number]={CANARY}", attach=plan).model_dump_json().encode())
    without = pad(Plaintext(form=f"card[number]={CANARY}").model_dump_json().encode())
    for inside, named in ((with_plan, None), (without, digest(plan)), (with_plan, "0" * 64)):
        envelope = sealed_by_hand(vector, inside, attach_digest=named)
        assert refused(vector.opener, envelope) == "attach plan and header do not agree"
    assert vector.opener.open(sealed_by_hand(vector, with_plan, attach_digest=digest(plan))).attach == plan


@pytest.mark.parametrize(
    "inside",
    [
        b"",
        b"\0\0",
        struct.pack(">I", 99) + b"short",
        pad(b"not json " + CANARY.encode()),
        pad(f'{{"form": ["{CANARY}"]}}'.encode()),
        pad(f'{{"form": "a", "more": "{CANARY}"}}'.encode()),
        pad(b"\xff\xfe"),
    ],
)
def test_rubbish_that_a_known_producer_sealed_is_refused_without_quoting_it(vector: Vector, inside: bytes) -> None:
    envelope = sealed_by_hand(vector, inside, attach_digest=None)
    assert refused(vector.opener, envelope).startswith("does not open")


@given(content=st.binary(max_size=5000))
def test_padding_comes_off_and_its_size_tells_only_a_power_of_two(content: bytes) -> None:
    padded = pad(content)
    assert unpad(padded) == content
    assert len(padded) >= SMALLEST_BUCKET
    assert len(padded).bit_count() == 1
    assert len(padded) < 2 * max(SMALLEST_BUCKET, len(content) + 4)


@given(rubbish=st.binary(max_size=64))
def test_what_was_not_padded_by_us_is_a_value_error_or_comes_off(rubbish: bytes) -> None:
    try:
        assert unpad(rubbish) in rubbish
    except ValueError:
        pass


# What a producer's environment can do


@pytest.fixture
def card() -> CardRequest:
    return CardRequest(number=CANARY, exp_month="12", exp_year="2034", cvc="987", name="Jenny Rosen")


def header_of(to: Recipient, signer: Signer, **changed: Any) -> Header:
    fields: dict[str, Any] = {
        "suite": to.suite,
        "key_id": to.key_id,
        "request_id": "req-1",
        "kind": "card",
        "platform": "main",
        "lane": "bulk",
        "issued_at": 1,
        "expires_at": 2,
        "producer_id": signer.signer_id,
    }
    return Header(**{**fields, **changed})


@pytest.mark.parametrize("folder", ["key_folder", "quantum_key_folder"])
def test_what_a_producer_seals_a_worker_opens(request: pytest.FixtureRequest, folder: str, card: CardRequest) -> None:
    keys = request.getfixturevalue(folder)
    to, signer = Recipient.load(keys.recipient), Signer.load(keys.producer)
    plan = CustomerSource(customer="cus_1")
    envelope = seal(card, header_of(to, signer, attach_digest=digest(plan)), to=to, signer=signer, attach=plan)
    body = envelope.model_dump_json()
    # Not the three digits of the code, nor short words: in so many random bytes they stand by chance.
    for secret in (CANARY, "Jenny Rosen"):
        assert secret not in body + repr(envelope) + str(envelope)
    opener = Opener(load_identities(keys.identities), Signers.load(keys.signers))
    opened = opener.open(opener.read(body))
    assert (opened.form, opened.attach) == (card.form(), plan)
    assert CANARY not in f"{opened} {opened!r} {opener!r}"


def test_the_same_request_sealed_twice_is_not_recognised(key_folder: Any, card: CardRequest) -> None:
    to, signer = Recipient.load(key_folder.recipient), Signer.load(key_folder.producer)
    one, other = (seal(card, header_of(to, signer), to=to, signer=signer) for _ in range(2))
    assert one.ciphertext != other.ciphertext
    assert len(one.ciphertext) == len(other.ciphertext)


def test_short_and_long_cards_are_sealed_to_the_same_length(key_folder: Any) -> None:
    to, signer = Recipient.load(key_folder.recipient), Signer.load(key_folder.producer)
    short = CardRequest(number="36227206271667", exp_month="1", exp_year="34")
    long = CardRequest(number="4242424242424242", exp_month="12", exp_year="2034", cvc="123", name="N" * 100)
    sizes = {len(seal(each, header_of(to, signer), to=to, signer=signer).ciphertext) for each in (short, long)}
    assert len(sizes) == 1


@pytest.mark.parametrize("changed", [{"key_id": "kx"}, {"producer_id": "kx"}, {"suite": "mlkem"}])
def test_sealing_under_a_header_of_other_keys_is_refused(
    key_folder: Any, card: CardRequest, changed: dict[str, str]
) -> None:
    to, signer = Recipient.load(key_folder.recipient), Signer.load(key_folder.producer)
    suite = other_suite(to.suite)
    header = header_of(to, signer, **({"suite": suite} if "suite" in changed else changed))
    with pytest.raises(ValueError, match="another recipient or producer") as caught:
        seal(card, header, to=to, signer=signer)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_an_attach_order_opens_only_as_it_was_signed(key_folder: Any) -> None:
    signer, signers = Signer.load(key_folder.worker), Signers.load(key_folder.signers)
    order = AttachRequest(
        attach_id="attach-1",
        request_id="req-1",
        token="tok_1",
        kind="card",
        platform="main",
        target=CustomerSource(customer="cus_1"),
        token_created_at=1,
        attach_before=2,
        signer_id=signer.signer_id,
    )
    signed = sign_attach(order, signer)
    assert read_attach(signed.model_dump_json(), signers).request == order
    for changed in (
        {"token": "tok_2"},
        {"target": CustomerSource(customer="cus_2")},
        {"platform": "p"},
        {"kind": "pii"},
    ):
        forged = signed.model_copy(update={"request": order.model_copy(update=changed)})
        with pytest.raises(Unopenable, match="not signed by a known signer"):
            read_attach(forged.model_dump_json(), signers)
    for body, why in (("{}", "not an attach request"), (" " * (MAX_ENVELOPE_BYTES + 1), "longer than any")):
        with pytest.raises(Unopenable, match=why):
            read_attach(body, signers)
    with pytest.raises(ValueError, match="another signer"):
        sign_attach(order.model_copy(update={"signer_id": "kx"}), signer)


def test_the_signature_of_an_envelope_does_not_fit_an_order_of_the_same_bytes(key_folder: Any) -> None:
    """Both kinds of message are signed by the same sort of key: the domain names keep them apart."""
    signer, signers = Signer.load(key_folder.producer), Signers.load(key_folder.signers)
    signature = signer.sign(signed_bytes(b"{}", b""))
    assert signers.verify(signer.signer_id, signature, signed_bytes(b"{}", b""))
    assert not signers.verify(signer.signer_id, signature, b"tokenferry/v1/attach\0{}")


@pytest.mark.parametrize("load", [Recipient.load, Signer.load])
def test_a_key_file_that_cannot_be_used_is_named_and_never_quoted(tmp_path: Path, load: Callable[[Path], Any]) -> None:
    missing = tmp_path / "missing.pem"
    with pytest.raises(UnusableKey, match=r"missing\.pem"):
        load(missing)
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text(f"-----BEGIN PUBLIC KEY-----\n{CANARY}\n-----END PUBLIC KEY-----\n")
    rubbish.chmod(0o600)
    with pytest.raises(UnusableKey, match=r"rubbish\.pem") as caught:
        load(rubbish)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_a_private_key_that_others_can_read_is_refused(tmp_path: Path, key_folder: Any) -> None:
    open_door = tmp_path / "producer.pem"
    open_door.write_bytes(key_folder.producer.read_bytes())
    open_door.chmod(0o644)
    with pytest.raises(UnusableKey, match="chmod 600"):
        Signer.load(open_door)
    folder = tmp_path / "identities"
    folder.mkdir()
    for path in key_folder.identities.glob("*.pem"):
        (folder / path.name).write_bytes(path.read_bytes())
        (folder / path.name).chmod(0o640)
    with pytest.raises(UnusableKey, match="chmod 600"):
        load_identities(folder)


# HPKE spelled out after RFC 9180, to show that the envelope is what it says it is


class HandWrittenHpke:
    """Base mode of DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-GCM, from RFC 9180 sections 4 and 5."""

    def __init__(self, key_bytes: int) -> None:
        self.key_bytes = key_bytes
        self.kem = b"KEM" + struct.pack(">H", 0x0020)
        aead = {16: 0x0001, 32: 0x0002}[key_bytes]
        self.suite = b"HPKE" + struct.pack(">HHH", 0x0020, 0x0001, aead)

    @staticmethod
    def extract(suite: bytes, salt: bytes, label: bytes, key: bytes) -> bytes:
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + key, "sha256")

    @staticmethod
    def expand(suite: bytes, secret: bytes, label: bytes, info: bytes, length: int) -> bytes:
        labelled = struct.pack(">H", length) + b"HPKE-v1" + suite + label + info
        return hmac.digest(secret, labelled + b"\x01", "sha256")[:length]

    def seal(
        self, content: bytes, to: x25519.X25519PublicKey, info: bytes, ephemeral: x25519.X25519PrivateKey, aad: bytes
    ) -> bytes:
        encapsulated = ephemeral.public_key().public_bytes_raw()
        secret = self.extract(self.kem, b"", b"eae_prk", ephemeral.exchange(to))
        shared = self.expand(self.kem, secret, b"shared_secret", encapsulated + to.public_bytes_raw(), 32)
        context = (
            b"\0"
            + self.extract(self.suite, b"", b"psk_id_hash", b"")
            + self.extract(self.suite, b"", b"info_hash", info)
        )
        secret = self.extract(self.suite, shared, b"secret", b"")
        key = self.expand(self.suite, secret, b"key", context, self.key_bytes)
        nonce = self.expand(self.suite, secret, b"base_nonce", context, 12)
        return encapsulated + AESGCM(key).encrypt(nonce, content, aad)


def test_the_hand_written_hpke_is_the_one_of_rfc_9180_appendix_a_1_1() -> None:
    recipient = x25519.X25519PrivateKey.from_private_bytes(
        bytes.fromhex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8")
    )
    ephemeral = x25519.X25519PrivateKey.from_private_bytes(
        bytes.fromhex("52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736")
    )
    sealed = HandWrittenHpke(16).seal(
        b"Beauty is truth, truth beauty", recipient.public_key(), b"Ode on a Grecian Urn", ephemeral, b"Count-0"
    )
    assert sealed.hex() == (
        "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"
        "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a"
    )


def test_an_envelope_sealed_by_another_implementation_of_rfc_9180_opens() -> None:
    vector = next(Vector(path) for path in VECTORS if path.stem == "x25519_card")
    header = vector.envelope.header
    inside = pad(Plaintext(form="pii[id_number]=000000000").model_dump_json().encode())
    public = vector.identity.private.public_key()
    assert isinstance(public, x25519.X25519PublicKey)
    ephemeral = x25519.X25519PrivateKey.from_private_bytes(hashlib.sha256(b"ephemeral").digest())
    ciphertext = HandWrittenHpke(32).seal(inside, public, header.canonical(), ephemeral, b"")
    assert vector.opener.open(vector.signed(header, ciphertext)).form == "pii[id_number]=000000000"
