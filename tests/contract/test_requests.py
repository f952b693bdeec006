"""What a request may be, what its form looks like, and what its errors never say."""

from __future__ import annotations

import copy
import pickle
import re
import time
import traceback
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from urllib.parse import parse_qsl

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from pydantic_core._pydantic_core import list_all_errors
from tools.fields import ADDED, LEFT_OUT, request_paths

from tokenferry.contract.requests import (
    REQUESTS,
    AccountRequest,
    BankAccountRequest,
    CardRequest,
    CvcUpdateRequest,
    InvalidRequest,
    Kind,
    PersonRequest,
    PiiRequest,
    Problem,
    problems_of,
    request_from,
)

CARD = {"number": "4242424242424242", "exp_month": "12", "exp_year": "2030"}
BANK = {"country": "US", "currency": "usd", "account_number": "000123456789", "routing_number": "110000000"}
CANARY = "Canary_4000056655665556_Canary"

GOOD: dict[Kind, dict[str, Any]] = {
    "card": CARD | {"cvc": "314", "networks": {"preferred": "visa"}},
    "bank_account": BANK,
    "pii": {"id_number": "000000000"},
    "account": {"business_type": "company", "company": {"name": "Ferry", "address": {"line1": "address_full_match"}}},
    "person": {"first_name": "Ann", "dob": {"day": 1, "month": 1, "year": 1901}},
    "cvc_update": {"cvc": "314"},
}


# -- the same fields as the official SDK ----------------------------------------------------------------------------


def test_the_six_kinds_together_have_exactly_the_form_keys_of_the_official_sdk(form_keys_of_the_sdk):
    theirs = form_keys_of_the_sdk("_token_create_params.TokenCreateParams")
    ours = request_paths()
    assert len(theirs) > 200, "the walk must not pass by finding nothing"
    assert theirs - ours == set(LEFT_OUT)
    assert ours - theirs == set(ADDED)


# -- forms ----------------------------------------------------------------------------------------------------------


def test_a_card_is_sent_in_the_order_its_fields_are_declared():
    request = CardRequest(cvc="314", exp_year=2030, exp_month=3, number="4242424242424242", name="Ann")
    assert request.form() == (
        "card[number]=4242424242424242&card[exp_month]=3&card[exp_year]=2030&card[cvc]=314&card[name]=Ann"
    )


def test_spaces_and_dashes_typed_into_a_card_number_are_not_sent():
    assert CardRequest(**CARD | {"number": "4000 0566-5566 5556"}).number == "4000056655665556"


def test_decoration_of_an_account_number_is_not_sent_but_dashes_stay_where_a_format_has_them():
    assert BankAccountRequest(**BANK | {"account_number": "DE89 3704-0044"}).account_number == "DE8937040044"
    assert BankAccountRequest(**BANK | {"account_number": "11-0000"}).account_number == "110000"
    assert BankAccountRequest(**BANK | {"country": "HK", "account_number": "11-0000"}).account_number == "11-0000"


@pytest.mark.parametrize(
    ("kind", "name", "typed", "sent"),
    [
        ("card", "number", "4242\u00a04242\u20114242\u200b4242", "4242424242424242"),
        ("card", "exp_month", "\ufeff12 ", "12"),
        ("card", "exp_year", "\u00a02030", "2030"),
        ("card", "cvc", " 314\u200b", "314"),
        ("card", "currency", "eur ", "eur"),
        ("card", "address_line1", "1 Example St\r\nApt 2\n", "1 Example St, Apt 2"),
        ("bank_account", "country", "\u200bUS", "US"),
        ("pii", "id_number", "000\u00a000 0000\u200b ", "000 00 0000"),
        ("person", "ssn_last_4", "0000\u00ad", "0000"),
    ],
)
def test_what_a_person_cannot_see_is_not_sent(kind, name, typed, sent):
    request = request_from(kind, GOOD[kind] | {name: typed})
    assert dict(parse_qsl(request.form()))[f"{kind}[{name}]"] == sent


