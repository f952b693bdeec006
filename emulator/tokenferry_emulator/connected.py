"""Which connected accounts a platform has: those it made, and those given by the settings."""

from __future__ import annotations

from typing import Any

from tokenferry_emulator.authentication import KeyScope
from tokenferry_emulator.bank_countries import FORMATS
from tokenferry_emulator.world import EmulatorState, Json, Thing

_PROFILE = (
    "annual_revenue",
    "estimated_worker_count",
    "mcc",
    "minority_owned_business_designation",
    "name",
    "product_description",
    "specified_commercial_transactions_act_url",
    "support_address",
    "support_email",
    "support_phone",
    "support_url",
    "url",
)


def owned_account(world: EmulatorState, platform: KeyScope, account_id: str) -> Thing | None:
    """Return the account if the platform has it. The first platform that names an account of the settings gets it."""
    if account_id in world.settings.connected_accounts and account_id not in world.things:
        world.things[account_id] = connected_account(world, platform, account_id, {"type": "custom"})
    thing = world.things.get(account_id)
    return thing if thing is not None and thing.kind == "account" and thing.scope == platform else None


def connected_account(world: EmulatorState, platform: KeyScope, account_id: str, form: dict[str, Any]) -> Thing:
    """Return a new account that is not stored yet."""
    kind = form.get("type")
    controller = form.get("controller") or {}
    collection = controller.get("requirement_collection") or ("application" if kind == "custom" else "stripe")
    country = form.get("country") or "US"
    body: Json = {
        "id": account_id,
        "object": "account",
        "business_profile": dict.fromkeys(_PROFILE),
        "business_type": None,
        "capabilities": {name: "pending" for name in form.get("capabilities") or {}},
        "charges_enabled": False,
        "controller": {
            "is_controller": True,
            "requirement_collection": collection,
            "type": "application",
        },
        "country": country,
        "created": world.now(),
        "default_currency": form.get("default_currency")
        or (FORMATS[country].currency if country in FORMATS else "usd"),
        "details_submitted": False,
        "email": form.get("email"),
        "metadata": {},
        "payouts_enabled": False,
        "settings": _settings(),
        "tos_acceptance": {"date": None, "ip": None, "user_agent": None},
        "type": kind or "none",
    }
    return Thing("account", platform, body, private={"persons": []})


def ask_for_terms(account: Thing) -> None:
    """The account must accept the terms of service again: what it accepted was for another company or person."""
    account.body["tos_acceptance"].update(date=None, ip=None, user_agent=None)


def _settings() -> Json:
    """The settings of a new account."""
    return {
        "bacs_debit_payments": {"display_name": None, "service_user_number": None},
        "branding": {"icon": None, "logo": None, "primary_color": None, "secondary_color": None},
        "card_issuing": {"tos_acceptance": {"date": None, "ip": None}},
        "card_payments": {
            "decline_on": {"avs_failure": False, "cvc_failure": False},
            "statement_descriptor_prefix": None,
            "statement_descriptor_prefix_kana": None,
            "statement_descriptor_prefix_kanji": None,
        },
        "dashboard": {"display_name": None, "timezone": "Etc/UTC"},
        "invoices": {"default_account_tax_ids": None, "hosted_payment_method_save": None},
        "payments": {
            "statement_descriptor": None,
            "statement_descriptor_kana": None,
            "statement_descriptor_kanji": None,
            "statement_descriptor_prefix_kana": None,
            "statement_descriptor_prefix_kanji": None,
        },
        "payouts": {
            "debit_negative_balances": False,
            "schedule": {"delay_days": 2, "interval": "daily"},
            "statement_descriptor": None,
        },
        "sepa_debit_payments": {},
    }
