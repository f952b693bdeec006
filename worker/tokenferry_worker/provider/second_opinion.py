"""Before a request is given up as unanswered: does Stripe answer anybody? Those who ask at once share one question."""

from __future__ import annotations

import asyncio
from typing import Final

from tokenferry_worker.circuits.scopes import is_elsewhere
from tokenferry_worker.errors import Blocked, Unavailable
from tokenferry_worker.limits.budgets import Budgets
from tokenferry_worker.limits.pacing import Limiter
from tokenferry_worker.provider.protocol import ProviderClient

PATIENCE: Final = 10.0
"""Seconds to wait for the answer. So small a question takes longer only during an outage."""


class SecondOpinion:
    """Asks Stripe for a token that does not exist, one question at a time. One per process and platform."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._answers = 0
        self._last: Unavailable | Blocked | None = None

    async def ask(self, client: ProviderClient, limiter: Limiter, budgets: Budgets) -> Unavailable | Blocked | None:
        """Return None where Stripe answers, `Unavailable` where it does not.

        `Blocked` where something else answers, or where Stripe refuses the key.

        The question draws on the budgets of `GET /v1/tokens/{id}`, in the realtime lane. A caller that comes while a
        question is under way gets the answer to that one.
        """
        answers = self._answers
        async with self._turn:
            if self._answers == answers:
                self._last = await self._ask(client, limiter, budgets)
                self._answers += 1
            return self._last

    async def _ask(self, client: ProviderClient, limiter: Limiter, budgets: Budgets) -> Unavailable | Blocked | None:
        async with limiter.permit(budgets.of("GET /v1/tokens/{id}"), "realtime"):
            try:
                async with asyncio.timeout(PATIENCE):
                    refusal = (await client.greet()).refusal
            except TimeoutError:
                return Unavailable(f"nothing within {PATIENCE:g} s", maybe_done=False)
            except Unavailable as error:
                return error
        if isinstance(refusal, Unavailable) and not refusal.answered:
            return refusal
        if isinstance(refusal, Blocked) and (is_elsewhere(refusal) or refusal.status == 401):
            return refusal
        return None
