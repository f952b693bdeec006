"""Spending tokens on connected accounts: their bank accounts, their owners, their people."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

from tokenferry.contract.fields import Country, Currency, Email, Flag, Metadata, Name, ObjectId, OrUnset, Phone, Word
from tokenferry.contract.form import Pair
from tokenferry.contract.requests import Kind
from tokenferry.contract.target import Target, path_of
from tokenferry.contract.target_options import (
    AccountSettings,
    BusinessProfile,
    Capabilities,
    Controller,
    Relationship,
    UserTosAcceptance,
)


class ExternalAccount(Target):
    """Add a bank account, or a debit card made with a currency, to a connected account."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({"card", "bank_account"})
    budget: ClassVar[str] = "external_accounts"
    parameter: ClassVar[str] = "external_account"
    local: ClassVar[frozenset[str]] = frozenset({"to", "account"})

    to: Literal["external_account"] = "external_account"
    account: ObjectId
    default_for_currency: Flag | None = None
    metadata: Metadata | None = None

    def path(self) -> str:
        return path_of("accounts", self.account, "external_accounts")

    def serialised_on(self) -> str:
        return self.account


IdRole = Literal["id_number", "id_number_secondary"]


class AccountFields(Target):
    """What a call can set on an account next to the token.

    The kind decides where the token goes: account -> account_token, card and bank_account -> external_account.
    A pii token can be two things, so `role` must say which.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"account", "card", "bank_account", "pii"})
    budget: ClassVar[str] = "accounts"

    role: Literal["account_token", "external_account"] | IdRole | None = None
    email: Email | None = None
    business_type: Word | None = None
    default_currency: Currency | None = None
    business_profile: BusinessProfile | None = None
    capabilities: Capabilities | None = None
    settings: AccountSettings | None = None
    tos_acceptance: UserTosAcceptance | None = None
    metadata: OrUnset[Metadata] | None = None

    def refusal(self, kind: Kind) -> str | None:
        if kind == "pii":
            return _pii_refusal(self.role)
        natural = "account_token" if kind == "account" else "external_account"
        return _role_refusal(kind, self.role, natural)

    def spent(self, token: str, kind: Kind) -> list[Pair]:
        if kind == "pii":
            return [(f"individual[{self.role}]", token)]
        return [("account_token" if kind == "account" else "external_account", token)]


class AccountCreate(AccountFields):
    """A new connected account. Made with an account token, it can later be changed only through such tokens."""

    creates_account: ClassVar[bool] = True
    local: ClassVar[frozenset[str]] = frozenset({"to", "role"})

    to: Literal["account_create"] = "account_create"
    type: Word | None = None
    country: Country | None = None
    controller: Controller | None = None

    def refusal(self, kind: Kind) -> str | None:
        if self.type is not None and self.controller is not None:
            return "type and controller exclude each other; give one of them"
        return super().refusal(kind)

    def path(self) -> str:
        return path_of("accounts")


class AccountUpdate(AccountFields):
    """Change a connected account.

    A card or bank account given here replaces the default external account of its currency, *and deletes it*. So
    `replace_default=True` must be said; `external_account` adds one and deletes nothing.
    """

    local: ClassVar[frozenset[str]] = frozenset({"to", "role", "account", "replace_default"})

    to: Literal["account_update"] = "account_update"
    account: ObjectId
    replace_default: Flag = False

    def refusal(self, kind: Kind) -> str | None:
        if kind in ("card", "bank_account") and not self.replace_default:
            return (
                "this deletes the account's default external account of that currency; set replace_default=True, "
                "or add one with external_account"
            )
        return super().refusal(kind)

    def path(self) -> str:
        return path_of("accounts", self.account)

    def serialised_on(self) -> str:
        return self.account


class PersonFields(Target):
    """What a call can set on a person next to the token. Birth, address and numbers travel in person tokens."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({"person", "pii"})
    budget: ClassVar[str] = "persons"
    local: ClassVar[frozenset[str]] = frozenset({"to", "role", "account", "person"})

    account: ObjectId
    role: Literal["person_token"] | IdRole | None = None
    first_name: Name | None = None
    last_name: Name | None = None
    email: Email | None = None
    phone: Phone | None = None
    relationship: Relationship | None = None
    metadata: OrUnset[Metadata] | None = None

    def refusal(self, kind: Kind) -> str | None:
        return _pii_refusal(self.role) if kind == "pii" else _role_refusal(kind, self.role, "person_token")

    def spent(self, token: str, kind: Kind) -> list[Pair]:
        return [(f"{self.role}" if kind == "pii" else "person_token", token)]

    def serialised_on(self) -> str:
        return self.account


class PersonCreate(PersonFields):
    """A new person of a connected account."""

    to: Literal["person_create"] = "person_create"

    def path(self) -> str:
        return path_of("accounts", self.account, "persons")


class PersonUpdate(PersonFields):
    """Change a person of a connected account."""

    to: Literal["person_update"] = "person_update"
    person: ObjectId

    def path(self) -> str:
        return path_of("accounts", self.account, "persons", self.person)


def _pii_refusal(role: str | None) -> str | None:
    if role in get_args(IdRole):
        return None
    return 'a pii token can be one of two numbers; set role="id_number" or role="id_number_secondary"'


def _role_refusal(kind: Kind, role: str | None, natural: str) -> str | None:
    return None if role in (None, natural) else f"the role of a {kind} token is {natural}; leave role out"
