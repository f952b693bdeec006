"""What can be turned into a token: one closed model for each of the six kinds.

A constructed request is well-formed and prints as its name only. A constructor and `request_from`, which reads foreign
data, raise `InvalidRequest`: it names fields and holds no value. Where pydantic itself reads a model (as a field of
your own model, or by `model_validate`), it raises its own error. That prints no value either, but `errors()` has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import ValidationError, ValidationInfo, field_validator, model_validator

from tokenferry.contract.bank_countries import DIGITS_ALONE, IBAN_IS_ENOUGH
from tokenferry.contract.connect import (
    AdditionalTosAcceptances,
    Company,
    Documents,
    Human,
    Individual,
    PersonRelationship,
    UsCfpbData,
)
from tokenferry.contract.fields import (
    IBAN_START,
    AccountNumber,
    CardNumber,
    Country,
    Currency,
    Cvc,
    Flag,
    IdNumber,
    Line,
    Month,
    Name,
    ObjectId,
    PostalCode,
    RoutingNumber,
    Town,
    Word,
    Year,
    is_typed_number,
    without_blanks,
    without_dashes,
)
from tokenferry.contract.form import encode, flatten
from tokenferry.contract.message import Sensitive
from tokenferry.contract.problems import InvalidInput as InvalidInput
from tokenferry.contract.problems import InvalidRequest as InvalidRequest
from tokenferry.contract.problems import Problem as Problem
from tokenferry.contract.problems import field_names as field_names
from tokenferry.contract.problems import problems_of as problems_of

Kind = Literal["card", "bank_account", "pii", "account", "person", "cvc_update"]


class TokenRequest(Sensitive):
    """A request for one token. Its kind is its class."""

    kind: ClassVar[Kind]
    beside: ClassVar[frozenset[str]] = frozenset()
    """Fields that stand beside the kind's hash in the form, not inside it."""

    @classmethod
    def place(cls) -> str:
        return cls.kind

    @property
    def needs_connected_account(self) -> bool:
        """True when it clones a saved object, which only works with a connected account (or its OAuth key)."""
        return False

    @property
    def carries_cvc(self) -> bool:
        """True when it holds a card verification code, which must never rest on a disk, even encrypted."""
        return False

    def form(self) -> str:
        """The body of POST /v1/tokens. Equal requests give equal bytes."""
        inside = flatten(self, under=self.kind, without=self.beside)
        outside = flatten(self, without=type(self).model_fields.keys() - self.beside)
        return encode([*inside, *outside])

    def incomplete(self) -> str | None:
        """Return what is wrong with the fields taken together, without any value; None if nothing is."""
        return None if self.form() else "there is nothing to tokenize: give at least one field"

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if reason := self.incomplete():
            raise ValueError(reason)
        return self

    def _given(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if getattr(self, name) is not None]


class Networks(Sensitive):
    """Which network of a co-badged card is preferred: cartes_bancaires, mastercard, visa."""

    preferred: Word | None = None


class CardRequest(TokenRequest):
    """A card: its details, or `customer` (and `card`) to clone a saved one for a connected account.

    `currency` is needed only when the card will receive payouts. Spaces and dashes in `number` are removed.
    """

    kind: ClassVar[Kind] = "card"
    beside: ClassVar[frozenset[str]] = frozenset({"customer", "card"})

    number: CardNumber | None = None
    exp_month: Month | None = None
    exp_year: Year | None = None
    cvc: Cvc | None = None
    name: Name | None = None
    address_line1: Line | None = None
    address_line2: Line | None = None
    address_city: Town | None = None
    address_state: Town | None = None
    address_zip: PostalCode | None = None
    address_country: Town | None = None
    currency: Currency | None = None
    networks: Networks | None = None
    customer: ObjectId | None = None
    card: ObjectId | None = None

    @property
    def needs_connected_account(self) -> bool:
        return self.customer is not None

    @property
    def carries_cvc(self) -> bool:
        return self.cvc is not None

    def incomplete(self) -> str | None:
        required = ("number", "exp_month", "exp_year")
        details = self._given(name for name in type(self).model_fields if name not in self.beside)
        if self.customer is not None:
            return f"customer clones a saved card; leave out {_listed(details)}" if details else None
        if self.card is not None:
            return "card is the id of a saved card and needs the customer it belongs to"
        missing = [name for name in required if name not in details]
        return f"{_listed(missing)} must be given, or customer to clone a saved card" if missing else None


_BIC = re.compile("[A-Za-z]{6}[A-Za-z0-9]{2}(?:[A-Za-z0-9]{3})?")


