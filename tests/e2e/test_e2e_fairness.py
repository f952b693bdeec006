"""Who waits for whom: nobody for another platform, and a person never for a file."""

from __future__ import annotations

import time

from e2e import cargo
from e2e.house import LATENCY_MS, PACE, House, least, until

WAITING = 800
"""Bulk requests in front: half a minute's worth of the paced platform's rate."""


def seconds_for_a_hundred(house: House) -> float:
    """How long platform `main` needs for 100 requests."""
    route = house.route()
    began = time.monotonic()
    house.send(cargo.cards(100, route.name))
    route.gather(100, seconds=60.0)
    return time.monotonic() - began


def test_a_platform_with_a_long_queue_does_not_slow_another_and_realtime_overtakes_bulk(house: House) -> None:
    house.fresh()
    with house.working(processes=2):
        alone = seconds_for_a_hundred(house)
        crowd = house.route()
        house.send(cargo.cards(WAITING, crowd.name, platform="paced"))
        until(lambda: crowd.look() >= PACE, "the crowd at its full rate")

        good = 1.2 * alone + 3.0  # behind the crowd it would be half a minute
        assert least(lambda: seconds_for_a_hundred(house), good) <= good

        person = house.route()
        waits = []
        for _ in range(9):  # a machine may stand still in some of them
            began = time.monotonic()
            house.send(cargo.cards(1, person.name, platform="paced", lane="realtime"))
            known = person.look()
            until(lambda known=known: person.look() > known, "the answer to a person")
            waits.append(time.monotonic() - began - LATENCY_MS / 1000)
        # Two permits' time, and what sealing, queue, opening and publishing take on a busy machine.
        assert sorted(waits)[2] <= 2 / PACE + 0.25, waits
        assert crowd.look() < WAITING, "the crowd was gone: nobody was overtaken"
    house.broker.take("tokenize.bulk.paced")
    crowd.look()
