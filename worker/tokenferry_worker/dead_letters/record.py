"""Reads the records in dead letters and quarantine: the reason, the time, and the message as it came.

What commands show of a record comes from the clear header and from codes. A text that anybody may have written is
shown only where it cannot hide a number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from tokenferry.contract.attach import SignedAttach, read_order
from tokenferry.contract.codes import MAYBE_SPENT
from tokenferry.contract.envelope import CommonHeader, Header
from tokenferry.contract.envelope2 import Header2, SealedRequest, read_request
from tokenferry.contract.onboarding import SealedDocument, read_document
from tokenferry.contract.queues import (
    ATTACH_TASK,
    ONBOARD_TASK,
    TOKENIZE_TASK,
    attach_queue,
    onboard_queue,
    tokenize_queue,
)
from tokenferry.contract.results import Attempt
from tokenferry.contract.text_form import NotCanonical

FOREIGN: Final = "set aside by the broker"
"""The reason of a message that no worker has moved: the broker delivered it too often, for instance."""
Shape = SealedRequest | SignedAttach | SealedDocument
"""A work message of either version."""
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9 _:;,.'-]{0,99}")
_OUTCOME: Final = re.compile(r"([a-z0-9_-]{1,63}/)?[A-Za-z0-9_-]{1,64}:[a-z]{1,20}(:\d{1,5})?")


@dataclass(frozen=True)
class DeadLetter:
    """One record of the queue. Of a message that is not ours only the reason and the time are known."""

    reason: str
    at: int | None = None
    """Unix milliseconds; None where the record has no time."""
    outcome_id: str | None = None
    """The outcome that was published to the requester."""
    attempts: int = 0
    history: tuple[Attempt, ...] = ()
    message: str = ""
    """The message as it came. Never shown."""
    header: CommonHeader | Header2 | None = None
    sealed: SealedRequest | SealedDocument | None = None
    order: SignedAttach | None = None

    @classmethod
    def read(cls, body: str) -> DeadLetter:
        """Read what can be read of *body*. Never fails."""
        record = json_object(body)
        if not isinstance(message := record.get("message"), str):
            # No record of a worker: a task message that the broker itself has moved, or somebody else's message.
            return cls._of(argument(body), FOREIGN)
        at, attempts, outcome_id = record.get("at"), record.get("attempts"), record.get("outcome_id")
        dead_letter = cls._of(
            argument(message),
            plain(record.get("reason")),
            at=at if _is_moment(at) else None,
            attempts=attempts if isinstance(attempts, int) and 0 <= attempts <= 1000 else 0,
            outcome_id=outcome_id if isinstance(outcome_id, str) and _OUTCOME.fullmatch(outcome_id) else None,
            history=tuple(_attempts(record.get("history"))),
        )
        if dead_letter.header is None and (header := _header(record.get("header"))) is not None:
            return cls(dead_letter.reason, dead_letter.at, header=header)
        return dead_letter

    @classmethod
    def _of(cls, message: str, reason: str, **known: Any) -> DeadLetter:
        read = shape_of(message)
        if read is None:
            return cls(reason, message=message, **known)
        if isinstance(read, SignedAttach):
            return cls(reason, message=message, order=read, **known)
        return cls(reason, message=message, header=read.header, sealed=read, **known)

    @property
    def is_unverified(self) -> bool:
        """True if the record has a header or a reason, and no signed message: anybody may have written it.

        A worker verifies a message before it makes a dead letter of it, and again after a redrive.
        """
        return self.sealed is None and self.order is None

    @property
    def id(self) -> str | None:
        """The request id, or the attach id of an order."""
        return self.order.request.attach_id if self.order else self.header.request_id if self.header else None

    @property
    def signer_id(self) -> str | None:
        """The key that has signed it."""
        return self.order.request.signer_id if self.order else self.header.producer_id if self.header else None

    @property
    def group(self) -> str | None:
        """The group that it claims. None: it is of version 1, which claims none."""
        claims = self.order.request if self.order else self.header
        return claims.group if claims is not None and claims.version == 2 else None

    @property
    def generation(self) -> int:
        """Which generation of its id it is."""
        claims = self.order.request if self.order else self.header
        return claims.generation if claims is not None else 1

    @property
    def kind(self) -> str | None:
        """The kind of token; `onboarding` for a whole document."""
        if self.order is not None:
            return self.order.request.kind
        return getattr(self.header, "kind", None)

    @property
    def platform(self) -> str | None:
        """The platform that the request names."""
        return self.order.request.platform if self.order else self.header.platform if self.header else None

    @property
    def lane(self) -> str | None:
        """`bulk` or `realtime`; `attach` or `attach.realtime` for an order to spend a token."""
        if self.order is not None:
            return "attach" if self.order.request.lane == "bulk" else f"attach.{self.order.request.lane}"
        return self.header.lane if self.header else None

    @property
    def ends(self) -> int | None:
        """Unix milliseconds after which the request is of no use. None: never."""
        if self.order is not None:
            # A token that is too old is created again, if its request travels with the order and has not expired.
            request = self._of(self.order.request.sealed or "", "").header
            ends = max(self.order.request.attach_before, request.expires_at if request else 0)
            return None if self.reason in MAYBE_SPENT else ends
        return self.header.expires_at if self.header else None

    @property
    def round(self) -> int:
        """How many outcomes the requester has got, at least.

        >>> DeadLetter("", outcome_id="req-1:token:2").round, DeadLetter("", outcome_id="req-1:token").round
        (2, 1)
        """
        if self.outcome_id is None:
            return 0
        return int([*self.outcome_id.split(":"), "1"][2])

    def task(self) -> tuple[str, str]:
        """Return the work queue that the message belongs to, and its task there."""
        if self.order is not None:
            request = self.order.request
            return attach_queue(request.lane, request.platform), ATTACH_TASK
        assert self.header is not None
        if self.kind == "onboarding":
            return onboard_queue(self.header.platform), ONBOARD_TASK
        return tokenize_queue(self.header.lane, self.header.platform), TOKENIZE_TASK


@dataclass(frozen=True)
class DeadLetterFilter:
    """Which dead letters are meant: those that match every given field."""

    ids: Collection[str] = ()
    platform: str | None = None
    code: str | None = None
    kind: str | None = None
    older_than: float | None = None
    """Seconds."""

    def __bool__(self) -> bool:
        return self != DeadLetterFilter()

    def matches(self, dead_letter: DeadLetter, now: float) -> bool:
        """True if *dead_letter* is meant. *now*: Unix seconds.

        A message that the broker itself has moved has no time until a worker gives it one, within a minute. Until then
        it is not older than anything.
        """
        return (
            (not self.ids or dead_letter.id in self.ids)
            and self.platform in (None, dead_letter.platform)
            and self.code in (None, dead_letter.reason)
            and self.kind in (None, dead_letter.kind)
            and (
                self.older_than is None
                or (dead_letter.at is not None and dead_letter.at <= (now - self.older_than) * 1000)
            )
        )


def plain(text: object) -> str:
    """Return *text* where it is a word or a short sentence with few digits, else `unreadable`.

    >>> plain("attempts_exhausted"), plain("HTTP 502"), plain("card 4000 0000")
    ('attempts_exhausted', 'HTTP 502', 'unreadable')
    """
    if isinstance(text, str) and _PLAIN.fullmatch(text) and sum(map(str.isdigit, text)) <= 6:
        return text
    return "unreadable"


def shape_of(message: str) -> Shape | None:
    """Return *message* as the work message that it is, or None where it is none."""
    readers: tuple[Callable[[str], Shape], ...] = (read_request, read_order, read_document)
    for read in readers:
        with suppress(NotCanonical):
            return read(message)
    return None


def _header(content: object) -> CommonHeader | Header2 | None:
    """Return the header of a message that was not kept."""
    models: tuple[type[Header | Header2], ...] = (Header, Header2)
    for model in models:
        with suppress(ValidationError):
            return model.model_validate(content)
    return None


def argument(message: str) -> str:
    """Return the one argument of *message* where it is a Celery task body (protocol 2), else *message* itself."""
    try:
        args, _kwargs, _embed = json.loads(message)
        (only,) = args
    except (ValueError, TypeError, RecursionError):
        return message
    return only if isinstance(args, list) and isinstance(only, str) else message


def json_object(text: str) -> dict[str, Any]:
    """Return the JSON object in *text*, or an empty one where it is none."""
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def _attempts(history: object) -> list[Attempt]:
    found = []
    for entry in history[:100] if isinstance(history, Sequence) and not isinstance(history, str) else ():
        try:
            attempt = Attempt.model_validate(entry)
        except ValidationError:
            continue
        if _is_moment(attempt.at) and (attempt.status is None or 100 <= attempt.status <= 999):
            found.append(attempt.model_copy(update={"code": plain(attempt.code)}))
    return found


def _is_moment(at: object) -> bool:
    return isinstance(at, int) and 0 <= at <= 4_102_444_800_000
