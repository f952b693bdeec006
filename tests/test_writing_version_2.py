"""Producers write version 2 where the configuration asks for it, and version 1 without the setting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tokenferry import CardRequest, InvalidRequest, Order, TokenResult, onboarding_from
from tokenferry.broker.embedded import Embedded
from tokenferry.broker.outgoing import Outgoing
from tokenferry.broker.publishing import Publisher, wait
from tokenferry.configuration import Broker, Configuration, load
from tokenferry.contract.queues import TOKENIZE_TASK
from tokenferry.contract.targets import CustomerSource
from tokenferry.contract.work_messages import WorkMessage, read_item, read_work
from tokenferry.ordering import Sealer
from tokenferry_worker.keys.identities import Signers, load_identities
from tokenferry_worker.keys.opening import Opener, read_attach

PLAN = CustomerSource(customer="cus_1")
CARD = CardRequest(number="4242424242424242", exp_month="12", exp_year="2034")
WITH_CVC = CardRequest(number="4242424242424242", exp_month="12", exp_year="2034", cvc="123")


def sealer(tmp_path: Path, keys: Any, setting: str) -> Sealer:
    (tmp_path / "tokenferry.toml").write_text(
        f'{setting}\n[keys]\nrecipient = "{keys.recipient}"\nproducer_signing_key = "{keys.producer}"\n'
        '[platforms.main]\nmode = "test"\n'
    )
    return Sealer(load(tmp_path / "tokenferry.toml"))


@pytest.fixture
def opener(key_folder: Any) -> Opener:
    return Opener(load_identities(key_folder.identities), Signers.load(key_folder.signers))


@pytest.fixture
def second(tmp_path: Path, key_folder: Any) -> Sealer:
    return sealer(tmp_path, key_folder, "[producer]\nenvelope = 2")


def text_of(message: Outgoing) -> str:
    [text], _, _ = json.loads(message.body)
    return str(text)


def test_a_request_is_written_with_everything_that_its_header_names(second: Sealer, opener: Opener) -> None:
    _, message = second.message(Order(CARD, reply_to="shop", attach=PLAN, connected_account="acct_1"))
    envelope = opener.read(text_of(message))
    header = envelope.header
    assert header.version == 2
    assert (header.group, header.generation, header.may_carry_cvc, header.has_plan) == ("legacy", 1, False, True)
    assert header.operations == ("POST /v1/customers/{customer}/sources",)
    assert opener.open(envelope).form == CARD.form()
    assert opener.open(envelope).attach == PLAN
    assert message.expires_at == header.expires_at


def test_a_verification_code_is_named_in_the_header(second: Sealer, opener: Opener) -> None:
    _, message = second.message(Order(WITH_CVC))
    envelope = opener.read(text_of(message))
    assert envelope.header.may_carry_cvc
    assert opener.open(envelope).form == WITH_CVC.form()
    assert message.expires_at is None


def test_a_request_of_the_realtime_lane_without_a_code_says_so(second: Sealer, opener: Opener) -> None:
    _, message = second.message(Order(CARD, lane="realtime"))
    assert not opener.read(text_of(message)).header.may_carry_cvc


def test_a_document_and_an_order_are_written_in_version_2(second: Sealer, opener: Opener) -> None:
    document = onboarding_from({"account": {"country": "US", "type": "custom"}})
    onboarding_id, _, message = second.onboarding_message(document, progress=True)
    opened = opener.open_onboarding(opener.read_onboarding(text_of(message)))
    assert (opened.reference, opened.progress) == (onboarding_id, True)

    result = TokenResult(
        outcome_id="req-1:token", request_id="req-1", kind="card", platform="main", settled_at=1, token="tok_1"
    )
    _, order = second.attach_message(result, PLAN, reply_to=None, attach_id=None)
    assert text_of(order).startswith("tf2o.")
    assert read_attach(text_of(order), opener.signers).request.target == PLAN


def test_batch_and_trace_context_are_written_in_version_2_and_checked_in_both(
    tmp_path: Path, key_folder: Any, second: Sealer, opener: Opener
) -> None:
    named = {"batch": "june", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    made = TokenResult(
        outcome_id="req-1:token", request_id="req-1", kind="card", platform="main", settled_at=1, token="tok_1"
    )
    document = onboarding_from({"account": {"country": "US", "type": "custom"}})
    _, message = second.message(Order(CARD, **named))
    _, order = second.attach_message(made, PLAN, reply_to=None, attach_id=None, **named)
    _, _, whole = second.onboarding_message(document, **named)
    told = [
        opener.read(text_of(message)).header,
        read_attach(text_of(order), opener.signers).request,
        opener.read_onboarding(text_of(whole)).header,
    ]
    assert {(each.batch, each.traceparent) for each in told} == {tuple(named.values())}

    first = sealer(tmp_path, key_folder, "[producer]\nenvelope = 1")
    assert opener.read(text_of(first.message(Order(CARD, **named))[1])).header.batch is None
    for each in (first, second):
        for wrong in ({"batch": "4242 xyz"}, {"traceparent": "00-xyz"}):
            with pytest.raises(InvalidRequest, match=next(iter(wrong))) as refused:
                each.message(Order(CARD, **wrong))
            assert "xyz" not in str(refused.value)


@pytest.mark.parametrize("setting", ["", "[producer]\nenvelope = 1", "[producer]"])
def test_without_the_setting_version_1_is_written(
    tmp_path: Path, key_folder: Any, opener: Opener, setting: str
) -> None:
    _, message = sealer(tmp_path, key_folder, setting).message(Order(CARD, attach=PLAN))
    assert opener.read(text_of(message)).header.version == 1


def test_the_environment_can_ask_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOKENFERRY_PRODUCER__ENVELOPE", "2")
    (tmp_path / "tokenferry.toml").write_text("")
    configuration: Configuration = load(tmp_path / "tokenferry.toml")
    assert configuration.producer.written == 2


@pytest.mark.parametrize("envelope", [1, 2])
def test_on_redis_a_message_of_version_2_has_one_base64_and_is_shorter(
    tmp_path: Path, key_folder: Any, valkey: Embedded, envelope: int
) -> None:
    _, message = sealer(tmp_path, key_folder, f"[producer]\nenvelope = {envelope}").message(Order(CARD))
    url = valkey.database(9).redis_url
    with Publisher.to(Configuration(broker=Broker(url=url))) as publisher, Redis.from_url(url, protocol=2) as redis:
        redis.delete(message.queue)
        wait(publisher.submit(message), 10)
        [item] = redis.lrange(message.queue, 0, -1)
        redis.delete(message.queue)
    read = read_item(item)
    assert not isinstance(read, str)
    work = read_work(read.headers, read.content_type, read.content_encoding, read.body, tasks={TOKENIZE_TASK})
    assert isinstance(work, WorkMessage)
    assert work.argument == text_of(message)
    assert (text_of(message) in json.loads(item)["body"]) == (envelope == 2)
