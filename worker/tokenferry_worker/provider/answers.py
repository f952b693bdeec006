"""Reading an answer of Stripe: tolerant of what it adds, strict about what we rely on. Pure.

Bodies change under a pinned version (keys appear without notice), error codes may be absent, and a proxy before Stripe
answers HTML. So take the few fields we need, where they have the type we need, and ignore the rest. Never let a body or
a message text into an exception.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tokenferry.contract.codes import Code
from tokenferry.masking import masked
from tokenferry_worker.errors import Blocked, Declined, TokenferryError, Unavailable
from tokenferry_worker.provider.retries import Reaction, reaction

RAW_CARD_REFUSAL: Final = "Sending credit card numbers directly to the Stripe API is generally unsafe"
"""The beginning of all three known texts of the raw-card refusal, which has no code."""
UNKNOWN_PATH: Final = "Unrecognized request URL"
"""The beginning of the 404 for a path that Stripe does not have, which has no code (recorded 2021)."""
NO_SUCH: Final = "No such "
"""The beginning of the 404 for an object, where it names neither code nor parameter."""
V2_ACCOUNTS: Final = "/v2/core/accounts"
"""Stands in the message for a new platform that may not make v1 accounts. Its code, if there is one, is not known."""
UNREADABLE: Final = "unreadable"
"""Stands for a word that is none."""
NOT_A_PAGE: Final = frozenset({408, 429})
"""Refusals that pass by themselves: HTML with one of them does not mean a wrong address."""
_WORD: Final = re.compile(r"[a-z0-9_.\[\]-]{1,100}")
"""What codes and names of parameters are made of. Anything else may be a value that was sent, and is not repeated."""
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
_DIGITS: Final = re.compile(r"[0-9](?:[_.\[\]-]*[0-9]){6,}")
"""More digits than a code has: an account number may have seven."""
_ID: Final = re.compile(r"(?=.{1,255}$)[0-9]*[A-Za-z_][A-Za-z0-9_]*")
"""An id that can be used in a path and in a result. An answer with any other id is not Stripe's."""


@dataclass(frozen=True)
class Answer:
    """A 200 with an object. Its `repr` shows the id only."""

    object: str
    id: str
    body: Mapping[str, Any] = field(repr=False)
    request_id: str | None = None
    replayed: bool = False
    """True if Stripe repeated the stored answer of an earlier call with the same key."""

    def text(self, *path: str) -> str | None:
        """Return the string at *path*. None where it is missing, something else, or unfit for a result."""
        value: Any = self.body
        for step in path:
            value = value.get(step) if isinstance(value, Mapping) else None
        if not isinstance(value, str) or len(value) > 200 or not value.isprintable():
            return None
        return masked(value)

    def number(self, *path: str) -> int | None:
        """Return the integer at *path*, or None."""
        value: Any = self.body
        for step in path:
            value = value.get(step) if isinstance(value, Mapping) else None
        return value if isinstance(value, int) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class Greeting:
    """How Stripe answered a question that costs nothing."""

    status: int
    refusal: TokenferryError | None
    """What the answer means. None for a 200."""
    date: str | None
    """The `Date` header: its clock."""
    seconds: float
    """How long the answer took."""


def read(status: int, headers: Mapping[str, str], body: bytes, *, names_object: bool = True) -> Answer:
    """Return the object in an answer. The names of *headers* are in lower case.

    *names_object*: True if the path of the call holds the id of an object, which may not be there. Stripe has every
    other path, so a 404 for one means that base_url is wrong.

    Raises `Declined`, `Blocked` or `Unavailable`, by the table in `retries`.
    """
    request_id = _request_id(headers.get("request-id"))
    content = _json(body)
    if _is_page(status, headers, body):
        raise Blocked(status, Code.NOT_THE_ENDPOINT, request_id=request_id, ours=True, maybe_done=status != 404)
    if 200 <= status < 300:
        kind, id_ = content.get("object"), content.get("id")
        if not (isinstance(kind, str) and isinstance(id_, str) and _ID.fullmatch(id_)):
            raise Unavailable("the answer is not an object", status, request_id)
        return Answer(kind, id_, content, request_id, headers.get("idempotent-replayed") == "true")
    error = content.get("error")
    if not isinstance(error, dict):
        raise _without_error_object(status, headers, request_id, names_object)
    if status == 404 and _is_unknown_path(error, names_object):
        raise Blocked(status, Code.NOT_THE_ENDPOINT, request_id=request_id, ours=True)
    raise _refusal(status, headers, error, request_id)


