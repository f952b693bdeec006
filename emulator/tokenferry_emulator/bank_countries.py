"""Bank account formats by country, as far as they succeeded in recorded traffic or in public reports of live calls.

Shapes are loose (length and alphabet): the provider decides on more, and a stricter shape would be a guess.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Format:
    """How accounts of one country are written. *routing* None means that it needs none."""

    currency: str
    account: re.Pattern[str]
    routing: re.Pattern[str] | None = None
    typed: bool = False
    """account_type must be given (CL, CO)."""
    iban: re.Pattern[str] | None = None
    """An IBAN is taken too, and needs no routing number (GB, GI)."""

    def wants_routing(self, number: str) -> bool:
        return self.routing is not None and not (self.iban and self.iban.match(number))


_SWIFT = r"[A-Z]{6}[A-Z0-9]{2}(?:[A-Z0-9]{3})?"
_BRANCH = r"(?:-?[A-Z0-9]{1,6})?"
_NUMBER = r"[A-Za-z0-9 -]{3,34}"


def _pairs(text: str) -> list[tuple[str, str]]:
    """Country and currency.

    >>> _pairs("DE eur,PL pln")
    [('DE', 'eur'), ('PL', 'pln')]
    """
    return [(pair[:2], pair[3:]) for pair in text.split(",")]


def _iban(country: str) -> str:
    return country + r"\d{2}[A-Z0-9]{11,30}"


_IBAN = _pairs(
    "AE aed,BJ xof,CI xof,NE xof,SN xof,CH chf,LI chf,CR crc,DE eur,FR eur,IS eur,MC eur,IL ils,NO nok,"
    "PL pln,RO ron,SE sek,TN tnd,AT eur,BE eur,BG eur,CY eur,CZ czk,DK dkk,EE eur,ES eur,FI eur,GR eur,HR eur,"
    "HU huf,IE eur,IT eur,LT eur,LU eur,LV eur,MT eur,NL eur,PT eur,SI eur,SK eur"
)
_IBAN_AND_SWIFT = _pairs(
    "AL all,AO aoa,BA bam,BH bhd,EG egp,GT gtq,JO jod,KW kwd,KZ kzt,MA mad,MD mdl,MG mga,MK mkd,MU mur,PK pkr,"
    "QA qar,RS rsd,SA sar,SM eur,SV usd,TR try"
)
_NUMBER_AND_SWIFT = _pairs(
    "AG xcd,AM amd,BN bnd,BS bsd,BT btn,BW bwp,DZ dzd,EC usd,ET etb,GA xaf,KE kes,KH khr,KR krw,LA lak,"
    "LC xcd,MN mnt,MO mop,MY myr,MZ mzn,NA nad,NG ngn,OM omr,PA usd,RW rwf,TW twd,TZ tzs,ZA zar"
)
_NUMBER_AND_BRANCH = _pairs("GM gmd,GY gyd")
_NUMBER_AND_BANK = _pairs("TH thb,ID idr,BO bob,UY uyu")
_UK_ACCOUNT, _UK_SORT_CODE = r"\d{6,8}", r"\d{2}-?\d{2}-?\d{2}"
_ROWS: list[tuple[str, str, str, str | None]] = [
    *((country, currency, _iban(country), None) for country, currency in _IBAN),
    *((country, currency, _iban(country), _SWIFT) for country, currency in _IBAN_AND_SWIFT),
    *((country, currency, _NUMBER, _SWIFT) for country, currency in _NUMBER_AND_SWIFT),
    *((country, currency, _NUMBER, _SWIFT + _BRANCH) for country, currency in _NUMBER_AND_BRANCH),
    *((country, currency, _NUMBER, r"\d{3}") for country, currency in _NUMBER_AND_BANK),
    ("AZ", "azn", _iban("AZ"), r"\d{6}-\d{6}"),
    ("DO", "dop", _NUMBER, r"\d{3}(?:-?\d{1,6})?"),
    ("CL", "clp", _NUMBER, r"\d{3}"),
    ("CO", "cop", _NUMBER, r"\d{3}"),
    ("AR", "ars", r"\d{22}", None),
    ("MX", "mxn", r"\d{18}", None),
    ("NZ", "nzd", r"\d{15,16}", None),
    ("PE", "pen", r"\d{20}", None),
    ("US", "usd", r"\d{1,17}", r"\d{9}"),
    ("CA", "cad", r"\d{5,12}", r"\d{5}-?\d{3}"),
    ("AU", "aud", r"\d{4,9}", r"\d{3}-?\d{3}"),
    ("HK", "hkd", r"\d[0-9-]{4,16}\d", r"\d{3}-?\d{3}"),
    ("SG", "sgd", r"[0-9-]{6,31}", r"\d{4}-?\d{3}"),
    ("JP", "jpy", r"\d{4,8}", r"\d{7}"),
    ("IN", "inr", r"\d{6,18}", r"[A-Z]{4}0[A-Z0-9]{6}"),
    ("BD", "bdt", _NUMBER, r"\d{9}"),
    ("VN", "vnd", _NUMBER, r"\d{8}"),
    ("PY", "pyg", _NUMBER, r"\d{1,2}"),
    ("GH", "ghs", _NUMBER, r"\d{6}"),
    ("JM", "jmd", _NUMBER, r"\d{3}-?\d{5}"),
    ("TT", "ttd", _NUMBER, r"\d{8}"),
    ("PH", "php", _NUMBER, r"[A-Z0-9]{11}"),
    ("LK", "lkr", _NUMBER, _SWIFT + r"-\d{1,3}"),
    ("UZ", "uzs", _NUMBER, _SWIFT + r"-\d{1,5}"),
    ("BR", "brl", r"[0-9-]{3,20}", r"\d{3}-?\d{4}"),
    *((country, "gbp", f"{_UK_ACCOUNT}|{_iban(country)}", _UK_SORT_CODE) for country in ("GB", "GI")),
]
"""Country, currency, account and routing number."""


def _format(country: str, currency: str, account: str, routing: str | None) -> Format:
    return Format(
        currency,
        re.compile(rf"(?:{account})\Z"),
        re.compile(rf"(?:{routing})\Z") if routing else None,
        typed=country in ("CL", "CO"),
        iban=re.compile(rf"{_iban(country)}\Z") if country in ("GB", "GI") else None,
    )


FORMATS = {row[0]: _format(*row) for row in _ROWS}
