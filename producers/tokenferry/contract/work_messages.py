"""Reads a work message by one strict rule, before any library interprets it.

Pure: bytes and values in, a `WorkMessage` or a `Refused` out. Nothing here raises, inflates, logs or trusts a header.

A work message says three things: its task, its id and one argument, the sealed text. It has the form of a Celery task
message (protocol 2), so that a plain Celery client can send one:
https://docs.celeryq.dev/en/stable/internals/protocol.html

Nothing else that a client may write has any effect: `eta`, `expires`, `retries`, `timelimit`, `shadow`, `compression`,
`reply_to`, priorities, callbacks. These parts are not signed, so they must not steer what is.
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from tokenferry.contract.envelope import MAX_ENVELOPE_BYTES
from tokenferry.contract.names import is_id

TOO_LONG: Final = "longer than any message of ours"
NOT_A_TASK: Final = "not a task message"
UNKNOWN_TASK: Final = "unknown task"
INVALID: Final = "invalid task message"
UNDECODABLE: Final = "undecodable message"

ENCODED_ALREADY: Final = ('[["tf2e.', '[["tf2o.')
"""Beginnings of work messages of version 2. On a Redis list they stand as they are, without another base64."""

MOST_BRACKETS: Final = 2_000
"""Brackets that may open around the argument. Ours have some dozens; half a megabyte of them takes 16 MB in memory."""

_JSON: Final = json.JSONDecoder()
_START: Final = re.compile(r"[ \t\r\n]*\[[ \t\r\n]*\[[ \t\r\n]*(?=\")")
_BETWEEN: Final = re.compile(r"[ \t\r\n]*\][ \t\r\n]*,[ \t\r\n]*\{[ \t\r\n]*\}[ \t\r\n]*,[ \t\r\n]*(?=\{)")
_END: Final = re.compile(r"[ \t\r\n]*\][ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a message is not ours. The reason is one of a few sentences of ours and quotes nothing."""

    reason: str

    def note(self, length: int, *, at: int | None = None) -> str:
        """Return its entry in quarantine. *length*: bytes. *at*: Unix milliseconds; None: a worker adds it soon."""
        dated = {} if at is None else {"at": at}
        return json.dumps({"reason": self.reason, **dated, "message": "", "bytes": length})


@dataclass(frozen=True, slots=True)
class WorkMessage:
    """A message for one of our tasks. Its argument is still to be verified: anybody may have written it."""

    task: str
    id: str
    argument: str


@dataclass(frozen=True, slots=True)
class ListItem:
    """One item of a Redis list, as kombu writes it: a message with a body, and parts of the right types."""

    body: bytes
    headers: dict[str, Any]
    """Without `compression`: nothing is inflated."""
    content_type: str | None
    content_encoding: str | None
    correlation_id: str | None
    reply_to: str | None
    priority: int | None
    redelivered: bool


def read_item(payload: bytes) -> ListItem | Refused:
    """Read one item of a Redis list."""
    message = _json(payload)
    if not isinstance(message, dict):
        return Refused(UNDECODABLE)
    properties, body, headers = message.get("properties"), message.get("body"), message.get("headers") or {}
    content_type, content_encoding = message.get("content-type"), message.get("content-encoding")
    if not (isinstance(properties, dict) and isinstance(body, str) and isinstance(headers, dict)):
        return Refused(UNDECODABLE)
    if not (isinstance(content_type, str | None) and isinstance(content_encoding, str | None)):
        return Refused(UNDECODABLE)
    try:
        content = _content(body, properties.get("body_encoding"))
    except ValueError:  # binascii's and Unicode's errors are ones
        return Refused(UNDECODABLE)
    headers.pop("compression", None)
    delivery = properties.get("delivery_info")
    priority = properties.get("priority")
    return ListItem(
        content,
        headers,
        content_type,
        content_encoding,
        correlation_id=_text(properties.get("correlation_id")),
        reply_to=_text(properties.get("reply_to")),
        priority=priority if isinstance(priority, int) and 0 <= priority <= 255 else None,
        redelivered=isinstance(delivery, dict) and delivery.get("redelivered") is True,
    )


def read_work(
    headers: object, content_type: object, content_encoding: object, body: object, *, tasks: Collection[str]
) -> WorkMessage | Refused:
    """Read a message from the parts that the transport found. *tasks*: those that have a handler here."""
    if not isinstance(headers, dict) or "task" not in headers:
        return Refused(NOT_A_TASK)
    task, id_ = headers["task"], headers.get("id")
    if not isinstance(task, str) or task not in tasks:
        return Refused(UNKNOWN_TASK)
    if content_type != "application/json" or content_encoding != "utf-8" or not isinstance(body, bytes):
        return Refused(UNDECODABLE)
    if not is_id(id_):
        return Refused(INVALID)
    try:
        argument = _argument(body.decode())
    except UnicodeDecodeError:
        return Refused(UNDECODABLE)
    except (ValueError, RecursionError):
        return Refused(INVALID)
    if len(argument) > MAX_ENVELOPE_BYTES:
        return Refused(TOO_LONG)
    return WorkMessage(task, str(id_), argument)


def _argument(body: str) -> str:
    """The text in `[[text], {}, {...}]`. Raises `ValueError` or `RecursionError` for every other shape.

    Read from left to right, so that nothing is built of what is not ours, however many parts it has.
    """
    if (start := _START.match(body)) is None:
        raise ValueError
    argument, end = _JSON.raw_decode(body, start.end())
    argument.encode()  # half a surrogate pair has no spelling in UTF-8; the error is a `ValueError`
    if (between := _BETWEEN.match(body, end)) is None:
        raise ValueError
    if body.count("[", between.end()) + body.count("{", between.end()) > MOST_BRACKETS:
        raise ValueError
    _embed, end = _JSON.raw_decode(body, between.end())
    if _END.fullmatch(body, end) is None:
        raise ValueError
    return str(argument)


def _json(text: bytes) -> Any:
    """Return the JSON value of *text*; None if it is not JSON in UTF-8, or has too many parts to be an item."""
    if text.count(b"[") + text.count(b"{") > MOST_BRACKETS:
        return None
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError):
        return None


def _content(body: str, encoding: object) -> bytes:
    """Raises `ValueError`."""
    match encoding:
        case "base64":
            try:
                return b64decode(body, validate=True)
            except binascii.Error:
                raise ValueError from None
        case None:
            return body.encode()
    raise ValueError


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and len(value) <= 255 else None
