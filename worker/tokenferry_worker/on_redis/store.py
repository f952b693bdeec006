"""One connection to the store for the whole process: scripts from hundreds of deliveries, sent together.

What is asked for while a round trip is under way goes with the next one, so cost per call falls as load rises, and
an idle worker's call waits for nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as StoreConnectionError
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as StoreTimeoutError

log = logging.getLogger(__name__)

AWAY: Final = (StoreConnectionError, StoreTimeoutError, OSError)
PATIENCE: Final = 2.0
"""Seconds until who can do without the store does without it."""
TOGETHER: Final = 500
"""Scripts per round trip at most, so that one reply stays small."""


class Script:
    """One Lua file beside this module, known to the server by its hash. *after*: files it stands behind."""

    def __init__(self, name: str, *, after: Sequence[str] = ()) -> None:
        self.name = name
        here = Path(__file__)
        self.source = "".join(here.with_name(f"{part}.lua").read_text(encoding="utf-8") for part in (*after, name))
        self.hash: str | None = None


class Store:
    """Runs scripts. Every script here may be run twice without harm, so a lost answer is simply asked again."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._asked: list[tuple[Script, Sequence[str], Sequence[Any], asyncio.Future[Any]]] = []
        self._sending: asyncio.Task[None] | None = None
        self._away = False

    @classmethod
    def at(cls, url: str, prefix: str) -> Store:
        """A store at *url* (redis-py's form). Nothing is connected yet."""
        client = Redis.from_url(
            url, decode_responses=True, socket_timeout=10.0, socket_connect_timeout=5.0, health_check_interval=15
        )
        return cls(client, prefix)

    def key(self, *parts: str) -> str:
        """The full name of a key."""
        return ":".join((self._prefix, *parts))

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run *script*, waiting as long as the store is away: without it no call may be made, so none is.

        Raises redis-py's `ResponseError` when the script itself fails, which is a bug.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked.append((script, keys, args, future))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send(), name="tokenferry-store")
        return await future

    async def run_unless_away(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any | None:
        """As `run`, but None when the store is away or does not answer within `PATIENCE` seconds."""
        if self._away:
            return None
        try:
            async with asyncio.timeout(PATIENCE):
                return await self.run(script, keys, args)
        except TimeoutError:
            return None

    async def aclose(self) -> None:
        """Close the connection."""
        if self._sending is not None:
            self._sending.cancel()
        await self._client.aclose()

    async def _send(self) -> None:
        pause = 0.05
        # While the store is away this goes on asking for it, also when everybody has found a way without it.
        while self._asked or self._away:
            batch, self._asked = self._asked[:TOGETHER], self._asked[TOGETHER:]
            batch = [asked for asked in batch if not asked[3].done()]
            try:
                await (self._send_once(batch) if batch else self._client.ping())
            except AWAY as error:
                if not self._away:
                    log.warning(
                        "store: away (%s); what is in hand goes on with a small share of the rate, nothing else begins",
                        type(error).__name__,
                    )
                self._away = True
                self._asked = batch + self._asked
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
            except Exception as error:
                # Whoever waits must learn of it, whatever the client library raises.
                for *_, future in batch:
                    if not future.done():
                        future.set_exception(error)
            else:
                if self._away:
                    log.warning("store: back")
                self._away = False
                pause = 0.05

    async def _send_once(self, batch: list[tuple[Script, Sequence[str], Sequence[Any], asyncio.Future[Any]]]) -> None:
        for script in {asked[0] for asked in batch}:
            if script.hash is None:
                script.hash = await self._client.script_load(script.source)
        async with self._client.pipeline(transaction=False) as pipeline:
            for script, keys, args, _ in batch:
                pipeline.evalsha(script.hash or "", len(keys), *keys, *args)
            answers = await pipeline.execute(raise_on_error=False)
        for asked, answer in zip(batch, answers, strict=True):
            script, _, _, future = asked
            if isinstance(answer, NoScriptError):
                # The server was restarted or flushed its scripts: load again, ask again.
                script.hash = None
                self._asked.append(asked)
            elif isinstance(answer, AWAY) or _loading(answer):
                raise StoreConnectionError("the store is not ready")
            elif future.done():
                continue
            elif isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def _loading(answer: object) -> bool:
    """Whether the server says it will answer later: loading its data, full, or a replica without its master."""
    return isinstance(answer, ResponseError) and str(answer).startswith(
        ("LOADING", "OOM", "MASTERDOWN", "READONLY", "BUSY")
    )
