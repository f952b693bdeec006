"""Decides what may be kept of a message that becomes a dead letter or goes to quarantine.

PCI DSS 3.3.1 forbids keeping a card verification code, sealed or not. So this lists what is kept: a message whose
header shows that it carries no code, and a text of another shape only where nothing hints at a code. Of everything else
only the reason, the length and a hash are kept.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any, Final

from pydantic import ValidationError

from tokenferry.contract import attach, envelope2
from tokenferry.contract.attach import SignedAttach
from tokenferry.contract.envelope import MAX_ENVELOPE_BYTES, Envelope, Header
from tokenferry.contract.envelope2 import Envelope2
from tokenferry.contract.queues import MAX_MESSAGE_BYTES
from tokenferry_worker.dead_letters.record import FOREIGN, Shape, argument, json_object, shape_of

HEAD: Final = 1024
"""Characters that are kept of a text longer than any work message: the queue itself has a limit."""
MARKS: Final = ("realtime", "cvc_update", f"{envelope2.PREFIX}.", f"{attach.PREFIX}.")
"""Texts of which one occurs in every message with a verification code. Of version 2 nothing else is in clear."""


def retained(body: str | bytes, reason: str, *, at: float, realtime: bool = True, **more: object) -> str:
    """Return the record for the queue: what may be kept of *body*, the reason, the time and *more* details.

    *at*: Unix seconds on the store's clock. By another clock the record would expire too early, or never. *realtime*:
    whether the message may have come by the realtime lane.
    """
    text = body.decode("utf-8", "backslashreplace") if isinstance(body, bytes) else body
    record: dict[str, object] = {"reason": reason, "at": int(at * 1000), **more}
    kept = _kept(text, realtime)
    if kept is not None and len(kept) <= MAX_ENVELOPE_BYTES:
        whole = json.dumps({**record, "message": kept})
        # A longer record could not be read back: JSON writes a character outside ASCII in six bytes.
        if len(whole) <= MAX_MESSAGE_BYTES:
            return whole
    raw = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
    record |= {"bytes": len(raw), "sha256": sha256(raw).hexdigest()}
    if kept is None:
        try:
            record["header"] = _header_of(text)
        except ValidationError:
            pass  # no header of a request either: nothing of the message may be kept
    return json.dumps({**record, "message": (kept or "")[:HEAD]})


def redated(body: str, *, at: float) -> str:
    """Return the record *body* with the time *at* (Unix seconds), or a new record where *body* is none."""
    record = json_object(body)
    if isinstance(record.get("message"), str):
        return json.dumps({**record, "at": int(at * 1000)})
    return retained(body, FOREIGN, at=at)


def _kept(text: str, realtime: bool) -> str | None:
    message = argument(text)
    read = shape_of(message)
    if read is not None:
        return message if _carries_no_cvc(read) and (_is_version_2(message) or _is_unambiguous(message)) else None
    if any(mark in text.lower() for mark in MARKS):
        return None
    return text if not realtime or _loose_header(text).get("lane") == "bulk" else None


def _carries_no_cvc(read: Shape) -> bool:
    if not isinstance(read, SignedAttach):
        return not read.header.may_carry_cvc
    sealed = read.request.sealed  # its model refuses an envelope that may carry one
    return sealed is None or isinstance(shape_of(sealed), Envelope | Envelope2)


def _header_of(text: str) -> dict[str, Any]:
    """Return what the clear header says of a message that is not kept. Raises `ValidationError` where it has none."""
    read = shape_of(argument(text))
    if isinstance(read, Envelope2):
        return read.header.model_dump(mode="json")
    return Header.model_validate(_loose_header(text)).model_dump()


def _is_version_2(message: str) -> bool:
    """True if *message*, which was read, is of version 2: there each value has one spelling."""
    return message.startswith((f"{envelope2.PREFIX}.", f"{attach.PREFIX}."))


def _is_unambiguous(message: str) -> bool:
    """True if no name occurs twice in an object: of two headers a parser shows only one."""

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
