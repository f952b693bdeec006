"""External accounts: where payouts of a connected account go. Tokens of both scopes are good here (as recorded)."""

from __future__ import annotations

from tokenferry_emulator import banks, cards
from tokenferry_emulator.authentication import no_access
from tokenferry_emulator.calls import ApiCall, metadata_of
from tokenferry_emulator.cards import Behaviour
from tokenferry_emulator.connected import owned_account
from tokenferry_emulator.errors import invalid, missing, no_such
from tokenferry_emulator.ids import new_id
from tokenferry_emulator.tokens import raw_cards_refused
from tokenferry_emulator.world import Json, Thing, Token


class Incoming:
    """A card or bank account on its way into an account: from a token the call holds, or sent as a hash."""

    def __init__(self, kind: str, inner: Json, behaviour: Behaviour, token: Token | None) -> None:
        self.kind = kind
        self.inner = inner
        self.behaviour = behaviour
        self.token = token


def incoming(call: ApiCall, account_id: str | None, param: str) -> Incoming | None:
    """Return what *param* brings, checked, or None. *account_id* is None for an account that is yet to be made."""
    sent = call.form.get(param)
    if not sent:
        return None
    if isinstance(sent, dict) and not sent.get("token"):
        return _inline(call, sent, param)
    token_id = sent["token"] if isinstance(sent, dict) else sent
    scopes = {call.scope, call.scope.platform}
    if account_id is not None:
        scopes.add(call.scope._replace(connected=account_id))
    token = call.claim(token_id, "card", "bank_account", param=param, scopes=scopes, what="bank account or debit card")
    inner = token.body[token.kind]
    if token.kind == "card":
        _check_card(inner, param)
    return Incoming(token.kind, inner, token.behaviour, token)


def save(call: ApiCall, account: Thing, new: Incoming, *, default: bool) -> Thing:
    """Store it. It keeps the id inside the token only if the token was made on this account."""
    world = call.world
    body = cards.checked(new.inner, new.behaviour) if new.kind == "card" else dict(new.inner)
    at_home = new.token is not None and not new.token.magic and new.token.scope.connected == account.id
    if not at_home:
        body["id"] = new_id("card" if new.kind == "card" else "ba")
    first = not any(world.things[member].body["currency"] == body["currency"] for member in account.members)
    body.update(
        account=account.id,
        metadata={},
        default_for_currency=default or first,
        available_payout_methods=["standard", "instant"] if new.kind == "card" else ["standard"],
    )
    if body["default_for_currency"]:
        for member in account.members:
            if world.things[member].body["currency"] == body["currency"]:
                world.things[member].body["default_for_currency"] = False
    saved = world.keep(Thing("external_account", account.scope, body, new.behaviour, owner=account.id))
    account.members.append(saved.id)
    return saved


def replace_default(call: ApiCall, account: Thing, new: Incoming) -> Thing:
    """Store it as the default of its currency, and delete the previous default, as an account update does."""
    world, currency = call.world, new.inner["currency"]
    for member in list(account.members):
        body = world.things[member].body
        if body["currency"] == currency and body["default_for_currency"]:
            account.members.remove(member)
            world.drop(member)
    return save(call, account, new, default=True)


async def create_external_account(call: ApiCall) -> Json:
    """Add one, and leave the others as they are."""
    account = own_account(call, call.ids[0])
    check_collection(account)
    new = incoming(call, account.id, "external_account")
    if new is None:
        raise missing("external_account")
    await call.work()
    saved = save(call, account, new, default=call.form.get("default_for_currency") is True)
    saved.body["metadata"].update(metadata_of(call.form))
    if new.token is not None:
        call.spend(new.token, saved.id)
    return saved.body


async def list_external_accounts(call: ApiCall) -> Json:
    await call.work()
    account = own_account(call, call.ids[0])
    wanted = call.form.get("object")
    bodies = [call.world.things[member].body for member in account.members]
    return call.listed([body for body in bodies if wanted in (None, body["object"])])


async def read_external_account(call: ApiCall) -> Json:
    await call.work()
    account = own_account(call, call.ids[0])
    if call.ids[1] not in account.members:
        raise no_such("external account", call.ids[1], param="id")
    return call.world.things[call.ids[1]].body


def own_account(call: ApiCall, account_id: str) -> Thing:
    """Return the connected account that the path names. Raises 403 if this platform has none of that id."""
    account = owned_account(call.world, call.scope.platform, account_id)
    if account is None or call.scope.connected not in (None, account_id):
        raise no_access(call.caller, account_id)
    return account


def check_collection(account: Thing) -> None:
    if account.body["controller"]["requirement_collection"] != "application":
        raise invalid(
            "This application does not have the required permissions for this endpoint on account "
            f"'{account.id}'. External accounts can be attached only where the platform collects requirements.",
            status=403,
        )


def _inline(call: ApiCall, sent: Json, param: str) -> Incoming:
    world = call.world
    if sent.get("object") == "card" or "number" in sent:
        if not (world.settings.raw_cards and call.caller.raw_cards):
            raise raw_cards_refused(live=call.scope.live)
        inner, behaviour = cards.read_card(sent, world.secret, world.clock())
        _check_card(inner, param)
        return Incoming("card", inner, behaviour, None)
    inner = banks.read_bank(sent, world.secret, live=call.scope.live, path=param)
    return Incoming("bank_account", inner, Behaviour(), None)


def _check_card(inner: Json, param: str) -> None:
    if inner["funding"] != "debit":
        raise invalid(
            "The card must be a debit card to be used as an external account.",
            code="invalid_card_type",
            param=param,
            stored=True,
        )
    if "currency" not in inner:
        raise invalid(
            "A card used as an external account must have been tokenized with a currency.",
            code="parameter_missing",
            param="card[currency]",
        )
