"""The fields that a log line about one request carries, beside its text. `docs/logs.md` lists them."""

from __future__ import annotations

from typing import Final

FIELDS: Final = ("request", "platform", "code", "attempt", "trace")


def fields(
    request: str | None,
    platform: str | None = None,
    *,
    code: str | None = None,
    attempt: int | None = None,
    trace: str | None = None,
) -> dict[str, object]:
    """Return the `extra` of a log call. *trace*: a `traceparent`, of which the trace id is logged.

    >>> fields("req-1", "main", code="expired")
    {'request': 'req-1', 'platform': 'main', 'code': 'expired'}
    """
    trace_id = trace.split("-")[1] if trace is not None and trace.count("-") == 3 else None
    given = {"request": request, "platform": platform, "code": code, "attempt": attempt, "trace": trace_id}
    return {name: value for name, value in given.items() if value is not None}
