"""Whatever is sent, the answer is one the provider could give: never a crash, never an echo of a number."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenferry_emulator import EmulatorState
from tokenferry_emulator.parameters import Parameter, table
from tokenferry_emulator.routes import ROUTES, Route
from tokenferry_emulator.testing import BANK, CARD, DEBIT, Provider

NUMBER = "4000000000009995"
SECRETS = frozenset({"number", "cvc", "account_number", "id_number", "id_number_secondary", "tax_id", "ssn_last_4"})


def _paths(parameter: Parameter, path: str = "") -> Iterator[str]:
    for name, child in parameter.children.items():
        here = f"{path}[{name}]" if path else name
        yield here
        if child.type in ("list", "map"):
            yield f"{here}[0]"
        yield from _paths(child, here if child.type == "hash" else f"{here}[0]")


def _provider() -> tuple[Provider, list[str]]:
    """A provider with one object of each kind, and all their ids."""
    provider = Provider(EmulatorState())
    account = provider.custom_account({"external_account": provider.token(BANK)})
    person = provider.made(f"/v1/accounts/{account}/persons", {"first_name": "J"})["id"]
    customer = provider.made("/v1/customers", {"source": "tok_visa"})["id"]
    method = provider.made("/v1/payment_methods", {"type": "card", "card[token]": "tok_visa"})["id"]
    intent = provider.made("/v1/payment_intents", {"amount": "1", "currency": "usd"})["id"]
    forms = (CARD, BANK, DEBIT, {"pii[id_number]": "1"}, {"cvc_update[cvc]": "123"}, {"person[first_name]": "J"})
    tokens = [provider.token(form) for form in (*forms, {"account[tos_shown_and_accepted]": "true"})]
    return provider, [account, person, customer, method, intent, *tokens]


PROVIDER, IDS = _provider()
VALUES = [
    "",
    "1",
    "-1",
    "x",
    "true",
    "usd",
    "US",
    "2030",
    "12",
    "custom",
    "card",
    "us_bank_account",
    "tok_visa",
    NUMBER,
]


@st.composite
def _calls(draw: st.DrawFn) -> tuple[str, str, dict[str, str], bool]:
    route = draw(st.sampled_from(ROUTES))
    path = "/".join(draw(st.sampled_from(IDS)) if word == ":id" else word for word in route.pattern.split("/"))
    names = st.sampled_from(sorted(_paths(table(route.allowed))))
    form = draw(st.dictionaries(names, st.sampled_from(VALUES + IDS), max_size=8))
    return route.method, path, form, draw(st.booleans())


@settings(max_examples=600, deadline=None)
@given(_calls())
def test_any_form_gets_an_answer_the_provider_could_give(call: tuple[str, str, dict[str, str], bool]) -> None:
    method, path, form, connected = call
    headers = {"stripe_account": IDS[0]} if connected else {}
    answer = PROVIDER.ask(method, path, form, **headers)
    assert answer.status_code in (200, 400, 402, 403, 404)


@pytest.mark.parametrize("route", [route for route in ROUTES if route.method == "POST"], ids=lambda route: route.name)
def test_a_number_is_never_echoed_wherever_a_number_belongs(route: Route) -> None:
    path = route.pattern.replace(":id", IDS[0], 1).replace(":id", IDS[1])
    for name in _paths(table(route.allowed)):
        if name.rpartition("[")[2].rstrip("]") in SECRETS:
            assert NUMBER not in PROVIDER.post(path, {name: NUMBER}).text
