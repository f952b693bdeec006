"""Writes the example files beside it, always the same ones: `python examples/generate.py`.

Every card number is one of the provider's published test numbers, every name is made up, every mail address is at
example.com. The dates are far enough ahead to last, and one card is expired on purpose.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

HERE = Path(__file__).parent
SEED = 20_260_101
CARDS = 620
BANK_ACCOUNTS = 240
ACCOUNTS = 60
PERSONS = 25
PII = 15
CVC_UPDATES = 20

Row = dict[str, str]

GOOD_CARDS = (
    "4242424242424242",
    "5555555555554444",
    "2223003122003222",
    "378282246310005",
    "371449635398431",
    "6011111111111117",
    "3056930009020004",
    "36227206271667",
    "6555900000604105",
    "3566002020360505",
    "6200000000000005",
    "4000056655665556",
    "5200828282828210",
)
DECLINED_CARDS = ("4000000000000002", "4000000000009995", "4000000000009987", "4000000000000119")
FIRST = ("Zora", "Quill", "Brindle", "Ottoline", "Fenwick", "Marzipan", "Isolde", "Thaddeus", "Pepper", "Zoë", "Søren")
LAST = ("Testerly", "Sampleton", "Mockford", "Exampleson", "Placeholder", "Fixture", "Dummingham", "Stubbs-Fakely")

BANKS = (
    # country, currency, account number, routing number, account type
    ("US", "usd", "000123456789", "110000000", ""),
    ("US", "usd", "000111111116", "110000000", "checking"),
    ("DE", "eur", "DE89370400440532013000", "", ""),
    ("FR", "eur", "FR8937040044053201300", "", ""),
    ("CH", "chf", "CH9300762011623852957", "", ""),
    ("GB", "gbp", "00012345", "108800", ""),
    ("CA", "cad", "000123456789", "11000-000", ""),
    ("AU", "aud", "000123456", "110000", ""),
    ("MX", "mxn", "000000001234567897", "", ""),
    ("NZ", "nzd", "1100000000000010", "", ""),
    ("JP", "jpy", "0001234", "1100000", "futsu"),
    ("IN", "inr", "000123456789", "HDFC0004051", ""),
    ("SG", "sgd", "000123456", "1100-000", ""),
    ("HK", "hkd", "000123-456", "110-000", ""),
)


def rows() -> Iterator[Row]:
    """All rows of onboarding.csv, mixed as a real file is."""
    dice = Random(SEED)
    everything = [*_cards(dice), *_banks(dice), *_accounts(dice), *_persons(dice), *_pii(), *_cvc_updates(dice)]
    everything += [*_refused_here(), *_refused_by_the_endpoint()]
    dice.shuffle(everything)
    yield from everything


def _name(dice: Random) -> str:
    return f"{dice.choice(FIRST)} {dice.choice(LAST)}"


def _cards(dice: Random) -> Iterator[Row]:
    for number in range(1, CARDS + 1):
        row = {
            "key": f"card-{number:04}",
            "kind": "card",
            "number": dice.choice(GOOD_CARDS),
            "exp_month": str(dice.randint(1, 12)),
            "exp_year": str(dice.randint(2034, 2044)),
            "name": _name(dice),
        }
        if number % 60 == 0:
            row["number"] = DECLINED_CARDS[number // 60 % len(DECLINED_CARDS)]
            yield row | {"attach.to": "customer_create", "attach.email": f"declined-{number:04}@example.com"}
        elif number % 10 == 0:
            yield row | {"attach.to": "payment_method"}
        elif number % 14 == 0:
            yield row | {
                "attach.to": "charge",
                "attach.amount": str(100 * dice.randint(1, 90)),
                "attach.currency": "usd",
                "attach.description": f"Example order {number:04}",
            }
        elif number % 17 == 0:
            yield row  # token only
        else:
            yield row | {
                "attach.to": "customer_create",
                "attach.email": f"customer-{number:04}@example.com",
                "attach.metadata.order": f"order-{number:04}",
            }


def _banks(dice: Random) -> Iterator[Row]:
    for number in range(1, BANK_ACCOUNTS + 1):
        country, currency, account, routing, type_ = BANKS[number % len(BANKS)]
        yield {
            "key": f"bank-{number:04}",
            "kind": "bank_account",
            "country": country,
            "currency": currency,
            "account_number": account,
            "routing_number": routing,
            "account_type": type_,
            "account_holder_name": _name(dice),
            "account_holder_type": dice.choice(("individual", "company")),
            "attach.to": "customer_create",
            "attach.email": f"holder-{number:04}@example.com",
        }


def _accounts(dice: Random) -> Iterator[Row]:
    for number in range(1, ACCOUNTS + 1):
        row = {"key": f"account-{number:04}", "kind": "account", "tos_shown_and_accepted": "true"}
        if number % 3:
            first, last = _name(dice).split(" ")
            row |= {
                "business_type": "individual",
                "individual.first_name": first,
                "individual.last_name": last,
                "individual.email": f"seller-{number:04}@example.com",
                "individual.dob.day": "1",
                "individual.dob.month": "1",
                "individual.dob.year": "1901",
                "individual.address.line1": "address_full_match",
                "individual.address.city": "Exampleville",
                "individual.address.country": "US",
                "individual.address.postal_code": "94111",
                "individual.address.state": "CA",
            }
        else:
            row |= {
                "business_type": "company",
                "company.name": f"{dice.choice(LAST)} Imaginary Goods {number:04}",
                "company.tax_id": "000000000",
                "company.address.city": "Exampleville",
            }
        yield row | {
            "attach.to": "account_create",
            "attach.country": "US",
            "attach.type": "custom",
            "attach.email": f"seller-{number:04}@example.com",
            "attach.capabilities.transfers.requested": "true",
        }


def _persons(dice: Random) -> Iterator[Row]:
    for number in range(1, PERSONS + 1):
        first, last = _name(dice).split(" ")
        yield {
            "key": f"person-{number:04}",
            "kind": "person",
            "first_name": first,
            "last_name": last,
            "email": f"person-{number:04}@example.com",
            "dob.day": "1",
            "dob.month": "1",
            "dob.year": "1901",
            "relationship.owner": "true",
            "relationship.percent_ownership": "25",
        }


def _pii() -> Iterator[Row]:
    for number in range(1, PII + 1):
        yield {"key": f"pii-{number:04}", "kind": "pii", "id_number": "000000000"}


def _cvc_updates(dice: Random) -> Iterator[Row]:
    for number in range(1, CVC_UPDATES + 1):
        yield {"key": f"cvc-{number:04}", "kind": "cvc_update", "cvc": f"{dice.randint(0, 999):03}"}


def _refused_here() -> Iterator[Row]:
    """Rows that never leave the machine: the rejects file says why."""
    card = {"kind": "card", "number": "4242424242424242", "exp_month": "12", "exp_year": "2034"}
    bank = {"kind": "bank_account", "country": "US", "currency": "usd", "account_number": "000123456789"}
    yield {"key": "wrong-luhn", **card, "number": "4242424242424243"}
    yield {"key": "wrong-expired", **card, "exp_year": "2020"}
    yield {"key": "wrong-month", **card, "exp_month": "13"}
    yield {"key": "wrong-no-expiry", "kind": "card", "number": "4242424242424242"}
    yield {"key": "wrong-kind", "kind": "credit_card", "number": "4242424242424242"}
    yield {"key": "wrong-iban", **bank, "country": "DE", "currency": "eur", "account_number": "DE8937"}
    yield {"key": "wrong-aba", **bank, "routing_number": "110000001"}
    yield {"key": "wrong-target", "kind": "pii", "id_number": "000000000", "attach.to": "customer_create"}


def _refused_by_the_endpoint() -> Iterator[Row]:
    """US account numbers that are well-formed and no test numbers: `account_number_invalid` in test mode."""
    for number in range(1, 13):
        yield {
            "key": f"unknown-bank-{number:02}",
            "kind": "bank_account",
            "country": "US",
            "currency": "usd",
            "account_number": f"0009999990{number:02}",
            "routing_number": "110000000",
            "account_holder_name": "Nobody Fictional",
            "account_holder_type": "individual",
        }


def connected_accounts() -> Iterator[dict[str, object]]:
    """The documents of accounts.jsonl: firms and people, one that will be refused here and one by the endpoint."""
    dice = Random(SEED)
    for number in range(1, 7):
        yield _firm(dice, number)
    for number in range(7, 10):
        yield _self_employed(dice, number)
    accepted = {"date": 1_735_689_600, "ip": "192.0.2.7", "user_agent": "Example/1.0"}
    debit = {"number": "4000056655665556", "exp_month": 12, "exp_year": 2044, "currency": "usd"}
    yield {
        "reference": "seller-10",
        "account": {"country": "US", "type": "custom", "business_type": "individual", "tos_acceptance": accepted},
        "external_accounts": [{"reference": "debit", "card": debit}],
    }
    unknown = _firm(dice, 11)
    unknown["external_accounts"] = [
        {"reference": "bank", "bank_account": {**_us_bank(), "account_number": "0009999990"}}
    ]
    yield unknown
    nameless = _firm(dice, 12)
    nameless["persons"] = [{"reference": "owner", "person": {"first_name": "Nobody"}}]
    yield nameless


def _firm(dice: Random, number: int) -> dict[str, object]:
    first, last = _name(dice).split(" ")
    owner = _human(first, last) | {
        "id_number": "000000000",
        "relationship": {"representative": True, "owner": True, "percent_ownership": 60, "title": "Founder"},
    }
    first, last = _name(dice).split(" ")
    partner = _human(first, last) | {"relationship": {"owner": True, "percent_ownership": 40}}
    return {
        "reference": f"seller-{number:02}",
        "account": _seller(number),
        "legal_entity": {
            "business_type": "company",
            "company": {
                "name": f"{last} Imaginary Goods {number:02}",
                "tax_id": "000000000",
                "address": {"line1": "address_full_match", "city": "Exampleville", "country": "US"},
                "owners_provided": True,
            },
            "tos_shown_and_accepted": True,
        },
        "persons": [
            {"reference": "owner", "person": owner},
            {"reference": "partner", "person": partner, "id_number": "000000000"},
        ],
        "external_accounts": [{"reference": "bank", "bank_account": _us_bank()}],
    }


def _self_employed(dice: Random, number: int) -> dict[str, object]:
    first, last = _name(dice).split(" ")
    return {
        "reference": f"seller-{number:02}",
        "account": _seller(number),
        "legal_entity": {
            "business_type": "individual",
            "individual": _human(first, last) | {"id_number": "000000000"},
            "tos_shown_and_accepted": True,
        },
        "external_accounts": [{"reference": "bank", "bank_account": _us_bank()}],
    }


def _seller(number: int) -> dict[str, object]:
    return {
        "country": "US",
        "type": "custom",
        "email": f"seller-{number:02}@example.com",
        "capabilities": {"transfers": {"requested": True}},
        "business_profile": {"mcc": "5734", "product_description": "Imaginary goods"},
        "metadata": {"seller": f"{number:02}"},
    }


def _human(first: str, last: str) -> dict[str, object]:
    born = {"day": 1, "month": 1, "year": 1901}
    return {"first_name": first, "last_name": last, "dob": born, "address": {"line1": "address_full_match"}}


def _us_bank() -> dict[str, object]:
    return {"country": "US", "currency": "usd", "account_number": "000123456789", "routing_number": "110000000"}


def nested(row: Row) -> dict[str, object]:
    """The same row as JSON has it."""
    tree: dict[str, object] = {}
    for name, text in row.items():
        if not text:
            continue
        *outer, last = name.split(".")
        here: dict[str, object] = tree
        for step in outer:
            inner = here.setdefault(step, {})
            assert isinstance(inner, dict)
            here = inner
        here[last] = _typed(last, text)
    return tree


def _typed(name: str, text: str) -> object:
    if text in ("true", "false"):
        return text == "true"
    return int(text) if name in ("day", "month", "year", "amount", "percent_ownership") else text


def main() -> None:
    everything = list(rows())
    names = list(dict.fromkeys(name for row in everything for name in row))
    front = ["key", "kind"]
    names = front + sorted(name for name in names if name not in front and not name.startswith("attach."))
    names += ["attach.to", *sorted({n for row in everything for n in row if n.startswith("attach.")} - {"attach.to"})]
    with (HERE / "onboarding.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(everything)
    with (HERE / "onboarding.jsonl").open("w", encoding="utf-8") as file:
        for row in everything[:50]:
            file.write(json.dumps(nested(row), ensure_ascii=False) + "\n")
    with (HERE / "accounts.jsonl").open("w", encoding="utf-8") as file:
        for document in connected_accounts():
            file.write(json.dumps(document, ensure_ascii=False) + "\n")
    with (HERE / "foreign-headers.csv").open("w", encoding="utf-8", newline="") as file:
        file.write("Customer Ref;Card No.;Month;Year;Remarks\r\n")
        for row in everything:
            if row["key"].startswith("card-000"):
                file.write(f"{row['key']};{row['number']};{row['exp_month']};{row['exp_year']};none\r\n")


if __name__ == "__main__":
    main()
