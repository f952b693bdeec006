"""Reading an answer of the endpoint: tolerant of what it adds, strict about what we rely on. Pure.

Bodies change under a pinned version (keys appear without notice), error codes may be absent, and an edge in front
of the endpoint answers HTML. So: take the few fields we need where they have the type we need, ignore the rest,
and never let a body or a message text into an exception.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tokenferry.contract.codes import Code
from tokenferry_worker.errors import Blocked, Declined, TokenferryError, Unavailable
from tokenferry_worker.provider.retries import Reaction, reaction

RAW_CARD_REFUSAL = "Sending credit card numbers directly to the Stripe API is generally unsafe"
"""What all three known texts of the raw-card refusal begin with; there is no code to go by."""


_ID = re.compile(r"(?=.{1,255}$)[0-9]*[A-Za-z_][A-Za-z0-9_]*")
"""An id we can use in a path and in a result. Anything else is no answer of the endpoint."""


UNKNOWN_PATH: Final = "Unrecognized request URL"
"""What the endpoint's 404 of a path that it does not have begins with; there is no code (recorded 2021)."""
NO_SUCH: Final = "No such "
"""What its 404 of an object begins with where it names neither code nor parameter."""
V2_ACCOUNTS: Final = "/v2/core/accounts"
"""Stands in the message for a new platform that may not make v1 accounts. Its code, if there is one, is not known."""
NOT_A_PAGE: Final = frozenset({408, 429})
"""Refusals that pass by themselves: HTML with one of them is no wrong address."""


@dataclass(frozen=True)
class Answer:
    """A 200 with an object. Its `repr` shows the id only."""

    object: str
    id: str
    body: Mapping[str, Any] = field(repr=False)
    request_id: str | None = None
    replayed: bool = False
    """Whether the endpoint repeated the stored answer of an earlier call with the same key."""

    def text(self, *path: str) -> str | None:
        """The string at *path*, or None where it is missing, something else, or no word a result could carry."""
        value: Any = self.body
        for step in path:
            value = value.get(step) if isinstance(value, Mapping) else None
        return value if isinstance(value, str) and len(value) <= 200 and value.isprintable() else None

    def number(self, *path: str) -> int | None:
        """The integer at *path*, or None."""
        value: Any = self.body
        for step in path:
            value = value.get(step) if isinstance(value, Mapping) else None
        return value if isinstance(value, int) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class Greeting:
    """How the endpoint answered a question that costs nothing."""

    status: int
    refusal: TokenferryError | None
    """What its answer means; None for a 200."""
    date: str | None
    """Its clock, as HTTP tells it."""
    seconds: float
    """How long the answer took."""


