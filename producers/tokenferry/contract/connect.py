"""The people and companies inside account and person tokens, part by part.

Every leaf is optional, as at Stripe. `''` is accepted exactly where it is documented to unset a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, StrictInt, model_validator

from tokenferry.contract.fields import (
    Country,
    Email,
    FileId,
    FileIds,
    Flag,
    IdNumber,
    IpAddress,
    Last4,
    Line,
    Metadata,
    Name,
    Names,
    OrUnset,
    Percent,
    Phone,
    PostalCode,
    Text,
    Timestamp,
    Town,
    UserAgent,
    Word,
    Words,
)
from tokenferry.contract.message import Sensitive


class Address(Sensitive):
    """A postal address; `country` is ISO 3166-1 alpha-2."""

    city: Town | None = None
    country: Country | None = None
    line1: Line | None = None
    line2: Line | None = None
    postal_code: PostalCode | None = None
    state: Town | None = None


class JapaneseAddress(Address):
    """An address in kana or kanji; `town` is town or cho-me."""

    town: Town | None = None


class CalendarDate(Sensitive):
    """A birthday or the date of a registration. Stripe takes no part of a date alone."""

    day: Annotated[StrictInt, Field(ge=1, le=31)]
    month: Annotated[StrictInt, Field(ge=1, le=12)]
    year: Annotated[StrictInt, Field(ge=1000, le=9999)]

    @model_validator(mode="before")
    @classmethod
    def _has_parts(cls, data: Any) -> Any:
        if isinstance(data, Mapping | CalendarDate):
            return data
        raise ValueError("must be an object with day, month and year")


class Declaration(Sensitive):
    """When, and from where, somebody declared something. `date` is in seconds since 1970."""

    date: Timestamp | None = None
    ip: IpAddress | None = None
    user_agent: UserAgent | None = None


class TosAcceptance(Sensitive):
    """As a declaration, but the user agent can be unset."""

    date: Timestamp | None = None
    ip: IpAddress | None = None
    user_agent: OrUnset[UserAgent] | None = None


class AdditionalTosAcceptances(Sensitive):
    """A legal guardian's acceptance of the service agreement."""

    account: TosAcceptance | None = None


class Document(Sensitive):
    """Ids of uploaded files, front and back."""

    back: FileId | None = None
    front: FileId | None = None


class Files(Sensitive):
    """Ids of uploaded files."""

    files: FileIds | None = None


class Documents(Sensitive):
    """What a person can show to prove a role."""

    company_authorization: Files | None = None
    passport: Files | None = None
    visa: Files | None = None


class CompanyVerification(Sensitive):
    """The document that proves the company."""

    document: Document | None = None


class PersonVerification(Sensitive):
    """The documents that prove identity (`document`) and address (`additional_document`)."""

    additional_document: Document | None = None
    document: Document | None = None


class IndividualRelationship(Sensitive):
    """What the individual is to the business; `percent_ownership` from 0 to 100."""

    director: Flag | None = None
    executive: Flag | None = None
    owner: Flag | None = None
    percent_ownership: OrUnset[Percent] | None = None
    title: Text | None = None


class PersonRelationship(IndividualRelationship):
    """What a person is to the account's legal entity."""

    authorizer: Flag | None = None
    legal_guardian: Flag | None = None
    representative: Flag | None = None


class EthnicityDetails(Sensitive):
    """As asked by the US Consumer Financial Protection Bureau."""

    ethnicity: Words | None = None
    ethnicity_other: Text | None = None


class RaceDetails(Sensitive):
    """As asked by the US Consumer Financial Protection Bureau."""

    race: Words | None = None
    race_other: Text | None = None


class UsCfpbData(Sensitive):
    """Demographic data a person may give about themselves."""

    ethnicity_details: EthnicityDetails | None = None
    race_details: RaceDetails | None = None
    self_identified_gender: Text | None = None


class Human(Sensitive):
    """What an account's individual and a person of an account have in common.

    `id_number` and `id_number_secondary` take the number itself or the id of a pii token.
    """

    first_name: Name | None = None
    last_name: Name | None = None
    maiden_name: Name | None = None
    first_name_kana: Name | None = None
    last_name_kana: Name | None = None
    first_name_kanji: Name | None = None
    last_name_kanji: Name | None = None
    full_name_aliases: OrUnset[Names] | None = None
    email: Email | None = None
    phone: Phone | None = None
    gender: Word | None = None
    dob: OrUnset[CalendarDate] | None = None
    address: Address | None = None
    address_kana: JapaneseAddress | None = None
    address_kanji: JapaneseAddress | None = None
    registered_address: Address | None = None
    id_number: IdNumber | None = None
    id_number_secondary: IdNumber | None = None
    ssn_last_4: Last4 | None = None
    political_exposure: Word | None = None
    metadata: OrUnset[Metadata] | None = None
    verification: PersonVerification | None = None


class Individual(Human):
    """The person an account of type individual stands for."""

    relationship: IndividualRelationship | None = None


class Company(Sensitive):
    """The company or business an account stands for."""

    name: Name | None = None
    name_kana: Name | None = None
    name_kanji: Name | None = None
    phone: Phone | None = None
    structure: OrUnset[Word] | None = None
    address: Address | None = None
    address_kana: JapaneseAddress | None = None
    address_kanji: JapaneseAddress | None = None
    administrative_address: Address | None = None
    physical_address: Address | None = None
    principal_place_of_business: Address | None = None
    tax_id: IdNumber | None = None
    tax_id_registrar: Text | None = None
    vat_id: IdNumber | None = None
    registration_number: IdNumber | None = None
    registration_date: OrUnset[CalendarDate] | None = None
    export_license_id: IdNumber | None = None
    export_purpose_code: IdNumber | None = None
    directors_provided: Flag | None = None
    executives_provided: Flag | None = None
    owners_provided: Flag | None = None
    ownership_declaration_shown_and_signed: Flag | None = None
    ownership_exemption_reason: OrUnset[Word] | None = None
    directorship_declaration: Declaration | None = None
    ownership_declaration: Declaration | None = None
    representative_declaration: Declaration | None = None
    verification: CompanyVerification | None = None