def test_a_cloned_card_is_two_ids_beside_no_hash():
    assert CardRequest(customer="cus_1", card="card_2").form() == "customer=cus_1&card=card_2"
    assert CardRequest(customer="cus_1").form() == "customer=cus_1"


def test_the_three_ways_to_name_a_bank_account():
    assert BankAccountRequest(**BANK).form() == (
        "bank_account[country]=US&bank_account[currency]=usd&bank_account[account_number]=000123456789"
        "&bank_account[routing_number]=110000000"
    )
    assert BankAccountRequest(customer="cus_1", bank_account="ba_2").form() == "customer=cus_1&bank_account=ba_2"
    with_method = BankAccountRequest(payment_method="pm_1", customer="cus_1")
    assert with_method.form() == "bank_account[payment_method]=pm_1&customer=cus_1"


def test_lists_are_indexed_booleans_are_words_and_unicode_is_utf8():
    request = PersonRequest(
        first_name="Zoë",
        full_name_aliases=["A & B", "C=D"],
        relationship={"owner": True, "director": False, "percent_ownership": 33.5},
        documents={"passport": {"files": ["file_1", "file_2"]}},
    )
    assert request.form() == (
        "person[first_name]=Zo%C3%AB&person[full_name_aliases][0]=A+%26+B&person[full_name_aliases][1]=C%3DD"
        "&person[relationship][director]=false&person[relationship][owner]=true"
        "&person[relationship][percent_ownership]=33.5"
        "&person[documents][passport][files][0]=file_1&person[documents][passport][files][1]=file_2"
    )


def test_an_empty_value_is_sent_where_it_unsets_and_refused_elsewhere():
    request = AccountRequest(company={"structure": "", "registration_date": ""}, individual={"metadata": ""})
    assert request.form() == (
        "account[company][structure]=&account[company][registration_date]=&account[individual][metadata]="
    )


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("bank_account", BANK | {"account_holder_name": ""}),
        ("card", CARD | {"cvc": "", "networks": {"preferred": ""}, "address_line2": ""}),
        ("account", {"business_type": "company", "company": {"name": "", "address": {"line1": ""}}}),
        (
            "person",
            {"first_name": "Ann", "relationship": {"title": "", "percent_ownership": ""}, "dob": {}} | {"dob": ""},
        ),
    ],
)
def test_an_empty_string_is_a_field_that_is_not_given(kind, data):
    def given(value):
        if not isinstance(value, dict):
            return value
        return {name: given(inner) for name, inner in value.items() if inner != "" or name in UNSET}

    assert request_from(kind, data) == request_from(kind, given(data))
    assert request_from(kind, data).form() == request_from(kind, given(data)).form()


UNSET = {"dob", "percent_ownership"}


def test_an_empty_string_for_a_field_that_is_needed_is_a_missing_one():
    for kind, data, said in (
        ("pii", {"id_number": ""}, "pii.id_number: is required"),
        ("person", {"dob": {"day": "", "month": 1, "year": 1901}}, "person.dob.day: is required"),
        ("card", CARD | {"number": ""}, "card: number must be given"),
        ("card", CARD | {"nmber": ""}, "card.nmber: is not a known field; did you mean number?"),
        ("person", {"full_name_aliases": [""]}, "person.full_name_aliases[0]: is empty; leave it out"),
    ):
        with pytest.raises(InvalidRequest) as refusal:
            request_from(kind, data)
        assert said in str(refusal.value)


def test_equal_metadata_gives_equal_bytes_in_whatever_order_it_was_written():
    one, other = ({"metadata": dict(pairs)} for pairs in ([("a", "1"), ("b", "2")], [("b", "2"), ("a", "1")]))
    assert PersonRequest(**one).form() == PersonRequest(**other).form() == "person[metadata][a]=1&person[metadata][b]=2"


