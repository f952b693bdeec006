"""The budgets of the fleet, for another application that calls Stripe with the same account.

>>> budgets = SharedBudgets(load(), "main")                                             # doctest: +SKIP
>>> budgets.reserve("POST /v1/customers", timeout=5)                                    # doctest: +SKIP
>>> answer = stripe_client.v1.customers.create(...)                                     # doctest: +SKIP
>>> if answer is a 429: budgets.report("POST /v1/customers", headers[...])                  # doctest: +SKIP

An endpoint is an operation, as in docs/slow.md. The name of a resource, `customers`, stands for all its operations:
a call then counts for each of them.

With asyncio, wrap the calls in `asyncio.to_thread`: each is one short round trip, and `reserve` sleeps.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

import redis
from redis.exceptions import ReadOnlyError

from tokenferry.broker import cluster, connecting
from tokenferry.configuration import Configuration
from tokenferry.contract.names import Lane
from tokenferry_worker.limits.budgets import Budgets
from tokenferry_worker.on_redis.keys import StoreKeys
from tokenferry_worker.on_redis.limiter import MICROSECONDS, SHARED, numbers
from tokenferry_worker.on_redis.store import Script
from tokenferry_worker.provider.attempts import LEAST_BACK_OFF


class SharedBudgets:
    """Takes calls from the budgets of one platform. Safe to share between threads."""

    def __init__(self, configuration: Configuration, platform: str) -> None:
        """Raises `InvalidConfiguration` for a platform that is not configured."""
        self._budgets = Budgets(platform, configuration.platform(platform))
        self._keys = StoreKeys(configuration.store.prefix)
        self._client: Any = cluster.client(
            connecting.store_url(configuration),
            configuration.store.prefix,
            decode_responses=True,
            socket_timeout=5.0,
            socket_connect_timeout=5.0,
        )
        self._permit, self._push_back, self._look = (
            self._client.register_script(Script(name, after=SHARED).source) for name in ("permit", "push_back", "look")
        )

    def available(self, endpoint: str, *, connected_account: str | None = None, creates_account: bool = False) -> float:
        """Return the calls per second that *endpoint* allows now, by its tightest budget; 0.0 while one is paused.

        Name the same budgets as for `reserve`.

        Raises redis-py's `ConnectionError` or `TimeoutError` when the store is away, as every method here.
        """
        rates = []
        for budget in self._budgets.of(endpoint, connected_account, creates_account=creates_account):
            per_second, _, _, paused, *_ = self._ask(
                self._look, [self._keys.budget(budget.name)], numbers(budget, "realtime")[:2]
            )
            rates.append(0.0 if paused else float(per_second))
        return min(rates)

    def reserve(
        self,
        endpoint: str,
        *,
        timeout: float,
        lane: Lane = "realtime",
        connected_account: str | None = None,
        creates_account: bool = False,
    ) -> None:
        """Wait until one call to *endpoint* may be made, and count it.

        Raises `TimeoutError` when that is not within *timeout* seconds; nothing is counted then.
        """
        deadline = time.monotonic() + timeout
        budgets = self._budgets.of(endpoint, connected_account, creates_account=creates_account)
        keys = [self._keys.line(budgets), *(self._keys.budget(budget.name) for budget in budgets)]
        # Rates only: the limit on calls in flight does not apply to this application.
        rates = [number for budget in budgets for number in (*numbers(budget, lane)[:2], 0)]
        arguments = [0, lane, "", 0, *rates]
        while True:
            granted, ask_again, *_ = self._ask(self._permit, keys, arguments)
            if granted:
                return
            wait = int(ask_again) / MICROSECONDS
            if time.monotonic() + wait > deadline:
                raise TimeoutError(f"no call to {endpoint} fits within {timeout:g} s")
            time.sleep(wait)

    def report(
        self,
        endpoint: str,
        reason: str,
        *,
        connected_account: str | None = None,
        creates_account: bool = False,
    ) -> None:
        """Report that Stripe answered 429 with this `Stripe-Rate-Limited-Reason`. The whole fleet slows down.

        Name the same budgets as for `reserve`. docs/slow.md says which of them are slowed down.
        """
        used = self._budgets.of(endpoint, connected_account, creates_account=creates_account)
        who = f"application {socket.gethostname()}:{os.getpid()}"
        for budget in self._budgets.refused(reason, used):
            back_off = [math.ceil(LEAST_BACK_OFF * MICROSECONDS), *numbers(budget, "realtime")[:2], budget.name, who]
            self._ask(self._push_back, [self._keys.budget(budget.name), self._keys.changes], back_off)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _ask(self, script: Any, keys: Sequence[str], args: Sequence[Any]) -> Any:
        try:
            return script(keys=keys, args=args)
        except ReadOnlyError:  # now a replica; a new connection may reach the primary
            self._client.connection_pool.disconnect()
            raise redis.ConnectionError("the store has become a replica") from None
