"""A producer and a reader by the public names alone, so that this version and the one before can both run it.

python either_version.py send CONFIG COUNT PER_SECOND ROUTE...    sends in turn to each route, prints each request id
python either_version.py read CONFIG COUNT ROUTE...               prints each result, and ends after COUNT of them
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from pathlib import Path

from tokenferry import CardRequest, Order, Producer, Results
from tokenferry.contract.targets import CustomerCreate

CARD = CardRequest(number="4242424242424242", exp_month="12", exp_year="2044")
TOGETHER = 20


def send(config: Path, count: int, per_second: float, routes: list[str]) -> None:
    turns = itertools.cycle(routes)
    with Producer(config) as producer:
        for first in range(0, count, TOGETHER):
            numbers = range(first, min(count, first + TOGETHER))
            attach = [None if at % 4 else CustomerCreate() for at in numbers]
            orders = [Order(CARD, platform="main", reply_to=next(turns), attach=target) for target in attach]
            for request_id in producer.send_many(orders):
                print(request_id, flush=True)
            time.sleep(TOGETHER / per_second)


def read(config: Path, count: int, routes: list[str]) -> None:
    readers = [Results(route, config) for route in routes]
    left, lock = [count], threading.Lock()

    def follow(reader: Results) -> None:
        for result in reader:
            about = {"request_id": result.request_id, "ok": result.ok, "outcome_id": result.outcome_id}
            with lock:
                print(json.dumps(about), flush=True)
                left[0] -= 1
            if left[0] == 0:
                for each in readers:
                    each.stop()

    threads = [threading.Thread(target=follow, args=(reader,)) for reader in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for reader in readers:
        assert not reader.refused, reader.refused
        reader.close()


if __name__ == "__main__":
    what, config, count, *rest = sys.argv[1:]
    if what == "send":
        send(Path(config), int(count), float(rest[0]), rest[1:])
    else:
        read(Path(config), int(count), rest)
