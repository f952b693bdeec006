"""Every answer has the fields that the official SDK says an object always has, and none that it does not know."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from typing import Any

import pytest
import stripe

from tokenferry_emulator.testing import BANK, CARD, DEBIT, Provider

RECORDED = {"card.email", "card.phone", "card.wallet"}
"""In recorded answers, and not in the SDK."""


def differences(kind: type[Any], body: dict[str, Any], path: str) -> Iterator[str]:
    renamed = getattr(kind, "_field_remappings", {})
    known = {
        renamed.get(name, name): annotation
        for parent in reversed(kind.__mro__)
        for name, annotation in inspect.get_annotations(parent).items()
        if name[0] != "_" and name != "OBJECT_NAME"
    }
    inner = {renamed.get(name, name): nested for name, nested in getattr(kind, "_inner_class_types", {}).items()}
    for name, annotation in known.items():
        may_lack = type(None) in typing.get_args(annotation)
        if name not in body:
            if not may_lack:
                yield f"{path}.{name} is missing"
        elif body[name] is None and not may_lack:
            yield f"{path}.{name} is null"
        elif name in inner and isinstance(body[name], dict):
            yield from differences(inner[name], body[name], f"{path}.{name}")
    yield from (f"{path}.{name} is unknown" for name in body.keys() - known.keys() if f"{path}.{name}" not in RECORDED)


def answers(provider: Provider) -> Iterator[tuple[type[Any], dict[str, Any]]]:
    card, bank = provider.made("/v1/tokens", CARD), provider.made("/v1/tokens", BANK)
    yield from ((stripe.Token, card), (stripe.Card, card["card"]), (stripe.BankAccount, bank["bank_account"]))
    yield stripe.Charge, provider.made("/v1/charges", {"amount": "1", "currency": "usd", "source": provider.token()})
    yield stripe.Customer, provider.made("/v1/customers", {"source": provider.token()})
    account = provider.made("/v1/accounts", {"type": "custom", "business_type": "individual"})
    below = f"/v1/accounts/{account['id']}"
    yield stripe.Account, account
    yield stripe.Account, provider.made(below, {"individual[first_name]": "Ann", "company[name]": "Ferry"})
    yield stripe.Account, provider.get("/v1/account").json()
    yield stripe.Person, provider.made(f"{below}/persons", {"first_name": "Ann"})
    external = {"external_account": provider.token(BANK)}
    bank = provider.made(f"{below}/external_accounts", external)
    yield stripe.BankAccount, bank
    yield stripe.BankAccount, provider.get(f"{below}/external_accounts/{bank['id']}").json()
    external = {"external_account": provider.token(DEBIT)}
    yield stripe.Card, provider.made(f"{below}/external_accounts", external)
    method = provider.made("/v1/payment_methods", {"type": "card", "card[token]": provider.token()})
    yield stripe.PaymentMethod, method
    intent = {"amount": "1", "currency": "usd", "payment_method": method["id"], "confirm": "true"}
    yield stripe.PaymentIntent, provider.made("/v1/payment_intents", intent)
    yield stripe.Topup, provider.made("/v1/topups", {"amount": "1", "currency": "usd", "source": provider.token(BANK)})
    yield stripe.Source, provider.made("/v1/sources", {"type": "card", "token": provider.token()})


def test_the_python_sdk_finds_no_difference_in_shapes(provider: Provider) -> None:
    found = [each for kind, body in answers(provider) for each in differences(kind, body, body["object"])]
    assert found == []


def test_a_field_that_is_missing_null_or_unknown_is_noticed() -> None:
    body = {"id": None, "object": "charge", "new": 1, "billing_details": {"email": None, "pet": 1}}
    found = list(differences(stripe.Charge, body, "charge"))
    assert {"charge.id is null", "charge.disputed is missing", "charge.new is unknown"} <= set(found)
    assert "charge.billing_details.pet is unknown" in found


def test_a_charge_says_who_pays_and_that_nobody_disputes_it(provider: Provider) -> None:
    token = provider.token(
        {**CARD, "card[name]": "Jenny Rosen", "card[address_line1]": "1 Main", "card[address_zip]": "1"}
    )
    charge = provider.made("/v1/charges", {"amount": "1", "currency": "usd", "source": token})
    assert charge["disputed"] is False
    assert charge["billing_details"]["name"] == "Jenny Rosen"
    assert charge["billing_details"]["address"]["line1"] == "1 Main"
    assert charge["billing_details"]["address"]["postal_code"] == "1"


def test_account_settings_are_all_there_and_sent_ones_replace(provider: Provider) -> None:
    form = {"type": "custom", "settings[payouts][schedule][interval]": "manual"}
    settings = provider.made("/v1/accounts", form)["settings"]
    assert {"branding", "card_payments", "dashboard", "payments", "payouts"} <= settings.keys()
    assert settings["payouts"]["schedule"] == {"delay_days": 2, "interval": "manual"}
    assert settings["payments"]["statement_descriptor"] is None


@pytest.mark.parametrize("name", ["source", "customer"])
def test_a_declined_charge_has_the_same_shape(provider: Provider, name: str) -> None:
    form = {"amount": "1", "currency": "usd"}
    if name == "source":
        form["source"] = provider.token({**CARD, "card[number]": "4000000000000002"})
    else:
        declined = provider.token({**CARD, "card[number]": "4000000000000341"})
        form["customer"] = provider.made("/v1/customers", {"source": declined})["id"]
    _, error = provider.refused("/v1/charges", form)
    charge = provider.get(f"/v1/charges/{error['charge']}").json()
    assert list(differences(stripe.Charge, charge, "charge")) == []
