"""What the rest of the worker needs of the HTTP client."""

from __future__ import annotations

from typing import Protocol

from tokenferry.contract.requests import Kind
from tokenferry_worker.provider.answers import Answer, Greeting


class ProviderClient(Protocol):
    """Calls of Stripe with the keys of one platform. All raise `Declined`, `Blocked` or `Unavailable`."""

    async def create_token(
        self, kind: Kind, form: str, *, idempotency_key: str, connected_account: str | None = None
    ) -> Answer: ...

    async def post(
        self, path: str, form: str, *, idempotency_key: str, connected_account: str | None = None
    ) -> Answer: ...

    async def get(self, path: str, *, connected_account: str | None = None) -> Answer: ...

    async def greet(self) -> Greeting:
        """Ask a question that costs nothing. Raises only `Unavailable`, where there was no answer of any kind."""
        ...
