"""Calls of Stripe: which key, which headers, and what each answer means."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import quote

from tokenferry.configuration import InvalidConfiguration, Platform
from tokenferry.contract.codes import Code
from tokenferry.contract.operations import operation_of
from tokenferry.contract.requests import Kind
from tokenferry_worker.errors import Blocked, Declined, TokenferryError, Unavailable
from tokenferry_worker.metrics.names import CALLS, IN_FLIGHT, status_class
from tokenferry_worker.metrics.registry import Meters, NoMeters
from tokenferry_worker.provider.answers import Answer, Greeting, read
from tokenferry_worker.provider.exchange import Exchange, Exchanged, NoAnswer, NotTrusted

STRIPE_VERSION: Final = "2026-10-28.endive"
"""Pinned, so that an account's default version cannot change what is sent and answered."""

HEADERS: Final = {
    "Stripe-Version": STRIPE_VERSION,
    "User-Agent": "tokenferry/0.1 (+asynchronous tokenization)",
    "Accept": "application/json",
    "Content-Type": "application/x-www-form-urlencoded",
}

PUBLISHABLE_IN_LIVE: Final[frozenset[Kind]] = frozenset({"account", "person"})
"""Kinds whose tokens a live secret key cannot make (API reference, tokens: account and person)."""

COLLECTION: Final = 2
"""Slashes in a path that names no object: `/v1/tokens`."""

KeyUse = Literal["secret", "publishable"]


@dataclass(frozen=True)
class ApiKeys:
    """The keys of one platform. Prints nothing."""

    secret: str = field(repr=False)
    publishable: str | None = field(repr=False)

    def check(self, name: str, platform: Platform) -> None:
        """Refuse keys of the wrong kind or mode. The configuration makes sure that they do not travel in clear.

        Raises `InvalidConfiguration`, which never quotes a key.
        """
        where = f"[platforms.{name}]"
        for use, key, prefixes in (
            ("secret_key", self.secret, ("sk", "rk")),
            ("publishable_key", self.publishable, ("pk",)),
        ):
            if key is None:
                continue
            shown = re.sub("^rk[a-z]+_", "rk_", key)  # rkcs_: a restricted key of a claimable sandbox
            if (
                not any(shown.startswith(f"{prefix}_") for prefix in prefixes)
                or not key.isascii()
                or not key.isprintable()
            ):
                other = "publishable" if use == "secret_key" and key.startswith("pk_") else "secret"
                hint = (
                    f"it looks like a {other} key" if shown[:3] in ("pk_", "sk_", "rk_") else "it is not a key at all"
                )
                raise InvalidConfiguration(
                    f"{where} {use} must begin with {' or '.join(p + '_' for p in prefixes)}: {hint}"
                )
            if not any(shown.startswith(f"{prefix}_{platform.mode}_") for prefix in prefixes):
                raise InvalidConfiguration(f'{where} {use} is not a {platform.mode} key, but mode = "{platform.mode}"')


