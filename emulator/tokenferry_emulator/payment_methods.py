"""Payment methods: made from a card token (or raw details), then attached to a customer."""

from __future__ import annotations

from typing import Any

from tokenferry_emulator import banks, cards
from tokenferry_emulator.calls import ApiCall, metadata_of
from tokenferry_emulator.cards import Behaviour
from tokenferry_emulator.errors import invalid, missing
from tokenferry_emulator.ids import new_id
from tokenferry_emulator.tokens import raw_cards_refused
from tokenferry_emulator.world import Json, Thing, Token

_BRANDS = {
    "Visa": "visa",
    "MasterCard": "mastercard",
    "American Express": "amex",
    "Discover": "discover",
    "Diners Club": "diners",
    "JCB": "jcb",
    "UnionPay": "unionpay",
}


async def create_payment_method(call: ApiCall) -> Json:
    """A payment method; a card token goes into it. No issuer is asked yet."""
    kind = call.form.get("type")
    if not kind:
        raise missing("type")
    if kind == "us_bank_account":
        return await _create_us_bank_account(call)
    if kind != "card":
        raise invalid(f"The payment method type {kind} is not emulated.", param="type")
    fields = call.form.get("card")
    if not isinstance(fields, dict):
        raise missing("card")
    token, inner, behaviour = claimed_card(call, fields, "card")
    await call.work()
    method = keep_card(call, inner, behaviour, call.form)
    if token is not None:
        call.spend(token, method.id)
    return method.body


async def attach_payment_method(call: ApiCall) -> Json:
    """Attach it. The issuer is asked here."""
    customer_id = call.form.get("customer")
    if not customer_id:
        raise missing("customer")
    method = call.find("payment_method", call.ids[0], param="payment_method")
    customer = call.find("customer", customer_id, param="customer", status=400)
    if method.body["customer"] is not None:
        raise invalid("The payment method you provided has already been attached to a customer.")
    if method.private.get("used"):
        raise invalid("This PaymentMethod was previously used without being attached to a Customer.")
    await call.work()
    if method.body["customer"] is not None:
        raise invalid("The payment method you provided has already been attached to a customer.")
    if method.behaviour.on_attach is not None:
        raise call.declined(None, method.behaviour.on_attach.refusal())
    method.body["customer"] = customer.id
    method.owner = customer.id
    if "card" in method.body:
        method.body["card"]["checks"]["cvc_check"] = method.behaviour.cvc_check
    return method.body


async def read_payment_method(call: ApiCall) -> Json:
    await call.work()
    return call.find("payment_method", call.ids[0], param="payment_method").body


def claimed_card(call: ApiCall, fields: Json, path: str) -> tuple[Token | None, Json, Behaviour]:
    """The card behind `card[token]` or behind raw details; a token is held by the call."""
    if "token" in fields:
        if others := sorted(set(fields) & {"number", "exp_month", "exp_year", "cvc"}):
            raise invalid(
                "You may only pass a token or card details.", code="parameters_exclusive", param=f"{path}[{others[0]}]"
            )
        token = call.claim(fields["token"], "card", param=f"{path}[token]")
        return token, token.body["card"], token.behaviour
    if not (call.world.settings.raw_cards and call.caller.raw_cards):
        raise raw_cards_refused(live=call.scope.live)
    inner, behaviour = cards.read_card(fields, call.world.secret, call.world.clock())
    return None, inner, behaviour


def keep_card(call: ApiCall, inner: Json, behaviour: Behaviour, form: dict[str, Any]) -> Thing:
    """A stored payment method of a card."""
    body = _body(call, "card", form)
    brand = _BRANDS.get(inner["brand"], "unknown")
    body["card"] = {
        "brand": brand,
        "checks": {
            "address_line1_check": behaviour.line1_check if inner["address_line1"] else None,
            "address_postal_code_check": behaviour.zip_check if inner["address_zip"] else None,
            "cvc_check": "unchecked",
        },
        "country": inner["country"],
        "display_brand": brand,
        "exp_month": inner["exp_month"],
        "exp_year": inner["exp_year"],
        "fingerprint": inner["fingerprint"],
        "funding": inner["funding"],
        "generated_from": None,
        "last4": inner["last4"],
        "networks": {"available": [brand], "preferred": None},
        "regulated_status": inner["regulated_status"],
        "three_d_secure_usage": {"supported": True},
        "wallet": None,
    }
    details = body["billing_details"]
    details["name"] = details["name"] or inner["name"]
    details["address"]["postal_code"] = details["address"]["postal_code"] or inner["address_zip"]
    return call.world.keep(Thing("payment_method", call.scope, body, behaviour))


async def _create_us_bank_account(call: ApiCall) -> Json:
    fields = call.form.get("us_bank_account")
    if not isinstance(fields, dict):
        raise missing("us_bank_account")
    name = (call.form.get("billing_details") or {}).get("name")
    bank = banks.read_bank(
        {**fields, "country": "US", "currency": "usd", "account_holder_name": name},
        call.world.secret,
        live=call.scope.live,
        path="us_bank_account",
    )
    await call.work()
    body = _body(call, "us_bank_account", call.form)
    body["us_bank_account"] = {
        "account_holder_type": bank["account_holder_type"],
        "account_type": bank["account_type"] or "checking",
        "bank_name": bank["bank_name"],
        "financial_connections_account": None,
        "fingerprint": bank["fingerprint"],
        "last4": bank["last4"],
        "networks": {"preferred": "ach", "supported": ["ach"]},
        "routing_number": bank["routing_number"],
        "status_details": {},
    }
    method = Thing("payment_method", call.scope, body, private={"bank_account": bank})
    return call.world.keep(method).body


def _body(call: ApiCall, kind: str, form: dict[str, Any]) -> Json:
    sent = form.get("billing_details") or {}
    address = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))
    return {
        "id": new_id("pm"),
        "object": "payment_method",
        "allow_redisplay": form.get("allow_redisplay") or "unspecified",
        "billing_details": {
            "address": {**address, **(sent.get("address") or {})},
            "email": sent.get("email"),
            "name": sent.get("name"),
            "phone": sent.get("phone"),
            "tax_id": None,
        },
        "created": call.world.now(),
        "customer": None,
        "customer_account": None,
        "livemode": call.scope.live,
        "metadata": metadata_of(form),
        "type": kind,
    }
