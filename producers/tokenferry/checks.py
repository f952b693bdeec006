"""Checks before a request is sealed: check digits, dates, and the fields that a country needs.

A request that fails here would cost a call and be refused. Stripe's rules for bank accounts differ by country and
change, so these checks are never stricter. Reasons name rules and never repeat a value.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Iterator

from stdnum import iban, luhn
from stdnum.exceptions import InvalidComponent, ValidationError
from stdnum.iso7064 import mod_97_10
from stdnum.us import rtn

from tokenferry.contract.connect import CalendarDate
from tokenferry.contract.fields import IBAN_START
from tokenferry.contract.onboarding import Onboarding, problems
from tokenferry.contract.requests import (
    AccountRequest,
    BankAccountRequest,
    CardRequest,
    PersonRequest,
    Problem,
    TokenRequest,
)


def check(request: TokenRequest, *, today: datetime.date, live: bool) -> tuple[Problem, ...]:
    """Everything that is wrong with *request*; empty if it may be sent.

    *live* says which keys will be used: live card numbers are refused with test keys, and the other way round.
    """
    match request:
        case CardRequest(number=str()):
            return tuple(_card(request, today, live))
        case BankAccountRequest(account_number=str()):
            return tuple(_bank_account(request, live))
        case AccountRequest():
            return tuple(_account(request, today))
        case PersonRequest():
            return tuple(_date("person.dob", request.dob, today))
        case _:
            return ()


def check_onboarding(document: Onboarding, *, today: datetime.date, live: bool) -> tuple[Problem, ...]:
    """Everything that is wrong with a whole account: its parts together, and each of them."""
    found = list(problems(document))
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


# -- cards ----------------------------------------------------------------------------------------------------------

_YEARS_AHEAD = 50


def _card(card: CardRequest, today: datetime.date, live: bool) -> Iterator[Problem]:
    number = card.number or ""
    if not luhn.is_valid(number):
        yield Problem("card.number", "does not pass the Luhn check; a digit is wrong or missing")
    elif _is_published(number):
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


def _is_published(number: str) -> bool:
    return hashlib.sha256(f"test cards/{number}".encode()).hexdigest() in _PUBLISHED_TEST_CARDS


# -- bank accounts --------------------------------------------------------------------------------------------------


def _countries(codes: str) -> frozenset[str]:
    return frozenset(codes.split())


# What really succeeded, by country. Countries not named here are left to Stripe.
_IBAN_ONLY = _countries("AE BJ CH CI CR DE FR GI IL IS LI MC NE NO PL RO SE SN TN")
_IBAN_AND_BIC = _countries("AL AO AZ BA BH EG GT JO KW KZ MA MD MG MK MU PK QA RS SA SM SV TR")
_NUMBER_AND_BIC = _countries("AG AM BN BS BT BW DZ EC ET GA GY KE KH KR LA LC MN MO MY MZ NA NG OM PA RW TW TZ ZA")
_NUMBER_AND_ROUTING = _countries("AU BD BO CA CL CO DO GB GH HK ID IN JM JP LK PH PY SG TH TT US UY UZ VN")
_NATIONAL_DIGITS = {"AR": (22, 22), "MX": (18, 18), "NZ": (15, 16), "PE": (20, 20), "US": (1, 17)}
_NEEDS_ACCOUNT_TYPE = frozenset({"CL", "CO"})

_IBAN_SHAPE = re.compile("[A-Z]{2}[0-9]{2}[A-Z0-9]{8,30}")


def _bank_account(bank: BankAccountRequest, live: bool) -> Iterator[Problem]:
    country = (bank.country or "").upper()
    number = (bank.account_number or "").replace("-", "").upper()
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
        yield Problem(place, "is not used in this country, the IBAN says it all; leave it out")
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
    if account.company is not None:
        yield from _date("account.company.registration_date", account.company.registration_date, today)


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


# -- test cards -----------------------------------------------------------------------------------------------------

# SHA-256 of the provider's published test card numbers (its page "Testing"), each behind the words "test cards/"; the
# wrong one for "incorrect_number" is among them. Digests, so that a search for card numbers in this code finds none
# and its rule needs no exception. They protect nothing, the numbers are public; the digest of any other number is
# compared here and kept nowhere.
_PUBLISHED_TEST_CARDS = (
    "0b0ef1546d03789acd490a967e75f3c2e0ac8973daa329f5f29136f6a0af7217",
    "1279a5b0b8f3a7b19ccb8c9db2aea70f77adb070e5ebc4a18a4195bd9ef22318",
    "18857feac7fa8b6133ec99cccfec5680f1da05aa354612f77f678f947ab8b068",
    "19b2be361cd586b04b4ba3776b5b3b99b32479f1556f813e1f453468c7f0e658",
    "1c7456353f3d87445e78821f30c95b416dd80e2d233f5264596bba08031f9945",
    "1edb1dce74fe3e277fd9aff2dadb58d5a8bde39942eaf74a5da01ecb36eb42c2",
    "25a663c70d8ab4b225a67117c0148b8f97e5d7688ed20afece065ddb94eca7ae",
    "2bce0c2f554ffa03b5f5209f3d1c4e593c901f238021e3829e27c2729d6b3b01",
    "36246e2eba106b49b54a4d3d42dfef44cd9fac1aec458485b0a48eedc9a8f1dc",
    "3dc77b3186f13912cb712a8f340ac5c5837fd1ecdebac190e09109a1876801c0",
    "3e6f163c8871d044146295fd8a5c44a5ded2a5e2c568cb23c864d97117dd6371",
    "40c713005dc399a004d25af06703ed413625661be87b672a0eb27e779dcdaaf7",
    "4d3946cf716ce14c7b3afcc1dcd192b2965cd4a01cbd8096bbf01bc394df91c9",
    "4e649a2f587d9b4f7db6037c6426d61f48fedc56d14fb58494707b6b240fca84",
    "53a5b42ca4e51e6bd5e5ed37f34d12dcab4308a93fdd03169cb97757c4d45038",
    "545b0ef45b4dbe8425a60b12fb863cd68506a15739d7c1ab65f31ec2772be469",
    "54fec62d68f33eb106a8a1d8638ac0ee526218ad3ae9db52473e9a6179e4ae27",
    "58e27c2550399fcd1bd34bcbb47dd986c497ba465963df7453264693ac4346c8",
    "6717fb55843e6a06f7740fa7a4fa6a186ce1dd3f387f1711bb11328ce5132794",
    "6b57567b0e95ee2ccee2392aaa96442517f5a52dd223dc9bc4cb0341f0b7e50c",
    "75b5c1cb6592b68f5ac0321a431b05fa6499549cd205ee74caa541e39b7bb701",
    "7d8e5fff744d6f6857e7f86271321b26fa90806502a34ea1797ad0b016435009",
    "812511ee00a0936f01b8db8b7debe302da8e6929786d59a37043a3c3e18cb816",
    "8217c065fc75a32b988917b731c880ffdd4bc1cf79460fcda63f96f20ce4869e",
    "8603705b3e4bff6a454c954443a2e70c0184c66dfa8a87cfbb8822b5b9e3934e",
    "897ae169be9316b0958eeb99fa7982c8310676180d94b759f16bcf7db779687d",
    "9ab4cf9c9d1051307345be88e67ead326951f4eebaff6b36b5db14b503d790db",
    "9adae26ffdd49224d7ea45b1d7e532ac74454a99967dc696aed2333fc173b3af",
    "b24b41646a1c6b208d9d03ccc24b1a1a084b3fbeb325f75d45105c96e971e40f",
    "be72462d0a63d7f9aba42d650c5c891db363bfb85b92abe1c2d610385f84ce6a",
    "d24cdcabe12251bba1bb2d3b084cb7b753c568c83a01439fc5ac6b08b0376d3d",
    "def0219d1d6226da1b9807f3f54dd926871bc4aa53e16ae559beb084e0f1abfb",
    "e1e7ad1d07db1ca1c4ede65233fb926defd6a161f652877865bf4ef8f87397f1",
    "e464762b1b22b4d99f04ba8b6583021a13d870bde97f1bf6343cdd8f8a3ca3c6",
    "e5c016e1006c2bda6bf9e02391a5d23f5aaf5bfce8db6c9090405eb39b6aac18",
    "f1baedd9bf378ab7cc4a1297ae9869d64c8d9e79fd261394558b162b811bf23b",
    "f24a6a890b03f55d4b04ff4e0595f8af36656c871699c047614a0ae3fe6924a6",
    "f294f124b09736cb46dffbe0e2ded7a059bcd242cd7938e4afde3a0864895b5d",
)
