"""One connection to the store for the whole process. It sends the scripts of hundreds of deliveries together.

Scripts that are asked for during a round trip go with the next one. So the cost per call falls as the load rises, and
the call of an idle worker does not wait.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as StoreConnectionError
from redis.exceptions import MasterDownError, NoScriptError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as StoreTimeoutError

from tokenferry.broker import cluster
from tokenferry.broker.error_text import STORE, explain
from tokenferry_worker.cancelling import cancel_and_wait
from tokenferry_worker.on_redis.keys import StoreKeys

log = logging.getLogger(__name__)

AWAY: Final = (StoreConnectionError, StoreTimeoutError, OSError)
PATIENCE: Final = 2.0
"""Seconds until a caller that can do without the store does so."""
TOGETHER: Final = 500
"""Scripts per round trip at most, so that the reply stays small."""
LONGEST_PAUSE: Final = 5.0
"""Seconds at most before a refused script is tried again."""
MINUTE: Final = 60.0
ALARM_EVERY: Final = 60.0
"""Seconds between two log lines about one refused script."""


class Script:
    """One Lua file beside this module, known to the server by its hash. *after*: files that are put before it."""

    def __init__(self, name: str, *, after: Sequence[str] = ()) -> None:
        self.name = name
        here = Path(__file__)
        self.source = "".join(here.with_name(f"{part}.lua").read_text(encoding="utf-8") for part in (*after, name))
        self.hash: str | None = None


Batch = list[tuple[Script, Sequence[str], Sequence[Any], "asyncio.Future[Any]"]]


class Store:
    """Runs scripts. Every script may run twice without harm, so after a lost answer it is run again."""

    def __init__(self, client: Redis, prefix: str, *, patient: bool = True, patience: float = PATIENCE) -> None:
        """*patient*: wait until the store can serve, as a worker does. Otherwise errors are raised.

        *patience*: how long `run_unless_away` waits, in seconds.
        """
        self._client = client
        self.keys = StoreKeys(prefix)
        self._patient = patient
        self._patience = patience
        self._alarms: dict[str, float] = {}
        self._pending: Batch = []
        self._sending: asyncio.Task[None] | None = None
        self._away = False
        self._away_since = 0.0
        self._clock = Script("clock")

    @classmethod
    def at(cls, url: str, prefix: str, *, patient: bool = True, patience: float = PATIENCE) -> Store:
        """Return a store at *url* (redis-py's form, or ``sentinel://``), without connecting yet."""
        client = cluster.async_client(
            url,
            prefix,
            decode_responses=True,
            socket_timeout=10.0,
            socket_connect_timeout=5.0,
            health_check_interval=15,
        )
        return cls(client, prefix, patient=patient, patience=patience)

    @property
    def away(self) -> bool:
        """True if the store could not be reached when it was last asked."""
        return self._away

    @property
    def silent(self) -> bool:
        """True if the store has been away longer than its patience: `run_unless_away` asks it nothing then."""
        return self._patience_left() <= 0

    def _patience_left(self) -> float:
        return self._patience - (time.monotonic() - self._away_since if self._away else 0.0)

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run *script*, and wait as long as the store is away: without the store, no call to Stripe may be made.

        It also waits where the store refuses the script (a missing right, a script that fails). No request is to
        blame for that, so none fails because of it. The log says so once a minute.
        """
        pause = 0.05
        while True:
            try:
                return await self._ask(script, keys, args)
            except ResponseError as error:
                if not self._patient:
                    raise
                self._alarm(script, error)
            # Outside the except block: a caller that is cancelled here must not carry the error along.
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _ask(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending.append((script, keys, args, future))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send(), name="tokenferry-store")
        return await future

    async def run_unless_away(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any | None:
        """Do as `run`, but return None where the store is away or silent for longer than its patience."""
        left = self._patience_left()
        if left <= 0:
            return None
        try:
            async with asyncio.timeout(left):
                return await self.run(script, keys, args)
        except TimeoutError:
            return None

    async def now(self) -> float:
        """Return Unix seconds on the store's clock, which the whole fleet shares."""
        return _seconds(await self.run(self._clock, [], []))

    async def has_keys(self, *patterns: str) -> bool:
        """True if the store has a key like one of *patterns*. Looks through all keys, so it is for a start only."""
        while True:
            try:
                for pattern in patterns:
                    async for _ in self._client.scan_iter(match=pattern, count=1000):
                        return True
                return False
            except (*AWAY, ResponseError) as error:
                if not self._patient:
                    raise
                failure = explain(error, STORE)
                log.warning("store: cannot be looked through (it %s: %s); trying again", failure.says, failure.do)
            await asyncio.sleep(LONGEST_PAUSE)

    async def names(self, pattern: str) -> AsyncIterator[str]:
        """Yield the names of all keys like *pattern*, some of them twice. Ends early where the store is away."""
        try:
            async for name in self._client.scan_iter(match=pattern, count=1000):
                yield name
        except (*AWAY, ResponseError) as error:
            log.warning("store: cannot be looked through (it %s)", explain(error, STORE).says)

    async def aclose(self) -> None:
        """Close the connection."""
        try:
            if self._sending is not None:
                await cancel_and_wait(self._sending)
        finally:
            await self._client.aclose()

    async def _send(self) -> None:
        pause = 0.05
        # While the store is away, keep asking for it, even when no caller waits any more.
        while self._pending or self._away:
            batch, self._pending = self._pending[:TOGETHER], self._pending[TOGETHER:]
            batch = [entry for entry in batch if not entry[3].done()]
            try:
                await (self._send_once(batch) if batch else self._client.ping())
            except AWAY as error:
                if not self._patient:
                    _fail(batch, error)
                    continue
                if not self._away:
                    log.warning(
                        "store: away (it %s); running deliveries go on with a small share of the rate, no others begin",
                        explain(error, STORE).says,
                    )
                    self._away_since = time.monotonic()
                self._away = True
                self._pending = batch + self._pending
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
            except Exception as error:
                # The callers must get it, whatever the client library raises.
                _fail(batch, error)
            else:
                if self._away:
                    log.warning("store: back")
                self._away = False
                pause = 0.05

    def _alarm(self, script: Script, error: ResponseError) -> None:
        now = time.monotonic()
        if now - self._alarms.get(script.name, -ALARM_EVERY) >= ALARM_EVERY:
            self._alarms[script.name] = now
            failure = explain(error, STORE)
            log.error(
                "store: refuses the script '%s' (it %s: %s); whatever needs it waits, and no request fails",
                script.name,
                failure.says,
                failure.do,
            )

    async def _send_once(self, batch: Batch) -> None:
        for script in {entry[0] for entry in batch}:
            if script.hash is None:
                script.hash = await self._client.script_load(script.source)
        async with self._client.pipeline(transaction=False) as pipeline:
            for script, keys, args, _ in batch:
                pipeline.evalsha(script.hash or "", len(keys), *keys, *args)
            answers = await pipeline.execute(raise_on_error=False)
        if any(isinstance(answer, ReadOnlyError) for answer in answers):
            await self._client.connection_pool.disconnect()  # now a replica; a new connection may reach the primary
        for entry, answer in zip(batch, answers, strict=True):
            script, _, _, future = entry
            if isinstance(answer, NoScriptError):
                # The server was restarted or flushed its scripts: load the script and run it again.
                script.hash = None
                self._pending.append(entry)
            elif self._patient and (isinstance(answer, AWAY) or _not_now(answer)):
                raise StoreConnectionError("the store is not ready")
            elif future.done():
                continue
            elif isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def now_at(url: str, prefix: str, *, local: Callable[[], float] = time.time) -> float:
    """Do as `Store.now`, in a thread without a loop. Where the store does not answer, return *local* time."""
    client = cluster.client(url, prefix, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)
    try:
        return _seconds(client.time())
    except AWAY:
        return local()
    finally:
        client.close()


class ServerClock:
    """Unix seconds on another clock, which is asked once a minute: for a thread that must not ask for each message."""

    def __init__(self, ask: Callable[[], float]) -> None:
        self._ask = ask
        self._ahead = 0.0
        """Seconds by which that clock is ahead of the monotonic one."""
        self._until = float("-inf")

    def __call__(self) -> float:
        """Return the time. Ask the other clock where its last answer is a minute old."""
        if time.monotonic() > self._until:
            self._ahead = self._ask() - time.monotonic()
            self._until = time.monotonic() + MINUTE
        return time.monotonic() + self._ahead


def _seconds(answer: Any) -> float:
    whole, millionths = answer
    return int(whole) + int(millionths) / 1_000_000


def _fail(batch: Batch, error: Exception) -> None:
    for *_, future in batch:
        if not future.done():
            future.set_exception(error)


def _not_now(answer: object) -> bool:
    """True if the server refuses for now: it is full (memory or disk), a replica, has too few replicas, or is busy."""
    # redis-py knows the first three by type, and then leaves the code out of the text.
    later = (OutOfMemoryError, ReadOnlyError, MasterDownError)
    if isinstance(answer, later):
        return True
    return isinstance(answer, ResponseError) and str(answer).startswith(("BUSY ", "MISCONF ", "NOREPLICAS "))
