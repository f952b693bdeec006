"""People and companies: what of them is kept. Identity numbers become "provided" and an outcome, never a value."""

from __future__ import annotations

from typing import Any

_PROVIDED = {
    "id_number": "id_number_provided",
    "id_number_secondary": "id_number_secondary_provided",
    "ssn_last_4": "ssn_last_4_provided",
    "tax_id": "tax_id_provided",
    "vat_id": "vat_id_provided",
    "registration_number": "registration_number_provided",
}
"""Fields whose value is never kept, and what the answer says about them instead."""
_OUTCOMES = {"111111111": "unverified", "111111112": "unverified"}
"""What the test numbers lead to; any other number is verified as well."""
_DROPPED = frozenset(
    [
        "verification",
        "documents",
        "us_cfpb_data",
        "directorship_declaration",
        "ownership_declaration",
        "representative_declaration",
        "additional_tos_acceptances",
    ]
)


def outcome_of(number: str) -> str:
    """ "verified" or "unverified": all that is kept of an identity number."""
    return _OUTCOMES.get(number, "verified")


def kept(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a person or company that may be stored."""
    result: dict[str, Any] = {}
    for name, value in fields.items():
        if name in _PROVIDED:
            result[_PROVIDED[name]] = value is not None
            if name in ("id_number", "tax_id") and value is not None:
                result["verification"] = {"status": outcome_of(value)}
        elif name not in _DROPPED:
            result[name] = value
    return result


def provided(name: str, outcome: str) -> dict[str, Any]:
    """What is kept when `id_number` or `id_number_secondary` came as a token."""
    return {_PROVIDED[name]: True, "verification": {"status": outcome}}


def merged(before: dict[str, Any], sent: dict[str, Any]) -> dict[str, Any]:
    """Return *before* with the sent values. Hashes merge."""
    result = dict(before)
    for name, value in sent.items():
        old = result.get(name)
        result[name] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


_WHO = ("first_name", "last_name", "dob")
"""A change of one of these makes the account's representative another person, so terms must be accepted again."""
_NUMBERS = ("id_number_provided", "id_number_secondary_provided", "ssn_last_4_provided")


def is_somebody_else(before: dict[str, Any], sent: dict[str, Any]) -> bool:
    """Return whether *sent* changes who a person is. No number is stored, so a second one counts as another one."""
    renamed = any(before.get(name) and name in sent and sent[name] != before[name] for name in _WHO)
    return renamed or any(before.get(name) and sent.get(name) for name in _NUMBERS)


def person_body(person_id: str, account_id: str, created: int, fields: dict[str, Any]) -> dict[str, Any]:
    """Return a person as Stripe answers it."""
    person: dict[str, Any] = {
        "id": person_id,
        "object": "person",
        "account": account_id,
        "address": _empty_address(),
        "created": created,
        "dob": {"day": None, "month": None, "year": None},
        "first_name": None,
        "future_requirements": _requirements([]),
        "id_number_provided": False,
        "last_name": None,
        "metadata": {},
        "political_exposure": None,
        "relationship": {
            "authorizer": False,
            "director": False,
            "executive": False,
            "legal_guardian": False,
            "owner": False,
            "percent_ownership": None,
            "representative": False,
            "title": None,
        },
        "requirements": _requirements([]),
        "ssn_last_4_provided": False,
        "verification": {"status": "unverified"},
    }
    person = merged(person, fields)
    due = [name for name in ("first_name", "last_name") if not person.get(name)]
    due += [f"dob.{name}" for name in ("day", "month", "year") if not (person.get("dob") or {}).get(name)]
    due += [] if person["id_number_provided"] else ["id_number"]
    person["requirements"] = _requirements(due)
    return person


def _requirements(due: list[str]) -> dict[str, Any]:
    return {
        "alternatives": [],
        "currently_due": due,
        "errors": [],
        "eventually_due": list(due),
        "past_due": [],
        "pending_verification": [],
    }


def _empty_address() -> dict[str, None]:
    return dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))
