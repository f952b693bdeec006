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


def _formats() -> dict[str, Format]:
    formats: dict[str, Format] = {}

    def add(
        country: str,
        currency: str,
        account: str,
        routing: str | None = None,
        typed: bool = False,
        or_iban: bool = False,
    ) -> None:
        pattern = re.compile(rf"(?:{routing})\Z") if routing else None
        also = re.compile(rf"{iban(country)}\Z") if or_iban else None
        formats[country] = Format(currency, re.compile(rf"(?:{account})\Z"), pattern, typed, also)

    def iban(country: str) -> str:
        return country + r"\d{2}[A-Z0-9]{11,30}"

    for country, currency in _pairs(
        "AE aed,BJ xof,CI xof,NE xof,SN xof,CH chf,LI chf,CR crc,DE eur,FR eur,IS eur,MC eur,IL ils,NO nok,"
        "PL pln,RO ron,SE sek,TN tnd,AT eur,BE eur,BG eur,CY eur,CZ czk,DK dkk,EE eur,ES eur,FI eur,GR eur,HR eur,"
        "HU huf,IE eur,IT eur,LT eur,LU eur,LV eur,MT eur,NL eur,PT eur,SI eur,SK eur"
    ):
        add(country, currency, iban(country))
    for country, currency in _pairs(
        "AL all,AO aoa,BA bam,BH bhd,EG egp,GT gtq,JO jod,KW kwd,KZ kzt,MA mad,MD mdl,MG mga,MK mkd,MU mur,PK pkr,"
        "QA qar,RS rsd,SA sar,SM eur,SV usd,TR try"
    ):
        add(country, currency, iban(country), _SWIFT)
    add("AZ", "azn", iban("AZ"), r"\d{6}-\d{6}")
    for country, currency in _pairs(
        "AG xcd,AM amd,BN bnd,BS bsd,BT btn,BW bwp,DZ dzd,EC usd,ET etb,GA xaf,KE kes,KH khr,KR krw,LA lak,"
        "LC xcd,MN mnt,MO mop,MY myr,MZ mzn,NA nad,NG ngn,OM omr,PA usd,RW rwf,TW twd,TZ tzs,ZA zar"
    ):
        add(country, currency, _NUMBER, _SWIFT)
    for country, currency in _pairs("GM gmd,GY gyd"):
        add(country, currency, _NUMBER, _SWIFT + _BRANCH)
    for country, currency in _pairs("TH thb,ID idr,BO bob,UY uyu"):
        add(country, currency, _NUMBER, r"\d{3}")
    add("DO", "dop", _NUMBER, r"\d{3}(?:-?\d{1,6})?")
    add("CL", "clp", _NUMBER, r"\d{3}", typed=True)
    add("CO", "cop", _NUMBER, r"\d{3}", typed=True)
    add("AR", "ars", r"\d{22}")
    add("MX", "mxn", r"\d{18}")
    add("NZ", "nzd", r"\d{15,16}")
    add("PE", "pen", r"\d{20}")
    add("US", "usd", r"\d{1,17}", r"\d{9}")
    add("CA", "cad", r"\d{5,12}", r"\d{5}-?\d{3}")
    for country in ("GB", "GI"):
        add(country, "gbp", r"\d{6,8}|" + iban(country), r"\d{2}-?\d{2}-?\d{2}", or_iban=True)
    add("AU", "aud", r"\d{4,9}", r"\d{3}-?\d{3}")
    add("HK", "hkd", r"\d[0-9-]{4,16}\d", r"\d{3}-?\d{3}")
    add("SG", "sgd", r"[0-9-]{6,31}", r"\d{4}-?\d{3}")
    add("JP", "jpy", r"\d{4,8}", r"\d{7}")
    add("IN", "inr", r"\d{6,18}", r"[A-Z]{4}0[A-Z0-9]{6}")
    add("BD", "bdt", _NUMBER, r"\d{9}")
    add("VN", "vnd", _NUMBER, r"\d{8}")
    add("PY", "pyg", _NUMBER, r"\d{1,2}")
    add("GH", "ghs", _NUMBER, r"\d{6}")
    add("JM", "jmd", _NUMBER, r"\d{3}-?\d{5}")
    add("TT", "ttd", _NUMBER, r"\d{8}")
    add("PH", "php", _NUMBER, r"[A-Z0-9]{11}")
    add("LK", "lkr", _NUMBER, _SWIFT + r"-\d{1,3}")
    add("UZ", "uzs", _NUMBER, _SWIFT + r"-\d{1,5}")
    add("BR", "brl", r"[0-9-]{3,20}", r"\d{3}-?\d{4}")
    return formats


FORMATS = _formats()