class StripeClient:
    """Calls of one platform. One per process and platform; close it at the end."""

    def __init__(
        self, platform: Platform, keys: ApiKeys, exchange: Exchange, *, name: str = "", meters: Meters | None = None
    ) -> None:
        """*name*: of the platform, for *meters*."""
        self._platform = platform
        self._name = name
        self._meters = meters or NoMeters()
        self._keys = keys
        self._exchange = exchange

    async def create_token(
        self, kind: Kind, form: str, *, idempotency_key: str, connected_account: str | None = None
    ) -> Answer:
        """`POST /v1/tokens` with the already encoded *form*.

        Raises `Declined`, `Blocked`, `Unavailable`. A 200 that is not a token of this kind is `Unavailable`.
        """
        use: KeyUse = "publishable" if self._platform.live and kind in PUBLISHABLE_IN_LIVE else "secret"
        answer = await self._post("/v1/tokens", form, use, idempotency_key, connected_account)
        if answer.object != "token" or answer.text("type") != kind:
            raise Unavailable("the answer is not a token of the kind asked for", 200, answer.request_id)
        return answer

    async def post(self, path: str, form: str, *, idempotency_key: str, connected_account: str | None = None) -> Answer:
        """POST with the secret key. Raises as `create_token`."""
        return await self._post(path, form, "secret", idempotency_key, connected_account)

    async def get(self, path: str, *, connected_account: str | None = None) -> Answer:
        """GET an object with the secret key. Raises as `create_token`. It never changes anything."""
        headers = self._headers("secret", None, connected_account)
        answered = await self._send("GET", path, headers, b"")
        return read(answered.status, answered.headers, answered.body)

    async def key_is_accepted(self) -> bool:
        """Return whether Stripe accepts the secret key.

        Raises `Unavailable` when Stripe could not be reached, and `Blocked` where something else answers: base_url is
        wrong, or a proxy answers instead.
        """
        refusal = (await self.greet()).refusal
        if isinstance(refusal, Unavailable) and not refusal.answered:
            raise refusal
        if not isinstance(refusal, Blocked):
            return True
        if refusal.code == Code.NOT_THE_ENDPOINT or refusal.status not in (401, 403):
            raise refusal
        return False

    async def greet(self) -> Greeting:
        """Ask with the secret key for a token that does not exist, and expect a 404 that says so.

        Any other 404 is `Blocked`: something else than Stripe answers. Raises `Unavailable` without an answer.
        """
        headers = self._headers("secret", None, None)
        began = time.perf_counter()
        try:
            answered = await self._send("GET", "/v1/tokens/tok_preflight", headers, b"")
        except Blocked as error:
            return Greeting(0, error, None, time.perf_counter() - began)
        seconds = time.perf_counter() - began
        refusal: TokenferryError | None = None
        try:
            # As if the path named no object: only "no such token" is a good answer.
            read(answered.status, answered.headers, answered.body, names_object=False)
        except TokenferryError as error:
            refusal = error
        return Greeting(answered.status, refusal, answered.headers.get("date"), seconds)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._exchange.aclose()

    async def _post(
        self, path: str, form: str, use: KeyUse, idempotency_key: str, connected_account: str | None
    ) -> Answer:
        headers = self._headers(use, idempotency_key, connected_account)
        answered = await self._send("POST", path, headers, form.encode("ascii"))
        return read(answered.status, answered.headers, answered.body, names_object=path.count("/") > COLLECTION)

    async def _send(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Exchanged:
        """Exchange one request. Raises `Unavailable`, and `Blocked` where a certificate does not verify."""
        try:
            with self._measured(method, path) as answer:
                answered = await self._exchange.send(method, path, headers, body)
                answer.append(answered.status)
        except NotTrusted:
            raise Blocked(0, Code.CERTIFICATE_NOT_TRUSTED, ours=True) from None
        except NoAnswer as error:
            # A GET changes nothing, whether it was done or not.
            raise Unavailable(error.reason, maybe_done=error.maybe_done and method != "GET") from None
        return answered

    @contextmanager
    def _measured(self, method: str, path: str) -> Iterator[list[int]]:
        """Count the call that the block makes. The block puts the status into the list, if there is one."""
        answer: list[int] = []
        began = time.perf_counter()
        self._meters.count(IN_FLIGHT, self._name)
        try:
            yield answer
        finally:
            self._meters.count(IN_FLIGHT, self._name, by=-1)
            how = status_class(answer[0] if answer else None)
            self._meters.observe(CALLS, time.perf_counter() - began, self._name, operation_of(method, path), how)

    def _headers(self, use: KeyUse, idempotency_key: str | None, connected_account: str | None) -> Mapping[str, str]:
        key = self._keys.secret if use == "secret" else self._keys.publishable
        if key is None:
            raise Declined(0, Code.PUBLISHABLE_KEY_MISSING, ours=True)
        headers = {**HEADERS, "Authorization": f"Bearer {key}"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        if connected_account is not None:
            headers["Stripe-Account"] = quote(connected_account, safe="_")
        return headers
