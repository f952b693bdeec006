"""The calls that a whole account takes, their order, and what each needs first. Nothing here makes a call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tokenferry.contract.account_targets import (
    AccountCreate,
    AccountUpdate,
    ExternalAccount,
    PersonCreate,
    PersonUpdate,
)
from tokenferry.contract.connect import Company
from tokenferry.contract.onboarding import AccountDetails, Onboarding
from tokenferry.contract.requests import AccountRequest, PiiRequest, TokenRequest
from tokenferry.contract.target import Target

ACCOUNT: Final = "account"
LEGAL_ENTITY: Final = "legal_entity"
COMPLETE: Final = "complete"

PROVIDED: Final = ("owners_provided", "directors_provided", "executives_provided")
"""What a company declares about its list of persons: after the last of them, not with the account."""


@dataclass(frozen=True)
class Step:
    """One object to be made or changed: a token of `request`, spent on a target.

    `ids` says which fields of the target are the ids of what other steps have made. Prints its name only.
    """

    name: str
    """Stable for one document: `account`, `person:jenny`, `external_account:1`, ... Progress is stored under it."""
    request: TokenRequest | None = field(repr=False)
    """None: a plain call, nothing in it has to travel in a token."""
    model: type[Target] = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    ids: Mapping[str, str] = field(default_factory=dict, repr=False)
    after: tuple[str, ...] = field(default=(), repr=False)
    """Steps that must be done before, besides those whose ids it needs."""

    @property
    def needs(self) -> frozenset[str]:
        """The steps that must be done before this one can be."""
        return frozenset((*self.ids.values(), *self.after))

    def target(self, made: Mapping[str, str]) -> Target:
        """Its target, with the ids of what was *made*, by step."""
        return self.model(**self.options, **{name: made[step] for name, step in self.ids.items()})


def steps(document: Onboarding) -> tuple[Step, ...]:
    """Return the steps of *document* in order. A step that fails stops only those that need it."""
    return tuple(_steps(document))


def person_step(reference: str) -> str:
    """The name of the step that makes a person."""
    return f"person:{reference}"


def external_account_step(name: str) -> str:
    """The name of the step that adds a bank account or a card."""
    return f"external_account:{name}"


def _steps(document: Onboarding) -> Iterator[Step]:
    entity, declarations = _split(document)
    details = document.account
    # A token that makes an account brings its own acceptance; the user's own can only stand in a call without one.
    with_account = entity if not details.is_accepted else None
    options = {name: getattr(details, name) for name in AccountDetails.model_fields}
    yield Step(ACCOUNT, with_account, AccountCreate, {**options, "role": "account_token" if with_account else None})
    account = {"account": ACCOUNT}
    first: tuple[str, ...] = ()
    if entity is not with_account:
        first = (LEGAL_ENTITY,)
        yield Step(LEGAL_ENTITY, entity, AccountUpdate, {"role": "account_token"}, account)
    for entry in document.persons:
        name = person_step(entry.reference)
        yield Step(name, entry.person, PersonCreate, ids=account)
        for role in ("id_number", "id_number_secondary"):
            if (number := getattr(entry, role)) is not None:
                ids = {**account, "person": name}
                # Read as JSON, which leaves the number as it was sealed: see `fields`.
                sealed = PiiRequest.model_validate_json(json.dumps({"id_number": number}))
                yield Step(f"{role}:{entry.reference}", sealed, PersonUpdate, {"role": role}, ids)
    for name, each in document.numbered():
        options = {"default_for_currency": each.default_for_currency, "metadata": each.metadata}
        yield Step(external_account_step(name), each.request, ExternalAccount, options, account)
    if declarations is not None:
        persons = tuple(person_step(entry.reference) for entry in document.persons)
        yield Step(COMPLETE, declarations, AccountUpdate, {"role": "account_token"}, account, after=first + persons)


def _split(document: Onboarding) -> tuple[AccountRequest | None, AccountRequest | None]:
    """Return the legal entity for the first call, and what a company may declare only when all its persons exist."""
    entity = document.legal_entity
    if entity is None or entity.company is None or not document.persons:
        return entity, None
    company = entity.company
    declared = {name: getattr(company, name) for name in PROVIDED if getattr(company, name) is not None}
    if not declared:
        return entity, None
    rest = company.model_copy(update=dict.fromkeys(declared))
    return entity.model_copy(update={"company": rest}), AccountRequest(company=Company(**declared))
