"""Customers and their sources: the first place where a card or bank token is spent."""

from __future__ import annotations

from tokenferry_emulator import cards
from tokenferry_emulator.calls import ApiCall, metadata_of
from tokenferry_emulator.errors import invalid, missing
from tokenferry_emulator.ids import new_id
from tokenferry_emulator.world import EmulatorState, Json, Thing, Token

_PLAIN = ("address", "description", "email", "name", "phone", "preferred_locales", "shipping", "tax_exempt")


async def create_customer(call: ApiCall) -> Json:
    """A customer, with the token as its default source. If the token fails, no customer is made."""
    token = _claimed_source(call, None)
    await call.work()
    if token is not None:
        _ask_issuer(call, token)
    customer = Thing("customer", call.scope, _new_body(call))
    call.world.keep(customer)
    if token is not None:
        source = save_source(call, customer, token)
        customer.body["default_source"] = source.id
        call.spend(token, customer.id)
    return render(call, customer)


async def update_customer(call: ApiCall) -> Json:
    """Changes a customer; a token in `source` becomes the new default and replaces the old one."""
    customer = call.find("customer", call.ids[0], param="id")
    token = _claimed_source(call, customer)
    await call.work()
    if token is not None:
        _ask_issuer(call, token)
        before = customer.body["default_source"]
        source = save_source(call, customer, token)
        customer.body["default_source"] = source.id
        if before is not None:
            customer.members.remove(before)
            call.world.drop(before)
        call.spend(token, customer.id)
    customer.body.update({name: call.form[name] for name in _PLAIN if name in call.form})
    customer.body["metadata"].update(metadata_of(call.form))
    if call.form.get("default_source") in customer.members:
        customer.body["default_source"] = call.form["default_source"]
    return render(call, customer)


async def read_customer(call: ApiCall) -> Json:
    await call.work()
    return render(call, call.find("customer", call.ids[0], param="id"))


async def create_source(call: ApiCall) -> Json:
    """Add a source. It becomes the default only if there was none."""
    customer = call.find("customer", call.ids[0], param="customer")
    token = _claimed_source(call, customer)
    if token is None:
        raise missing("source")
    await call.work()
    _ask_issuer(call, token)
    source = save_source(call, customer, token)
    source.body["metadata"].update(metadata_of(call.form))
    customer.body["default_source"] = customer.body["default_source"] or source.id
    call.spend(token, source.id)
    return source.body


async def list_sources(call: ApiCall) -> Json:
    await call.work()
    customer = call.find("customer", call.ids[0], param="customer")
    wanted = call.form.get("object")
    bodies = [call.world.things[member].body for member in customer.members]
    return call.listed([body for body in bodies if wanted in (None, body["object"])])


async def read_source(call: ApiCall) -> Json:
    await call.work()
    customer = call.find("customer", call.ids[0], param="customer")
    return saved_source(call.world, customer, call.ids[1]).body


def saved_source(world: EmulatorState, customer: Thing, source_id: str) -> Thing:
    if source_id not in customer.members:
        raise invalid(f"No such source: '{source_id}'", status=404, code="resource_missing", param="id")
    return world.things[source_id]


def save_source(call: ApiCall, customer: Thing, token: Token) -> Thing:
    """Store a card or bank account under the id that it has inside the token."""
    inner = token.body[token.kind]
    body = cards.checked(inner, token.behaviour) if token.kind == "card" else dict(inner)
    if token.magic:
        body["id"] = new_id("card" if token.kind == "card" else "ba")
    body["customer"] = customer.id
    body["metadata"] = {}
    source = Thing(token.kind, call.scope, body, token.behaviour, owner=customer.id)
    customer.members.append(source.id)
    return call.world.keep(source)


def _claimed_source(call: ApiCall, customer: Thing | None) -> Token | None:
    param = "card" if "card" in call.form else "source"
    if not call.form.get(param):
        return None
    token = call.claim(call.form[param], "card", "bank_account", param=param, what="card or bank account")
    if token.kind == "bank_account":
        bank = token.body["bank_account"]
        for name in ("account_holder_name", "account_holder_type"):
            if not bank[name]:
                raise invalid(
                    f"Bank accounts attached to a customer must have a value for '{name}'.",
                    code="parameter_missing",
                    param=name,
                )
        saved = [call.world.things[member].body for member in customer.members] if customer else []
        if any(body["fingerprint"] == bank["fingerprint"] for body in saved if body["object"] == "bank_account"):
            raise invalid(
                "A bank account with that routing number and account number already exists for this customer.",
                code="bank_account_exists",
                stored=True,
            )
    return token


def _ask_issuer(call: ApiCall, token: Token) -> None:
    if token.behaviour.on_attach is not None:
        raise call.declined(token, token.behaviour.on_attach.refusal())


def _new_body(call: ApiCall) -> Json:
    return {
        "id": new_id("cus").replace("cus_1", "cus_", 1)[:18],
        "object": "customer",
        "address": call.form.get("address"),
        "balance": call.form.get("balance") or 0,
        "created": call.world.now(),
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": call.form.get("description"),
        "discount": None,
        "email": call.form.get("email"),
        "invoice_prefix": new_id("in")[4:12].upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": call.scope.live,
        "metadata": metadata_of(call.form),
        "name": call.form.get("name"),
        "next_invoice_sequence": 1,
        "phone": call.form.get("phone"),
        "preferred_locales": call.form.get("preferred_locales") or [],
        "shipping": call.form.get("shipping"),
        "tax_exempt": call.form.get("tax_exempt") or "none",
        "test_clock": None,
    }


def render(call: ApiCall, customer: Thing) -> Json:
    """The customer as answered: its sources are shown where asked for, and always before version 2020-08-27."""
    if not call.wants("sources") and call.version >= "2020-08-27":
        return customer.body
    data = [call.world.things[member].body for member in customer.members]
    url = f"/v1/customers/{customer.id}/sources"
    sources = {"object": "list", "data": data, "has_more": False, "total_count": len(data), "url": url}
    return {**customer.body, "sources": sources}
