"""Decides what may be kept of a message that becomes a dead letter or goes to quarantine.

Nothing readable rests. PCI DSS 3.3.1 forbids keeping a card verification code, sealed or not; 3.5.1 forbids keeping a
card number in clear. So this lists what is kept: a message in a form of ours that is sealed, and whose header shows
that it carries no code. Of everything else there is the reason, the length, a hash with a key (3.5.1.1), the header
where it has one of ours, and the names in its JSON.
"""

from __future__ import annotations

import hmac
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from tokenferry.contract import attach, envelope2
from tokenferry.contract.attach import SignedAttach
from tokenferry.contract.clear_text import holds_card_number, holds_secret, is_secret_name, names_in, texts_in
from tokenferry.contract.envelope import MAX_ENVELOPE_BYTES, Header
from tokenferry.contract.envelope2 import Envelope2
from tokenferry.contract.queues import MAX_MESSAGE_BYTES
from tokenferry_worker.dead_letters.record import FOREIGN, Shape, argument, json_object, shape_of

MOST_NAMES: Final = 20
"""Names of JSON keys that a note shows."""
SHORTEST_SEALED: Final = 32 + 512 + 16
"""Bytes of the shortest ciphertext: the encapsulated key, the padded content, the tag (docs/formats.md)."""
MOST_PRINTABLE: Final = 0.6
"""Share of printable ASCII in a ciphertext at most. Of random bytes 37 % are; of text that somebody put there, all."""
_NAME: Final = re.compile(r"[A-Za-z_]{1,30}")


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one message."""

    record: str
    """The text for the queue."""
    sealed: bool
    """The whole message is in it."""
    clear: bool
    """The message held what looks like a card number or a verification code in clear. It is not in the record."""


def keep(body: str | bytes, reason: str, *, at: float, key: bytes | None = None, **more: object) -> Kept:
    """Return what may be kept of *body*, with the reason, the time and *more* details.

    *at*: Unix seconds on the store's clock. By another clock the record would expire too early, or never. *key*: of the
    hash of what is not kept; None: there is no hash.
    """
    text = body.decode("utf-8", "backslashreplace") if isinstance(body, bytes) else body
    record: dict[str, object] = {"reason": reason, "at": int(at * 1000), **more}
    message = argument(text)
    read = shape_of(message)
    if read is not None and len(message) <= MAX_ENVELOPE_BYTES and _may_be_kept(read, message):
        whole = json.dumps({**record, "message": message})
        # A longer record could not be read back: JSON writes a character outside ASCII in six bytes.
        if len(whole) <= MAX_MESSAGE_BYTES:
            return Kept(whole, sealed=True, clear=False)
    raw = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
    names = _names_of(text)
    clear = read is None and (holds_secret(text) or any(map(is_secret_name, names)))
    record |= {"bytes": len(raw), **_noted_of(text, raw, names, key)}
    if clear:
        record["clear"] = True
    return Kept(json.dumps({**record, "message": ""}), sealed=False, clear=clear)


def retained(body: str | bytes, reason: str, *, at: float, key: bytes | None = None, **more: object) -> str:
    """Return the record of `keep`."""
    return keep(body, reason, at=at, key=key, **more).record


def redated(body: str, *, at: float, key: bytes | None = None) -> str:
    """Return the record *body* with the time *at* (Unix seconds), or a new record where *body* is none.

    Anybody may have put it there, so what it holds is decided anew.
    """
    record = json_object(body)
    message, reason = record.get("message"), record.get("reason")
    if not isinstance(message, str) or not isinstance(reason, str):
        return retained(body, FOREIGN, at=at, key=key)
    if message == "" and not holds_card_number(body):
        return json.dumps({**record, "at": int(at * 1000)})
    read = shape_of(argument(message))
    outside = "".join(texts_in({name: value for name, value in record.items() if name != "message"}))
    if read is not None and _may_be_kept(read, argument(message)) and not holds_secret(outside):
        return json.dumps({**record, "at": int(at * 1000)})
    return retained(message, FOREIGN, at=at, key=key)


def _noted_of(text: str, raw: bytes, names: list[str], key: bytes | None) -> dict[str, object]:
    noted: dict[str, object] = {}
    if key is not None:
        noted["hmac"] = hmac.digest(key, raw, "sha256").hex()
    try:
        noted["header"] = _header_of(text)
    except ValidationError:  # no header of a request either
        if names:
            noted["names"] = names
    return noted


def _names_of(text: str) -> list[str]:
    """Return the names in the JSON of *text* that are words: they show who sent it, and hide no number."""
    try:
        value = json.loads(argument(text))
    except (ValueError, RecursionError):
        return []
    try:
        found = sorted({name for name in names_in(value) if _NAME.fullmatch(name)})
    except RecursionError:
        return []
    return found[:MOST_NAMES]


def _may_be_kept(read: Shape, message: str) -> bool:
    if isinstance(read, SignedAttach):
        return _is_silent(read) and (_is_version_2(message) or _is_unambiguous(message))
    if read.header.may_carry_cvc or not _is_ciphertext(read.ciphertext):
        return False
    return _is_version_2(message) or _is_unambiguous(message)


def _is_silent(signed: SignedAttach) -> bool:
    """True if an order holds no secret in clear. Its target is no ciphertext, and its signer may be unknown."""
    order = signed.request
    if order.sealed is not None:
        read = shape_of(order.sealed)
        if read is None or isinstance(read, SignedAttach) or not _may_be_kept(read, order.sealed):
            return False
    given = order.target.model_dump(mode="json", exclude_none=True, warnings=False)
    return not any(map(is_secret_name, names_in(given.get("metadata")))) and not any(map(holds_secret, texts_in(given)))


def _is_ciphertext(content: bytes) -> bool:
    """True unless *content* is text that somebody has put in the place of a ciphertext."""
    if len(content) < SHORTEST_SEALED:
        return False
    printable = sum(32 <= byte < 127 for byte in content[:4096])
    return printable <= MOST_PRINTABLE * min(len(content), 4096)


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
