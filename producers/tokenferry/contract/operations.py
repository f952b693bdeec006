"""The operations of Stripe that Tokenferry calls: a method, and a path with `{id}` for every id.

Stripe limits the calls of each endpoint, and an endpoint is one operation (docs.stripe.com/rate-limits):
`POST /v1/payment_intents` and `GET /v1/payment_intents/{id}` are two, and calls for different ids are calls of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

NEW_ACCOUNT: Final = "POST /v1/accounts"
"""Stripe documents a rate of its own for this operation."""

OPERATIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "POST /v1/tokens": "tokens",
        "GET /v1/tokens/{id}": "tokens",
        "POST /v1/customers": "customers",
        "POST /v1/customers/{id}": "customers",
        "POST /v1/customers/{id}/sources": "customer_sources",
        "GET /v1/customers/{id}/sources/{id}": "customer_sources",
        "POST /v1/payment_methods": "payment_methods",
        "POST /v1/payment_methods/{id}/attach": "payment_methods",
        "POST /v1/payment_intents": "payment_intents",
        "POST /v1/payment_intents/{id}/confirm": "payment_intents",
        "GET /v1/payment_intents/{id}": "payment_intents",
        "POST /v1/charges": "charges",
        NEW_ACCOUNT: "accounts",
        "POST /v1/accounts/{id}": "accounts",
        "GET /v1/accounts/{id}": "accounts",
        "POST /v1/accounts/{id}/external_accounts": "external_accounts",
        "GET /v1/accounts/{id}/external_accounts/{id}": "external_accounts",
        "POST /v1/accounts/{id}/persons": "persons",
        "POST /v1/accounts/{id}/persons/{id}": "persons",
        "POST /v1/topups": "topups",
        "POST /v1/sources": "sources",
    }
)
"""Every operation, with the resource that it belongs to: the name of its budget where calls are counted by resource."""


def operation_of(method: str, path: str) -> str:
    """Return the operation of a call. Every second part of a path below `/v1` is an id.

    >>> operation_of("POST", "/v1/accounts/acct_1/persons/person_1")
    'POST /v1/accounts/{id}/persons/{id}'
    >>> operation_of("POST", "/v1/payment_methods/pm_1/attach")
    'POST /v1/payment_methods/{id}/attach'
    """
    parts = path.split("/")
    return f"{method} " + "/".join("{id}" if at > 2 and at % 2 else part for at, part in enumerate(parts))


def resource_of(operation: str) -> str:
    """Return the resource of an operation; for one that is not in `OPERATIONS`, the first name in its path.

    The name of a resource is returned as it is.

    >>> resource_of("POST /v1/customers/{id}/sources"), resource_of("GET /v1/invoices/{id}"), resource_of("charges")
    ('customer_sources', 'invoices', 'charges')
    """
    return OPERATIONS.get(operation) or operation.rpartition("/v1/")[2].partition("/")[0]


def operations_of(resource: str) -> tuple[str, ...]:
    """Return the operations of a resource that are called here.

    >>> operations_of("customers")
    ('POST /v1/customers', 'POST /v1/customers/{id}')
    """
    return tuple(operation for operation, of in OPERATIONS.items() if of == resource)
