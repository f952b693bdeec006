"""One connection to the store for the whole process: scripts from hundreds of deliveries, sent together.

What is asked for while a round trip is under way goes with the next one, so cost per call falls as load rises, and
an idle worker's call waits for nobody.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as StoreConnectionError
from redis.exceptions import MasterDownError, NoScriptError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as StoreTimeoutError

from tokenferry.broker import sentinel
from tokenferry.broker.error_text import STORE, explain
from tokenferry_worker.cancelling import cancel_and_wait

log = logging.getLogger(__name__)

AWAY: Final = (StoreConnectionError, StoreTimeoutError, OSError)
PATIENCE: Final = 2.0
"""Seconds until who can do without the store does without it."""
TOGETHER: Final = 500
"""Scripts per round trip at most, so that one reply stays small."""
LONGEST_PAUSE: Final = 5.0
"""Seconds at most before a script that was refused is tried again."""
MINUTE: Final = 60.0
ALARM_EVERY: Final = 60.0
"""Seconds between two lines in the log about one script that is refused."""


class Script:
    """One Lua file beside this module, known to the server by its hash. *after*: files it stands behind."""

    def __init__(self, name: str, *, after: Sequence[str] = ()) -> None:
        self.name = name
        here = Path(__file__)
        self.source = "".join(here.with_name(f"{part}.lua").read_text(encoding="utf-8") for part in (*after, name))
        self.hash: str | None = None


Asked = list[tuple[Script, Sequence[str], Sequence[Any], "asyncio.Future[Any]"]]


class Store:
    """Runs scripts. Every script here may be run twice without harm, so a lost answer is simply asked again."""

    def __init__(self, client: Redis, prefix: str, *, patient: bool = True) -> None:
        """*patient*: wait until the store can serve, as a worker does. Otherwise its errors are the caller's."""
        self._client = client
        self._prefix = prefix
        self._patient = patient
        self._alarms: dict[str, float] = {}
        self._asked: Asked = []
        self._sending: asyncio.Task[None] | None = None
        self._away = False
        self._away_since = 0.0
        self._clock = Script("clock")

    @classmethod
    def at(cls, url: str, prefix: str, *, patient: bool = True) -> Store:
        """A store at *url* (redis-py's form, or ``sentinel://``). Nothing is connected yet."""
        client = sentinel.async_client(
            url, decode_responses=True, socket_timeout=10.0, socket_connect_timeout=5.0, health_check_interval=15
        )
        return cls(client, prefix, patient=patient)

    @property
    def away(self) -> bool:
        """Whether the store could not be reached when it was last asked."""
        return self._away

    @property
    def silent(self) -> bool:
        """True if the store has been away for `PATIENCE` seconds: `run_unless_away` asks it nothing then."""
        return self._patience_left() <= 0

    def _patience_left(self) -> float:
        return PATIENCE - (time.monotonic() - self._away_since if self._away else 0.0)

    def key(self, *parts: str) -> str:
        """The full name of a key."""
        return ":".join((self._prefix, *parts))

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run *script*, waiting as long as the store is away: without it no call may be made, so none is.

        The same where it answers and refuses the script (a right that is missing, a script that fails): no request is
        to blame for that, so none is given up on for it. The log says so once a minute.
        """
        pause = 0.05
        while True:
            try:
                return await self._ask(script, keys, args)
            except ResponseError as error:
                if not self._patient:
                    raise
                self._alarm(script, error)
            # Here and not where the error is handled: who is called off meanwhile must not carry it along.
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _ask(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked.append((script, keys, args, future))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send(), name="tokenferry-store")
        return await future

    async def run_unless_away(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any | None:
        """As `run`, but None when the store is away for `PATIENCE` seconds or does not answer within as many."""
        left = self._patience_left()
        if left <= 0:
            return None
        try:
            async with asyncio.timeout(left):
                return await self.run(script, keys, args)
        except TimeoutError:
            return None

    async def now(self) -> float:
        """Unix seconds on its clock, the one that the whole fleet has in common."""
        return _seconds(await self.run(self._clock, [], []))

    async def aclose(self) -> None:
        """Close the connection."""
        try:
            if self._sending is not None:
                await cancel_and_wait(self._sending)
        finally:
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
                if not self._patient:
                    _fail(batch, error)
                    continue
                if not self._away:
                    log.warning(
                        "store: away (it %s); what is in hand goes on with a small share of the rate, "
                        "nothing else begins",
                        explain(error, STORE).says,
                    )
                    self._away_since = time.monotonic()
                self._away = True
                self._asked = batch + self._asked
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
            except Exception as error:
                # Whoever waits must learn of it, whatever the client library raises.
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
                "store: refuses the script '%s' (it %s: %s); what needs it waits, nothing is given up on",
                script.name,
                failure.says,
                failure.do,
            )

    async def _send_once(self, batch: Asked) -> None:
        for script in {asked[0] for asked in batch}:
            if script.hash is None:
                script.hash = await self._client.script_load(script.source)
        async with self._client.pipeline(transaction=False) as pipeline:
            for script, keys, args, _ in batch:
                pipeline.evalsha(script.hash or "", len(keys), *keys, *args)
            answers = await pipeline.execute(raise_on_error=False)
        if any(isinstance(answer, ReadOnlyError) for answer in answers):
            await self._client.connection_pool.disconnect()  # demoted: a new connection may reach the new primary
        for asked, answer in zip(batch, answers, strict=True):
            script, _, _, future = asked
            if isinstance(answer, NoScriptError):
                # The server was restarted or flushed its scripts: load again, ask again.
                script.hash = None
                self._asked.append(asked)
            elif self._patient and (isinstance(answer, AWAY) or _not_now(answer)):
                raise StoreConnectionError("the store is not ready")
            elif future.done():
                continue
            elif isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def now_at(url: str) -> float:
    """As `Store.now`, for a thread without a loop; on the clock of this machine where the store does not answer."""
    client = sentinel.client(url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)
    try:
        return _seconds(client.time())
    except AWAY:
        return time.time()
    finally:
        client.close()


class ServerClock:
    """A clock that is asked once a minute: Unix seconds. For a thread that has no time to ask for every message."""

    def __init__(self, ask: Callable[[], float]) -> None:
        self._ask = ask
        self._ahead = 0.0
        """Seconds by which it is ahead of the monotonic clock."""
        self._until = float("-inf")

    def __call__(self) -> float:
        """The time, asked anew where the last answer is a minute old."""
        if time.monotonic() > self._until:
            self._ahead = self._ask() - time.monotonic()
            self._until = time.monotonic() + MINUTE
        return time.monotonic() + self._ahead


def _seconds(answer: Any) -> float:
    whole, millionths = answer
    return int(whole) + int(millionths) / 1_000_000


def _fail(batch: Asked, error: Exception) -> None:
    for *_, future in batch:
        if not future.done():
            future.set_exception(error)


def _not_now(answer: object) -> bool:
    """Whether the server says it will answer later.

    It is full (its memory or its disk), a replica, without a primary or without enough replicas, or busy.
    """
    # redis-py knows the first three by type, and then leaves the code out of the text.
    later = (OutOfMemoryError, ReadOnlyError, MasterDownError)
    if isinstance(answer, later):
        return True
    return isinstance(answer, ResponseError) and str(answer).startswith(("BUSY ", "MISCONF ", "NOREPLICAS "))
