"""A long import against a stand-in that answers sealed requests with signed results: memory, CPU and kills.

`make million` runs it with a million rows; `test_million.py` is a small one. The stand-in is in this process. The
import is a process of its own, measured from outside: its memory and its CPU, by rows in the results file.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from importing.conftest import CANARY, House, StandIn, write_configuration, write_keys
from result_signing import signed

from tokenferry.broker import connecting, embedded
from tokenferry.contract.queues import results_queue

FIRST = 10_000
"""Rows after which memory and CPU are compared."""
MOST_BYTES = 200
"""Memory for each further row, at most."""
MOST_CPU = 1.1
"""CPU for a row at the end, compared with one of the first rows, at most."""
HEADER = "key,kind,number,exp_month,exp_year\n"


class Answering(StandIn):
    """Answers over one connection, and remembers ids in little memory."""

    def work(self) -> None:
        with connecting.connect(self.configuration) as self._own:
            self._producer = self._own.Producer(auto_declare=False)
            self._key = self.configuration.path(self.configuration.keys.result_signing_key)
            super().work()

    def reply(self, route: str, result: Any) -> None:
        message = signed(results_queue(route), result.model_dump_json(), self._key)
        self._producer.publish(
            message.body,
            headers=dict(message.headers),
            routing_key=message.queue,
            content_type="application/json",
            content_encoding="utf-8",
        )


@dataclass(frozen=True)
class Sample:
    """How far the import was, and what it had cost by then."""

    rows: int
    cpu: float
    """Seconds, user and system."""
    memory: int
    """Bytes that are resident."""


@dataclass(frozen=True)
class Report:
    """What a long import cost."""

    rows: int
    bytes_per_row: float
    """Memory for each row beyond `FIRST`, at the highest point."""
    cpu_first: float
    """Seconds of CPU for a row until `FIRST`, the first thousand left out."""
    cpu_last: float
    """Seconds of CPU for a row in the last part, of the same length."""
    seconds: float

    @property
    def is_flat(self) -> bool:
        """True if neither memory nor time grows with the rows."""
        return self.bytes_per_row <= MOST_BYTES and self.cpu_last <= MOST_CPU * self.cpu_first

    def __str__(self) -> str:
        return (
            f"{self.rows} rows in {self.seconds:.0f} s: {self.bytes_per_row:.0f} bytes of memory for each row beyond "
            f"{FIRST}, {self.cpu_first * 1e6:.0f} us of CPU for each of the first rows and {self.cpu_last * 1e6:.0f} "
            f"us for each of the last ({self.cpu_last / self.cpu_first:.2f})"
        )


def house_in(folder: Path, server: Path) -> House:
    """A house with a broker and no worker."""
    house = House(folder, "long")
    write_keys(folder / "keys")
    write_configuration(house, f"data = '{server}'")
    return house


def write_rows(path: Path, count: int) -> Path:
    """Write a file of cards."""
    with path.open("w") as file:
        file.write(HEADER)
        file.writelines(f"seller-{number},card,{CANARY},12,2044\n" for number in range(1, count + 1))
    return path


def measured(house: House, rows: int, *more: str) -> list[Sample]:
    """Import a file of so many rows. Return samples in the order of time."""
    process = house.start(*house.arguments(write_rows(house.folder / "rows.csv", rows)), "--quiet", *more)
    samples: list[Sample] = []
    lines = Lines(house.results)
    while process.poll() is None:
        if (sample := _sample(process.pid, lines.count())) is not None:
            samples.append(sample)
        time.sleep(0.1)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    return samples


def report(samples: list[Sample], rows: int, seconds: float) -> Report:
    """Compare the first rows with the last ones. *rows*: more than twice `FIRST`."""
    first = [each for each in samples if 1000 <= each.rows <= FIRST]
    last = [each for each in samples if each.rows >= rows - (FIRST - 1000) and each.rows <= rows - 100]
    beyond = [each for each in samples if each.rows >= FIRST]
    grown = max(each.memory for each in beyond) - beyond[0].memory
    return Report(rows, grown / (rows - beyond[0].rows), _cpu(first), _cpu(last), seconds)


def killed(house: House, rows: int, kills: int, *, seed: int) -> Counter[str]:
    """Import a file of so many rows, and kill the import *kills* times. Return how often each key has an outcome."""
    noise = random.Random(seed)
    file = write_rows(house.folder / "rows.csv", rows)
    marks = sorted(noise.randrange(rows // 50, rows - rows // 50) for _ in range(kills))
    for mark in marks:
        process = house.start(*house.arguments(file), "--quiet", "--resume")
        lines = Lines(house.results)
        while process.poll() is None and lines.count() < mark:
            time.sleep(0.005)
        process.kill()
        process.communicate(timeout=90)
    process = house.start(*house.arguments(file), "--quiet", "--json", "--resume")
    out, err = process.communicate(timeout=3600)
    assert process.returncode == 0, err
    assert json.loads(out)["outcomes"]["tokenized"] == rows
    assert json.loads(out)["outcomes"]["pending"] == 0
    return Counter(line["key"] for line in house.lines() if line["status"] == "tokenized")


class Lines:
    """Counts the lines of a file that grows, each only once."""

    def __init__(self, path: Path) -> None:
        self._path, self._read, self._count, self._inode = path, 0, 0, 0

    def count(self) -> int:
        """The lines that are in the file now."""
        try:
            with self._path.open("rb") as file:
                if (inode := os.fstat(file.fileno()).st_ino) != self._inode:
                    self._read, self._count, self._inode = 0, 0, inode
                file.seek(self._read)
                while block := file.read(1 << 20):
                    self._read += len(block)
                    self._count += block.count(b"\n")
        except FileNotFoundError:
            return 0
        return self._count


def _sample(pid: int, rows: int) -> Sample | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return None
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return Sample(rows, cpu, pages * os.sysconf("SC_PAGE_SIZE"))


def _cpu(samples: list[Sample]) -> float:
    return (samples[-1].cpu - samples[0].cpu) / (samples[-1].rows - samples[0].rows)


def main(rows: int, kills: int) -> int:
    """Print a report. Return the exit code: 0 if memory and time are flat."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        server = folder / "data"
        server.mkdir(0o700)
        with embedded.running(server):
            house = house_in(folder, server)
            with Answering(house.configuration(), house.platform):
                started = time.monotonic()
                if kills:
                    counted = killed(house, rows, kills, seed=1)
                    print(f"{rows} rows, {kills} kills: {rows - len(counted)} lost, {counted.total() - rows} doubled")
                    return int(counted.total() != rows or len(counted) != rows)
                found = report(measured(house, rows), rows, time.monotonic() - started)
                print(found)
                started = time.monotonic()
                assert house.run(folder / "rows.csv", "--quiet", "--resume").exit_code == 0
                print(f"to find that it is finished took {time.monotonic() - started:.1f} s")
                return int(not found.is_flat)


if __name__ == "__main__":
    sys.exit(main(int(os.environ.get("ROWS") or 1_000_000), int(os.environ.get("KILLS") or 0)))
