"""The policy of a running worker: the file, or none while the fleet has never had one.

Until a store has seen a policy, there is none, and every signer may everything. From then on nothing comes in without
one: the deliveries wait, and nothing of them is lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from tokenferry.sealing import UnusableKey
from tokenferry_worker.keys.policy import Policy, PolicyFile

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
WRITE_ONE: Final = "put the policy of the other workers there, or write one with `tokenferry keys generate --out DIR`"


class PolicyNote(Protocol):
    """What the store knows: whether any worker of the fleet has ever read a policy."""

    async def write(self) -> None: ...

    async def is_there(self) -> bool: ...


class PolicySource:
    """Follows the file. `watch` must run beside the deliveries."""

    def __init__(self, path: Path, note: PolicyNote, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._note = note
        self._monotonic = monotonic
        self._file: PolicyFile | None = None
        self._noted = False
        self._trouble: str | None = None
        self._decided = asyncio.Event()
        """Set while messages may come in: there is a policy, or the fleet has none."""
        self._open()

    @property
    def trouble(self) -> str | None:
        """Why there is no policy, or why the file as it is now cannot be used. None: all is well."""
        return self._file.trouble if self._file is not None else self._trouble

    async def current(self) -> Policy | None:
        """Return the policy in force, or None where the fleet has none. Wait while nothing may come in."""
        await self._decided.wait()
        return self._file.current() if self._file is not None else None

    async def watch(self) -> None:
        """Look at the file once a second, and at the store's note while there is no file."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once."""
        if self._file is None:
            self._open()
        if self._file is None:
            await self._look_without_file()
            return
        self._file.current()
        if not self._noted:
            await self._note.write()
            self._noted = True

    def _open(self) -> None:
        if not self._path.exists():
            return
        try:
            self._file = PolicyFile(self._path, monotonic=self._monotonic)
        except UnusableKey as error:
            self._close(str(error))
        else:
            self._decided.set()

    async def _look_without_file(self) -> None:
        if self._path.exists():
            return  # unreadable, and reported
        if await self._note.is_there():
            self._close(f"{self._path}: is missing, and this fleet has a policy; {WRITE_ONE}")
        elif not self._decided.is_set():
            self._trouble = None
            self._decided.set()
            log.warning(
                "policy: there is no %s, so every signer may do everything; "
                "`tokenferry keys generate --out DIR` writes one",
                self._path,
            )

    def _close(self, trouble: str) -> None:
        self._decided.clear()
        if trouble != self._trouble:
            self._trouble = trouble
            log.error("policy: %s; until then nothing is let in", trouble)