def flattened(value: Any, key: str = "") -> dict[str, str]:
    if isinstance(value, Mapping):
        parts = [flattened(inner, f"{key}[{name}]" if key else name) for name, inner in value.items()]
        return {name: text for part in parts for name, text in part.items()}
    if isinstance(value, list | tuple):
        return flattened({str(index): inner for index, inner in enumerate(value)}, key)
    if isinstance(value, bool):
        return {key: "true" if value else "false"}
    return {} if value is None else {key: str(value)}


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
addresses = st.fixed_dictionaries({}, optional={"line1": words, "city": words, "country": st.just("DE")})
people = st.fixed_dictionaries(
    {"first_name": words},
    optional={
        "last_name": words,
        "full_name_aliases": st.one_of(st.just(""), st.lists(words, min_size=1, max_size=4)),
        "dob": st.one_of(st.just(""), st.just({"day": 1, "month": 2, "year": 1990})),
        "address": addresses,
        "metadata": st.one_of(
            st.just(""), st.dictionaries(st.from_regex("[a-z]{1,9}", fullmatch=True), words, max_size=4)
        ),
        "relationship": st.fixed_dictionaries({}, optional={"owner": st.booleans(), "title": words}),
    },
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(people)
def test_a_form_read_back_is_the_request(data):
    pairs = parse_qsl(PersonRequest(**data).form(), keep_blank_values=True, strict_parsing=True)
    assert len(pairs) == len(dict(pairs))
    assert dict(pairs) == flattened({"person": data})


@pytest.mark.parametrize("kind", GOOD)
def test_a_request_survives_json_and_pickle_with_the_same_bytes(kind):
    request = request_from(kind, GOOD[kind])
    again = request_from(kind, request.model_dump(mode="json", exclude_none=True))
    assert again == request == type(request).model_validate_json(request.model_dump_json())
    assert again.form() == request.form() == pickle.loads(pickle.dumps(request)).form()


# -- what a request says about itself -------------------------------------------------------------------------------


def test_only_clones_need_a_connected_account():
    assert CardRequest(customer="cus_1").needs_connected_account
    assert BankAccountRequest(customer="cus_1").needs_connected_account
    assert not BankAccountRequest(payment_method="pm_1", customer="cus_1").needs_connected_account
    assert not any(request_from(kind, data).needs_connected_account for kind, data in GOOD.items())


def test_only_a_card_with_its_code_and_a_cvc_update_carry_a_cvc():
    assert CardRequest(**CARD, cvc="314").carries_cvc
    assert CvcUpdateRequest(cvc="314").carries_cvc
    assert not CardRequest(**CARD).carries_cvc
    assert not PiiRequest(id_number="000000000").carries_cvc


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        ("card", {}, "card: number, exp_month, exp_year must be given"),
        ("card", {"number": "4242424242424242"}, "card: exp_month, exp_year must be given"),
        ("card", CARD | {"customer": "cus_1"}, "card: customer clones a saved card; leave out number"),
        ("card", {"card": "card_1"}, "card: card is the id of a saved card and needs the customer"),
        ("card", CARD | {"number": "4242"}, "card.number: "),
        ("card", CARD | {"number": "٤" * 16}, "card.number: "),
        ("card", CARD | {"number": 4242424242424242}, "card.number: must be text"),
        ("card", CARD | {"exp_month": True}, "card.exp_month: "),
        ("card", CARD | {"exp_year": "203"}, "card.exp_year: "),
        ("card", CARD | {"cvc": "99"}, "card.cvc: "),
        ("card", CARD | {"name": "a\nb"}, "card.name: "),
        ("card", {"customer": "4242424242424242"}, "card.customer: "),
        ("bank_account", {"country": "US"}, "bank_account: currency, account_number must be given"),
        ("bank_account", BANK | {"payment_method": "pm_1"}, "bank_account: payment_method excludes country"),
        ("bank_account", BANK | {"customer": "cus_1"}, "bank_account: customer clones a saved bank account"),
        ("bank_account", {"bank_account": "ba_1"}, "bank_account: bank_account is the id"),
        ("bank_account", {"payment_method": "pm_1", "bank_account": "ba_1"}, "payment_method excludes bank_account"),
        ("pii", {}, "pii.id_number: is required"),
        ("account", {"company": {"address": {}}}, "account: there is nothing to tokenize"),
        ("account", {"tos_shown_and_accepted": "yes"}, "account.tos_shown_and_accepted: "),
        ("person", {"dob": {"day": 1}}, "person.dob.month: is required, person.dob.year: is required"),
        ("person", {"dob": "1980-01-31"}, "person.dob: must be an object with day, month and year"),
        ("person", {"dob": {"day": "31", "month": 1, "year": 1980}}, "person.dob.day: must be a whole number"),
        ("person", {"dob": {"day": 32, "month": 1, "year": 1980}}, "person.dob.day: must be at most 31"),
        ("person", {"address": "1 Example Street"}, "person.address: must be an object with fields"),
        ("person", {"full_name_aliases": "Ann"}, "person.full_name_aliases: must be a list"),
        ("card", CARD | {"name": "x" * 101}, "card.name: is longer than 100 characters"),
        ("person", {"relationship": {"percent_ownership": 101}}, "person.relationship.percent_ownership: "),
        ("person", {"relationship": {"percent_ownership": float("nan")}}, "percent_ownership: "),
        ("person", {"first_name": "\ud800"}, "person.first_name: "),
        ("person", {"metadata": {"a[b]": "c"}}, "person.metadata: "),
        ("cvc_update", {"cvc": "12345"}, "cvc_update.cvc: "),
        ("pin", {}, "kind: must be one of card, bank_account"),
        (None, {}, "kind: must be one of card, bank_account"),
        ("card", ["4242424242424242"], "card: must be an object with fields"),
    ],
)
def test_a_refusal_names_the_field_and_the_rule(kind, data, said):
    with pytest.raises(InvalidRequest) as refusal:
        request_from(kind, data)
    assert said in str(refusal.value)


