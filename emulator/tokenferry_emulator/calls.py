"""One authenticated call on its way through an endpoint: its parameters, and the tokens it holds meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from tokenferry_emulator import banks, cards
from tokenferry_emulator.authentication import KeyScope, Principal
from tokenferry_emulator.errors import Refusal, invalid, no_such
from tokenferry_emulator.ids import new_id
from tokenferry_emulator.world import EmulatorState, Json, Thing, Token

Handler = Callable[["ApiCall"], Awaitable[Json]]


@dataclass(slots=True)
class ApiCall:
    """One call, for its handler: it checks, awaits `work()` once, and only then changes anything."""

    world: EmulatorState
    caller: Principal
    scope: KeyScope
    path: str
    ids: tuple[str, ...]
    form: Json
    client_ip: str | None
    version: str
    idempotency_key: str | None
    seconds: float
    held: list[Token] = field(default_factory=list)
    executing: bool = False

    async def work(self) -> None:
        """Wait as long as Stripe takes. Claimed tokens are in use meanwhile."""
        if self.executing:
            return
        self.executing = True
        if self.seconds > 0:
            await self.world.sleep(self.seconds)

    def claim(
        self, token_id: str, *kinds: str, param: str, scopes: Collection[KeyScope] | None = None, what: str = ""
    ) -> Token:
        """Take a token for this call, or refuse: unknown here, spent, in use, or of another type."""
        token = self._magic(token_id) or self.world.tokens.get(token_id)
        if token is None or token.scope not in (scopes or (self.scope,)) or self._expired(token):
            raise self._no_such_token(token_id, token, param)
        if token.kind not in kinds:
            wanted = what or " or ".join(kind.replace("_", " ") for kind in kinds)
            raise invalid(f"The token you provided ({token_id}) is not a {wanted} token.", param=param)
        if token.spent:
            raise invalid(
                f"You cannot use a Stripe token more than once: {token_id}.",
                code="token_already_used",
                param=param,
                stored=True,
            )
        if token.holder not in (None, self):
            raise invalid(
                "There is currently another in-progress request using this Stripe token (that probably means you "
                f"clicked twice, and the other charge is still going through): {token_id}. This token can not be used "
                "again if that charge is successful.",
                code="token_in_use",
                param=param,
            )
        token.holder = self
        self.held.append(token)
        return token

    def spend(self, token: Token, object_id: str) -> None:
        """Mark the token as spent on the object."""
        if token.magic:
            self.world.ledger.magic_uses += 1
            return
        token.spent = True
        if self.world.settings.show_used:
            token.body["used"] = True
        self.world.ledger.used(token.id, object_id)

    def declined(self, token: Token | None, refusal: Refusal) -> Refusal:
        """Count a decline. A setting says whether it spends the token."""
        self.world.ledger.declined += 1
        if token is not None and not token.magic and self.world.settings.decline_consumes:
            token.spent = True
            self.world.ledger.spent.add(token.id)
        return refusal

    def release(self) -> None:
        """Free the tokens that the call held and did not spend."""
        for token in self.held:
            token.holder = None
        self.held.clear()

    def find(self, kind: str, thing_id: str, *, param: str, status: int = 404) -> Thing:
        return self.world.find(kind, thing_id, self.scope, param=param, status=status)

    def wants(self, name: str) -> bool:
        """Return whether the caller asked to expand *name*."""
        return name in (self.form.get("expand") or ())

    def listed(self, bodies: list[Json]) -> Json:
        """Return a page of a list, by `limit` and `starting_after`."""
        start = 0
        if after := self.form.get("starting_after"):
            start = next((at + 1 for at, body in enumerate(bodies) if body["id"] == after), len(bodies))
        rest = bodies[start:]
        page = rest[: max(1, min(100, self.form.get("limit") or 10))]
        return {"object": "list", "data": page, "has_more": len(rest) > len(page), "url": self.path}

    def _magic(self, token_id: str) -> Token | None:
        return magic_token(self.world, self.scope, token_id)

    def _expired(self, token: Token) -> bool:
        lifetime = self.world.settings.token_lifetime
        return lifetime is not None and not token.spent and self.world.clock() - token.body["created"] > lifetime

    def _no_such_token(self, token_id: str, token: Token | None, param: str) -> Refusal:
        if token is not None and token.scope._replace(live=self.scope.live) == self.scope:
            mine, theirs = ("live", "test") if self.scope.live else ("test", "live")
            message = (
                f"No such token: '{token_id}'; a similar object exists in {theirs} mode, but a {mine} mode key was "
                "used to make this request."
            )
            return invalid(message, code="resource_missing", param=param)
        return no_such("token", token_id, param=param, status=400)


def magic_token(world: EmulatorState, scope: KeyScope, name: str) -> Token | None:
    """Return a new token for a reusable test name like `tok_visa`; None for other names, and in live mode."""
    if scope.live:
        return None
    if name in cards.MAGIC:
        body, behaviour = cards.magic_card(name, world.secret, world.clock())
        return Token(name, "card", scope, token_body(world, scope, "card", body, None), behaviour, magic=True)
    if name in banks.MAGIC:
        body, behaviour = banks.magic_bank(name, world.secret)
        return Token(
            name, "bank_account", scope, token_body(world, scope, "bank_account", body, None), behaviour, magic=True
        )
    return None


PREFIXES = {
    "card": "tok",
    "bank_account": "btok",
    "pii": "pii",
    "account": "ct",
    "person": "cpt",
    "cvc_update": "cvctok",
}
"""Id prefixes by type. `btok` is what every recording shows; the provider's own pages print `tok`."""


def token_body(world: EmulatorState, scope: KeyScope, kind: str, inner: Json | None, client_ip: str | None) -> Json:
    """Return a token as Stripe answers it, with its keys in the recorded order."""
    body: Json = {"id": new_id(PREFIXES[kind]), "object": "token"}
    if inner is not None:
        body[kind] = inner
    body.update(client_ip=client_ip, created=world.now(), livemode=scope.live, type=kind, used=False)
    return body


def metadata_of(form: dict[str, Any]) -> dict[str, str]:
    return dict(form.get("metadata") or {})
