"""Who is calling: keys, their modes, and the account a key belongs to.

The part of a key after its mode prefix names the account, so `sk_test_alpha`, `rk_test_alpha` and `pk_test_alpha` are
keys of one account. A key with "invalid" or "expired" in it is refused as such.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from tokenferry_emulator.errors import Refusal, invalid

_KEY = re.compile(r"(?P<kind>sk|pk|rk|rkcs)_(?P<mode>test|live)_(?P<account>[A-Za-z0-9_]{1,200})\Z")
_REALM = ((b"www-authenticate", b'Bearer realm="Stripe"'),)


class KeyScope(NamedTuple):
    """The account and mode that an object belongs to. Other scopes cannot see it."""

    account: str
    live: bool
    connected: str | None = None

    @property
    def platform(self) -> KeyScope:
        return self._replace(connected=None)


@dataclass(frozen=True, slots=True)
class Principal:
    """The owner of a key, who makes a call."""

    scope: KeyScope
    publishable: bool
    masked: str
    raw_cards: bool
    v1_accounts: bool


def authenticate(header: str | None, accepted: frozenset[str], rejected: Collection[str] = ()) -> Principal:
    """Return the caller behind an Authorization header. An empty *accepted* means every well-formed key."""
    key = _key(header)
    if not key:
        raise _refused(
            "You did not provide an API key. You need to provide your API key in the Authorization header, using "
            "Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See https://stripe.com/docs/api"
            "#authentication for details, or we can help at https://support.stripe.com/."
        )
    masked = f"{key[:8]}{'*' * 12}{key[-4:]}" if len(key) > 12 else "*" * len(key)
    if "expired" in key:
        raise _refused(f"Expired API Key provided: {masked}", code="api_key_expired")
    parts = _KEY.match(key)
    if parts is None or "invalid" in key or (accepted and key not in accepted) or key in rejected:
        raise _refused(f"Invalid API Key provided: {masked}")
    return Principal(
        scope=KeyScope(parts["account"], parts["mode"] == "live"),
        publishable=parts["kind"] == "pk",
        masked=masked,
        raw_cards="noraw" not in key and "raw_cards" not in rejected,
        v1_accounts="nov1" not in key and "v1_accounts" not in rejected,
    )


def only_secret_keys() -> Refusal:
    return _refused(
        "This API call cannot be made with a publishable API key. Please use a secret API key. You can find a list of "
        "your API keys at https://dashboard.stripe.com/account/apikeys.",
        code="secret_key_required",
    )


def only_publishable_keys(kind: str) -> Refusal:
    """Status and text of this refusal are an assumption: no public source shows the real ones."""
    return invalid(f"In live mode, {kind} tokens can only be created with your publishable API key.", status=403)


def v1_accounts_refused() -> Refusal:
    """What a new platform is told. Its status and words are an assumption: public sources quote only the path."""
    return invalid(
        "Your platform cannot create accounts with POST /v1/accounts. Create them with the Accounts v2 API, POST "
        "/v2/core/accounts. See https://docs.stripe.com/connect/accounts-v2."
    )


def no_access(caller: Principal, account: str) -> Refusal:
    message = (
        f"The provided key '{caller.masked}' does not have access to account '{account}' (or that account does not "
        "exist). Application access may have been revoked."
    )
    return invalid(message, status=403, code="account_invalid")


def _refused(message: str, code: str | None = None) -> Refusal:
    return invalid(message, status=401, code=code, headers=_REALM)


def _key(header: str | None) -> str | None:
    scheme, _, credentials = (header or "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credentials, validate=True).decode("ascii").partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None