def _without_error_object(
    status: int, headers: Mapping[str, str], request_id: str | None, names_object: bool
) -> Blocked | Unavailable:
    """What an answer means that is neither an object nor an error of Stripe."""
    if status in (401, 403):
        return Blocked(status, Code.UNAUTHORIZED, request_id=request_id, ours=True)
    if 300 <= status < 400:
        return Blocked(status, Code.REFUSED, request_id=request_id, ours=True)
    if status == 404 and not names_object:
        return Blocked(status, Code.NOT_THE_ENDPOINT, request_id=request_id, ours=True)
    # HTML of a proxy, half a body: this does not come from Stripe, whatever the status says.
    limit = headers.get("stripe-rate-limited-reason")
    limited = _rate_limited(reaction(status, None, None, limited=bool(limit)), limit)
    return Unavailable(
        "the answer is not Stripe's",
        status,
        request_id,
        rate_limited=limited,
        maybe_done=status != 429,
        answered=limited is not None,
    )


def _refusal(
    status: int, headers: Mapping[str, str], error: Mapping[str, Any], request_id: str | None
) -> Declined | Unavailable:
    """What an error of Stripe means. *error*: the error object in the body."""
    error_type, code, limit = _word(error, "type"), _word(error, "code"), headers.get("stripe-rate-limited-reason")
    if status in (400, 403, 404) and code is None and V2_ACCOUNTS in str(error.get("message")):
        return Declined(status, Code.V1_ACCOUNTS_REFUSED, error_type, request_id=request_id, ours=True)
    # This header goes before the table, as in Stripe's SDKs: true repeats a refusal, false ends a series.
    should_retry = headers.get("stripe-should-retry")
    decided = reaction(status, error_type, code, limited=bool(limit))
    match Reaction.SAME_KEY if decided is Reaction.REJECT and should_retry == "true" else decided:
        case Reaction.REJECT:
            unnamed = "idempotency_error" if error_type == "idempotency_error" else Code.REFUSED
            param, decline_code = _word(error, "param"), _word(error, "decline_code")
            return Declined(status, code or unnamed, error_type, param, decline_code, request_id, ours=code is None)
        case Reaction.BLOCK:
            raw = (_text(error, "message") or "").startswith(RAW_CARD_REFUSAL)
            unnamed = Code.RAW_CARD_DATA_REFUSED if raw or status == 402 else Code.UNAUTHORIZED
            return Blocked(status, code or unnamed, error_type, request_id=request_id, ours=code is None)
        case again:
            replayed = status >= 500 and headers.get("idempotent-replayed") == "true"
            return Unavailable(
                code or error_type or "error",
                status,
                request_id,
                # 409: the first call with this key is still under way, and may succeed.
                maybe_done=status not in (400, 429),
                rate_limited=_rate_limited(again, limit),
                retry_after=_seconds(headers.get("retry-after")),
                final=should_retry == "false" or replayed,
                answered=status < 500,
                replayed=replayed,
            )


def _rate_limited(decided: Reaction, limit: str | None) -> str | None:
    """Return the limit that the whole fleet must slow down for. None where the answer is no rate limit.

    *limit*: the reason in the header. Where there is none, the account's whole rate is meant.
    """
    return (limit or "global-rate") if decided is Reaction.PACE else None


def _is_page(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    """True for a page for people, from a proxy or another site. Stripe answers in JSON.

    With a 5xx, a page comes from Stripe's own edge. A redirect needs no such check: it is always refused.
    """
    if not (200 <= status < 300 or 400 <= status < 500) or status in NOT_A_PAGE:
        return False
    return headers.get("content-type", "").lower().startswith("text/html") or body.lstrip()[:1] == b"<"


def _is_unknown_path(error: Mapping[str, Any], names_object: bool) -> bool:
    """True if a 404 is about the path of the call, and not about an object in its path or form."""
    message = _text(error, "message") or ""
    if message.startswith(UNKNOWN_PATH):
        return True
    about_object = _text(error, "code") or _text(error, "param") or message.startswith(NO_SUCH)
    return not names_object and not about_object


def _json(body: bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _word(error: Mapping[str, Any], name: str) -> str | None:
    """Return a word of Stripe's, which is stored and shown: `unreadable` if it is none, and without long numbers."""
    value = error.get(name)
    if not isinstance(value, str) or not value:
        return None
    return _DIGITS.sub("...", value) if _WORD.fullmatch(value) else UNREADABLE


def _request_id(value: str | None) -> str | None:
    """Return the id that Stripe gave the call, without long numbers. `unreadable` if it has another form."""
    if not value:
        return None
    return re.sub("[0-9]{12,}", "...", value) if _REQUEST_ID.fullmatch(value) else UNREADABLE


def _text(error: Mapping[str, Any], name: str) -> str | None:
    value = error.get(name)
    return value[:200] if isinstance(value, str) else None


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text) if text else math.nan
    except ValueError:
        return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), 300.0)