def test_every_error_of_pydantic_has_a_sentence_of_ours():
    walked = 0
    for each in list_all_errors():
        if each["type"] in ("value_error", "assertion_error"):
            continue  # raised by validators of ours
        context = each["example_context"] or {}
        detail = {"type": each["type"], "loc": ("number",), "input": CANARY, "ctx": context}
        error = ValidationError.from_exception_data("X", [detail])
        (problem,) = problems_of(error, under="card", names=frozenset({"number"}))
        assert problem.field.startswith("card")
        assert re.fullmatch(r"(must|is|has) [a-z0-9 ,;'.{}()-]+", problem.reason, re.IGNORECASE), problem
        assert problem.reason not in each["example_message_python"]
        assert "Input" not in problem.reason
        walked += 1
    assert walked > 90


def test_every_problem_is_listed_at_once():
    with pytest.raises(InvalidRequest) as refusal:
        request_from("card", CARD | {"number": "1", "exp_month": "x"})
    assert [problem.field for problem in refusal.value.problems] == ["card.number", "card.exp_month"]
    assert pickle.loads(pickle.dumps(refusal.value)).problems == refusal.value.problems


def test_words_the_provider_may_add_tomorrow_pass():
    assert CardRequest(**CARD, networks={"preferred": "a_network_of_2031"}).networks is not None
    assert AccountRequest(business_type="cooperative").business_type == "cooperative"


@pytest.mark.parametrize(
    ("name", "shown"),
    [("quux", "card.quux"), ("4242424242424242", "card.(unprintable name)"), ("a" * 41, "card.(unprintable name)")],
)
def test_an_unknown_name_is_quoted_only_if_it_is_a_plain_word(name, shown):
    with pytest.raises(InvalidRequest) as refusal:
        request_from("card", CARD | {name: "1"})
    assert refusal.value.problems == (Problem(shown, "is not a known field"),)


def test_a_misspelled_name_is_answered_with_the_right_one():
    with pytest.raises(InvalidRequest) as refusal:
        request_from("card", CARD | {"nmber": "1"})
    assert refusal.value.problems == (Problem("card.nmber", "is not a known field; did you mean number?"),)


