"""Where tokens can be spent, with which call, and what is refused."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, get_args
from urllib.parse import parse_qsl

import pytest
from pydantic import TypeAdapter, ValidationError

from tokenferry.contract.requests import Kind
from tokenferry.contract.targets import (
    OPERATIONS,
    TARGETS,
    AttachTarget,
    InvalidTarget,
    PaymentMethod,
    TargetCall,
    digest,
    target_from,
)

ADAPTER: TypeAdapter[Any] = TypeAdapter(AttachTarget)

ADDRESS = {"line1": "address_full_match", "line2": "b", "city": "c", "state": "d", "postal_code": "1", "country": "US"}
SHIPPING = {"name": "Ann", "address": ADDRESS, "phone": "0000000000"}
TRACKED = SHIPPING | {"carrier": "Ferry", "tracking_number": "1"}
CUSTOMER = {
    "name": "Ann",
    "email": "ann@example.com",
    "phone": "0000000000",
    "description": "d",
    "address": ADDRESS,
    "shipping": SHIPPING,
    "individual_name": "Ann",
    "business_name": "",
    "preferred_locales": ["en", "de-CH"],
    "tax_exempt": "none",
    "invoice_prefix": "ANN",
    "metadata": {"order": "1"},
}
MONEY = {"amount": 1000, "currency": "usd", "description": "d", "statement_descriptor": "s", "transfer_group": "g"}
CONNECT_MONEY = {
    "statement_descriptor_suffix": "x",
    "application_fee_amount": 1,
    "on_behalf_of": "acct_1",
    "transfer_data": {"destination": "acct_1", "amount": 1},
    "shipping": TRACKED,
    "receipt_email": "ann@example.com",
    "metadata": {"order": "1"},
}
CONFIRMING = {
    "capture_method": "manual",
    "off_session": False,
    "error_on_requires_action": True,
    "setup_future_usage": "off_session",
    "return_url": "https://example.com/back",
    "receipt_email": "ann@example.com",
    "shipping": TRACKED,
}
ACCOUNT = {
    "email": "ann@example.com",
    "business_type": "company",
    "default_currency": "usd",
    "business_profile": {
        "name": "Ferry",
        "mcc": "5734",
        "product_description": "d",
        "url": "https://example.com",
        "support_address": ADDRESS,
        "support_email": "ann@example.com",
        "support_phone": "0000000000",
        "support_url": "",
        "estimated_worker_count": 3,
        "monthly_estimated_revenue": {"amount": 1, "currency": "usd"},
    },
    "capabilities": {"transfers": {"requested": True}, "card_payments": {"requested": False}},
    "settings": {
        "payments": {"statement_descriptor": "s"},
        "payouts": {
            "debit_negative_balances": True,
            "statement_descriptor": "s",
            "schedule": {"interval": "weekly", "delay_days": 7, "monthly_anchor": 1, "weekly_anchor": "monday"},
        },
    },
    "tos_acceptance": {"date": 1700000000, "ip": "192.0.2.1", "service_agreement": "full", "user_agent": "u"},
    "metadata": {"order": "1"},
}
CONTROLLER = {
    "fees": {"payer": "application"},
    "losses": {"payments": "application"},
    "requirement_collection": "application",
    "stripe_dashboard": {"type": "none"},
}
PERSON = {
    "account": "acct_1",
    "first_name": "Ann",
    "last_name": "B",
    "email": "ann@example.com",
    "phone": "0000000000",
    "relationship": {
        "representative": True,
        "owner": True,
        "director": False,
        "executive": False,
        "authorizer": False,
        "legal_guardian": False,
        "title": "CEO",
    },
    "metadata": {"order": "1"},
}

# Every target with everything it can be given, the kinds to spend there, and the SDK's parameters of its endpoint.
FULL: list[tuple[dict[str, Any], Kind, str]] = [
    (CUSTOMER | {"to": "customer_create", "test_clock": "clock_1"}, "card", "_customer_create_params.CustomerCreate"),
    (
        CUSTOMER | {"to": "customer_update", "customer": "cus_1", "may_collect_open_invoices": True},
        "bank_account",
        "_customer_update_params.CustomerUpdate",
    ),
    (
        {"to": "customer_source", "customer": "cus_1", "metadata": {"order": "1"}, "validate_source": True},
        "card",
        "_customer_payment_source_create_params.CustomerPaymentSourceCreate",
    ),
    ({"to": "charge", "capture": False} | MONEY | CONNECT_MONEY, "card", "_charge_create_params.ChargeCreate"),
    (
        {
            "to": "payment_method",
            "billing_details": {"name": "Ann", "email": "a@example.com", "phone": "0", "address": ADDRESS},
            "allow_redisplay": "always",
            "metadata": {"order": "1"},
        },
        "card",
        "_payment_method_create_params.PaymentMethodCreate",
    ),
    (
        {
            "to": "payment_intent",
            "customer": "cus_1",
            "confirm": True,
            "confirmation_method": "manual",
            "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
        }
        | MONEY
        | CONNECT_MONEY
        | CONFIRMING,
        "card",
        "_payment_intent_create_params.PaymentIntentCreate",
    ),
    (
        {"to": "payment_intent", "confirm": True, "payment_method": "pm_1"} | MONEY,
        "cvc_update",
        "_payment_intent_create_params.PaymentIntentCreate",
    ),
    (
        {"to": "payment_intent_confirm", "payment_intent": "pi_1", "payment_method": "pm_1", "use_stripe_sdk": True}
        | CONFIRMING,
        "cvc_update",
        "_payment_intent_confirm_params.PaymentIntentConfirm",
    ),
    (
        {"to": "external_account", "account": "acct_1", "default_for_currency": True, "metadata": {"order": "1"}},
        "bank_account",
        "_account_external_account_create_params.AccountExternalAccountCreate",
    ),
    (
        ACCOUNT | {"to": "account_create", "country": "US", "controller": CONTROLLER},
        "account",
        "_account_create_params.AccountCreate",
    ),
    (
        ACCOUNT | {"to": "account_create", "country": "US", "type": "custom", "role": "id_number"},
        "pii",
        "_account_create_params.AccountCreate",
    ),
    (
        ACCOUNT | {"to": "account_update", "account": "acct_1", "replace_default": True},
        "card",
        "_account_update_params.AccountUpdate",
    ),
    (
        ACCOUNT | {"to": "account_update", "account": "acct_1", "role": "id_number_secondary"},
        "pii",
        "_account_update_params.AccountUpdate",
    ),
    (PERSON | {"to": "person_create"}, "person", "_account_person_create_params.AccountPersonCreate"),
    (
        PERSON | {"to": "person_update", "person": "person_1", "role": "id_number_secondary"},
        "pii",
        "_account_person_update_params.AccountPersonUpdate",
    ),
    ({"to": "topup", "metadata": {"order": "1"}} | MONEY, "bank_account", "_topup_create_params.TopupCreate"),
    (
        {
            "to": "source",
            "type": "card",
            "usage": "reusable",
            "currency": "usd",
            "owner": {"name": "Ann", "email": "ann@example.com", "phone": "0", "address": ADDRESS},
            "statement_descriptor": "s",
            "metadata": {"order": "1"},
        },
        "card",
        "_source_create_params.SourceCreate",
    ),
]
IDS = [f"{data['to']}-{kind}" for data, kind, _ in FULL]

NOT_TYPED_IN_THE_SDK = {
    "payment_method_data[card][token]": "legacy way to pay with a card token; documented, absent from the typed params",
}


def test_the_examples_below_cover_every_target_and_nearly_every_field():
    assert {data["to"] for data, _, _ in FULL} == set(TARGETS)
    for to, model in TARGETS.items():
        given = {name for data, _, _ in FULL if data["to"] == to for name in data}
        assert set(model.model_fields) - given <= {"role", "replace_default", "customer", "payment_method"}, to


@pytest.mark.parametrize(("data", "kind", "params"), FULL, ids=IDS)
def test_every_key_we_send_is_known_to_the_official_sdk(data, kind, params, form_keys_of_the_sdk):
    known = form_keys_of_the_sdk(f"{params}Params")
    call = ADAPTER.validate_python(data).call("tok_1", kind)
    for key, _ in parse_qsl(call.form, keep_blank_values=True):
        key = re.sub(r"\[[0-9]+\]", "[]", key)
        key = re.sub(r"^metadata\[\w+\]", "metadata[*]", key)
        assert key in known | set(NOT_TYPED_IN_THE_SDK), key


@pytest.mark.parametrize(("data", "kind", "params"), FULL, ids=IDS)
def test_everything_given_is_sent_and_the_token_comes_first(data, kind, params):
    target = target_from(data)
    form = target.call("tok_1", kind).form
    assert "tok_1" in "&".join(form.split("&")[:2])
    assert form.count("tok_1") == 1
    sent = {re.split(r"[\[]", key)[0] for key, _ in parse_qsl(form, keep_blank_values=True)}
    renamed = {"validate" if name == "validate_source" else name for name in data if name not in target.local}
    assert renamed <= sent
    assert form == target_from(json.loads(target.model_dump_json())).call("tok_1", kind).form


@pytest.mark.parametrize(
    ("data", "kind", "path", "form"),
    [
        ({"to": "customer_create"}, "card", "/v1/customers", "source=tok_1"),
        ({"to": "customer_source", "customer": "cus_1"}, "card", "/v1/customers/cus_1/sources", "source=tok_1"),
        (
            {"to": "customer_update", "customer": "cus_1", "may_collect_open_invoices": True},
            "bank_account",
            "/v1/customers/cus_1",
            "source=tok_1",
        ),
        (
            {"to": "charge", "amount": 5, "currency": "eur"},
            "card",
            "/v1/charges",
            "source=tok_1&amount=5&currency=eur",
        ),
        ({"to": "payment_method", "customer": "cus_1"}, "card", "/v1/payment_methods", "type=card&card[token]=tok_1"),
        (
            {"to": "payment_intent", "amount": 5, "currency": "eur"},
            "card",
            "/v1/payment_intents",
            "payment_method_data[type]=card&payment_method_data[card][token]=tok_1&amount=5&currency=eur",
        ),
        (
            {"to": "payment_intent_confirm", "payment_intent": "pi_1"},
            "cvc_update",
            "/v1/payment_intents/pi_1/confirm",
            "payment_method_options[card][cvc_token]=tok_1",
        ),
        (
            {"to": "external_account", "account": "acct_1"},
            "card",
            "/v1/accounts/acct_1/external_accounts",
            "external_account=tok_1",
        ),
        ({"to": "account_create", "country": "FR"}, "account", "/v1/accounts", "account_token=tok_1&country=FR"),
        ({"to": "account_create"}, "bank_account", "/v1/accounts", "external_account=tok_1"),
        ({"to": "account_update", "account": "acct_1"}, "account", "/v1/accounts/acct_1", "account_token=tok_1"),
        (
            {"to": "account_update", "account": "acct_1", "role": "id_number"},
            "pii",
            "/v1/accounts/acct_1",
            "individual[id_number]=tok_1",
        ),
        ({"to": "person_create", "account": "acct_1"}, "person", "/v1/accounts/acct_1/persons", "person_token=tok_1"),
        (
            {"to": "person_update", "account": "acct_1", "person": "person_2", "role": "id_number_secondary"},
            "pii",
            "/v1/accounts/acct_1/persons/person_2",
            "id_number_secondary=tok_1",
        ),
        (
            {"to": "topup", "amount": 5, "currency": "usd"},
            "bank_account",
            "/v1/topups",
            "source=tok_1&amount=5&currency=usd",
        ),
        (
            {"to": "source", "type": "sepa_debit", "currency": "eur"},
            "bank_account",
            "/v1/sources",
            "token=tok_1&type=sepa_debit&currency=eur",
        ),
    ],
)
def test_the_call_that_spends_a_token(data, kind, path, form):
    assert target_from(data).call("tok_1", kind) == TargetCall(path, form)


def test_a_payment_method_is_attached_by_a_second_call_without_the_token():
    target = target_from({"to": "payment_method", "customer": "cus_1"})
    assert target.follow_up("pm_7") == TargetCall("/v1/payment_methods/pm_7/attach", "customer=cus_1")
    assert target_from({"to": "payment_method"}).follow_up("pm_7") is None
    assert target_from({"to": "customer_create"}).follow_up("cus_7") is None
    with pytest.raises(InvalidTarget):
        target.follow_up("../charges")


def test_writes_are_serialised_on_the_object_they_change_and_not_when_they_make_a_new_one():
    locks = {data["to"]: target_from(data).serialised_on() for data, _, _ in FULL}
    assert {to: lock for to, lock in locks.items() if lock} == {
        "customer_update": "cus_1",
        "customer_source": "cus_1",
        "payment_intent_confirm": "pi_1",
        "external_account": "acct_1",
        "account_update": "acct_1",
        "person_create": "acct_1",
        "person_update": "acct_1",
    }
    assert target_from({"to": "payment_method", "customer": "cus_1"}).serialised_on() == "cus_1"


def test_every_target_names_its_rate_budget_and_only_one_creates_accounts():
    assert {to for to, model in TARGETS.items() if model.creates_account} == {"account_create"}
    assert {data["to"]: target_from(data).endpoint() for data, _, _ in FULL} == {
        "customer_create": "customers",
        "customer_update": "customers",
        "customer_source": "customer_sources",
        "charge": "charges",
        "payment_method": "payment_methods",
        "payment_intent": "payment_intents",
        "payment_intent_confirm": "payment_intents",
        "external_account": "external_accounts",
        "account_create": "accounts",
        "account_update": "accounts",
        "person_create": "persons",
        "person_update": "persons",
        "topup": "topups",
        "source": "sources",
    }


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("data", "kind", "params"), FULL, ids=IDS)
def test_a_kind_that_cannot_be_spent_there_is_refused_before_any_call(data, kind, params):
    target = target_from(data)
    for other in set(get_args(Kind)) - target.kinds:
        with pytest.raises(InvalidTarget, match="choose another target"):
            target.call("tok_1", other)
    target.check(kind)


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        ({"to": "customer_update", "customer": "cus_1"}, "card", "may_collect_open_invoices=True"),
        ({"to": "account_update", "account": "acct_1"}, "bank_account", "replace_default=True"),
        ({"to": "account_update", "account": "acct_1"}, "pii", 'role="id_number"'),
        ({"to": "account_create"}, "pii", 'role="id_number"'),
        ({"to": "account_create", "role": "id_number"}, "account", "leave role out"),
        ({"to": "account_create", "type": "custom", "controller": CONTROLLER}, "account", "exclude each other"),
        ({"to": "person_create", "account": "acct_1"}, "pii", 'role="id_number"'),
        ({"to": "person_create", "account": "acct_1", "role": "id_number"}, "person", "leave role out"),
        ({"to": "payment_intent", "amount": 1, "currency": "usd"}, "cvc_update", "confirm=True and payment_method"),
        (
            {"to": "payment_intent_confirm", "payment_intent": "pi_1", "payment_method": "pm_1"},
            "card",
            "leave out payment_method",
        ),
        ({"to": "source", "type": "sepa_debit"}, "card", 'type="card"'),
    ],
)
def test_a_missing_or_contradicting_option_is_refused_with_what_to_do(data, kind, said):
    with pytest.raises(InvalidTarget, match=re.escape(said)):
        target_from(data).check(kind)


@pytest.mark.parametrize(
    "data",
    [
        {"to": "customer_source", "customer": "4242424242424242"},
        {"to": "customer_source", "customer": "cus_1/../../charges"},
        {"to": "customer_source", "customer": ""},
        {"to": "customer_source", "customer": "c" * 256},
        {"to": "charge", "amount": 10.0, "currency": "usd"},
        {"to": "charge", "amount": 0, "currency": "usd"},
        {"to": "charge", "amount": True, "currency": "usd"},
        {"to": "charge", "amount": 10, "currency": "usd", "source": "tok_1"},
        {"to": "account_create", "individual": {"id_number": "000000000"}},
        {"to": "account_create", "external_account": {"account_number": "000123456789"}},
        {"to": "person_create", "account": "acct_1", "id_number": "000000000"},
        {"to": "bank"},
        {},
    ],
)
def test_a_target_that_cannot_be_is_refused(data):
    with pytest.raises(InvalidTarget):
        target_from(data)
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(data)


def test_a_card_number_in_the_place_of_a_token_is_never_sent():
    for value in ("4242424242424242", "", "tok 1", "tok_1&amount=9", "t" * 256):
        with pytest.raises(InvalidTarget) as refusal:
            target_from({"to": "customer_create"}).call(value, "card")
        assert value == "" or value not in str(refusal.value)


def test_no_target_has_a_field_for_a_number_that_belongs_into_a_token():
    forbidden = {"number", "cvc", "account_number", "id_number", "id_number_secondary", "ssn_last_4", "tax_id", "dob"}
    assert not forbidden & set(re.findall(r'"([a-z_0-9]+)": \{', json.dumps(ADAPTER.json_schema())))


@pytest.mark.parametrize(("data", "kind", "params"), FULL, ids=IDS)
def test_what_a_plan_calls_is_what_the_table_says_of_its_target(data, kind, params):
    target = target_from(data)
    assert set(target.operations()) <= OPERATIONS[target.to]
    path = target.call("tok_1" if kind in ("card", "bank_account") else "ct_1", kind).path
    called = {operation.removeprefix("POST ") for operation in target.operations()}
    assert any(re.fullmatch(re.sub(r"\\\{.+?\\\}", "[^/]+", re.escape(each)), path) for each in called)


def test_the_table_of_operations_names_every_target_and_nothing_that_no_plan_calls():
    assert OPERATIONS.keys() == TARGETS.keys()
    examples = [target_from(data) for data, _, _ in FULL] + [PaymentMethod(customer="cus_1")]
    for to, may_call in OPERATIONS.items():
        assert may_call == {operation for each in examples if each.to == to for operation in each.operations()}


@pytest.mark.parametrize("customer", ["cus_1", "customers", "MyOwnId", "77x", "made_before"])
def test_an_operation_shows_no_id_whatever_the_id_looks_like(customer):
    told = target_from({"to": "customer_source", "customer": customer}).operations()
    assert told == ("POST /v1/customers/{customer}/sources",)
    attach = target_from({"to": "payment_method", "customer": customer}).operations()
    assert attach == ("POST /v1/payment_methods", "POST /v1/payment_methods/{made_before}/attach")


def test_the_digest_is_sha256_of_sorted_json_without_what_is_not_given():
    spelled = '{"amount":5,"currency":"eur","metadata":{"a":"\\u00eb","b":""},"to":"charge"}'
    target = target_from({"to": "charge", "currency": "eur", "amount": 5, "metadata": {"b": "", "a": "ë"}})
    assert digest(target) == hashlib.sha256(spelled.encode()).hexdigest()
    assert digest(target) == digest(ADAPTER.validate_json(target.model_dump_json()))
    assert digest(target) != digest(target_from({"to": "charge", "currency": "eur", "amount": 6}))
