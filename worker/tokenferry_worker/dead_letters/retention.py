"""What may be kept of a message that is set aside.

PCI DSS 3.3.1 forbids keeping a card verification code, sealed or not. So this lists what is kept, not what is not: a
message whose header shows that it carries none, and a text of another shape only where nothing points at one. Of
everything else there remain the reason, the length and a hash.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any, Final

from pydantic import ValidationError

from tokenferry.contract.attach import SignedAttach
from tokenferry.contract.envelope import MAX_ENVELOPE_BYTES, Envelope, Header
from tokenferry.contract.onboarding import OnboardingEnvelope
from tokenferry.contract.queues import MAX_MESSAGE_BYTES
from tokenferry_worker.dead_letters.record import FOREIGN, argument, json_object, shape_of

HEAD: Final = 1024
"""Characters that are kept of what is longer than any message of ours: the queue itself has a limit."""
MARKS: Final = ("realtime", "cvc_update")
"""Words that only a message with a verification code needs."""


def retained(body: str | bytes, reason: str, *, at: float, realtime: bool = True, **more: object) -> str:
    """What is kept of *body*, with the reason, the time and what *more* is known, as it rests in its queue.

    *at*: Unix seconds on the store's clock: by another one it would end too early, or never. *realtime*: whether it may
    have come by the realtime lane.
    """
    text = body.decode("utf-8", "backslashreplace") if isinstance(body, bytes) else body
    said: dict[str, object] = {"reason": reason, "at": int(at * 1000), **more}
    kept = _kept(text, realtime)
    if kept is not None and len(kept) <= MAX_ENVELOPE_BYTES:
        whole = json.dumps({**said, "message": kept})
        if len(whole) <= MAX_MESSAGE_BYTES:  # else nobody could read it: a letter that is not ASCII takes six bytes
            return whole
    raw = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
    said |= {"bytes": len(raw), "sha256": sha256(raw).hexdigest()}
    if kept is None:
        try:
            said["header"] = Header.model_validate(_loose_header(text)).model_dump()
        except ValidationError:
            pass  # not even a header of ours: that it was there is all that may be said
    return json.dumps({**said, "message": (kept or "")[:HEAD]})


def redated(body: str, *, at: float) -> str:
    """The note in *body* with another time (Unix seconds) and nothing else changed; a first note where it is none."""
    said = json_object(body)
    if isinstance(said.get("message"), str):
        return json.dumps({**said, "at": int(at * 1000)})
    return retained(body, FOREIGN, at=at)


def _kept(text: str, realtime: bool) -> str | None:
    message = argument(text)
    read = shape_of(message)
    if read is not None:
        return message if _carries_no_cvc(read) and _is_unambiguous(message) else None
    if any(mark in text.lower() for mark in MARKS):
        return None
    return text if not realtime or _loose_header(text).get("lane") == "bulk" else None


def _carries_no_cvc(read: Envelope | SignedAttach | OnboardingEnvelope) -> bool:
    if not isinstance(read, SignedAttach):
        return not read.header.may_carry_cvc
    sealed = read.request.sealed  # its model refuses an envelope that may; of what is none nobody knows
    return sealed is None or isinstance(shape_of(sealed), Envelope)


def _is_unambiguous(message: str) -> bool:
    """Whether no name is given twice: of two headers a parser shows one."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = dict(pairs)
        if len(names) != len(pairs):
            raise ValueError
        return names

    try:
        json.loads(message, object_pairs_hook=once)
    except (ValueError, RecursionError):
        return False
    return True


def _loose_header(text: str) -> dict[str, Any]:
    header = json_object(argument(text)).get("header")
    return header if isinstance(header, dict) else {}
