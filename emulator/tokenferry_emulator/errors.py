"""Refusals, as they go over the wire.

Types on the wire are `api_error`, `card_error`, `idempotency_error` and `invalid_request_error`; there is none
for rate limits or authentication.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Refusal(Exception):
    """An answer other than 200.

    *stored* says whether the idempotency layer keeps it: refusals before the endpoint began executing are not kept.
    """

    def __init__(
        self,
        status: int,
        error: Mapping[str, Any],
        *,
        stored: bool = False,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(f"{status} {error.get('code', error['type'])}")
        self.status = status
        self.error = dict(error)
        self.stored = stored
        self.headers = headers

    @property
    def body(self) -> dict[str, Any]:
        return {"error": self.error}


def invalid(
    message: str,
    *,
    status: int = 400,
    code: str | None = None,
    param: str | None = None,
    stored: bool = False,
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> Refusal:
    """An `invalid_request_error`; *code* brings its page with it, as on the wire."""
    error: dict[str, Any] = {}
    if code is not None:
        error["code"] = code
        error["doc_url"] = doc_url(code)
    error["message"] = message
    if param is not None:
        error["param"] = param
    error["type"] = "invalid_request_error"
    return Refusal(status, error, stored=stored, headers=headers)


def card_error(code: str, message: str, *, param: str | None = None, **more: object) -> Refusal:
    """A 402 about the card itself; the idempotency layer keeps it."""
    error: dict[str, Any] = {"code": code, "doc_url": doc_url(code), "message": message}
    if param is not None:
        error["param"] = param
    error.update({name: value for name, value in more.items() if value is not None})
    error["type"] = "card_error"
    return Refusal(402, error, stored=True)


def missing(param: str) -> Refusal:
    return invalid(f"Missing required param: {param}.", code="parameter_missing", param=param)


def no_such(label: str, identifier: str, *, param: str, status: int = 404) -> Refusal:
    return invalid(f"No such {label}: '{identifier}'", status=status, code="resource_missing", param=param)


def idempotency(message: str, *, status: int = 400, code: str | None = None) -> Refusal:
    error: dict[str, Any] = {"message": message, "type": "idempotency_error"}
    if code is not None:
        error = {"code": code, "doc_url": doc_url(code), **error}
    return Refusal(status, error)


def backend_failure(status: int = 500) -> Refusal:
    message = (
        "Error while communicating with one of our backends.  Sorry about that!  We have been notified of the problem. "
        " If you have any questions, we can help at https://support.stripe.com/."
    )
    return Refusal(status, {"message": message, "type": "api_error"}, stored=True)


def doc_url(code: str) -> str:
    return f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"
