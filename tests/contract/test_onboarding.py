"""The document of a whole account: what can be found wrong early, and the steps it leads to."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from tokenferry.checks import check_onboarding
from tokenferry.contract.form import encode, flatten
from tokenferry.contract.onboarding import MAX_DOCUMENT_BYTES, Onboarding, OnboardingHeader, onboarding_from
from tokenferry.contract.requests import InvalidRequest
from tokenferry.contract.steps import Step, steps
from tokenferry.contract.targets import InvalidTarget

TODAY = datetime.date(2030, 6, 1)
BANK = {"country": "US", "currency": "usd", "account_number": "000123456789", "routing_number": "110000000"}
DEBIT = {"number": "4000056655665556", "exp_month": 12, "exp_year": 2040, "currency": "usd"}
COMPANY = {"business_type": "company", "company": {"name": "Imaginary Goods"}, "tos_shown_and_accepted": True}


def person(reference: str = "jenny", **fields: Any) -> dict[str, Any]:
    return {"reference": reference, "person": {"first_name": "Jenny", "last_name": "Rosen", **fields}}


def document(**parts: Any) -> Onboarding:
    return onboarding_from({"reference": "seller-7", "account": {"country": "US", "type": "custom"}, **parts})


def found(**parts: Any) -> dict[str, str]:
    """What is wrong, by field."""
    problems = check_onboarding(document(**parts), today=TODAY, live=False)
    return {problem.field: problem.reason for problem in problems}


def named(parts: Onboarding) -> dict[str, Step]:
    return {step.name: step for step in steps(parts)}


# -- what is found before anything is sealed


def test_a_document_with_every_part_is_good() -> None:
    assert (
        found(
            legal_entity=COMPANY,
            persons=[person(), {**person("zora"), "id_number": "000000000"}],
            external_accounts=[{"bank_account": BANK}, {"reference": "debit", "card": DEBIT}],
        )
        == {}
    )


OWNERS = [person(f"p{share}", relationship={"owner": True, "percent_ownership": share}) for share in (60, 41)]
TWICE = [person(), person()]
NO_CONTROL = {"country": "US", "type": "express"}
BY_US = {"country": "US", "controller": {"requirement_collection": "application"}}
ACCEPTED = {"date": 1_700_000_000, "ip": "192.0.2.7"}
RECIPIENT = {"service_agreement": "recipient"}


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ({"account": {"type": "custom"}}, "account.country"),
        ({"account": {**BY_US, "type": "custom"}}, "account.controller"),
        (
            {"account": {"country": "US", "type": "custom", "business_type": "company"}, "legal_entity": COMPANY},
            "account.business_type",
        ),
        (
            {"account": {"country": "US", "type": "custom", "tos_acceptance": ACCEPTED}, "legal_entity": COMPANY},
            "account.tos_acceptance",
        ),
        (
            {"account": {"country": "US", "type": "custom", "tos_acceptance": {"date": 1_700_000_000}}},
            "account.tos_acceptance",
        ),
        ({"account": {**NO_CONTROL, "tos_acceptance": ACCEPTED}}, "account.tos_acceptance"),
        ({"account": NO_CONTROL, "external_accounts": [{"bank_account": BANK}]}, "external_accounts"),
        ({"legal_entity": {**COMPANY, "tos_shown_and_accepted": False}}, "legal_entity.tos_shown_and_accepted"),
        ({"legal_entity": {**COMPANY, "individual": {"first_name": "A"}}}, "legal_entity.individual"),
        ({"legal_entity": {**COMPANY, "business_type": "individual"}}, "legal_entity.company"),
        (
            {"legal_entity": {**COMPANY, "company": {"registration_date": {"day": 31, "month": 2, "year": 2020}}}},
            "legal_entity.company.registration_date",
        ),
        ({"persons": [{"reference": "p", "person": {"last_name": "Rosen"}}]}, "persons[0].person.first_name"),
        ({"persons": [person(first_name=" ")]}, "persons[0].person.first_name"),
        (
            {"legal_entity": {**COMPANY, "business_type": "individual", "company": None, "individual": {"phone": "1"}}},
            "legal_entity.individual.last_name",
        ),
        (
            {"account": {"country": "US", "type": "custom", "tos_acceptance": {**RECIPIENT, "user_agent": "Example"}}},
            "account.tos_acceptance",
        ),
        ({"persons": [person(dob={"day": 1, "month": 1, "year": 2031})]}, "persons[0].person.dob"),
        ({"persons": [{**person(id_number="000000000"), "id_number": "000000000"}]}, "persons[0].id_number"),
        ({"persons": OWNERS}, "persons.percent_ownership"),
        ({"persons": TWICE}, "persons.reference"),
        (
            {"external_accounts": [{"bank_account": {**BANK, "routing_number": None}}]},
            "external_accounts[0].bank_account.routing_number",
        ),
        ({"external_accounts": [{"card": {**DEBIT, "currency": None}}]}, "external_accounts[0].card.currency"),
        ({"external_accounts": [{"card": {**DEBIT, "cvc": "123"}}]}, "external_accounts[0].card.cvc"),
        (
            {"external_accounts": [{"card": {**DEBIT, "number": "4242424242424241"}}]},
            "external_accounts[0].card.number",
        ),
        ({"external_accounts": [{"card": {"customer": "cus_1"}}]}, "external_accounts[0].card.customer"),
        (
            {"external_accounts": [{"reference": "2", "bank_account": BANK}, {"bank_account": BANK}]},
            "external_accounts.reference",
        ),
    ],
)
def test_what_cannot_go_well_is_refused_at_its_place(parts: dict[str, Any], field: str) -> None:
    problems = found(**parts)
    assert field in problems
    for secret in ("4242424242424241", "000123456789", "000000000", "Rosen"):
        assert secret not in str(problems)


def test_a_reference_is_an_id_and_so_never_a_number_alone() -> None:
    for reference in ("4242424242424242", "a b", "x" * 65, ""):
        with pytest.raises(InvalidRequest) as caught:
            document(persons=[person(reference)])
        assert [problem.field for problem in caught.value.problems] == ["document.persons[0].reference"]
        assert reference not in str(caught.value) or not reference


def test_a_document_too_long_for_an_envelope_is_refused() -> None:
    crowd = [person(f"p{n}", full_name_aliases=["x" * 100] * 14) for n in range(90)]
    assert "document" in found(persons=crowd)
    assert len(document(persons=crowd[:60]).model_dump_json(exclude_none=True)) < MAX_DOCUMENT_BYTES
    assert found(persons=crowd[:60]) == {}


def test_a_document_is_measured_as_it_travels_in_bytes() -> None:
    crowd = [person(f"p{n}", full_name_aliases=["名" * 100] * 11) for n in range(60)]
    assert len(document(persons=crowd).model_dump_json(exclude_none=True)) < MAX_DOCUMENT_BYTES
    assert "document" in found(persons=crowd)


@pytest.mark.parametrize(
    "shares", [(33.4, 33.3, 33.3), (14.29, 14.29, 14.29, 14.29, 14.28, 14.28, 14.28), (0.1, 96.2, 3.7), (50, 50)]
)
def test_owners_may_hold_exactly_everything(shares: tuple[float, ...]) -> None:
    owners = [
        person(f"p{place}", relationship={"owner": True, "percent_ownership": share})
        for place, share in enumerate(shares)
    ]
    assert found(persons=owners) == {}


@pytest.mark.parametrize("kind", ["express", "custom"])
@pytest.mark.parametrize("more", [{}, {"legal_entity": COMPANY}])
def test_which_terms_apply_can_be_said_of_every_account(kind: str, more: dict[str, Any]) -> None:
    """Naming the agreement accepts nothing: who only receives transfers accepts it later, or elsewhere."""
    assert found(account={"country": "TH", "type": kind, "tos_acceptance": RECIPIENT}, **more) == {}


def test_a_company_without_a_representative_is_left_to_the_endpoint() -> None:
    """Which accounts need one differs by country; the result's requirements say it."""
    assert found(legal_entity=COMPANY) == {}


