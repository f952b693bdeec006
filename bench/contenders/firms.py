"""Whole accounts to onboard: firms with three owners each, one of whom has an id number, and a bank account."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

BANK = {"country": "US", "currency": "usd", "account_number": "000123456789", "routing_number": "110000000"}


def firms(count: int) -> Iterator[dict[str, Any]]:
    """So many documents, each with a reference of its own."""
    for number in range(count):
        persons: list[dict[str, Any]] = [
            {
                "reference": f"owner-{at}",
                "person": {
                    "first_name": "Zora",
                    "last_name": "Testerly",
                    "dob": {"day": 1, "month": 1, "year": 1901},
                    "relationship": {"owner": True, "representative": at == 0, "percent_ownership": 30},
                },
            }
            for at in range(3)
        ]
        persons[1]["id_number"] = "000000000"
        yield {
            "reference": f"seller-{number}",
            "account": {"country": "US", "type": "custom"},
            "legal_entity": {
                "business_type": "company",
                "company": {"name": "Imaginary Goods", "tax_id": "000000000", "owners_provided": True},
                "tos_shown_and_accepted": True,
            },
            "persons": persons,
            "external_accounts": [{"reference": "bank", "bank_account": BANK}],
        }
