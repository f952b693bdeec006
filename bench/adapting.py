"""A limit that is halved without notice, and comes back: how many calls are refused, how much of it is used.

The endpoint grants 100 calls per second, then 50, then 100 again, while a fleet of two processes, configured for 100,
works without a pause. Counted by the endpoint.

    python -m bench.adapting [--halved 60] [--back 70] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from bench.stage import ledger, limited, send, tokenferry, worker

RATE = 100


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--halved", type=int, default=60, help="seconds")
    parser.add_argument("--back", type=int, default=70, help="seconds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tokenferry-bench-") as name:
        folder = Path(name)
        with limited(folder, RATE) as (endpoint, config):
            sent = send(config, RATE * (options.halved + options.back + 15))
            arguments = tokenferry("worker", "--role", "tokenize", "--processes", "2", "--config", str(config))
            with worker(arguments, folder, ready=2):
                time.sleep(4)
                halved = [*watch(endpoint, RATE / 2, options.halved)]
                back = [*watch(endpoint, RATE, options.back)]
            assert halved[-1]["tokens"] + back[-1]["tokens"] < sent, "the queue ran dry"
    settled = halved[10:]
    figures = {
        "refused_share_first_10_s": share(halved[:10]),
        "refused_share_after_10_s": share(settled),
        "used_of_the_halved_limit_after_10_s": used(settled, RATE / 2),
        "seconds_until_95_percent_after_its_return": next(
            (n + 1 for n, second in enumerate(back) if second["made"] >= 0.95 * RATE), None
        ),
        "used_after_60_s_back": used(back[60:], RATE),
        "refused_share_after_its_return": share(back),
    }
    print(json.dumps(figures, indent=None if options.json else 2))


def watch(endpoint: str, rate: float, seconds: int) -> list[dict[str, Any]]:
    """Set the true limit; then what the endpoint counted in each second."""
    body = json.dumps({"endpoint_rate": rate}).encode()
    urlopen(Request(f"{endpoint}/_limits", data=body, method="POST")).close()
    rows, before = [], ledger(endpoint)
    due = time.monotonic()
    for _ in range(seconds):
        due += 1.0
        time.sleep(max(0.0, due - time.monotonic()))
        now = ledger(endpoint)
        made = now["tokens_created"] - before["tokens_created"]
        refused = now["rate_limited"] - before["rate_limited"]
        rows.append({"made": made, "refused": refused, "tokens": now["tokens_created"]})
        print(f"{rate:5.0f}/s: {made:4} made, {refused:3} refused", file=sys.stderr)
        before = now
    return rows


def share(rows: list[dict[str, Any]]) -> float:
    """Refused calls over all calls."""
    refused = sum(row["refused"] for row in rows)
    return round(refused / max(1, refused + sum(row["made"] for row in rows)), 4)


def used(rows: list[dict[str, Any]], rate: float) -> float | None:
    """Calls made over calls allowed."""
    return round(sum(row["made"] for row in rows) / (rate * len(rows)), 3) if rows else None


if __name__ == "__main__":
    main()
