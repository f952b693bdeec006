"""Values that the provider refuses wherever they stand: countries, addresses of the web and the net, dates."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tokenferry_emulator.errors import invalid, missing

_COUNTRIES = frozenset(
    """
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA
    CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA
    GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP
    KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS
    MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS
    RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW
    TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW
    """.split()  # noqa: SIM905
)
_URLS = ("url", "support_url", "specified_commercial_transactions_act_url")
_URL = re.compile(r"https?://[^\s/?#]+\.[^\s/?#]+", re.IGNORECASE)
_DATES = ("dob", "registration_date")
_MAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+\Z")
_FIRST_TERMS = datetime(2009, 1, 1, tzinfo=UTC).timestamp()


def inside(path: str, name: str) -> str:
    return f"{path}[{name}]" if path else name


def check(fields: Mapping[str, Any], path: str, now: float) -> None:
    """Raise a 400 for the first value in *fields*, or in a hash below, that the provider refuses.

    The provider's own words for most of these are not known; codes and parameters are.
    """
    for name, value in fields.items():
        here = inside(path, name)
        match value:
            case dict() if name in _DATES:
                _check_date(value, here)
            case dict():
                check(value, here, now)
            case str() if name in ("country", "nationality") and value.upper() not in _COUNTRIES:
                raise invalid(
                    "Country is unknown. Try using a 2-character alphanumeric country code instead, such as 'US', "
                    "'EG', or 'GB'. A full list of country codes is available at https://stripe.com/global.",
                    param=here,
                )
            case str() if name in _URLS and not _URL.match(value):
                raise invalid("Not a valid URL", code="url_invalid", param=here)
            case str() if name == "email" and not _MAIL.match(value):
                raise invalid("Invalid email address.", code="email_invalid", param=here)
            case str() if name == "ssn_last_4" and not re.fullmatch(r"\d{4}", value):
                raise invalid("ssn_last_4 must be four digits.", param=here)
            case str() if name == "ip" and not _is_ip(value):
                raise invalid("Invalid IP address.", param=here)
            case int() if name == "date" and not _FIRST_TERMS <= value <= now:
                raise invalid("The date must not be in the future, nor before 2009.", param=here)


def check_terms(sent: Mapping[str, Any] | None) -> None:
    """Raise a 400 if an acceptance of terms lacks its date or its address."""
    given = [name for name in ("date", "ip") if (sent or {}).get(name) is not None]
    if len(given) == 1:
        raise missing("tos_acceptance[ip]" if given == ["date"] else "tos_acceptance[date]")


def _check_date(date: Mapping[str, Any], path: str) -> None:
    """Raise a 400 unless all three parts are there."""
    for name, highest in (("day", 31), ("month", 12), ("year", 9999)):
        value = date.get(name)
        if value is None:
            raise missing(f"{path}[{name}]")
        if not 1 <= value <= highest:
            raise invalid("Invalid date.", param=f"{path}[{name}]")


def _is_ip(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True
