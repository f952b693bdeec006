"""The processes of the fleet, on all machines: each keeps its latest report in the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tokenferry_worker.health.reporter import ProcessRecord
from tokenferry_worker.on_redis.store import Script, Store

ALIVE_MS: Final = 20_000
"""Milliseconds after which a process that has not reported is gone."""


class RedisProcesses:
    """Implements `health.reporter.FleetRecords`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._report = Script("process_report")

    async def report(self, process: str, record: str) -> None:
        """Take the latest record of *process*. Without the store, nothing is reported."""
        await self._store.run_unless_away(self._report, [self._store.keys.processes], [process, record, ALIVE_MS])

    async def all(self) -> Sequence[ProcessRecord]:
        """Return the latest record of every process that lives."""
        lines: list[str] = await self._store.run(self._report, [self._store.keys.processes], ["", "", ALIVE_MS])
        records = [record for line in lines if (record := ProcessRecord.read(line)) is not None]
        return sorted(records, key=lambda record: (record.host, record.role, record.pid))