def test_the_users_own_acceptance_stands_in_a_call_without_the_token() -> None:
    """A token that makes an account brings the address of whoever made the token: the worker's."""
    account = {"country": "US", "type": "custom", "tos_acceptance": ACCEPTED}
    entity = {"business_type": "company", "company": {"name": "X", "owners_provided": True}}
    assert found(account=account, legal_entity=entity, persons=[person()]) == {}
    by_name = named(document(account=account, legal_entity=entity, persons=[person()]))
    assert list(by_name) == ["account", "legal_entity", "person:jenny", "complete"]
    assert by_name["account"].request is None
    plain = by_name["account"].target({})
    assert "tos_acceptance[ip]=192.0.2.7" in encode(flatten(plain, without=plain.local))
    token = by_name["legal_entity"].request
    assert token is not None
    assert token.form() == "account[business_type]=company&account[company][name]=X"
    assert by_name["complete"].needs == {"account", "legal_entity", "person:jenny"}


def test_an_unknown_field_is_named_and_a_value_never_is() -> None:
    with pytest.raises(InvalidRequest) as caught:
        document(persons=[{"reference": "p", "person": {"first_nmae": "Wilhelmina", "last_name": "Q"}}])
    assert "first_nmae: is not a known field" in str(caught.value)
    assert "Wilhelmina" not in str(caught.value)


