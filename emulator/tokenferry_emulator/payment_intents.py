"""PaymentIntents: create and confirm, with a card token inside or a fresh CVC beside a saved card."""

from __future__ import annotations

from typing import Any

from tokenferry_emulator.calls import ApiCall, metadata_of
from tokenferry_emulator.charges import amount_of
from tokenferry_emulator.errors import Refusal, invalid, no_such
from tokenferry_emulator.ids import new_id
from tokenferry_emulator.payment_methods import claimed_card, keep_card
from tokenferry_emulator.world import Json, Thing, Token

_CVC_PARAM = "payment_method_options[card][cvc_token]"


async def create_payment_intent(call: ApiCall) -> Json:
    amount, currency = amount_of(call)
    if call.form.get("customer"):
        call.find("customer", call.form["customer"], param="customer", status=400)
    confirm = call.form.get("confirm") is True
    cvc = _claimed_cvc(call)
    if cvc is not None and not confirm:
        raise invalid("A CVC token can only be provided when the PaymentIntent is confirmed.", param=_CVC_PARAM)
    method, token = _chosen_method(call)
    if confirm and method is None:
        raise _no_method()
    await call.work()
    intent = call.world.keep(Thing("payment_intent", call.scope, _body(call, amount, currency)))
    _choose(call, intent, method, token)
    if confirm:
        _confirm(call, intent, token, cvc)
    return intent.body


async def confirm_payment_intent(call: ApiCall) -> Json:
    """Confirms; the only place where a CVC token is spent."""
    intent = call.find("payment_intent", call.ids[0], param="intent")
    if intent.body["status"] not in ("requires_payment_method", "requires_confirmation"):
        raise invalid(
            f"You cannot confirm this PaymentIntent because it has a status of {intent.body['status']}.",
            code="payment_intent_unexpected_state",
        )
    cvc = _claimed_cvc(call)
    method, token = _chosen_method(call)
    if method is None and intent.body["payment_method"] is None:
        raise _no_method()
    await call.work()
    _choose(call, intent, method, token)
    _confirm(call, intent, token, cvc)
    return intent.body


async def read_payment_intent(call: ApiCall) -> Json:
    await call.work()
    return call.find("payment_intent", call.ids[0], param="intent").body


def _claimed_cvc(call: ApiCall) -> Token | None:
    options: dict[str, Any] = (call.form.get("payment_method_options") or {}).get("card") or {}
    if not options.get("cvc_token"):
        return None
    return call.claim(options["cvc_token"], "cvc_update", param=_CVC_PARAM, what="CVC update")


def _chosen_method(call: ApiCall) -> tuple[Thing | Json | None, Token | None]:
    """Return a stored payment method, or the card to make one of, and its token if it came as one."""
    if call.form.get("payment_method"):
        method = call.world.things.get(call.form["payment_method"])
        if method is None or method.kind not in ("payment_method", "card") or method.scope != call.scope:
            raise no_such("PaymentMethod", call.form["payment_method"], param="payment_method", status=400)
        if method.owner is not None and method.owner != call.form.get("customer", method.owner):
            raise invalid("The provided PaymentMethod does not belong to the Customer.", param="payment_method")
        return method, None
    data = call.form.get("payment_method_data")
    if not data:
        return None, None
    if data.get("type") != "card" or not isinstance(data.get("card"), dict):
        raise invalid("Only payment methods of type card are emulated.", param="payment_method_data[type]")
    token, inner, behaviour = claimed_card(call, data["card"], "payment_method_data[card]")
    return {"inner": inner, "behaviour": behaviour, "data": data}, token


def _choose(call: ApiCall, intent: Thing, method: Thing | Json | None, token: Token | None) -> None:
    if isinstance(method, dict):
        method = keep_card(call, method["inner"], method["behaviour"], method["data"])
        if token is not None:
            call.spend(token, method.id)
    if method is not None:
        intent.body["payment_method"] = method.id
        intent.body["status"] = "requires_confirmation"


def _confirm(call: ApiCall, intent: Thing, token: Token | None, cvc: Token | None) -> None:
    method = call.world.things[intent.body["payment_method"]]
    decline = method.behaviour.on_charge
    if cvc is not None and (decline is None or call.world.settings.decline_consumes):
        call.spend(cvc, intent.id)
    if decline is None:
        intent.body.update(status="succeeded", amount_received=intent.body["amount"], last_payment_error=None)
        intent.body["latest_charge"] = new_id("ch")
        return
    refusal = call.declined(token, decline.refusal(charge=new_id("ch"), payment_method=method.body))
    intent.body.update(status="requires_payment_method", payment_method=None)
    intent.body["last_payment_error"] = dict(refusal.error)
    refusal.error["payment_intent"] = intent.body
    raise refusal


def _no_method() -> Refusal:
    return invalid(
        "You cannot confirm this PaymentIntent because it's missing a payment method. You can either update the "
        "PaymentIntent with a payment method and then confirm it again, or confirm it again directly with a payment "
        "method or ConfirmationToken.",
        code="payment_intent_unexpected_state",
    )


_EMPTY = (
    "allowed_payment_method_types",
    "application",
    "automatic_payment_methods",
    "canceled_at",
    "cancellation_reason",
    "customer_account",
    "excluded_payment_method_types",
    "managed_payments",
    "payment_method_configuration_details",
    "payment_record",
    "processing",
    "review",
    "source",
)
"""Fields that no call of the emulator fills."""
_ECHOED = (
    "application_fee_amount",
    "customer",
    "description",
    "on_behalf_of",
    "receipt_email",
    "setup_future_usage",
    "shipping",
    "statement_descriptor",
    "statement_descriptor_suffix",
    "transfer_group",
)
"""Parameters that the answer repeats."""


def _body(call: ApiCall, amount: int, currency: str) -> Json:
    intent_id = new_id("pi")
    return {
        "id": intent_id,
        "object": "payment_intent",
        **dict.fromkeys(_EMPTY),
        **{name: call.form.get(name) for name in _ECHOED},
        "amount": amount,
        "amount_capturable": 0,
        "amount_received": 0,
        "capture_method": call.form.get("capture_method") or "automatic_async",
        "client_secret": f"{intent_id}_secret_{new_id('s')[3:]}",
        "confirmation_method": call.form.get("confirmation_method") or "automatic",
        "created": call.world.now(),
        "currency": currency,
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": call.scope.live,
        "metadata": metadata_of(call.form),
        "next_action": None,
        "payment_method": None,
        "payment_method_options": {},
        "payment_method_types": call.form.get("payment_method_types") or ["card"],
        "status": "requires_payment_method",
    }
