"""Describes every column that a file may have, by kind and by target: `tokenferry import --columns`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel

from tokenferry.contract.requests import REQUESTS
from tokenferry.contract.targets import TARGETS
from tokenferry.inputs.columns import shapes
from tokenferry.inputs.shapes import Shape
from tokenferry.inputs.tidying import COMBINED

_ABOUT_THE_ROW: Final = {
    "key": "your own id of the row; must be unique",
    "kind": f"what the token is made of: {', '.join(REQUESTS)} (or --kind for all rows)",
    "platform": "a platform of the configuration; needed if there is more than one",
    "connected_account": "the connected account that owns the token (acct_...)",
    "lane": "bulk or realtime",
}
_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "card": ("number", "exp_month", "exp_year"),
    "bank_account": ("country", "currency", "account_number"),
    "pii": ("id_number",),
    "cvc_update": ("cvc",),
}
"""Fields without which a request of this kind is refused, if it does not clone a saved object."""
_MEANINGS: Final = {
    "number": "card number; blanks and dashes are removed",
    "exp_month": "month of expiry, 1 to 12",
    "exp_year": "year of expiry, two or four digits",
    "expiry": "expiry in one column: 04/28, 04/2028, 0428, 2028-04, Apr-28; instead of exp_month and exp_year",
    "first_name": "first name",
    "last_name": "last name",
    "cvc": "verification code; such rows use the realtime lane and are never kept",
    "name": "name of the holder",
    "currency": "three letters, like usd",
    "country": "two letters, like US",
    "account_number": "account number, or IBAN",
    "routing_number": "routing number, sort code or bank code; a BIC beside an IBAN is left out",
    "account_holder_name": "name of the account's holder",
    "account_holder_type": "individual or company",
    "account_type": "checking, savings, ...",
    "id_number": "government id number",
    "ssn_last_4": "last four digits of the US social security number",
    "customer": "id of a customer (cus_...)",
    "card": "id of a saved card of the customer",
    "bank_account": "id of a saved bank account of the customer",
    "payment_method": "id of a payment method (pm_...)",
    "to": "what the token is used for",
    "amount": "in the currency's smallest unit (cents); no decimals",
    "email": "e-mail address",
    "phone": "telephone number",
    "description": "free text",
    "dob": "date of birth, like 1980-01-31; instead of day, month and year",
}
_TYPES: Final[Mapping[type, str]] = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def described() -> Iterator[str]:
    """The lines of the whole list."""
    yield "Every row"
    for name, meaning in _ABOUT_THE_ROW.items():
        yield _line(name, "", meaning)
    for kind, model in REQUESTS.items():
        yield ""
        yield f"kind = {kind}"
        yield from _fields(str(kind), model, "", _NEEDED.get(str(kind), ()))
        for name in COMBINED.get(str(kind), ()):
            into = " and ".join(COMBINED[str(kind)][name])
            yield _line(
                name, "text", _MEANINGS[name] if name == "expiry" else f"{_MEANINGS[name]}, becomes part of {into}"
            )
    for to, target in TARGETS.items():
        yield ""
        yield f"attach.to = {to}"
        yield from _fields(to, target, "attach.", ())


def _fields(owner: str, model: type[BaseModel], prefix: str, needed: tuple[str, ...]) -> Iterator[str]:
    shape = shapes()[owner]
    for path in shape.leaves():
        if path == "to":
            continue
        first = path.partition(".")[0]
        required = path in needed or ("." not in path and model.model_fields[first].is_required())
        yield _line(f"{prefix}{path}", _type(shape, path), _meaning(path), required=required)


def _type(shape: Shape, path: str) -> str:
    found: Any = shape.at(path.replace("KEY", "x"))
    return _TYPES.get(found.plain, "") if found is not None else ""


def _meaning(path: str) -> str:
    return _MEANINGS.get(path.rpartition(".")[2], "")


def _line(name: str, type_: str, meaning: str, *, required: bool = False) -> str:
    words = "; ".join(part for part in ("required" if required else "", type_, meaning) if part)
    return f"  {name:<44} {words}".rstrip()
