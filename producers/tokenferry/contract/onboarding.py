"""One connected account with everything that belongs to it, as one sealed document.

It is what an importer knows of a seller: the account, who stands behind it, its people, where its money goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Base64UrlBytes, Field, ValidationError, model_validator

from tokenferry.contract.connect import Human
from tokenferry.contract.envelope import MAX_ENVELOPE_BYTES, CommonHeader
from tokenferry.contract.envelope2 import PREFIX, Envelope2, Header2
from tokenferry.contract.fields import Country, Currency, Email, Flag, IdNumber, Metadata, Word
from tokenferry.contract.message import Message, Sensitive
from tokenferry.contract.names import Id
from tokenferry.contract.requests import (
    AccountRequest,
    BankAccountRequest,
    CardRequest,
    InvalidRequest,
    PersonRequest,
    Problem,
    TokenRequest,
    field_names,
    problems_of,
)
from tokenferry.contract.target_options import (
    AccountSettings,
    BusinessProfile,
    Capabilities,
    Controller,
    UserTosAcceptance,
)
from tokenferry.contract.text_form import NotCanonical

MAX_DOCUMENT_BYTES: Final = 131_068
"""Bytes of its JSON. Padded, sealed and encoded it still fits into an envelope."""


class OnboardingHeader(CommonHeader):
    """The header of a sealed document. Its request id names this message; the onboarding's own id is sealed."""

    kind: Literal["onboarding"] = "onboarding"


class OnboardingEnvelope(Message):
    """One sealed document as it travels. No tokenize worker takes it for a request, nor the other way round."""

    header: OnboardingHeader
    ciphertext: Base64UrlBytes
    signature: Base64UrlBytes

    def text(self) -> str:
        """Return the envelope as it travels."""
        return self.model_dump_json()


SealedDocument = OnboardingEnvelope | Envelope2
"""A sealed document of either version."""
DocumentHeader = OnboardingHeader | Header2


def read_document(text: str) -> SealedDocument:
    """Read a sealed document of either version. Its signature is not verified here.

    Raises `NotCanonical`, which quotes nothing.
    """
    if text.startswith(f"{PREFIX}."):
        envelope = Envelope2.read(text)
        if envelope.header.kind != "onboarding":
            raise NotCanonical("is a request, not a document")
        return envelope
    if len(text) > MAX_ENVELOPE_BYTES:
        raise NotCanonical("longer than any envelope")
    try:
        return OnboardingEnvelope.model_validate_json(text)
    except ValidationError:
        raise NotCanonical("is not a document") from None


class AccountDetails(Sensitive):
    """What an account is made with next to the token. No identity of a person or company is in it.

    `business_type` belongs here only where no `legal_entity` is given, whose token brings its own. `tos_acceptance`
    (when and from which address *the user* accepted) has the account made by a plain call, before the token is spent on
    it: an account made with the token would have the worker's address.
    """

    type: Word | None = None
    country: Country | None = None
    controller: Controller | None = None
    email: Email | None = None
    business_type: Word | None = None
    default_currency: Currency | None = None
    business_profile: BusinessProfile | None = None
    capabilities: Capabilities | None = None
    settings: AccountSettings | None = None
    tos_acceptance: UserTosAcceptance | None = None
    metadata: Metadata | None = None

    @property
    def is_accepted(self) -> bool:
        """True if it says that somebody accepted the terms of service, and not only which terms apply."""
        terms = self.tos_acceptance
        return terms is not None and any(said is not None for said in (terms.date, terms.ip, terms.user_agent))

    @property
    def collects_requirements(self) -> bool:
        """True if the platform, and not Stripe, collects what is due. Only then it may add bank accounts."""
        if self.controller is not None:
            return self.controller.requirement_collection == "application"
        return self.type == "custom"


class OnboardingPerson(Sensitive):
    """One person of the account under the caller's own reference.

    `person` goes into the person token. An id number beside it travels in a pii token of its own, spent on the person
    afterwards.
    """

    reference: Id
    person: PersonRequest
    id_number: IdNumber | None = None
    id_number_secondary: IdNumber | None = None


class OnboardingExternalAccount(Sensitive):
    """Where money goes: a bank account, or a debit card with its currency.

    Without a `reference` its name is its place in the list, counted from 1. Give one where the list may change.
    """

    reference: Id | None = None
    bank_account: BankAccountRequest | None = None
    card: CardRequest | None = None
    default_for_currency: Flag | None = None
    metadata: Metadata | None = None

    @property
    def request(self) -> TokenRequest:
        """The bank account or the card, whichever is given."""
        given = self.bank_account or self.card
        assert given is not None, "the validator saw to that"
        return given

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if (self.bank_account is None) == (self.card is None):
            raise ValueError("give bank_account or card, one of them")
        return self


class Onboarding(Sensitive):
    """The whole document. `reference` is the onboarding's id: sent again, it goes on where it stopped."""

    reference: Id | None = None
    account: AccountDetails
    legal_entity: AccountRequest | None = None
    persons: Annotated[tuple[OnboardingPerson, ...], Field(max_length=100)] = ()
    external_accounts: Annotated[tuple[OnboardingExternalAccount, ...], Field(max_length=20)] = ()
    progress: Flag = False
    """True if each step is reported on the reply route, before the outcome."""

    def numbered(self) -> Iterator[tuple[str, OnboardingExternalAccount]]:
        """Yield the external accounts with their names."""
        for place, each in enumerate(self.external_accounts, 1):
            yield each.reference or str(place), each


