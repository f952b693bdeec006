"""Checks before a request is sealed: check digits, dates, and the fields that a country needs.

A request that fails here would cost a call and come back refused. Stripe's rules for bank accounts differ by country
and change: what is not confirmed is left to Stripe. Reasons name rules and never repeat a value.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import ipaddress
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from stdnum import iban, luhn
from stdnum.exceptions import InvalidComponent, ValidationError
from stdnum.iso7064 import mod_97_10
from stdnum.us import rtn

from tokenferry.contract.account_targets import AccountFields
from tokenferry.contract.bank_countries import countries
from tokenferry.contract.connect import CalendarDate, Declaration, TosAcceptance
from tokenferry.contract.fields import IBAN_START
from tokenferry.contract.names import LETTERS
from tokenferry.contract.onboarding import AccountDetails, Onboarding, problems
from tokenferry.contract.requests import (
    AccountRequest,
    BankAccountRequest,
    CardRequest,
    PersonRequest,
    Problem,
    TokenRequest,
)
from tokenferry.contract.target import Target
from tokenferry.contract.target_options import UserTosAcceptance
from tokenferry.contract.word_lists import unknown_words

log = logging.getLogger(__name__)


def check(request: TokenRequest, *, today: datetime.date, live: bool) -> tuple[Problem, ...]:
    """Return everything that is wrong with *request*; empty if it may be sent.

    *live* says which keys will be used: live card numbers are refused with test keys, and the other way round.
    """
    return (*unknown_words(request, request.kind), *_of_its_kind(request, today, live))


def _of_its_kind(request: TokenRequest, today: datetime.date, live: bool) -> Iterator[Problem]:
    match request:
        case CardRequest(number=str()):
            yield from _card(request, today, live)
        case BankAccountRequest(account_number=str()):
            yield from _bank_account(request, live)
        case AccountRequest():
            yield from _account(request, today)
        case PersonRequest():
            yield from _person(request, today)


def check_onboarding(document: Onboarding, *, today: datetime.date, live: bool) -> tuple[Problem, ...]:
    """Return what is wrong with a whole account: with its parts, and between them."""
    found = [*problems(document), *unknown_words(document.account, "account")]
    found += _beside_the_token("account", document.account, today)
    parts: list[tuple[str, TokenRequest]] = []
    if document.legal_entity is not None:
        parts.append(("legal_entity", document.legal_entity))
    parts += [(f"persons[{place}].person", each.person) for place, each in enumerate(document.persons)]
    for place, each in enumerate(document.external_accounts):
        parts.append((f"external_accounts[{place}].{each.request.kind}", each.request))
    for place_of, request in parts:
        for problem in check(request, today=today, live=live):
            found.append(Problem(f"{place_of}.{problem.field.partition('.')[2]}", problem.reason))
    return tuple(found)


def check_target(target: Target, *, today: datetime.date) -> tuple[Problem, ...]:
    """Return what is wrong with the plain parameters beside a token. Warn of a target that Stripe will remove."""
    if target.warning is not None:
        warn_once(target.warning)
    beside = _beside_the_token(target.to, target, today) if isinstance(target, AccountFields) else ()
    return (*unknown_words(target, target.to), *beside)


@functools.cache
def warn_once(warning: str) -> None:
    """Log *warning*, the first time in this process."""
    log.warning(warning)


# -- cards ----------------------------------------------------------------------------------------------------------

_YEARS_AHEAD = 50


def _card(card: CardRequest, today: datetime.date, live: bool) -> Iterator[Problem]:
    number = card.number or ""
    if not luhn.is_valid(number):
        yield Problem("card.number", "does not pass the Luhn check; a digit is wrong or missing")
    elif card_digest(number) in _published():
        if live:
            yield Problem("card.number", "is a published test card; test cards are refused with live keys")
    elif not live:  # PCI DSS 6.5.5: no live card numbers in pre-production
        yield Problem("card.number", "not a published test card; live card numbers are refused with test keys")
    yield from _expiry(int(card.exp_month or 0), int(card.exp_year or 0), today)
    if card.cvc is not None and len(card.cvc) != (digits := 4 if number.startswith(("34", "37")) else 3):
        yield Problem("card.cvc", f"must have {digits} digits for this brand")


def _expiry(month: int, year: int, today: datetime.date) -> Iterator[Problem]:
    """A card is good until the last day of its month."""
    year += 2000 if year < 100 else 0
    if not 1 <= month <= 12:
        yield Problem("card.exp_month", "must be a month from 1 to 12")
    elif year == today.year and month < today.month:
        yield Problem("card.exp_month", "is in the past: the card has expired")
    if year < today.year:
        yield Problem("card.exp_year", "is in the past: the card has expired")
    elif year > today.year + _YEARS_AHEAD:
        yield Problem("card.exp_year", f"is more than {_YEARS_AHEAD} years ahead")


TEST_CARDS = Path(__file__).with_name("test_cards.txt")
"""The numbers on Stripe's page "Testing", and sample numbers of other providers, as digests: a search for card numbers
in this code finds none. `tools/cards.py` writes the file.
"""


def card_digest(number: str) -> str:
    """SHA-256 in letters: hex digits could look like a card number."""
    return hashlib.sha256(f"test cards/{number}".encode()).hexdigest()[:40].translate(LETTERS)


@functools.cache
def _published() -> frozenset[str]:
    lines = TEST_CARDS.read_text().splitlines()
    return frozenset(line.partition(" ")[0] for line in lines if not line.startswith("#"))


# -- bank accounts --------------------------------------------------------------------------------------------------


# What really succeeded, by country. Stripe judges all others, and a GB or GI account, which may come as an IBAN or not.
_IBAN_ONLY = countries("AE BJ CH CI CR DE FR IL IS LI MC NE NO PL RO SE SN TN")
_IBAN_AND_BIC = countries("AL AO AZ BA BH EG GT JO KW KZ MA MD MG MK MU PK QA RS SA SM SV TR")
_NUMBER_AND_BIC = countries("AG AM BN BS BT BW DZ EC ET GA KE KH KR LA LC MN MO MY MZ NA NG OM PA RW TW TZ ZA")
_NUMBER_AND_ROUTING = countries("AU BD BO CA CL CO DO GB GH GY HK ID IN JM JP LK PH PY SG TH TT US UY UZ VN")
_NATIONAL_DIGITS = {"AR": (22, 22), "MX": (18, 18), "NZ": (15, 16), "PE": (20, 20), "US": (1, 17)}
_NEEDS_ACCOUNT_TYPE = countries("CL CO")

_IBAN_SHAPE = re.compile("[A-Z]{2}[0-9]{2}[A-Z0-9]{8,30}")


def _bank_account(bank: BankAccountRequest, live: bool) -> Iterator[Problem]:
    country = (bank.country or "").upper()
    number = (bank.account_number or "").upper()
    wants_iban = country in _IBAN_ONLY | _IBAN_AND_BIC
    is_iban = IBAN_START.match(number) is not None
    if is_iban or wants_iban:
        yield from _iban(number, live)
    elif limits := _NATIONAL_DIGITS.get(country):
        least, most = limits
        if not (number.isdigit() and least <= len(number) <= most):
            yield Problem("bank_account.account_number", f"must have {_span(least, most)} digits in this country")
    yield from _routing(country, bank.routing_number, is_iban)
    yield from _account_type(country, bank.account_type)


def _iban(number: str, live: bool) -> Iterator[Problem]:
    """In test mode the shape is enough: Stripe accepts made-up test IBANs whose check digits are wrong."""
    if not _IBAN_SHAPE.fullmatch(number):
        yield Problem("bank_account.account_number", "must be an IBAN: two letters, two digits, 8 to 30 characters")
    elif live and not _sum_is_right(number):
        yield Problem("bank_account.account_number", "is not a valid IBAN; a character is wrong or missing")


def _sum_is_right(number: str) -> bool:
    try:
        iban.validate(number)
    except InvalidComponent:  # a country that uses IBANs without being in the registry, or national check digits
        return bool(mod_97_10.is_valid(number[4:] + number[:4]))
    except ValidationError:
        return False
    return True


def _routing(country: str, routing: str | None, is_iban: bool) -> Iterator[Problem]:
    place = "bank_account.routing_number"
    if routing is None:
        if country in _IBAN_AND_BIC or (not is_iban and country in _NUMBER_AND_BIC):
            yield Problem(place, "is required in this country: the bank's SWIFT/BIC")
        elif not is_iban and country in _NUMBER_AND_ROUTING:
            yield Problem(place, "is required in this country: the national bank and branch code")
    elif country in _IBAN_ONLY:
        yield Problem(place, "is not used in this country: the IBAN is enough; leave it out")
    elif country == "US" and not rtn.is_valid(routing):
        yield Problem(place, "is not a valid ABA routing number: nine digits, the last one a check digit")


def _account_type(country: str, account_type: str | None) -> Iterator[Problem]:
    if country == "JP" and account_type not in (None, "futsu", "toza"):
        yield Problem("bank_account.account_type", "must be futsu or toza in Japan")
    elif country in _NEEDS_ACCOUNT_TYPE and account_type is None:
        yield Problem("bank_account.account_type", "is required in this country: checking or savings")


def _span(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}"


# -- people and companies -------------------------------------------------------------------------------------------


def _account(account: AccountRequest, today: datetime.date) -> Iterator[Problem]:
    if account.individual is not None:
        yield from _date("account.individual.dob", account.individual.dob, today)
    company = account.company
    if company is not None:
        yield from _date("account.company.registration_date", company.registration_date, today)
        for name in ("directorship_declaration", "ownership_declaration", "representative_declaration"):
            yield from _acceptance(f"account.company.{name}", getattr(company, name), today)


def _person(person: PersonRequest, today: datetime.date) -> Iterator[Problem]:
    yield from _date("person.dob", person.dob, today)
    if person.additional_tos_acceptances is not None:
        yield from _acceptance(
            "person.additional_tos_acceptances.account", person.additional_tos_acceptances.account, today
        )


def _beside_the_token(place: str, given: AccountDetails | AccountFields, today: datetime.date) -> Iterator[Problem]:
    yield from _acceptance(f"{place}.tos_acceptance", given.tos_acceptance, today)
    profile = given.business_profile
    for name in ("url", "support_url"):
        url = getattr(profile, name, None)
        if url and not _URL.match(url):
            yield Problem(f"{place}.business_profile.{name}", "must begin with https:// or http:// and a host name")


_URL = re.compile(r"https?://[^\s/?#]+\.[^\s/?#]+", re.IGNORECASE)
_FIRST_TERMS = datetime.datetime(2009, 1, 1, tzinfo=datetime.UTC)


def _acceptance(
    place: str, given: Declaration | TosAcceptance | UserTosAcceptance | None, today: datetime.date
) -> Iterator[Problem]:
    """Stripe takes no acceptance of the future, and none from before it had terms."""
    if given is None:
        return
    if given.date is not None:
        tomorrow = datetime.datetime.combine(today, datetime.time(), datetime.UTC) + datetime.timedelta(days=1)
        if given.date >= tomorrow.timestamp():
            yield Problem(f"{place}.date", "is in the future; give seconds since 1970")
        elif given.date < _FIRST_TERMS.timestamp():
            yield Problem(f"{place}.date", "is before 2009; give seconds since 1970")
    if given.ip is not None:
        try:
            ipaddress.ip_address(given.ip)
        except ValueError:
            yield Problem(f"{place}.ip", "must be an IPv4 or IPv6 address")


def _date(place: str, given: CalendarDate | str | None, today: datetime.date) -> Iterator[Problem]:
    if not isinstance(given, CalendarDate):
        return
    try:
        day = datetime.date(given.year, given.month, given.day)
    except ValueError:
        yield Problem(place, "is not a day of the calendar")
        return
    if day > today:
        yield Problem(place, "is in the future")
