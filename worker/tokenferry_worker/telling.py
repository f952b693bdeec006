"""What the requester is told of an attach order: ids and codes, no text of the endpoint."""

from __future__ import annotations

from typing import Any

from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.results import AttachResult, Attempt
from tokenferry_worker.errors import Declined
from tokenferry_worker.making import failure
from tokenferry_worker.ports import Became


def attached(request: AttachRequest, became: Became, *, settled_at: int) -> AttachResult:
    """The token was spent. *settled_at*: Unix milliseconds."""
    return AttachResult(
        **_common(request, settled_at),
        object_id=became.object_id,
        object_type=became.object_type,
        stored_id=became.stored_id,
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
    made: Became | None = None,
) -> AttachResult:
    """The token was not spent, or not all the way: *made* is what there is of it already."""
    return AttachResult(
        **_common(request, settled_at),
        failure=failure(code, declined, attempts, history, spent_by, spent_on),
        object_id=made.object_id if made else None,
        object_type=made.object_type if made else None,
    )


def _common(request: AttachRequest, settled_at: int) -> dict[str, Any]:
    return {
        "outcome_id": f"{request.attach_id}:attach",
        "request_id": request.request_id,
        "attach_id": request.attach_id,
        "kind": request.kind,
        "platform": request.platform,
        "connected_account": request.connected_account,
        "settled_at": settled_at,
        "to": request.target.to,
        "token": request.token,
    }
