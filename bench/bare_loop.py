"""The least one could write: asyncio and httpx, no queue, no limit, nothing kept."""

from __future__ import annotations

import asyncio
import sys

import httpx


async def main(endpoint: str, tokens: int, in_flight: int) -> None:
    """Make the tokens with so many calls in flight."""
    form = {"card[number]": "4242424242424242", "card[exp_month]": "12", "card[exp_year]": "2034"}
    left = iter(range(tokens))
    limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    async with httpx.AsyncClient(base_url=endpoint, limits=limits, timeout=60, trust_env=False) as http:

        async def one_after_another() -> None:
            for _ in left:
                answer = await http.post("/v1/tokens", data=form, headers={"Authorization": "Bearer sk_test_bench"})
                answer.raise_for_status()

        await asyncio.gather(*(one_after_another() for _ in range(in_flight)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