def onboarding_from(data: Mapping[str, Any]) -> Onboarding:
    """Read a document. Raises `InvalidRequest`, which names every field to correct."""
    if not isinstance(data, Mapping):
        del data
        raise InvalidRequest([Problem("document", "must be an object with fields")])
    try:
        return Onboarding.model_validate(dict(data))
    except ValidationError as error:
        problems = problems_of(error, under="document", names=field_names(Onboarding))
    del data  # this frame travels with the exception
    # Outside the handler, so that no `__context__` keeps pydantic's error and, inside it, the input.
    raise InvalidRequest(problems)


# -- what is wrong with the parts taken together -----------------------------------------------------------------------

_ENTITY_OF: Final = {
    "individual": "individual",
    "company": "company",
    "non_profit": "company",
    "government_entity": "company",
}
"""The part of a legal entity that each business type needs. Stripe decides about other types."""


def problems(document: Onboarding) -> Iterator[Problem]:
    """Yield what is wrong between the parts. Stripe decides what is in doubt."""
    yield from _account(document)
    if document.legal_entity is not None:
        yield from _legal_entity(document.legal_entity, accepted=document.account.is_accepted)
    yield from _twice("persons", (person.reference for person in document.persons))
    yield from _twice("external_accounts", (name for name, _ in document.numbered()))
    for place, person in enumerate(document.persons):
        yield from _person(f"persons[{place}]", person)
    if round(sum(_share(person) for person in document.persons), 6) > 100:  # 33.4 + 33.3 + 33.3 is more, in binary
        yield Problem("persons.percent_ownership", "adds up to more than 100")
    for place, each in enumerate(document.external_accounts):
        yield from _external_account(f"external_accounts[{place}]", each)
    if len(document.model_dump_json(exclude_none=True).encode()) > MAX_DOCUMENT_BYTES:
        yield Problem("document", f"is longer than {MAX_DOCUMENT_BYTES} bytes; leave out what is not needed")


def _account(document: Onboarding) -> Iterator[Problem]:
    account = document.account
    if account.country is None:
        yield Problem("account.country", "is required: it can never be changed later")
    if account.type is not None and account.controller is not None:
        yield Problem("account.controller", "excludes account.type; give one of them")
    if document.legal_entity is not None:
        if account.business_type is not None:
            yield Problem("account.business_type", "cannot stand beside legal_entity, whose token brings its own")
        if account.is_accepted and document.legal_entity.tos_shown_and_accepted:
            yield Problem(
                "account.tos_acceptance", "is given twice: leave out this one or legal_entity.tos_shown_and_accepted"
            )
    accepted = account.tos_acceptance if account.is_accepted else None
    if accepted is not None and (accepted.date is None or accepted.ip is None):
        yield Problem("account.tos_acceptance", "needs both: the date and the ip of whoever accepted")
    if not account.collects_requirements:
        for name, given in (("external_accounts", document.external_accounts), ("account.tos_acceptance", accepted)):
            if given:
                yield Problem(
                    name,
                    'can be given only where account.type is "custom", or account.controller.requirement_collection '
                    'is "application": elsewhere the account holder enters it',
                )


def _legal_entity(entity: AccountRequest, *, accepted: bool) -> Iterator[Problem]:
    """*accepted*: the account says that the user accepted the terms."""
    if not (entity.tos_shown_and_accepted or accepted):
        yield Problem(
            "legal_entity.tos_shown_and_accepted",
            "must be true, or account.tos_acceptance given: no account is made with a token without it",
        )
    if entity.individual is not None:
        yield from _name("legal_entity.individual", entity.individual)
    if entity.company is not None and entity.individual is not None:
        yield Problem("legal_entity.individual", "excludes legal_entity.company; give one of them")
    expected = _ENTITY_OF.get(entity.business_type or "")
    for name in ("individual", "company"):
        if getattr(entity, name) is not None and expected not in (None, name):
            yield Problem(f"legal_entity.{name}", "does not go with this business_type")


def _person(place: str, entry: OnboardingPerson) -> Iterator[Problem]:
    person = entry.person
    yield from _name(f"{place}.person", person)
    for name in ("id_number", "id_number_secondary"):
        if getattr(entry, name) is not None and getattr(person, name) is not None:
            yield Problem(f"{place}.{name}", f"is given twice: leave it out here or in {place}.person")


def _name(place: str, human: Human) -> Iterator[Problem]:
    for name in ("first_name", "last_name"):
        if not any((getattr(human, f"{name}{script}") or "").strip() for script in ("", "_kana", "_kanji")):
            yield Problem(f"{place}.{name}", "is required: a person has a name")


def _external_account(place: str, entry: OnboardingExternalAccount) -> Iterator[Problem]:
    if entry.card is not None:
        if entry.card.currency is None:
            yield Problem(f"{place}.card.currency", "is required: it says which payouts the debit card receives")
        if entry.card.carries_cvc:
            yield Problem(f"{place}.card.cvc", "remove the CVC: it must not be stored, and payouts do not need it")
    if entry.request.needs_connected_account:
        kind = entry.request.kind
        yield Problem(f"{place}.{kind}.customer", "cannot be copied to an account that is yet to be made")


def _twice(place: str, names: Iterable[str]) -> Iterator[Problem]:
    if any(count > 1 for count in Counter(names).values()):
        yield Problem(f"{place}.reference", "is given twice; each must have its own")


def _share(entry: OnboardingPerson) -> float:
    relationship = entry.person.relationship
    share = relationship.percent_ownership if relationship is not None else None
    return share if isinstance(share, int | float) else 0.0
