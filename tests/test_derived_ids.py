"""Ids and keys that are derived from others, as they were in the first release. They must never change.

The endpoint, the journal and the ledger know a request again by such an id. After an upgrade that derives another one,
a message that comes again makes a second token, a second charge or a second account. So a test here is never adapted:
whoever needs another derivation adds it beside the old one, and keeps the old one for what was begun with it.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from tokenferry.configuration import LimitSettings, Platform
from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.envelope import Header
from tokenferry.contract.onboarding import OnboardingHeader
from tokenferry.contract.plaintext import Plaintext
from tokenferry.contract.queues import (
    attach_queues,
    onboard_queue,
    parked_queue,
    results_queue,
    tokenize_queues,
)
from tokenferry.contract.steps import external_account_step, person_step
from tokenferry.contract.targets import TARGETS, AccountCreate, CustomerSource, digest, target_from
from tokenferry.importing.checkpoint import Checkpoint
from tokenferry.importing.checkpoint import SameImport as ImportedFile
from tokenferry.sealing import Signer, key_id
from tokenferry_worker.circuits.scopes import CallScope, is_outage, scopes_of
from tokenferry_worker.deliveries import onboarding, tokenizing
from tokenferry_worker.keys.contents import ContentMarks
from tokenferry_worker.limits.budgets import Budgets
from tokenferry_worker.on_redis.journal import _of_round
from tokenferry_worker.on_redis.keys import StoreKeys
from tokenferry_worker.onboarding import plan as onboarding_plan
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.tokens import creating, orders
from tokenferry_worker.tokens.grouped_ids import GroupedId
from tokenferry_worker.tokens.ledger import Became
from tokenferry_worker.tokens.results import attached, failed

MINIMAL: dict[str, tuple[dict[str, Any], str]] = {
    "customer_create": ({}, "735904d35ef4864ab77b334239193b52a9389969b1037964bb909067faa01a91"),
    "customer_update": ({"customer": "cus_1"}, "d97de84259782664d91483e4fdc3c73ae77eab46e0184d13edb415f2b8b19335"),
    "customer_source": ({"customer": "cus_1"}, "2314893c5b25381ec557a05ea7355600eadcc4f73c44a1220cf579ed707c2ad9"),
    "charge": ({"amount": 5, "currency": "eur"}, "19c5b9183f783c55dca7e5ba6abb55301258f6ac14d1f7e79b15129ba56d9b6f"),
    "payment_method": ({"customer": "cus_1"}, "d6135be0580132b2399b3adcbbfb8b0abd29a76cdaccce5d8b549da1c92d1c0c"),
    "payment_intent": (
        {"amount": 5, "currency": "eur"},
        "b3374149edfc004884d54935c8711cb780ffd661cc2b0bcdee4db5c5684583ba",
    ),
    "payment_intent_confirm": (
        {"payment_intent": "pi_1"},
        "0fd1d39c793aa49ec6952813359290ed742033c49107b677d3651af7d43ef339",
    ),
    "external_account": ({"account": "acct_1"}, "51f8a66533e224954b1a6031735e013c2e526510777a03c1413571443c395955"),
    "account_create": ({}, "ec09116c386abaaba2553dca5aee62a7bff98a3849538b92ec5bd0b361ef2870"),
    "account_update": ({"account": "acct_1"}, "0e7de0b26237c0a13ca83775fcc5d5a2385d59836a979249f87dc7d4379ad268"),
    "person_create": ({"account": "acct_1"}, "1789ceaedc13490f277c424ce537490fae5818221cb844df7c405a831c187cf4"),
    "person_update": (
        {"account": "acct_1", "person": "person_1"},
        "0e74f6fc91e08ae490155cc13dcd3f77e3dc67ebd630d3a54004404d33f96b80",
    ),
    "topup": ({"amount": 5, "currency": "eur"}, "f42319fae79d9485f919bf779431d476b52e34283a72015c02696a109f6e7709"),
    "source": ({"type": "card"}, "b3cc0afac3f5e4ee239428ab9b3f8133cf4176affcc0177236d991f015e26918"),
}
"""Each target with nothing but what it needs. A new field with a default changes every one of these."""


def order(**changed: Any) -> AttachRequest:
    fields: dict[str, Any] = {
        "attach_id": "attach-1",
        "request_id": "req-1",
        "token": "tok_1",
        "kind": "card",
        "platform": "main",
        "target": CustomerSource(customer="cus_1", metadata={"import": "7", "name": "Zoë"}),
        "token_created_at": 1_800_000_000_000,
        "attach_before": 1_800_000_600_000,
        "signer_id": "k0000000000000000",
    }
    return AttachRequest(**{**fields, **changed})


def header(**changed: Any) -> Header:
    fields: dict[str, Any] = {
        "key_id": "k0000000000000000",
        "request_id": "req-1",
        "kind": "card",
        "platform": "main",
        "lane": "bulk",
        "issued_at": 1_800_000_000_000,
        "expires_at": 1_800_000_600_000,
        "producer_id": "k1111111111111111",
    }
    return Header(**{**fields, **changed})


def test_the_idempotency_key_of_a_tokenization() -> None:
    assert creating.idempotency_key("req-1", 0) == "tokenferry:req-1:0"
    assert creating.idempotency_key("req-1", 3) == "tokenferry:req-1:3"


@pytest.mark.parametrize(
    ("changed", "step", "key"),
    [
        ({}, "spend", "tokenferry:attach:265fb699ba608ee526c3bc4f76c5c7d15fa767d7:spend"),
        ({}, "follow-up", "tokenferry:attach:265fb699ba608ee526c3bc4f76c5c7d15fa767d7:follow-up"),
        ({"connected_account": "acct_1"}, "spend", "tokenferry:attach:2958e6586750a0fd741a5d3e4dd9715857787721:spend"),
        ({"token": "tok_2"}, "spend", "tokenferry:attach:b29054621323d1e07917e3dfef147faa0f1dbe52:spend"),
        (
            {"attach_id": "attach-2", "request_id": "req-2", "lane": "realtime"},
            "spend",
            "tokenferry:attach:265fb699ba608ee526c3bc4f76c5c7d15fa767d7:spend",
        ),
        (
            {"target": CustomerSource(customer="cus_2")},
            "spend",
            "tokenferry:attach:a92389b962391c117ed18595cf7e3d5cabc1bd7f:spend",
        ),
        (
            {"target": AccountCreate(), "kind": "account", "token": "ct_1"},
            "spend",
            "tokenferry:attach:30f9038ac6ada74da3cdbb0f475bc4149aac5198:spend",
        ),
    ],
)
def test_the_idempotency_key_of_an_attach(changed: dict[str, Any], step: str, key: str) -> None:
    assert orders.idempotency_key(order(**changed), step) == key


@pytest.mark.parametrize("to", TARGETS)
def test_the_digest_of_a_target(to: str) -> None:
    fields, expected = MINIMAL[to]
    assert digest(target_from({"to": to, **fields})) == expected


@pytest.mark.parametrize(
    ("shelf", "onboarding_id", "step", "round_", "id_"),
    [
        ("main", "seller-7", "account", 0, "onb-f39b60f83349b05ac6e5a0ba27f5e00d76368943"),
        ("main", "seller-7", "person:jenny", 0, "onb-15b961afd247d207a167a5d54ceb822ef31e6367"),
        ("main", "seller-7", "person:jenny", 1, "onb-1ee8bda3abba3e9647db33d89fd9b5b8d48292cd"),
        ("main:test", "seller-7", "person:jenny", 0, "onb-1117ec4b9cc6ce35a8949295a2d96ecfb97ed2ed"),
        ("main", "seller-8", "external_account:1", 0, "onb-7a4839d06364a7703aef02d371c537c0d6c857a5"),
    ],
)
def test_the_id_of_an_onboardings_step(shelf: str, onboarding_id: str, step: str, round_: int, id_: str) -> None:
    assert onboarding_plan.step_id(shelf, onboarding_id, step, round_) == id_


def test_the_names_of_an_onboardings_steps_and_the_key_of_a_step_without_a_token() -> None:
    assert (person_step("jenny"), external_account_step("1")) == ("person:jenny", "external_account:1")
    assert onboarding_plan.idempotency_key("onb-1") == "tokenferry:onboard:onb-1"


@pytest.mark.parametrize(
    ("changed", "stands_for"),
    [
        ({}, "6ab30ff1ab025f9397f89f8faeeda095354c0492"),
        (
            {"request_id": "req-2", "lane": "realtime", "expires_at": 1_800_000_700_000},
            "6ab30ff1ab025f9397f89f8faeeda095354c0492",
        ),
        ({"connected_account": "acct_1"}, "47de31ec17f5700c187102e1fe0e58778ed2e0b2"),
        ({"attach_digest": "ab" * 32, "kind": "bank_account"}, "ec30807098e311c91de11026a0422d2f8eeecb83"),
    ],
)
def test_what_a_request_id_stands_for(changed: dict[str, Any], stands_for: str) -> None:
    assert tokenizing.fingerprint(header(**changed)) == stands_for


def test_what_the_request_id_of_an_onboarding_stands_for() -> None:
    fields = header().model_dump(include=OnboardingHeader.model_fields.keys() - {"kind"})
    assert onboarding.fingerprint(OnboardingHeader(**fields)) == "5ffcd338644b76db6baaaba800efb9b9d4f1bd35"


@pytest.mark.parametrize(
    ("changed", "stands_for"),
    [
        ({}, "e6823df55da8ca851793fd835d7da28874754d77"),
        ({"attach_id": "req-1"}, "d69e147fd04e54a5531b230bfef9fd3e1e0a5ec9"),
        ({"connected_account": "acct_1"}, "95e6c091d6b15c3a5736743170b05b04853d40d2"),
    ],
)
def test_what_an_attach_id_stands_for(changed: dict[str, Any], stands_for: str) -> None:
    assert orders.fingerprint(order(**changed)) == stands_for


def test_the_ids_of_outcomes() -> None:
    request, became = order(), Became("cus_1", "customer")
    assert attached(request, became, settled_at=1).outcome_id == "attach-1:attach"
    assert failed(request, "expired", settled_at=1).outcome_id == "attach-1:attach"
    assert _of_round('{"outcome_id": "req-1:token"}', 1) == '{"outcome_id": "req-1:token"}'
    assert _of_round('{"outcome_id": "req-1:token"}', 3) == '{"outcome_id": "req-1:token:3"}'


def test_the_request_ids_and_the_route_of_an_import() -> None:
    imported = Checkpoint(name="req-abcdefgh")
    assert [imported.request_id(row) for row in (1, 20)] == ["req-abcdefgh-1", "req-abcdefgh-20"]
    assert (imported.row("req-abcdefgh-20"), imported.row("req-other-20")) == (20, None)
    assert imported.route == "import-abcdefgh"


def test_the_hash_by_which_an_interrupted_import_knows_its_file_again() -> None:
    signer = Signer("k0000000000000000", lambda text: b"signature of " + text)
    file = io.BytesIO(b"key,kind\n1,card\n")
    file.read(4)
    assert (
        ImportedFile(file, signer, {}).fingerprint("req-abcdefgh")
        == "2b7ffbd174e0bf7f7c0b87965ab0d15d7e2b70946454d01a689cda3553fa5f85"
    )
    assert file.tell() == 4


def test_the_names_of_keys_queues_and_circuits() -> None:
    assert key_id(bytes(32)) == "k66687aadf862bd776c8fc18b8e9f8e20"
    assert tokenize_queues("main") == ["tokenize.realtime.main", "tokenize.bulk.main"]
    assert attach_queues("main") == ["attach.realtime.main", "attach.bulk.main"]
    assert (onboard_queue("main"), results_queue("shop")) == ("onboard.main", "results.shop")
    scopes = [scope for scope in scopes_of(CallScope("main", "tokens", "card", "acct_1")) if not is_outage(scope)]
    assert tuple(scopes) == ("main", "main/endpoint/tokens", "main/account/acct_1", "main/kind/card")
    assert [parked_queue(scope) for scope in scopes] == [
        "parked.main.0d6e4079",
        "parked.main.ece5282e",
        "parked.main.3b08c24d",
        "parked.main.bcff8e96",
    ]


def test_the_keys_in_the_store() -> None:
    keys = StoreKeys("tokenferry")
    limits = LimitSettings(by="resource", connected_account_per_second=5.0)
    budgets = Budgets("main", Platform(limits=limits))
    used = budgets.of("accounts", "acct_1", creates_account=True)
    both = Budgets("main", Platform(limits=limits.model_copy(update={"by": "both"})))
    assert [keys.budget(budget.name) for budget in both.of("POST /v1/customers/{id}")] == [
        "tokenferry:budget:main:global",
        "tokenferry:budget:main:endpoint:customers",
        "tokenferry:budget:main:operation:POST /v1/customers/{id}",
    ]
    assert [keys.budget(budget.name) for budget in used] == [
        "tokenferry:budget:main:global",
        "tokenferry:budget:main:endpoint:accounts",
        "tokenferry:budget:main:account_creation",
        "tokenferry:budget:main:account:acct_1",
    ]
    assert [keys.line(each) for each in (used, budgets.tokens(), budgets.tokens("acct_1"))] == [
        "tokenferry:line:6ab04118548218b0",
        "tokenferry:line:e2f7a16f8930d5d9",
        "tokenferry:line:14cac26a40498364",
    ]
    assert keys.token("tok_1") == "tokenferry:token:tok_1"
    assert keys.journal("request", "req-1") == "tokenferry:journal:request:req-1"
    assert keys.changes == "tokenferry:changes"
    assert keys.ahead("main:global") == "tokenferry:ahead:main:global"
    assert keys.writing("main", "cus_1") == "tokenferry:writing:main:cus_1"
    assert keys.onboarding("main", "ob-1") == "tokenferry:onboarding:main:ob-1"
    assert (keys.open_circuits, keys.parked) == ("tokenferry:circuits", "tokenferry:parked")
    assert (keys.circuit("main"), keys.circuit_duty("main")) == (
        "tokenferry:circuit:main",
        "tokenferry:circuit-duty:main",
    )


GROUPS = json.loads((Path(__file__).parent / "vectors" / "groups.json").read_text())


@pytest.mark.parametrize("case", GROUPS["cases"], ids=lambda case: f"{case['group']}-{case['generation']}")
def test_what_is_derived_in_a_group_and_for_a_later_generation(case: dict[str, Any]) -> None:
    group, generation, keys = case["group"], case["generation"], StoreKeys("tokenferry")
    name = GroupedId("req-1", group, generation)
    assert keys.journal("request", name.key) == case["journal_of_a_request"]
    assert keys.journal("attach", name.key) == case["journal_of_an_order"]
    assert creating.key_of(name, 0) == case["key_of_a_token"]
    spent = order(
        version=2, attach_id="req-1", group=group, generation=generation, target=target_from(GROUPS["target"])
    )
    assert orders.idempotency_key(spent, "spend") == case["key_of_an_order"]
    assert attached(spent, Became("cus_1", "customer"), settled_at=1).outcome_id == case["outcome_of_an_order"]
    assert f"{name.shown}:token" == case["outcome_of_a_token"]
    assert f"{name.shown}:onboarding" == case["outcome_of_an_onboarding"]
    assert onboarding_plan.step_id("main", "seller-7", "person:jenny", 0, group=group) == case["step"]
    for live, expected in ((True, case["onboarding"]), (False, case["onboarding_in_test_mode"])):
        platform = PlatformContext("main", None, Budgets("main", Platform()), live)  # type: ignore[arg-type]
        fields = header().model_dump(include=OnboardingHeader.model_fields.keys() - {"kind"})
        run = onboarding_plan.DocumentRun(platform, OnboardingHeader(**fields), "seller-7", group)
        assert keys.onboarding(run.namespace, run.record_id) == expected


@pytest.mark.parametrize("case", GROUPS["cases"], ids=lambda case: f"{case['group']}-{case['generation']}")
def test_the_mark_of_a_content_which_no_verification_code_changes(case: dict[str, Any]) -> None:
    marks, name = ContentMarks(bytes.fromhex(GROUPS["content_key"])), GroupedId("req-1", case["group"])
    for form in (GROUPS["form"], GROUPS["form_with_a_code"]):
        content = Plaintext(form=form, attach=target_from(GROUPS["target"]))
        assert marks.of_request(name.key, content) == case["content"]
