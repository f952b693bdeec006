"""Cards: what the test numbers do, and what is wrong with the others.

Tokenization checks the form only (Luhn, dates, length of the CVC); declines arise where the issuer would be asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tokenferry_emulator.card_countries import COUNTRIES
from tokenferry_emulator.errors import Refusal, card_error, invalid, missing
from tokenferry_emulator.fingerprints import fingerprint
from tokenferry_emulator.ids import new_id


@dataclass(frozen=True, slots=True)
class Decline:
    """How an issuer declines."""

    code: str
    decline_code: str
    message: str
    param: str | None = None
    advice: str | None = None

    def refusal(self, **more: object) -> Refusal:
        return card_error(
            self.code,
            self.message,
            param=self.param,
            decline_code=self.decline_code,
            advice_code=self.advice,
            network_decline_code="01",
            **more,
        )


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What will happen to a card or bank account later. This, not the number, is what the emulator remembers."""

    on_attach: Decline | None = None
    on_charge: Decline | None = None
    cvc_check: str = "pass"
    line1_check: str = "pass"
    zip_check: str = "pass"
    debit: bool = False
    verified: bool = False


def _declined(decline_code: str, advice: str = "try_again_later", message: str = "Your card was declined.") -> Decline:
    return Decline("card_declined", decline_code, message, "", advice)


_GENERIC = _declined("generic_decline")
_FRAUD = _declined("fraudulent", "do_not_try_again")
_CVC = Decline("incorrect_cvc", "incorrect_cvc", "Your card's security code is incorrect.", "cvc", "confirm_card_data")
_EXPIRED = Decline("expired_card", "expired_card", "Your card has expired.", "exp_month", "confirm_card_data")
_PROCESSING = Decline(
    "processing_error",
    "processing_error",
    "An error occurred while processing your card. Try again in a little bit.",
    None,
    "try_again_later",
)
_FUNDS = _declined("insufficient_funds", message="Your card has insufficient funds.")
_LOST = _declined("lost_card", "do_not_try_again")
_STOLEN = _declined("stolen_card", "do_not_try_again")
_VELOCITY = _declined(
    "card_velocity_exceeded", message="Your card was declined for making repeated attempts too frequently."
)


def _always(decline: Decline) -> Behaviour:
    return Behaviour(on_attach=decline, on_charge=decline)


_BEHAVIOURS = {
    "4000000000000002": _always(_GENERIC),
    "4000000000009995": _always(_FUNDS),
    "4000000000009987": _always(_LOST),
    "4000000000009979": _always(_STOLEN),
    "4000000000006975": _always(_VELOCITY),
    "4000000000000069": _always(_EXPIRED),
    "4000000000000127": _always(_CVC),
    "4000000000000119": _always(_PROCESSING),
    "4000000000000341": Behaviour(on_charge=_GENERIC),
    "4100000000000019": Behaviour(on_charge=_FRAUD),
    "4000000000000101": Behaviour(cvc_check="fail"),
    "4000000000000036": Behaviour(zip_check="fail"),
    "4000000000000028": Behaviour(line1_check="fail"),
    "4000000000000010": Behaviour(line1_check="fail", zip_check="fail"),
    "4000000000000044": Behaviour(line1_check="unavailable", zip_check="unavailable"),
}
"""Numbers that behave, from the provider's page on testing."""
_INCORRECT_CVC_NUMBER = "4000000000000127"
_DEBIT = frozenset({"4000056655665556", "5200828282828210", "6011981111111113"})
_PREPAID = frozenset({"5105105105105100"})
_CO_BADGED = frozenset({"4000002500001001", "5555552500001001"})

_BRANDS = (
    (re.compile(r"3[47]\d{13}\Z"), "American Express"),
    (re.compile(r"3(?:0[0-5]|[68])\d{11,16}\Z"), "Diners Club"),
    (re.compile(r"35\d{14}\Z"), "JCB"),
    (re.compile(r"62\d{14,17}\Z"), "UnionPay"),
    (re.compile(r"6(?:011|4[4-9]|5)\d{12,15}\Z"), "Discover"),
    (re.compile(r"(?:5[1-5]|2[2-7])\d{14}\Z"), "MasterCard"),
    (re.compile(r"4\d{12}(?:\d{3}){0,2}\Z"), "Visa"),
)

MAGIC = {
    "tok_visa": "4242424242424242",
    "tok_visa_debit": "4000056655665556",
    "tok_mastercard": "5555555555554444",
    "tok_mastercard_debit": "5200828282828210",
    "tok_mastercard_prepaid": "5105105105105100",
    "tok_amex": "378282246310005",
    "tok_discover": "6011111111111117",
    "tok_diners": "3056930009020004",
    "tok_jcb": "3566002020360505",
    "tok_unionpay": "6200000000000005",
    "tok_jp": "4000003920000003",
    "tok_cn": "4000001560000002",
    "tok_bypassPending": "4242424242424242",
    "tok_visa_chargeDeclined": "4000000000000002",
    "tok_visa_chargeDeclinedInsufficientFunds": "4000000000009995",
    "tok_visa_chargeDeclinedLostCard": "4000000000009987",
    "tok_visa_chargeDeclinedStolenCard": "4000000000009979",
    "tok_visa_chargeDeclinedExpiredCard": "4000000000000069",
    "tok_visa_chargeDeclinedFraudulent": "4100000000000019",
    "tok_visa_chargeDeclinedIncorrectCvc": "4000000000000127",
    "tok_visa_chargeDeclinedProcessingError": "4000000000000119",
    "tok_visa_chargeDeclinedVelocityLimitExceeded": "4000000000006975",
    "tok_chargeDeclined": "4000000000000002",
    "tok_chargeCustomerFail": "4000000000000341",
}
"""Names that stand for a card in test mode, without a number and without single use."""