def read(status: int, headers: Mapping[str, str], body: bytes, *, names_object: bool = True) -> Answer:
    """The object in an answer. *headers* are looked up in lower case.

    *names_object*: whether the path of the call holds the id of an object, which may not be there. The endpoint has
    every other path, so a 404 for one means that base_url is wrong.

    Raises `Declined`, `Blocked` or `Unavailable`, by the table in `retries`.
    """
    request_id = (headers.get("request-id") or "")[:200] or None
    content = _json(body)
    if _is_page(status, headers, body):
        raise Blocked(status, Code.NOT_THE_ENDPOINT, request_id=request_id, ours=True, maybe_done=status != 404)
    if 200 <= status < 300:
        kind, id_ = content.get("object"), content.get("id")
        if not (isinstance(kind, str) and isinstance(id_, str) and _ID.fullmatch(id_)):
            raise Unavailable("the answer is not an object", status, request_id)
        return Answer(kind, id_, content, request_id, headers.get("idempotent-replayed") == "true")
    error, limit = content.get("error"), headers.get("stripe-rate-limited-reason")
    if not isinstance(error, dict):
        if status in (401, 403):
            raise Blocked(status, Code.UNAUTHORIZED, request_id=request_id, ours=True)
        if 300 <= status < 400:
            raise Blocked(status, Code.REFUSED, request_id=request_id, ours=True)
        if status == 404 and not names_object:
            raise Blocked(status, Code.NOT_THE_ENDPOINT, request_id=request_id, ours=True)
        # HTML of a proxy, half a body: not the endpoint's word, whatever the status says.
        limited = _rate_limited(reaction(status, None, None, limited=bool(limit)), limit)
        raise Unavailable(
            "the answer is not the endpoint's",
            status,
            request_id,
            rate_limited=limited,
            maybe_done=status != 429,
            answered=limited is not None,
        )
    if status == 404 and _is_unknown_path(error, names_object):
        raise Blocked(status, Code.NOT_THE_ENDPOINT, request_id=request_id, ours=True)
    error_type, code = _word(error, "type"), _word(error, "code")
    if status in (400, 403, 404) and code is None and V2_ACCOUNTS in str(error.get("message")):
        raise Declined(status, Code.V1_ACCOUNTS_REFUSED, error_type, request_id=request_id, ours=True)
    # The endpoint's own word goes before the table, as in its SDKs: true repeats a refusal, false ends a series.
    again = headers.get("stripe-should-retry")
    decided = reaction(status, error_type, code, limited=bool(limit))
    match Reaction.SAME_KEY if decided is Reaction.REJECT and again == "true" else decided:
        case Reaction.REJECT:
            raise Declined(
                status,
                code or ("idempotency_error" if error_type == "idempotency_error" else Code.REFUSED),
                error_type,
                _word(error, "param") or None,
                _word(error, "decline_code"),
                request_id,
                ours=code is None,
            )
        case Reaction.BLOCK:
            message = error.get("message")
            raw = isinstance(message, str) and message.startswith(RAW_CARD_REFUSAL)
            ours = Code.RAW_CARD_DATA_REFUSED if raw or status == 402 else Code.UNAUTHORIZED
            raise Blocked(status, code or ours, error_type, request_id=request_id, ours=code is None)
        case again_later:
            replayed = status >= 500 and headers.get("idempotent-replayed") == "true"
            raise Unavailable(
                code or error_type or "error",
                status,
                request_id,
                # 409: the first call with this key is still under way, and may succeed.
                maybe_done=status not in (400, 429),
                rate_limited=_rate_limited(again_later, limit),
                retry_after=_seconds(headers.get("retry-after")),
                final=again == "false" or replayed,
                answered=status < 500,
                replayed=replayed,
            )


def _rate_limited(decided: Reaction, limit: str | None) -> str | None:
    """The limit that the whole fleet must slow down for. None where the answer is no rate limit.

    *limit*: the endpoint's own word for it. Where it has none, the account's whole rate is meant.
    """
    return (limit or "global-rate") if decided is Reaction.PACE else None


def _is_page(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether this is a page for people, from a proxy or another site. The endpoint says everything in JSON.

    With a 5xx it is the endpoint's own edge that cannot reach it, and a redirect says enough by itself.
    """
    if not (200 <= status < 300 or 400 <= status < 500) or status in NOT_A_PAGE:
        return False
    return headers.get("content-type", "").lower().startswith("text/html") or body.lstrip()[:1] == b"<"


def _is_unknown_path(error: Mapping[str, Any], names_object: bool) -> bool:
    """Whether a 404 is about the path of the call, and not about an object in its path or form."""
    message = error.get("message")
    message = message if isinstance(message, str) else ""
    if message.startswith(UNKNOWN_PATH):
        return True
    about_object = _word(error, "code") or _word(error, "param") or message.startswith(NO_SUCH)
    return not names_object and not about_object


def _json(body: bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _word(error: Mapping[str, Any], name: str) -> str | None:
    value = error.get(name)
    return value[:200] if isinstance(value, str) else None


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text) if text else math.nan
    except ValueError:
        return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), 300.0)
