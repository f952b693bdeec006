"""Which handler answers which method and path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokenferry_emulator import (
    accounts,
    charges,
    customers,
    external_accounts,
    payment_intents,
    payment_methods,
    persons,
    tokens,
)
from tokenferry_emulator.calls import Handler


@dataclass(frozen=True, slots=True)
class Route:
    """One method and path. *allowed* names its table of parameters. *locks* says which object it writes: the one in the
    path ("id"), or the customer in the form ("customer").
    """

    method: str
    pattern: str
    handler: Handler
    allowed: str
    locks: Literal["", "id", "customer"] = ""

    @property
    def name(self) -> str:
        return f"{self.method} {self.pattern}"


ROUTES = (
    Route("POST", "/v1/tokens", tokens.create_token, "tokens"),
    Route("GET", "/v1/tokens/:id", tokens.read_token, "retrieve"),
    Route("POST", "/v1/customers", customers.create_customer, "customers"),
    Route("GET", "/v1/customers/:id", customers.read_customer, "retrieve"),
    Route("POST", "/v1/customers/:id", customers.update_customer, "customers_update", locks="id"),
    Route("POST", "/v1/customers/:id/sources", customers.create_source, "customers_sources", locks="id"),
    Route("GET", "/v1/customers/:id/sources", customers.list_sources, "list"),
    Route("GET", "/v1/customers/:id/sources/:id", customers.read_source, "retrieve"),
    Route("POST", "/v1/payment_methods", payment_methods.create_payment_method, "payment_methods"),
    Route("GET", "/v1/payment_methods/:id", payment_methods.read_payment_method, "retrieve"),
    Route(
        "POST",
        "/v1/payment_methods/:id/attach",
        payment_methods.attach_payment_method,
        "payment_methods_attach",
        locks="customer",
    ),
    Route("POST", "/v1/charges", charges.create_charge, "charges"),
    Route("GET", "/v1/charges/:id", charges.read_charge, "retrieve"),
    Route("POST", "/v1/topups", charges.create_topup, "topups"),
    Route("GET", "/v1/topups/:id", charges.read_topup, "retrieve"),
    Route("POST", "/v1/sources", charges.create_source, "sources"),
    Route("GET", "/v1/sources/:id", charges.read_source, "retrieve"),
    Route("POST", "/v1/payment_intents", payment_intents.create_payment_intent, "payment_intents"),
    Route("GET", "/v1/payment_intents/:id", payment_intents.read_payment_intent, "retrieve"),
    Route(
        "POST",
        "/v1/payment_intents/:id/confirm",
        payment_intents.confirm_payment_intent,
        "payment_intents_confirm",
        locks="id",
    ),
    Route("GET", "/v1/account", accounts.read_own_account, "retrieve"),
    Route("POST", "/v1/accounts", accounts.create_account, "accounts"),
    Route("GET", "/v1/accounts/:id", accounts.read_account, "retrieve"),
    Route("POST", "/v1/accounts/:id", accounts.update_account, "accounts_update", locks="id"),
    Route(
        "POST",
        "/v1/accounts/:id/external_accounts",
        external_accounts.create_external_account,
        "external_accounts",
        locks="id",
    ),
    Route("GET", "/v1/accounts/:id/external_accounts", external_accounts.list_external_accounts, "list"),
    Route("GET", "/v1/accounts/:id/external_accounts/:id", external_accounts.read_external_account, "retrieve"),
    Route("POST", "/v1/accounts/:id/persons", persons.create_person, "persons", locks="id"),
    Route("GET", "/v1/accounts/:id/persons", persons.list_persons, "list"),
    Route("GET", "/v1/accounts/:id/persons/:id", persons.read_person, "retrieve"),
    Route("POST", "/v1/accounts/:id/persons/:id", persons.update_person, "persons_update", locks="id"),
)
_BY_SHAPE = {(route.method, *route.pattern.split("/")[1:]): route for route in ROUTES}


def find(method: str, path: str) -> tuple[Route | None, tuple[str, ...]]:
    """Return the route and the ids in the path. Every second segment below /v1 is an id, in all these paths.

    >>> find("POST", "/v1/customers/cus_1/sources")[1]
    ('cus_1',)
    """
    segments = path.split("/")[1:]
    ids = tuple(segments[2::2])
    if not all(ids):
        return None, ()
    shape = [":id" if at >= 2 and at % 2 == 0 else name for at, name in enumerate(segments)]
    return _BY_SHAPE.get((method, *shape)), ids
