"""Charges, top-ups and Sources made from a token directly: the older ways to spend one."""

from __future__ import annotations

from tokenferry_emulator import cards
from tokenferry_emulator.calls import ApiCall, metadata_of
from tokenferry_emulator.cards import Behaviour
from tokenferry_emulator.customers import saved_source
from tokenferry_emulator.errors import Refusal, invalid, missing
from tokenferry_emulator.ids import new_id
from tokenferry_emulator.world import Json, Thing, Token

_OWNER = ("address", "email", "name", "phone")


async def create_charge(call: ApiCall) -> Json:
    """Charge a token or a customer's source. A declined charge is stored, and the error names it."""
    amount, currency = amount_of(call)
    token, source, behaviour = _payer(call)
    await call.work()
    charge = _charge_body(call, amount, currency, source)
    decline = behaviour.on_charge
    if decline is not None:
        refusal = call.declined(token, decline.refusal(charge=charge["id"]))
        charge.update(
            status="failed",
            paid=False,
            captured=False,
            amount_captured=0,
            failure_code=decline.code,
            failure_message=decline.message,
        )
        call.world.keep(Thing("charge", call.scope, charge))
        raise refusal
    call.world.keep(Thing("charge", call.scope, charge))
    if token is not None:
        call.spend(token, charge["id"])
    return charge


async def read_charge(call: ApiCall) -> Json:
    await call.work()
    return call.find("charge", call.ids[0], param="id").body


async def create_topup(call: ApiCall) -> Json:
    amount, currency = amount_of(call)
    token = None
    if call.form.get("source"):
        token = call.claim(call.form["source"], "bank_account", param="source")
    await call.work()
    body: Json = {
        "id": new_id("tu"),
        "object": "topup",
        "initiated_by": "user",
        "amount": amount,
        "balance_transaction": None,
        "created": call.world.now(),
        "currency": currency,
        "description": call.form.get("description"),
        "expected_availability_date": call.world.now() + 432000,
        "failure_code": None,
        "failure_message": None,
        "livemode": call.scope.live,
        "metadata": metadata_of(call.form),
        "source": token.body["bank_account"] if token else None,
        "statement_descriptor": call.form.get("statement_descriptor"),
        "status": "pending",
        "transfer_group": call.form.get("transfer_group"),
    }
    call.world.keep(Thing("topup", call.scope, body))
    if token is not None:
        call.spend(token, body["id"])
    return body


async def read_topup(call: ApiCall) -> Json:
    await call.work()
    return call.find("topup", call.ids[0], param="id").body


async def create_source(call: ApiCall) -> Json:
    """POST /v1/sources: what the token holds wins over what is sent beside it."""
    kind = call.form.get("type")
    if not kind:
        raise missing("type")
    token = None
    if call.form.get("token"):
        token = call.claim(call.form["token"], "card", "bank_account", param="token", what="card or bank account")
    await call.work()
    owner = call.form.get("owner") or {}
    body: Json = {
        "id": new_id("src"),
        "object": "source",
        "allow_redisplay": None,
        "amount": call.form.get("amount"),
        "client_secret": new_id("src_client_secret"),
        "created": call.world.now(),
        "currency": call.form.get("currency"),
        "flow": "none",
        "livemode": call.scope.live,
        "metadata": metadata_of(call.form),
        "owner": {name: owner.get(name) for name in _OWNER} | {f"verified_{name}": None for name in _OWNER},
        "statement_descriptor": None,
        "status": "chargeable",
        "type": kind,
        "usage": call.form.get("usage") or "reusable",
    }
    if token is not None:
        inner = token.body[token.kind]
        shown = ("brand", "country", "exp_month", "exp_year", "funding") if token.kind == "card" else ("country",)
        body[kind] = {name: inner[name] for name in (*shown, "fingerprint", "last4")}
        body["owner"]["name"] = inner.get("name") or inner.get("account_holder_name") or owner.get("name")
    behaviour = token.behaviour if token else Behaviour()
    call.world.keep(Thing("source", call.scope, body, behaviour))
    if token is not None:
        call.spend(token, body["id"])
    return body


