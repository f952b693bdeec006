"""POST and GET /v1/tokens: the six kinds."""

from __future__ import annotations

from typing import Any

from tokenferry_emulator import banks, cards, identity, values
from tokenferry_emulator.authentication import only_publishable_keys
from tokenferry_emulator.calls import ApiCall, magic_token, token_body
from tokenferry_emulator.cards import Behaviour
from tokenferry_emulator.errors import Refusal, invalid, missing, no_such
from tokenferry_emulator.ids import new_id
from tokenferry_emulator.world import Json, Thing, Token

_KINDS = ("card", "bank_account", "pii", "account", "person", "cvc_update")


async def create_token(call: ApiCall) -> Json:
    """Make a token of exactly one kind."""
    given = [kind for kind in _KINDS if kind in call.form]
    if len(given) > 1:
        raise invalid(
            f"You may only provide one of these parameters: {', '.join(given)}.",
            code="parameters_exclusive",
            param=given[1],
        )
    if not given and "customer" not in call.form:
        raise invalid(
            "You must supply either a card, customer, PII data, bank account, account, person or CVC update to create "
            "a token."
        )
    kind = given[0] if given else "card"
    if kind in ("account", "person") and call.scope.live and not call.caller.publishable:
        raise only_publishable_keys(kind)
    if "customer" in call.form and kind not in ("card", "bank_account"):
        raise invalid("Received unknown parameter: customer", code="parameter_unknown", param="customer")
    token = _make(call, kind)
    await call.work()
    for held in call.held:
        call.spend(held, token.id)
    call.world.tokens[token.id] = token
    call.world.ledger.made_token(token.id, kind, call.idempotency_key)
    return token.body


async def read_token(call: ApiCall) -> Json:
    """Return the token as it is now. A reusable test name gives a new token at each call, as at Stripe."""
    await call.work()
    if fresh := magic_token(call.world, call.scope, call.ids[0]):
        fresh.id, fresh.magic = fresh.body["id"], False
        call.world.tokens[fresh.id] = fresh
        call.world.ledger.made_token(fresh.id, fresh.kind, None)
        return fresh.body
    token = call.world.tokens.get(call.ids[0])
    if token is None or token.scope != call.scope:
        raise no_such("token", call.ids[0], param="id")
    return token.body


def _make(call: ApiCall, kind: str) -> Token:
    inner: Json | None = None
    behaviour = Behaviour()
    payload: Json = {}
    fields: Any = call.form.get(kind)
    if "customer" in call.form and not (isinstance(fields, dict) and "payment_method" in fields):
        kind, inner, behaviour = _clone(call, fields)
    elif kind in ("card", "bank_account") and not isinstance(fields, dict):
        raise invalid(f"Invalid {kind} object", param=kind)
    elif kind == "card":
        if not (call.world.settings.raw_cards and call.caller.raw_cards):
            raise raw_cards_refused(live=call.scope.live)
        inner, behaviour = cards.read_card(fields, call.world.secret, call.world.clock())
    elif kind == "bank_account" and "payment_method" in fields:
        inner = _from_payment_method(call, fields)
    elif kind == "bank_account":
        inner = banks.read_bank(fields, call.world.secret, live=call.scope.live)
    elif kind == "pii":
        if not fields.get("id_number"):
            raise missing("pii[id_number]")
        payload = {"outcome": identity.outcome_of(fields["id_number"])}
    elif kind == "cvc_update":
        cards.check_cvc_update(fields.get("cvc"))
    elif kind == "person":
        values.check(fields, "person", call.world.clock())
        payload = person_fields(call, fields, "person")
    else:
        values.check(fields, "account", call.world.clock())
        payload = _account_fields(call, fields)
    body = token_body(call.world, call.scope, kind, inner, call.client_ip)
    return Token(body["id"], kind, call.scope, body, behaviour, payload)


def person_fields(call: ApiCall, fields: Json, path: str) -> Json:
    """Return the fields of a person that may be stored. The call holds PII tokens that come instead of numbers."""
    plain = dict(fields)
    extra: Json = {}
    for name in ("id_number", "id_number_secondary"):
        value = plain.get(name)
        if value and value.startswith("pii_"):
            del plain[name]
            param = f"{path}[{name}]" if path else name
            token = call.claim(value, "pii", param=param, what="PII")
            extra.update(identity.provided(name, token.payload["outcome"]))
    return {**identity.kept(plain), **extra}


def _account_fields(call: ApiCall, fields: Json) -> Json:
    payload = dict(fields)
    if fields.get("individual"):
        payload["individual"] = person_fields(call, fields["individual"], "account[individual]")
    if fields.get("company"):
        payload["company"] = identity.kept(fields["company"])
    return payload


def _clone(call: ApiCall, saved: object) -> tuple[str, Json, Behaviour]:
    """A token of the connected account from a card or bank account saved on the platform's customer."""
    if isinstance(saved, dict):
        raise invalid(
            "If you also pass in a customer, this must be the ID of a card or bank account belonging to the customer.",
            param="card" if "card" in call.form else "bank_account",
        )
    if call.scope.connected is None:
        raise invalid(
            "You can only create a token from a customer with an OAuth access token or the Stripe-Account header.",
            param="customer",
        )
    world, platform = call.world, call.scope.platform
    customer = world.find("customer", call.form["customer"], platform, param="customer", status=400)
    wanted = saved or customer.body["default_source"]
    source = world.things.get(str(wanted))
    if source is None or source.owner != customer.id:
        if saved is None:
            raise invalid("The customer must have an active payment source attached.", code="missing", param="customer")
        raise no_such("source", str(wanted), param="card" if "card" in call.form else "bank_account", status=400)
    kind = source.kind
    inner = {**source.body, "id": new_id("card" if kind == "card" else "ba"), "metadata": {}}
    inner.pop("customer", None)
    if kind == "card":
        inner["cvc_check"] = "pass"
    return kind, inner, source.behaviour


def _from_payment_method(call: ApiCall, fields: Json) -> Json:
    if others := sorted(set(fields) - {"payment_method"}):
        raise invalid(
            "You may not provide other bank account parameters when you provide a payment method.",
            code="parameters_exclusive",
            param=f"bank_account[{others[0]}]",
        )
    param = "bank_account[payment_method]"
    method = call.find("payment_method", fields["payment_method"], param=param, status=400)
    if method.body["type"] != "us_bank_account":
        raise invalid("The payment method must be a us_bank_account.", param=param)
    if method.owner is not None and method.owner != call.form.get("customer"):
        raise invalid("The payment method belongs to a customer: pass that customer too.", param="customer")
    if method.private.get("used"):
        raise invalid("The payment method was used before and cannot be used again.", param=param)
    _use_up(method)
    return {**method.private["bank_account"], "id": new_id("ba")}


def _use_up(method: Thing) -> None:
    if method.owner is None:
        method.private["used"] = True


def raw_cards_refused(*, live: bool) -> Refusal:
    """402 without a code: the account may not send card numbers."""
    message = "Sending credit card numbers directly to the Stripe API is generally unsafe. "
    if live:
        message += (
            "To continue processing use Stripe.js, the Stripe mobile bindings, or Stripe Elements. For more "
            "information, see https://dashboard.stripe.com/account/integration/settings."
        )
    else:
        message += (
            "We suggest you use test tokens that map to the test card you are using, see "
            "https://stripe.com/docs/testing. To enable testing raw card data APIs, see "
            "https://support.stripe.com/questions/enabling-access-to-raw-card-data-apis."
        )
    return Refusal(402, {"message": message, "type": "invalid_request_error"}, stored=False)