def test_a_number_used_as_a_name_is_not_repeated():
    with pytest.raises(InvalidRequest) as refusal:
        request_from("card", {**CARD, 4242424242424242: "1"})  # type: ignore[dict-item]
    assert "4242" not in str(refusal.value)


# -- silence --------------------------------------------------------------------------------------------------------


def string_places(annotation: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """Where in nested data a string can stand."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from string_places(arguments[0], path)
    elif origin in (Union, types.UnionType):
        for argument in arguments:
            yield from string_places(argument, path)
    elif origin is tuple:
        yield from string_places(arguments[0], (*path, 0))
    elif origin is dict:
        yield (*path, "key")
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield from string_places(field.annotation, (*path, name))
    elif annotation is str:
        yield path


def planted(path: tuple[str | int, ...], value: Any) -> Any:
    for step in reversed(path):
        value = [value] if step == 0 else {step: value}
    return value


def everything_said(error: BaseException) -> str:
    chain = [error, error.__cause__, error.__context__]
    said = [text for one in chain if one for text in (str(one), repr(one), "".join(traceback.format_exception(one)))]
    return "\n".join([*said, repr(error.__cause__), repr(error.__context__)])


PLACES = [
    (kind, place)
    for kind, model in REQUESTS.items()
    for name, field in model.model_fields.items()
    for place in string_places(field.annotation, (name,))
]


@pytest.mark.parametrize(("kind", "place"), PLACES, ids=[f"{kind}-{'.'.join(map(str, p))}" for kind, p in PLACES])
def test_no_error_about_a_request_repeats_a_value_of_it(kind, place):
    for value in (CANARY, [CANARY], {CANARY: CANARY}, CANARY * 1000):
        data = {"an_unknown_field": CANARY, **planted(place, value)}
        with pytest.raises(InvalidRequest) as refusal:
            request_from(kind, data)
        assert "Canary" not in everything_said(refusal.value)
        with pytest.raises(InvalidRequest) as raw:
            REQUESTS[kind](**{"an_unknown_field": CANARY, **planted(place, CANARY)})
        assert "Canary" not in "".join(traceback.format_exception(raw.value))


def test_a_request_prints_as_its_name():
    request = PersonRequest(first_name=CANARY, address={"line1": CANARY}, metadata={"a": CANARY})
    for text in (repr(request), str(request), f"{request}", f"{request!r}", repr([request, request.address])):
        assert "Canary" not in text
    assert repr(request) == "PersonRequest()"


def test_a_refused_assignment_does_not_repeat_the_value():
    request = CardRequest(**CARD, name="Ann")
    for change in (
        lambda: setattr(request, "name", CANARY),
        lambda: setattr(request, "unheard_of", CANARY),
        lambda: delattr(request, "name"),
    ):
        with pytest.raises((AttributeError, ValidationError)) as refusal:
            change()
        assert "Canary" not in everything_said(refusal.value)
        assert "Ann" not in everything_said(refusal.value)
    assert copy.deepcopy(request) == request


@pytest.mark.parametrize("kind", REQUESTS)
def test_ten_megabytes_in_any_field_are_refused_at_once(kind):
    huge = "4" * 10_000_000
    for name in REQUESTS[kind].model_fields:
        started = time.perf_counter()
        with pytest.raises(InvalidRequest) as refusal:
            request_from(kind, GOOD[kind] | {name: huge})
        assert time.perf_counter() - started < 1.0
        assert len(str(refusal.value)) < 1000


def test_a_list_or_a_mapping_has_an_end_too():
    for data in (
        {"full_name_aliases": ["a"] * 51},
        {"metadata": {f"key{n}": "v" for n in range(51)}},
        {"documents": {"visa": {"files": ["file_1"] * 51}}},
    ):
        with pytest.raises(InvalidRequest):
            request_from("person", data)


def test_every_kind_has_one_model_that_knows_its_kind():
    assert set(REQUESTS) == set(get_args(Kind))
    assert all(model.kind == kind for kind, model in REQUESTS.items())
    assert get_origin(Kind) is Literal
