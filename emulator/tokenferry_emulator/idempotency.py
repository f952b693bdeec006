"""Idempotency keys: what was answered is answered again, byte for byte.

Kept: status and body of the first request once its endpoint began executing, a 500 included. Not kept: parameter
errors, conflicts (409), rate limits and lock time-outs (429), and whatever fails authentication. Of the parameters
only a keyed hash is kept. A key is pruned 24 hours after its first use.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass

from tokenferry_emulator.authentication import KeyScope
from tokenferry_emulator.errors import idempotency, invalid
from tokenferry_emulator.form import Pairs

KEPT_SECONDS = 24 * 3600.0
LONGEST_KEY = 255


@dataclass(slots=True)
class StoredAnswer:
    """What the first request was answered; *status* 0 while it is still being answered."""

    path: str
    parameters: bytes
    first_request: str
    begun: float
    status: int = 0
    body: bytes = b""


class Idempotency:
    """Answers by scope and key. *clock* gives seconds."""

    def __init__(self, clock: Callable[[], float], secret: bytes) -> None:
        self._clock = clock
        self._secret = secret
        self._answers: dict[tuple[KeyScope, str], StoredAnswer] = {}

    def begin(self, scope: KeyScope, key: str, path: str, pairs: Pairs, request_id: str) -> StoredAnswer:
        """Return the stored answer to replay, or a new one with status 0, to complete or to forget."""
        if len(key) > LONGEST_KEY:
            raise invalid(f"Idempotency-Key cannot be longer than {LONGEST_KEY} characters.")
        now = self._clock()
        parameters = self._hash(pairs)
        known = self._answers.get((scope, key))
        if known is not None and now - known.begun >= KEPT_SECONDS:
            known = None
        if known is None:
            answer = StoredAnswer(path, parameters, request_id, now)
            self._answers[scope, key] = answer
            return answer
        if known.path != path:
            raise idempotency(
                "Keys for idempotent requests can only be used for the same endpoint they were first used for "
                f"('{path}' vs '{known.path}'). Try using a key other than '{key}' if you meant to execute a different "
                "request."
            )
        if known.parameters != parameters:
            raise idempotency(
                "Keys for idempotent requests can only be used with the same parameters they were first used with. Try "
                f"using a key other than '{key}' if you meant to execute a different request."
            )
        if not known.status:
            raise idempotency(
                "There is currently another in-progress request using this Idempotent Key (that probably means you "
                f"submitted twice, and the other request is still going through): {key}. Please try again later.",
                status=409,
                code="idempotency_key_in_use",
            )
        return known

    def forget(self, scope: KeyScope, key: str) -> None:
        """Free the key of a request that was not executed."""
        self._answers.pop((scope, key), None)

    def _hash(self, pairs: Pairs) -> bytes:
        text = "\0".join(f"{name}\1{value}" for name, value in sorted(pairs))
        return hmac.digest(self._secret, text.encode(), hashlib.sha256)
