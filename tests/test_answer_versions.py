"""The answer to a version 1 request stays as it was, byte by byte. What version 2 adds is not stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.envelope import Header
from tokenferry.contract.envelope2 import Header2
from tokenferry.contract.notices import Notice, read_message
from tokenferry.contract.result_signature import SIGNATURE_HEADER, read_header_value
from tokenferry.contract.results import AttachResult, Display, OnboardingResult, TokenResult, parse_result
from tokenferry.contract.targets import CustomerCreate
from tokenferry.importing.import_window import settled_line
from tokenferry_worker.deliveries.answering import answered
from tokenferry_worker.deliveries.recording import to_json, to_record
from tokenferry_worker.outcomes import DeadLettered, Dropped, Outcome, Quarantined, Settled

FOLDER = Path(__file__).parent / "vectors"
OLD: dict[str, dict[str, str]] = json.loads((FOLDER / "version1" / "results.json").read_text())
"""Written by the code of the version before. They are never written again."""
VECTORS: dict[str, Any] = json.loads((FOLDER / "version2" / "results.json").read_text())
NEW: dict[str, dict[str, Any]] = VECTORS["results"]

SHOWN = Display(object_id="card_1", brand="Visa", last4="4242", exp_month=12, exp_year=2034)
FIELDS: dict[str, Any] = {"suite": "x25519-hkdf-sha256-aes256gcm", "key_id": "k1", "producer_id": "k2"}
FIELDS |= {"request_id": "req-1", "kind": "card", "platform": "main", "lane": "bulk", "issued_at": 1, "expires_at": 2}
ORDER: dict[str, Any] = {"attach_id": "req-1", "request_id": "req-1", "token": "tok_1", "kind": "card"}
ORDER |= {"platform": "main", "target": CustomerCreate(), "token_created_at": 1, "attach_before": 2, "signer_id": "k1"}
IN_VERSION_2 = {"group": "legacy", "batch": "june"}


def order(version: int) -> AttachRequest:
    more = IN_VERSION_2 if version == 2 else {}
    return AttachRequest(version=version, display=SHOWN, **more, **ORDER)


def header(version: int) -> Header | Header2:
    return Header(**FIELDS) if version == 1 else Header2(**FIELDS, **IN_VERSION_2)


def attached() -> AttachResult:
    """What the spender returns: also with Stripe's id of the call."""
    return parse(OLD["results"]["attach"]).model_copy(update={"endpoint_request_id": "req_Stripe9"})


def parse(body: str) -> Any:
    return parse_result(body)


@pytest.mark.parametrize("name", OLD["results"])
def test_what_the_version_before_wrote_is_written_by_this_one_byte_by_byte(name: str) -> None:
    body = OLD["results"][name]
    result = parse_result(body)
    assert (to_json(result), to_record(result)) == (body, body)
    assert result.model_dump_json() == OLD["lines"][name]


@pytest.mark.parametrize("name", NEW)
def test_an_answer_of_version_2_says_what_its_vector_says(name: str) -> None:
    body, headers = NEW[name]["body"], NEW[name]["headers"]
    message = read_message(body)
    assert json.loads(body) == NEW[name]["says"]
    assert message.model_dump_json(exclude_none=True) == body
    assert isinstance(message, Notice) == name.startswith("notice")
    signed = read_header_value(headers[SIGNATURE_HEADER])
    assert signed is not None
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(VECTORS["result_public"]))
    domain = b"tokenferry/v2/notice" if isinstance(message, Notice) else b"tokenferry/v2/result"
    key.verify(signed.signature, b"\0".join((domain, VECTORS["queue"].encode(), body.encode())))


def test_the_answer_to_an_order_of_version_1_is_the_body_in_the_journal() -> None:
    result = attached()
    recorded = to_record(result)
    assert recorded == OLD["results"]["attach"]
    outcome = Settled(result, "shop", recorded)
    told = answered(outcome, order(1))
    assert told == outcome
    assert isinstance(told, Settled)
    assert (told.result, told.recorded) == (result, OLD["results"]["attach"])


def test_the_answer_to_an_order_of_version_2_names_group_batch_display_and_the_call_at_stripe() -> None:
    outcome = answered(Settled(attached(), "shop", to_record(attached())), order(2))
    assert isinstance(outcome, Settled)
    assert outcome.recorded is None
    told = outcome.result
    assert isinstance(told, AttachResult)
    assert (told.group, told.generation, told.batch) == ("legacy", 1, "june")
    assert (told.display, told.endpoint_request_id) == (SHOWN, "req_Stripe9")


def test_an_outcome_of_either_version_is_told_in_the_version_that_asks() -> None:
    kept = to_record(attached())
    again = Settled(parse(kept), "shop", kept)
    assert answered(again, order(1)) == again
    second = answered(again, order(2))
    assert isinstance(second, Settled)
    assert (second.result.group, second.result.outcome_id) == ("legacy", again.result.outcome_id)


@pytest.mark.parametrize("wrap", [lambda each: each, lambda each: DeadLettered(each, "expired"), Dropped])
@pytest.mark.parametrize("version", [1, 2])
def test_a_failure_that_is_kept_or_dropped_is_told_in_the_version_that_asks(version: int, wrap: Any) -> None:
    outcome: Outcome = wrap(Settled(parse(OLD["results"]["token that failed"]), "shop"))
    told = answered(outcome, header(version))
    settled = told if isinstance(told, Settled) else told.settled  # type: ignore[union-attr]
    assert type(told) is type(outcome)
    assert isinstance(settled.result, TokenResult)
    assert settled.result.batch == (None if version == 1 else "june")
    assert settled.result.failure is not None
    assert settled.result.failure.endpoint_request_id == "req_Stripe1"


def test_what_is_no_result_stays_as_it_is() -> None:
    assert answered(Quarantined("not an envelope"), header(2)) == Quarantined("not an envelope")


def test_the_result_of_an_onboarding_names_its_batch() -> None:
    document = Header2(**{**FIELDS, "kind": "onboarding"}, **IN_VERSION_2)
    told = answered(Settled(parse(OLD["results"]["onboarding"]), "shop", OLD["results"]["onboarding"]), document)
    assert isinstance(told, Settled)
    assert isinstance(told.result, OnboardingResult)
    assert (told.result.group, told.result.generation, told.result.batch) == ("legacy", 1, "june")


def test_a_line_of_an_import_shows_the_card_and_the_call_of_an_attached_row() -> None:
    old, new = attached().model_copy(update={"endpoint_request_id": None}), attached()
    new = new.model_copy(update={"display": SHOWN})
    before, after = settled_line("req-old", None, old), settled_line("req-old", None, new)
    assert after == {**before, "display": SHOWN.model_dump(exclude_none=True), "endpoint_request_id": "req_Stripe9"}


def test_a_result_is_not_read_where_a_field_is_not_what_it_should_be() -> None:
    good = NEW["attach"]["says"]
    for wrong in ({"group": "Not A Name"}, {"generation": 0}, {"batch": ""}, {"endpoint_request_id": 7}, {"x": 1}):
        with pytest.raises(ValueError):
            parse_result(json.dumps({**good, **wrong}))
    assert parse_result(json.dumps(good)).ok
