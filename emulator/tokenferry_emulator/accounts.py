"""Connected accounts: made and changed with account tokens, PII tokens and external accounts."""

from __future__ import annotations

from tokenferry_emulator import identity, values
from tokenferry_emulator.calls import ApiCall, metadata_of
from tokenferry_emulator.connected import ask_for_terms, connected_account
from tokenferry_emulator.errors import invalid
from tokenferry_emulator.external_accounts import Incoming, check_collection, incoming, own_account, replace_default
from tokenferry_emulator.ids import new_id
from tokenferry_emulator.tokens import person_fields
from tokenferry_emulator.world import EmulatorState, Json, Thing, Token, platform_account_id

_LEGAL_ENTITY = ("business_type", "company", "individual", "tos_acceptance")
"""What an account token carries. Next to a token, or on an account made with one, a call cannot send these plainly."""


async def create_account(call: ApiCall) -> Json:
    """A connected account of the platform."""
    _check(call)
    token, fields = _claimed_account(call, None)
    if token is not None and not token.payload.get("tos_shown_and_accepted"):
        raise invalid(
            "The account token must have tos_shown_and_accepted set to true to create an account.",
            param="account_token",
        )
    new, _ = _incoming(call, None)
    individual = _individual(call)
    account = connected_account(call.world, call.scope.platform, f"acct_{new_id('a')[2:18]}", call.form)
    if new is not None:
        check_collection(account)
    await call.work()
    call.world.keep(account)
    account.private["by_token"] = token is not None
    _change(call, account, token, fields, individual, new)
    return render(call.world, account)


async def update_account(call: ApiCall) -> Json:
    """Sent values replace, others stay; an external account replaces the default of its currency."""
    _check(call)
    account = own_account(call, call.ids[0])
    token, fields = _claimed_account(call, account)
    new, _ = _incoming(call, account)
    if new is not None:
        check_collection(account)
    individual = _individual(call)
    await call.work()
    _change(call, account, token, fields, individual, new)
    return render(call.world, account)


async def read_account(call: ApiCall) -> Json:
    await call.work()
    if call.ids[0] == platform_account_id(call.scope):
        return _own_body(call)
    return render(call.world, own_account(call, call.ids[0]))


async def read_own_account(call: ApiCall) -> Json:
    """GET /v1/account: the account of the key, or the connected one."""
    await call.work()
    if call.scope.connected is not None:
        return render(call.world, call.world.things[call.scope.connected])
    return _own_body(call)


def render(world: EmulatorState, account: Thing) -> Json:
    """Return the account as Stripe answers it, with its external accounts and what is still due."""
    data = [world.things[member].body for member in account.members]
    body = {
        **account.body,
        "external_accounts": {
            "object": "list",
            "data": data,
            "has_more": False,
            "total_count": len(data),
            "url": f"/v1/accounts/{account.id}/external_accounts",
        },
        "requirements": _requirements(world, account),
    }
    if individual := account.private.get("individual"):
        body["individual"] = identity.person_body(
            account.private["individual_id"], account.id, account.body["created"], individual
        )
    return body


def _check(call: ApiCall) -> None:
    """Refuse values that no account can have. External accounts are checked where they are read."""
    sent = {name: value for name, value in call.form.items() if name not in ("external_account", "bank_account")}
    values.check(sent, "", call.world.clock())
    values.check_terms(call.form.get("tos_acceptance"))


def _claimed_account(call: ApiCall, account: Thing | None) -> tuple[Token | None, Json]:
    """Return the account token, if there is one, and the legal entity that it or the form describes."""
    sent = [name for name in _LEGAL_ENTITY if call.form.get(name) is not None]
    token_id = call.form.get("account_token")
    if token_id:
        if sent:
            raise invalid(
                f"You cannot provide {sent[0]} together with an account token.",
                code="parameters_exclusive",
                param=sent[0],
            )
        token = call.claim(token_id, "account", param="account_token")
        return token, token.payload
    if account is not None and account.private.get("by_token"):
        plain = [name for name in sent if not (name == "individual" and _only_pii(call.form["individual"]))]
        if plain:
            raise invalid(
                "This account was created with an account token and can only be changed with one.", param=plain[0]
            )
    fields: Json = {name: call.form[name] for name in ("business_type", "tos_acceptance") if name in call.form}
    if call.form.get("company"):
        fields["company"] = identity.kept(call.form["company"])
    return None, fields