# -- the steps


def test_the_steps_come_in_the_order_in_which_they_need_each_other() -> None:
    parts = document(
        legal_entity={**COMPANY, "company": {"name": "X", "owners_provided": True, "executives_provided": True}},
        persons=[person(), {**person("zora"), "id_number": "000000000", "id_number_secondary": "222222222"}],
        external_accounts=[{"bank_account": BANK}, {"reference": "debit", "card": DEBIT}],
    )
    names = [step.name for step in steps(parts)]
    assert names == [
        *("account", "person:jenny", "person:zora", "id_number:zora", "id_number_secondary:zora"),
        *("external_account:1", "external_account:debit", "complete"),
    ]
    for place, step in enumerate(steps(parts)):
        assert step.needs <= set(names[:place])


def test_what_a_company_says_of_its_persons_is_said_when_all_of_them_are_there() -> None:
    company = {"name": "X", "owners_provided": True, "directors_provided": False}
    by_name = named(document(legal_entity={**COMPANY, "company": company}, persons=[person()]))
    first, last = by_name["account"].request, by_name["complete"].request
    assert first is not None
    assert last is not None
    assert "provided" not in first.form()
    assert last.form() == "account[company][directors_provided]=false&account[company][owners_provided]=true"
    assert "person:jenny" in by_name["complete"].needs


def test_without_persons_or_such_words_there_is_nothing_to_say_at_the_end() -> None:
    assert "complete" not in named(document(legal_entity=COMPANY, persons=[person()]))
    owners = {**COMPANY, "company": {"name": "X", "owners_provided": True}}
    alone = named(document(legal_entity=owners))
    assert "complete" not in alone
    assert alone["account"].request is not None
    assert "owners_provided" in alone["account"].request.form()


def test_every_target_takes_the_token_of_its_step() -> None:
    made = {"account": "acct_1", "person:jenny": "person_1"}
    parts = document(
        account={
            "country": "US",
            "type": "custom",
            "email": "a@example.com",
            "capabilities": {"transfers": {"requested": True}},
            "business_profile": {"mcc": "5734"},
            "metadata": {"own": "7"},
        },
        legal_entity={**COMPANY, "company": {"name": "X", "owners_provided": True}},
        persons=[{**person(), "id_number": "000000000"}],
        external_accounts=[{"bank_account": BANK, "default_for_currency": True}, {"card": DEBIT}],
    )
    calls = {}
    for step in steps(parts):
        assert step.request is not None
        calls[step.name] = step.target(made).call("tok_1", step.request.kind)
    assert calls["account"].path == "/v1/accounts"
    assert "account_token=tok_1" in calls["account"].form
    assert "capabilities[transfers][requested]=true" in calls["account"].form
    assert calls["person:jenny"].path == "/v1/accounts/acct_1/persons"
    assert calls["id_number:jenny"].path == "/v1/accounts/acct_1/persons/person_1"
    assert calls["id_number:jenny"].form == "id_number=tok_1"
    assert calls["external_account:1"].form == "external_account=tok_1&default_for_currency=true"
    assert calls["complete"] == type(calls["complete"])("/v1/accounts/acct_1", "account_token=tok_1")


def test_a_step_prints_its_name_and_nothing_of_what_it_carries() -> None:
    step = named(document(persons=[person()]))["person:jenny"]
    assert repr(step) == "Step(name='person:jenny')"


def test_an_id_that_is_none_cannot_get_into_a_path() -> None:
    step = named(document(persons=[person()]))["person:jenny"]
    with pytest.raises((InvalidTarget, ValueError)):
        step.target({"account": "../../v1/charges"})


def test_a_document_survives_its_own_json() -> None:
    parts = document(legal_entity=COMPANY, persons=[person()], external_accounts=[{"card": DEBIT}])
    assert Onboarding.model_validate_json(parts.model_dump_json(exclude_none=True)) == parts


def test_the_header_of_an_onboarding_is_no_header_of_a_request() -> None:
    assert OnboardingHeader.model_fields["kind"].default == "onboarding"
