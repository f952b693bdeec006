"""Bank accounts: shapes by country, the test numbers of the US, and the normalised routing number of the answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tokenferry_emulator.bank_countries import FORMATS, Format
from tokenferry_emulator.cards import Behaviour
from tokenferry_emulator.errors import Refusal, invalid, missing
from tokenferry_emulator.fingerprints import fingerprint
from tokenferry_emulator.ids import new_id

US_TEST_NUMBERS = frozenset(
    [
        "000123456789",
        "000111111116",
        "000111111113",
        "000222222227",
        "000333333335",
        "000444444440",
        "000888888883",
        "000999999991",
        "000999999992",
        # Of payment methods, on the page "Testing".
        "000000000009",
        "000000004954",
        "000555555559",
        "000666666661",
        "000777777771",
        "000888888885",
    ]
)
"""US numbers that tokenize in test mode; the failing ones fail later, at payout."""
MAGIC = frozenset(
    [
        "btok_us_verified",
        "btok_us_verified_noAccount",
        "btok_us_verified_accountClosed",
        "btok_us_verified_insufficientFunds",
        "btok_us_verified_debitNotAuthorized",
        "btok_us_verified_invalidCurrency",
        "btok_us",
    ]
)


def magic_bank(name: str, secret: bytes) -> tuple[dict[str, Any], Behaviour]:
    body = read_bank(
        {
            "country": "US",
            "currency": "usd",
            "account_number": "000123456789",
            "routing_number": "110000000",
            "account_holder_name": "Jane Austen",
            "account_holder_type": "individual",
        },
        secret,
        live=False,
    )
    verified = name.startswith("btok_us_verified")
    body["status"] = "verified" if verified else "new"
    return body, Behaviour(verified=verified)


def read_bank(fields: Mapping[str, Any], secret: bytes, *, live: bool, path: str = "bank_account") -> dict[str, Any]:
    """Return the account as it is shown, without its number. Raises a 400 whose parameter begins with *path*."""
    country = (fields.get("country") or "").upper()
    if not country:
        raise missing(f"{path}[country]")
    if not re.fullmatch(r"[A-Z]{2}", country):
        raise invalid(
            "Country is unknown. Try using a 2-character alphanumeric country code instead, such as 'US', 'EG', or "
            "'GB'. A full list of country codes is available at https://stripe.com/global.",
            param=f"{path}[country]",
        )
    form = FORMATS.get(country)
    if form is None:
        raise invalid(
            f"Bank accounts in {country} are not supported.", code="country_unsupported", param=f"{path}[country]"
        )
    if not fields.get("account_number"):
        raise missing(f"{path}[account_number]")
    number = re.sub(r"\s", "", fields["account_number"])
    routing = _routing(country, form, number, fields.get("routing_number"), path)
    _check_number(country, form, number, live=live, path=path)
    if form.typed and not fields.get("account_type"):
        raise missing(f"{path}[account_type]")
    return {
        "id": new_id("ba"),
        "object": "bank_account",
        "account_holder_name": fields.get("account_holder_name") or fields.get("name"),
        "account_holder_type": fields.get("account_holder_type"),
        "account_type": fields.get("account_type") or ("futsu" if country == "JP" else None),
        "bank_name": "STRIPE TEST BANK",
        "country": country,
        "currency": (fields.get("currency") or form.currency).lower(),
        "fingerprint": fingerprint(secret, f"{country} {routing} {number}"),
        "last4": number[-4:],
        "routing_number": _normalised(country, form, routing, number),
        "status": "new",
    }


def _routing(country: str, form: Format, number: str, routing: str | None, path: str) -> str:
    if form.routing is None or not form.wants_routing(number):
        return ""
    if not routing:
        raise missing(f"{path}[routing_number]")
    routing = routing.strip()
    if not form.routing.match(routing) or (country == "US" and not _aba(routing)):
        raise invalid(
            "The routing number is not valid for this country.",
            code="routing_number_invalid",
            param=f"{path}[routing_number]",
            stored=True,
        )
    return routing


def _check_number(country: str, form: Format, number: str, *, live: bool, path: str) -> None:
    if not form.account.match(number):
        raise _invalid_number("The account number is not valid for this country.", path)
    if country == "US" and not live and number not in US_TEST_NUMBERS:
        raise _invalid_number(
            "You must use a test bank account number in test mode. Try 000123456789 or see more options at "
            "https://stripe.com/docs/connect/testing#account-numbers.",
            path,
        )


def _invalid_number(message: str, path: str) -> Refusal:
    return invalid(message, code="account_number_invalid", param=f"{path}[account_number]", stored=True)


def _aba(routing: str) -> bool:
    """Return whether the check digit of a US routing number is right.

    >>> _aba("110000000"), _aba("123456789")
    (True, False)
    """
    weights = (3, 7, 1) * 3
    return sum(weight * int(digit) for weight, digit in zip(weights, routing, strict=True)) % 10 == 0


def _normalised(country: str, form: Format, routing: str, number: str) -> str:
    """Return the routing number of the answer, which is often not the one sent."""
    match country:
        case "GI":
            return routing or "11-00-00000"
        case "AU":
            return f"{routing.replace('-', '')[:2]} {routing.replace('-', '')[2:]}"
        case "AZ":
            return routing.replace("-", "")
        case "ZA" if len(routing) == 8:
            return f"{routing}XXX"
        case "MY":
            return "TESTMYKLXXX"
        case "MX" | "AR" | "PE":
            return number[:3]
        case "NZ":
            return number[:6]
    return routing or "110000000"
