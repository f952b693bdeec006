"""Envelope 2 has one spelling, and every other text is refused or does not verify."""

from __future__ import annotations

import json
import random
from base64 import urlsafe_b64encode
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519

from tokenferry.contract.envelope2 import Envelope2, Header2, info
from tokenferry.contract.text_form import NotCanonical, read_json, to_json

KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \n\x00é"


def header(**changed: Any) -> Header2:
    fields: dict[str, Any] = {
        "suite": "x25519-hkdf-sha256-aes256gcm",
        "key_id": "k" + "0" * 32,
        "producer_id": "k" + "1" * 32,
        "request_id": "req-1",
        "group": "shop",
        "kind": "card",
        "platform": "main",
        "lane": "bulk",
        "issued_at": 1_800_000_000_000,
        "expires_at": 1_800_000_600_000,
    }
    return Header2(**{**fields, **changed})


FULL = header(
    generation=2,
    connected_account="acct_1",
    lane="realtime",
    cvc=True,
    operations=("POST /v1/customers", "POST /v1/customers/{customer}/sources"),
    plan_digest="ab" * 32,
    reply_to="shop",
    batch="june",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)


def made(given: Header2) -> Envelope2:
    return Envelope2.write(given, lambda bound: b"sealed under " + bound, KEY.sign)


def verifies(envelope: Envelope2) -> bool:
    try:
        KEY.public_key().verify(envelope.signature, envelope.signed)
    except InvalidSignature:
        return False
    return True


@pytest.mark.parametrize("given", [header(), FULL, header(kind="onboarding", progress=True)])
def test_what_is_written_is_read_again_and_verifies(given: Header2) -> None:
    envelope = made(given)
    read = Envelope2.read(envelope.text())
    assert read == envelope
    assert verifies(read)


def test_only_what_is_given_is_written() -> None:
    assert json.loads(header().canonical()).keys() == {
        "suite", "key_id", "producer_id", "request_id", "group", "kind", "platform", "lane", "issued_at", "expires_at",
    }  # fmt: skip
    assert info(header()) == b"tf2e." + urlsafe_b64encode(header().canonical()).rstrip(b"=")


@pytest.mark.parametrize("seed", range(4))
def test_twelve_thousand_mutations_of_an_envelope_are_refused_or_do_not_verify(seed: int) -> None:
    chance = random.Random(seed)
    text = made(FULL).text()
    for _ in range(3_000):
        mutated = list(text)
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            at = chance.randrange(len(mutated))
            mutated[at : at + chance.choice((0, 1, 1, 1, 3))] = chance.choice(ALPHABET) * chance.choice((0, 1, 1, 1, 2))
        other = "".join(mutated)
        if other == text:
            continue
        try:
            read = Envelope2.read(other)
        except NotCanonical:
            continue
        assert not verifies(read)


def resigned(content: bytes) -> str:
    """A text whose signature is right and whose header is *content*."""
    parts = [urlsafe_b64encode(part).rstrip(b"=").decode() for part in (content, b"sealed")]
    signed = ".".join(("tf2e", *parts))
    return f"{signed}.{urlsafe_b64encode(KEY.sign(signed.encode())).rstrip(b'=').decode()}"


SPELLED = header().canonical()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(SPELLED.replace(b'"lane":"bulk"', b'"lane":"bulk","lane":"bulk"'), id="a key twice"),
        pytest.param(SPELLED.replace(b'"bulk"', b'"realtime","lane":"bulk"'), id="a key twice with other values"),
        pytest.param(SPELLED.replace(b",", b", "), id="spaces"),
        pytest.param(SPELLED.replace(b"1800000000000", b"1800000000000.0"), id="a float"),
        pytest.param(SPELLED.replace(b"1800000000000", b'"1800000000000"'), id="a number as text"),
        pytest.param(SPELLED.replace(b"1800000000000", b"18e11"), id="an exponent"),
        pytest.param(SPELLED.replace(b"1800000000000", b"true"), id="true for one"),
        pytest.param(SPELLED.replace(b"1800000000000", b"NaN"), id="not a number"),
        pytest.param(SPELLED.replace(b"{", b'{"batch":null,', 1), id="null"),
        pytest.param(SPELLED.replace(b"{", b'{"cvc":false,', 1), id="a default written out"),
        pytest.param(SPELLED.replace(b'"group"', b'"generation":1,"group"', 1), id="the first generation written out"),
        pytest.param(SPELLED.replace(b"}", b',"x":1}'), id="an unknown field"),
        pytest.param(SPELLED.replace(b"req-1", b"\\u0072eq-1"), id="an escape that is not needed"),
        pytest.param(SPELLED.replace(b"req-1", "réq-1".encode()), id="a letter that is not ASCII"),
        pytest.param(SPELLED[:-1], id="cut short"),
        pytest.param(b"[" * 100_000, id="too deep"),
        pytest.param(b"\xef\xbb\xbf" + SPELLED, id="a byte order mark"),
        pytest.param(SPELLED.decode().encode("utf-16"), id="UTF-16"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_another_spelling_is_refused_though_its_signature_is_right(content: bytes) -> None:
    assert content != SPELLED
    with pytest.raises(NotCanonical):
        Envelope2.read(resigned(content))


def test_the_one_spelling_with_its_own_signature_is_read() -> None:
    assert Envelope2.read(resigned(SPELLED)).header == header()


@pytest.mark.parametrize(
    "changed",
    [
        {"cvc": True},
        {"cvc": True, "lane": "realtime", "kind": "pii"},
        {"kind": "cvc_update", "lane": "realtime"},
        {"operations": ("POST /v1/topups", "POST /v1/charges")},
        {"operations": ("POST /v1/charges", "POST /v1/charges")},
        {"operations": ("post /v1/charges",)},
        {"operations": ("POST /v1/charges/ch_1A",)},
        {"traceparent": "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
        {"group": "4242424242424242"},
    ],
)
def test_a_header_that_contradicts_itself_cannot_be_made(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        header(**changed)


@pytest.mark.parametrize("value", [{}, {"a": 1, "b": ["x", {"c": True}]}, {"ü": "\u2028"}])
def test_canonical_json_is_read_again(value: dict[str, Any]) -> None:
    assert read_json(to_json(value)) == value
