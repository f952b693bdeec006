"""Before a request is given up as unanswered: does the endpoint answer anybody? One question for all who ask."""

from __future__ import annotations

import asyncio
from typing import Final

from tokenferry_worker.circuits.scopes import is_elsewhere
from tokenferry_worker.errors import Blocked, Unavailable
from tokenferry_worker.limits.budgets import Budgets
from tokenferry_worker.limits.pacing import Limiter
from tokenferry_worker.provider.protocol import ProviderClient

PATIENCE: Final = 10.0
"""Seconds: an answer to so small a question that takes longer is none."""


class SecondOpinion:
    """Asks for a token that does not exist, one question at a time. One per process and platform."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._answers = 0
        self._last: Unavailable | Blocked | None = None

    async def ask(self, endpoint: ProviderClient, limiter: Limiter, budgets: Budgets) -> Unavailable | Blocked | None:
        """None where the endpoint answers, `Unavailable` where it does not.

        `Blocked` where something else answers, or where it refuses the key.

        The question draws on the budgets of tokens, before bulk. Whoever comes while one is under way gets its answer.
        """
        answers = self._answers
        async with self._turn:
            if self._answers == answers:
                self._last = await self._ask(endpoint, limiter, budgets)
                self._answers += 1
            return self._last

    async def _ask(self, endpoint: ProviderClient, limiter: Limiter, budgets: Budgets) -> Unavailable | Blocked | None:
        drawn = budgets.tokens()
        permit = await limiter.permit(drawn, "realtime")
        try:
            async with asyncio.timeout(PATIENCE):
                refusal = (await endpoint.greet()).refusal
        except TimeoutError:
            return Unavailable(f"nothing within {PATIENCE:g} s", maybe_done=False)
        except Unavailable as error:
            return error
        finally:
            await limiter.done(drawn, permit)
        if isinstance(refusal, Unavailable) and not refusal.answered:
            return refusal
        if isinstance(refusal, Blocked) and (is_elsewhere(refusal) or refusal.status == 401):
            return refusal
        return None
