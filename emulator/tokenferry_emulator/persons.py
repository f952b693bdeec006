"""Persons of a connected account: made and changed with person tokens, PII tokens or plain fields."""

from __future__ import annotations

from tokenferry_emulator import identity, values
from tokenferry_emulator.calls import ApiCall, metadata_of
from tokenferry_emulator.connected import ask_for_terms
from tokenferry_emulator.errors import no_such
from tokenferry_emulator.external_accounts import own_account
from tokenferry_emulator.ids import new_id
from tokenferry_emulator.tokens import person_fields
from tokenferry_emulator.world import Json, Thing

_NOT_OF_THE_PERSON = ("person_token", "metadata", "expand")


async def create_person(call: ApiCall) -> Json:
    account = own_account(call, call.ids[0])
    fields = _fields(call)
    await call.work()
    body = identity.person_body(new_id("person"), account.id, call.world.now(), fields)
    person = Thing("person", account.scope, body, owner=account.id, private={"fields": fields})
    call.world.keep(person)
    account.private["persons"].append(person.id)
    return _changed(call, person)


async def update_person(call: ApiCall) -> Json:
    """Replace what is sent. A representative with another name, birthday or number asks for the terms again."""
    account = own_account(call, call.ids[0])
    person = _person(call, account)
    fields = _fields(call)
    await call.work()
    before = person.private["fields"]
    if person.body["relationship"]["representative"] and identity.is_somebody_else(before, fields):
        ask_for_terms(account)
    fields = identity.merged(before, fields)
    metadata = person.body["metadata"]
    person.private["fields"] = fields
    person.body = identity.person_body(person.id, account.id, person.body["created"], fields)
    person.body["metadata"] = metadata
    return _changed(call, person)


async def read_person(call: ApiCall) -> Json:
    await call.work()
    return _person(call, own_account(call, call.ids[0])).body


async def list_persons(call: ApiCall) -> Json:
    await call.work()
    account = own_account(call, call.ids[0])
    bodies = [call.world.things[person].body for person in account.private["persons"]]
    wanted = (call.form.get("relationship") or {}).items()
    return call.listed([body for body in bodies if all(body["relationship"].get(k) == v for k, v in wanted)])


def _person(call: ApiCall, account: Thing) -> Thing:
    if call.ids[1] not in account.private["persons"]:
        raise no_such("person", call.ids[1], param="person")
    return call.world.things[call.ids[1]]


def _fields(call: ApiCall) -> Json:
    """Return the token's fields with the plain ones over them, without metadata."""
    token_fields: Json = {}
    if token_id := call.form.get("person_token"):
        token_fields = call.claim(token_id, "person", param="person_token").payload
    plain = {name: value for name, value in call.form.items() if name not in _NOT_OF_THE_PERSON}
    values.check(plain, "", call.world.clock())
    return identity.merged(token_fields, person_fields(call, plain, ""))


def _changed(call: ApiCall, person: Thing) -> Json:
    person.body["metadata"].update(metadata_of(call.form))
    for held in call.held:
        call.spend(held, person.id)
    return person.body