def magic_card(name: str, secret: bytes, now: float) -> tuple[dict[str, Any], Behaviour]:
    year = datetime.fromtimestamp(now, UTC).year + 1
    return read_card({"number": MAGIC[name], "exp_month": "12", "exp_year": str(year), "cvc": "123"}, secret, now)


def read_card(fields: Mapping[str, Any], secret: bytes, now: float) -> tuple[dict[str, Any], Behaviour]:
    """Return the card as it is shown, without number and CVC, and its behaviour. Raises 402 or 400."""
    number = _number(fields)
    month, year = _expiry(fields, now)
    cvc = fields.get("cvc")
    if cvc is not None and not re.fullmatch(r"\d{3,4}", cvc):
        raise card_error("invalid_cvc", "Your card's security code is invalid.", param="cvc")
    brand = next((brand for shape, brand in _BRANDS if shape.match(number)), "Unknown")
    preferred = (fields.get("networks") or {}).get("preferred")
    if preferred is not None and number not in _CO_BADGED:
        preferred = "invalid_preference" if preferred == "cartes_bancaires" else preferred
    body = {
        "id": new_id("card"),
        "object": "card",
        "address_city": fields.get("address_city"),
        "address_country": fields.get("address_country"),
        "address_line1": fields.get("address_line1"),
        "address_line1_check": "unchecked" if fields.get("address_line1") else None,
        "address_line2": fields.get("address_line2"),
        "address_state": fields.get("address_state"),
        "address_zip": fields.get("address_zip"),
        "address_zip_check": "unchecked" if fields.get("address_zip") else None,
        "brand": brand,
        "country": COUNTRIES.get(number, "US"),
        "cvc_check": "unchecked",
        "dynamic_last4": None,
        "email": None,
        "exp_month": month,
        "exp_year": year,
        "fingerprint": fingerprint(secret, number),
        "funding": "debit" if number in _DEBIT else "prepaid" if number in _PREPAID else "credit",
        "last4": number[-4:],
        "metadata": {},
        "name": fields.get("name"),
        "networks": {"preferred": preferred},
        "phone": None,
        "regulated_status": "regulated" if number in _DEBIT else "unregulated",
        "tokenization_method": None,
        "wallet": None,
    }
    if fields.get("currency"):
        body["currency"] = fields["currency"].lower()
    behaviour = _BEHAVIOURS.get(number, Behaviour(debit=number in _DEBIT))
    if number == _INCORRECT_CVC_NUMBER and cvc is None:
        behaviour = Behaviour()
    return body, behaviour


def checked(body: dict[str, Any], behaviour: Behaviour) -> dict[str, Any]:
    """The card after the issuer was asked. The CVC counts as sent: without its value nobody here can know."""
    body = dict(body)
    body["cvc_check"] = behaviour.cvc_check
    body["address_line1_check"] = behaviour.line1_check if body["address_line1"] else None
    body["address_zip_check"] = behaviour.zip_check if body["address_zip"] else None
    return body


def check_cvc_update(cvc: str | None) -> None:
    if cvc is None:
        raise missing("cvc_update[cvc]")
    if not re.fullmatch(r"\d{3,4}", cvc):
        raise card_error("invalid_cvc", "Your card's security code is invalid.", param="cvc")


def _number(fields: Mapping[str, Any]) -> str:
    if not fields.get("number"):
        raise card_error("invalid_number", "The card object must have a value for 'number'.", param="number")
    number = re.sub(r"[ -]", "", fields["number"])
    if not number.isascii() or not number.isdigit() or not 12 <= len(number) <= 19:
        raise card_error("invalid_number", "The card number is not a valid credit card number.", param="number")
    if not _luhn(number):
        raise card_error("incorrect_number", "Your card number is incorrect.", param="number")
    return number


def _expiry(fields: Mapping[str, Any], now: float) -> tuple[int, int]:
    numbers = []
    for name in ("exp_month", "exp_year"):
        text = fields.get(name)
        if text is None:
            raise missing(f"card[{name}]")
        if not re.fullmatch(r"-?\d{1,9}", text):
            raise invalid("Invalid integer", code="parameter_invalid_integer", param=f"card[{name}]")
        numbers.append(int(text))
    month, year = numbers
    year += 2000 if 0 <= year < 100 else 0
    if not 1 <= month <= 12:
        raise card_error("invalid_expiry_month", "Your card's expiration month is invalid.", param="exp_month")
    today = datetime.fromtimestamp(now, UTC)
    if year < today.year or year > today.year + 50:
        raise card_error("invalid_expiry_year", "Your card's expiration year is invalid.", param="exp_year")
    if year == today.year and month < today.month:
        raise card_error("invalid_expiry_month", "Your card's expiration month is invalid.", param="exp_month")
    return month, year


def _luhn(number: str) -> bool:
    """
    >>> _luhn("4242424242424242"), _luhn("4242424242424241")
    (True, False)
    """
    digits = [int(digit) for digit in reversed(number)]
    return sum(digits[0::2] + [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]) % 10 == 0
