"""A full disk. Under the embedded server: sending says so, workers wait, and go on later. Under the log: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from e2e import cargo
from e2e.house import House, until

from tokenferry import BrokerFull
from tokenferry_worker.health import probes

ROOM = 8 * 1024 * 1024
"""Bytes of the disk."""


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir(mode=0o700)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={ROOM},mode=0700", "none", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"needs to be allowed to mount a small disk: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path) -> Path:
    """Leave no room at all."""
    path = disk / "something-else"
    with path.open("wb", buffering=0) as file:
        for size in (65_536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass
    return path


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_is_an_error_to_who_sends_and_a_pause_to_who_works(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with small_disk(tmp_path / "data") as disk:
        house = House(tmp_path, "embedded")
        try:
            _a_full_disk(house, disk)
        finally:
            house.close()


def _a_full_disk(house: House, disk: Path) -> None:
    route = house.route()
    worker = house.worker()
    children = worker.children()
    sent = house.send(cargo.cards(75, route.name, platform="paced"))
    until(lambda: house.ledger()["tokens_created"] >= 20, "work under way")
    filler = fill(disk)
    refusals: list[BrokerFull] = []

    def refused() -> bool:
        try:
            sent.append(house.producer.send(cargo.card(), platform="main", reply_to=route.name))
        except BrokerFull as error:
            refusals.append(error)
            return True
        return False

    until(refused, "a refusal")  # what still fitted was accepted, and counts
    until(lambda: house.broker.client.info("persistence")["aof_last_write_status"] == "err", "the server's own word")
    time.sleep(4.0)  # who took this for a crash would have tried several times by now
    filler.unlink()
    until(lambda: not refused(), "room again")
    route.gather(len(sent), seconds=60.0)
    house.until_all_is_done()
    assert worker.children() == children, worker.said()
    assert "Traceback" not in worker.said()
    assert "crashed" not in worker.said()
    assert worker.stop() == 0
    assert not any(error.maybe_sent for error in refusals)
    assert all("cannot write to its disk" in str(error) for error in refusals)
    route.look()
    assert all(result.ok for result in route.of(sent).values())
    assert house.ledger()["tokens_created"] == len(sent)
    assert house.ledger()["tokens_by_idempotency_key"]["max"] == 1


MUTE = """
import os
import forking
from tokenferry.cli import main
full = os.open("/dev/full", os.O_WRONLY)
for file in (1, 2):
    os.dup2(full, file)
main(prog_name="tokenferry", obj=forking.Forked)
"""
"""A worker that cannot write a line, nor can its processes."""


@pytest.mark.parametrize("house", ["embedded"], indirect=True)
def test_a_worker_whose_log_cannot_be_written_works_on_and_stops_well(house: House) -> None:
    command = [sys.executable, "-c", MUTE, "worker", "--config", str(house.folder / "tokenferry.toml")]
    worker = house.start(command, "mute-worker")
    until(lambda: any(one.ready for one in probes.ask(house.folder / "data")), "a worker at work", 60.0)
    route = house.route()
    house.send(cargo.cards(5, route.name))
    route.gather(5)
    house.until_all_is_done()
    assert worker.stop() == 0