class BankAccountRequest(TokenRequest):
    """A bank account: its details, or a saved one.

    Three ways, exclusive: the details (`country`, `currency`, `account_number`, ...); `payment_method`, the id of a
    us_bank_account, with `customer` if it is attached to one (an unattached one is consumed); or `customer` (and
    `bank_account`) to clone a saved one for a connected account. Holder name and type are needed before it can
    be attached to a customer.

    A BIC beside an IBAN is left out where Stripe wants the IBAN alone: every SEPA export has both columns.
    """

    kind: ClassVar[Kind] = "bank_account"
    beside: ClassVar[frozenset[str]] = frozenset({"customer", "bank_account"})

    country: Country | None = None
    currency: Currency | None = None
    account_number: AccountNumber | None = None
    routing_number: RoutingNumber | None = None
    account_holder_name: Name | None = None
    account_holder_type: Word | None = None
    account_type: Word | None = None
    payment_method: ObjectId | None = None
    customer: ObjectId | None = None
    bank_account: ObjectId | None = None

    @field_validator("account_number", mode="before")
    @classmethod
    def _without_decoration(cls, number: Any, info: ValidationInfo) -> Any:
        if info.mode != "json" and is_typed_number(number) and _country(info) in DIGITS_ALONE:
            return without_dashes(number)
        return number

    @field_validator("routing_number", mode="after")
    @classmethod
    def _as_the_country_wants_it(cls, routing: str | None, info: ValidationInfo) -> str | None:
        if info.mode == "json" or routing is None:
            return routing
        if _country(info) == "US":
            return without_dashes(without_blanks(routing))
        if _country(info) in IBAN_IS_ENOUGH and IBAN_START.match(info.data.get("account_number") or ""):
            return None if _BIC.fullmatch(without_blanks(routing)) else routing
        return routing

    @property
    def needs_connected_account(self) -> bool:
        return self.customer is not None and self.payment_method is None

    def incomplete(self) -> str | None:
        required = ("country", "currency", "account_number")
        details = self._given(
            name for name in type(self).model_fields if name not in self.beside and name != "payment_method"
        )
        if self.payment_method is not None:
            unwanted = [*details, *self._given(["bank_account"])]
            return f"payment_method excludes {_listed(unwanted)}" if unwanted else None
        if self.customer is not None:
            return f"customer clones a saved bank account; leave out {_listed(details)}" if details else None
        if self.bank_account is not None:
            return "bank_account is the id of a saved bank account and needs the customer it belongs to"
        missing = [name for name in required if name not in details]
        return f"{_listed(missing)} must be given, or payment_method, or customer" if missing else None


def _country(info: ValidationInfo) -> str:
    return str(info.data.get("country") or "").upper()


class PiiRequest(TokenRequest):
    """A personal id number, to be spent as `id_number` or `id_number_secondary`."""

    kind: ClassVar[Kind] = "pii"

    id_number: IdNumber


class AccountRequest(TokenRequest):
    """Who stands behind a connected account.

    `tos_shown_and_accepted` must be true in a token that creates an account. The date and the address of the
    acceptance are then taken from the call, so from the worker and not from the person who accepted. An account whose
    `company.structure` changes must accept the terms again.
    """

    kind: ClassVar[Kind] = "account"

    business_type: Word | None = None
    company: Company | None = None
    individual: Individual | None = None
    tos_shown_and_accepted: Flag | None = None


class PersonRequest(TokenRequest, Human):
    """A person of a connected account.

    When name, birthday or id number of the representative change, the account must accept the terms again.
    """

    kind: ClassVar[Kind] = "person"

    nationality: Country | None = None
    relationship: PersonRelationship | None = None
    additional_tos_acceptances: AdditionalTosAcceptances | None = None
    documents: Documents | None = None
    us_cfpb_data: UsCfpbData | None = None


class CvcUpdateRequest(TokenRequest):
    """A fresh verification code for a saved card, to be spent while confirming a payment intent."""

    kind: ClassVar[Kind] = "cvc_update"

    cvc: Cvc

    @property
    def carries_cvc(self) -> bool:
        return True


REQUESTS: Mapping[Kind, type[TokenRequest]] = MappingProxyType(
    {
        request.kind: request
        for request in (
            CardRequest,
            BankAccountRequest,
            PiiRequest,
            AccountRequest,
            PersonRequest,
            CvcUpdateRequest,
        )
    }
)


def request_from(kind: str, data: Mapping[str, Any]) -> TokenRequest:
    """Read a request. Raises `InvalidRequest`, which names every field to correct."""
    model = {str(name): request for name, request in REQUESTS.items()}.get(kind)
    if model is None:
        del kind, data  # this frame travels with the exception
        raise InvalidRequest([Problem("kind", f"must be one of {_listed(get_args(Kind))}")])
    if not isinstance(data, Mapping):
        del data
        raise InvalidRequest([Problem(kind, "must be an object with fields")])
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        problems = problems_of(error, under=kind, names=field_names(model))
    del data  # this frame travels with the exception
    # Outside the handler, so that no `__context__` keeps pydantic's error and, inside it, the input.
    raise InvalidRequest(problems)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
