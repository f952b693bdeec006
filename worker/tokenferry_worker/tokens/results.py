"""Results of attach orders, and the parts that all results share: ids and codes, no text of Stripe's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.results import AttachResult, Attempt, Display, Failure
from tokenferry_worker.errors import Declined
from tokenferry_worker.provider.answers import Answer
from tokenferry_worker.tokens.grouped_ids import own_id
from tokenferry_worker.tokens.ledger import Became
from tokenferry_worker.tokens.orders import name_of


def attached(request: AttachRequest, became: Became, *, settled_at: int) -> AttachResult:
    """The result of an order whose token was spent. *settled_at*: Unix milliseconds."""
    return AttachResult(
        **_common(request, settled_at),
        object_id=became.object_id,
        object_type=became.object_type,
        stored_id=became.stored_id,
        endpoint_request_id=became.answer_id,
    )


def failed(
    request: AttachRequest,
    code: str,
    *,
    settled_at: int,
    declined: Declined | None = None,
    attempts: int = 0,
    history: tuple[Attempt, ...] = (),
    spent_by: str | None = None,
    spent_on: str | None = None,
    became: Became | None = None,
) -> AttachResult:
    """The result of an order whose token was not spent.

    *spent_by*: an attach id, as the ledger knows it. Other groups' ids and objects are not told. *became*: the token
    was spent, and the second call of the target failed.
    """
    spent_by = own_id(spent_by, request.group) if spent_by else None
    return AttachResult(
        **_common(request, settled_at),
        failure=failure(code, declined, attempts, history, spent_by, spent_on if spent_by else None),
        object_id=became.object_id if became else None,
        object_type=became.object_type if became else None,
    )


def _common(request: AttachRequest, settled_at: int) -> dict[str, Any]:
    return {
        "outcome_id": f"{name_of(request).shown}:attach",
        "request_id": request.request_id,
        "attach_id": request.attach_id,
        "kind": request.kind,
        "platform": request.platform,
        "connected_account": request.connected_account,
        "settled_at": settled_at,
        "to": request.target.to,
        "token": request.token,
    }


def failure(
    code: str,
    declined: Declined | None,
    attempts: int,
    history: tuple[Attempt, ...] = (),
    spent_by: str | None = None,
    spent_on: str | None = None,
) -> Failure:
    """A failure as the requester reads it: codes and names, no text of Stripe's."""
    if declined is None:
        return Failure(code=code, source="tokenferry", attempts=attempts, spent_by=spent_by, spent_on=spent_on)
    return Failure(
        code=code,
        source="tokenferry" if declined.ours else "endpoint",
        param=declined.param,
        decline_code=declined.decline_code,
        status=declined.status or None,
        endpoint_request_id=declined.request_id,
        attempts=attempts,
        history=history,
    )


def display(answer: Answer) -> Display | None:
    """What may be shown of the card or bank account in a token's answer. None for kinds that show nothing."""
    kind = answer.text("type") or ""
    if not isinstance(answer.body.get(kind), Mapping):
        return None
    return Display(
        object_id=answer.text(kind, "id"),
        brand=answer.text(kind, "brand"),
        bank_name=answer.text(kind, "bank_name"),
        last4=(answer.text(kind, "last4") or "")[-4:] or None,
        country=answer.text(kind, "country"),
        currency=answer.text(kind, "currency"),
        funding=answer.text(kind, "funding"),
        fingerprint=answer.text(kind, "fingerprint"),
        exp_month=answer.number(kind, "exp_month"),
        exp_year=answer.number(kind, "exp_year"),
    )