async def read_source(call: ApiCall) -> Json:
    await call.work()
    return call.find("source", call.ids[0], param="source").body


def amount_of(call: ApiCall) -> tuple[int, str]:
    for name in ("amount", "currency"):
        if call.form.get(name) is None:
            raise missing(name)
    if call.form["amount"] < 1:
        raise invalid("Invalid positive integer", code="parameter_invalid_integer", param="amount")
    return call.form["amount"], call.form["currency"].lower()


def _payer(call: ApiCall) -> tuple[Token | None, Json, Behaviour]:
    """Return what is charged: the token, if it is one, its shown form, and its behaviour."""
    world, wanted = call.world, call.form.get("source")
    if "customer" in call.form:
        customer = call.find("customer", call.form["customer"], param="customer", status=400)
        wanted = wanted or customer.body["default_source"]
        if wanted is None:
            raise invalid("Cannot charge a customer that has no active card", code="missing", param="card")
        saved = saved_source(world, customer, wanted)
        if saved.kind == "bank_account" and not saved.behaviour.verified:
            raise _unverified()
        return None, saved.body, saved.behaviour
    if not wanted:
        raise invalid("Must provide source or customer.", code="parameter_missing", param="source")
    thing = world.things.get(wanted)
    if thing is not None and thing.kind == "source" and thing.scope == call.scope:
        return None, thing.body, thing.behaviour
    token = call.claim(wanted, "card", "bank_account", param="source", what="card or bank account")
    if token.kind == "bank_account" and not token.behaviour.verified:
        raise _unverified()
    inner = token.body[token.kind]
    return token, cards.checked(inner, token.behaviour) if token.kind == "card" else inner, token.behaviour


def _unverified() -> Refusal:
    return invalid(
        "The bank account must be verified before it can be charged.", code="bank_account_unverified", stored=True
    )


_CHARGE_EMPTY = (
    "application",
    "application_fee",
    "balance_transaction",
    "calculated_statement_descriptor",
    "failure_balance_transaction",
    "failure_code",
    "failure_message",
    "outcome",
    "payment_intent",
    "payment_method_details",
    "receipt_number",
    "review",
    "source_transfer",
    "transfer",
)
"""Fields that only other calls fill: null in a charge made from a token."""
_CHARGE_ECHOED = (
    "application_fee_amount",
    "customer",
    "description",
    "on_behalf_of",
    "receipt_email",
    "shipping",
    "statement_descriptor",
    "statement_descriptor_suffix",
    "transfer_data",
    "transfer_group",
)
"""Parameters that the answer repeats."""


def _charge_body(call: ApiCall, amount: int, currency: str, source: Json) -> Json:
    captured = call.form.get("capture") is not False
    charge_id = new_id("ch")
    return {
        "id": charge_id,
        "object": "charge",
        **dict.fromkeys(_CHARGE_EMPTY),
        **{name: call.form.get(name) for name in _CHARGE_ECHOED},
        "amount": amount,
        "amount_captured": amount if captured else 0,
        "amount_refunded": 0,
        "billing_details": _billing_details(source),
        "captured": captured,
        "created": call.world.now(),
        "currency": currency,
        "disputed": False,
        "fraud_details": {},
        "livemode": call.scope.live,
        "metadata": metadata_of(call.form),
        "paid": True,
        "payment_method": source["id"],
        "receipt_url": f"https://pay.stripe.com/receipts/{charge_id}",
        "refunded": False,
        "source": source,
        "status": "succeeded",
    }


def _billing_details(source: Json) -> Json:
    """Return name and address of a card, a bank account or a Source."""
    names = {"line1": "address_line1", "line2": "address_line2", "city": "address_city", "state": "address_state"}
    names |= {"postal_code": "address_zip", "country": "address_country"}
    owner = source.get("owner") or {}
    return {
        "address": owner.get("address") or {part: source.get(name) for part, name in names.items()},
        "email": owner.get("email"),
        "name": owner.get("name") or source.get("name") or source.get("account_holder_name"),
        "phone": owner.get("phone"),
        "tax_id": None,
    }