def _only_pii(individual: Json) -> bool:
    return all(
        name in ("id_number", "id_number_secondary") and str(value).startswith("pii_")
        for name, value in individual.items()
    )


def _individual(call: ApiCall) -> Json:
    individual = call.form.get("individual")
    return person_fields(call, individual, "individual") if individual else {}


def _incoming(call: ApiCall, account: Thing | None) -> tuple[Incoming | None, str]:
    param = "bank_account" if "bank_account" in call.form else "external_account"
    return incoming(call, account.id if account else None, param), param


def _change(
    call: ApiCall, account: Thing, token: Token | None, fields: Json, individual: Json, new: Incoming | None
) -> None:
    body, private = account.body, account.private
    for name in ("business_type", "email", "default_currency"):
        body[name] = fields.get(name) or call.form.get(name) or body[name]
    if company := fields.get("company"):
        before = (body.get("company") or {}).get("structure")
        if before and company.get("structure", before) != before:
            ask_for_terms(account)
        body["company"] = identity.merged(body.get("company") or {}, company)
    individual = identity.merged(fields.get("individual") or {}, individual)
    if individual:
        private.setdefault("individual_id", new_id("person"))
        private["individual"] = identity.merged(private.get("individual") or {}, individual)
    if fields.get("tos_shown_and_accepted"):
        body["tos_acceptance"] = {"date": call.world.now(), "ip": call.client_ip, "user_agent": None}
    elif fields.get("tos_acceptance"):
        body["tos_acceptance"] = {**body["tos_acceptance"], **fields["tos_acceptance"]}
    for name in ("business_profile", "settings"):
        body[name] = identity.merged(body[name], call.form.get(name) or {})
    body["metadata"].update(metadata_of(call.form))
    if new is not None:
        saved = replace_default(call, account, new)
        body["default_currency"] = body["default_currency"] or saved.body["currency"]
    for held in call.held:
        call.spend(held, account.id)
    body["details_submitted"] = not _requirements(call.world, account)["currently_due"]
    body["payouts_enabled"] = body["charges_enabled"] = body["details_submitted"]
    if body["details_submitted"]:
        body["capabilities"] = dict.fromkeys(body["capabilities"], "active")


def _requirements(world: EmulatorState, account: Thing) -> Json:
    body, individual = account.body, account.private.get("individual") or {}
    persons = [world.things[person].body for person in account.private["persons"]]
    due = [] if body["business_type"] else ["business_type"]
    due += [] if account.members else ["external_account"]
    due += [] if body["tos_acceptance"]["date"] else ["tos_acceptance.date", "tos_acceptance.ip"]
    if body["business_type"] == "individual":
        for name, key in (("first_name",) * 2, ("last_name",) * 2, ("id_number", "id_number_provided")):
            due += [] if individual.get(key) else [f"individual.{name}"]
        due += [
            f"individual.dob.{name}" for name in ("day", "month", "year") if not (individual.get("dob") or {}).get(name)
        ]
    elif body["business_type"]:
        company = body.get("company") or {}
        due += [] if company.get("name") else ["company.name"]
        due += [] if company.get("tax_id_provided") else ["company.tax_id"]
        due += [] if company.get("owners_provided") else ["company.owners_provided"]
        if not any(person["relationship"]["representative"] for person in persons):
            due += ["representative.first_name", "representative.last_name"]
        due += [f"{person['id']}.{name}" for person in persons for name in person["requirements"]["currently_due"]]
    failed = (individual.get("verification") or {}).get("status") == "unverified"
    errors = [
        {
            "code": "verification_failed_keyed_match",
            "reason": "The provided identity information could not be verified.",
            "requirement": "individual.id_number",
        }
    ]
    return {
        "alternatives": [],
        "current_deadline": None,
        "currently_due": sorted(due),
        "disabled_reason": "requirements.past_due" if due else None,
        "errors": errors if failed else [],
        "eventually_due": sorted(due),
        "past_due": [],
        "pending_verification": [],
    }


def _own_body(call: ApiCall) -> Json:
    return {
        "id": platform_account_id(call.scope),
        "object": "account",
        "business_type": None,
        "charges_enabled": True,
        "country": "US",
        "default_currency": "usd",
        "details_submitted": True,
        "email": None,
        "payouts_enabled": True,
        "type": "standard",
    }
