"""How much of a hard limit a fleet uses, and whether it ever draws a 429: counted by the endpoint, not by the worker.

The endpoint enforces a token bucket of exactly the configured rate with a burst of 5, at 250 ms per call. Utilisation
is calls admitted after the first second, over rate times duration; 1.0 is all the account allows.

    python -m bench.pacing [--rates 25 100] [--processes 1 2 4 8] [--seconds 15] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

from bench.stage import ledger, limited, send, tokenferry, worker


def measure(rate: int, processes: int, seconds: float) -> dict[str, Any]:
    """One fleet against one limit."""
    with tempfile.TemporaryDirectory(prefix="tokenferry-bench-") as name:
        folder = Path(name)
        with limited(folder, rate) as (endpoint, config):
            sent = send(config, int(rate * (seconds + 4)))
            arguments = tokenferry(
                "worker", "--role", "tokenize", "--processes", str(processes), "--config", str(config)
            )
            with worker(arguments, folder, ready=processes) as ended:
                while not ledger(endpoint)["tokens_created"]:
                    time.sleep(0.02)
                time.sleep(1.0)
                began, first = time.monotonic(), ledger(endpoint)
                time.sleep(seconds)
                took, last = time.monotonic() - began, ledger(endpoint)
                assert last["tokens_created"] < sent, "the queue ran dry: the figure would be too low"
    calls = last["tokens_created"] - first["tokens_created"]
    return {
        "rate": rate,
        "processes": processes,
        "utilisation": round(calls / (rate * took), 4),
        "refused_429": last["rate_limited"],
        "peak_in_a_second": last["peak_calls_per_second"]["tokens"],
        "cpu_seconds": round(ended(), 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=int, nargs="+", default=[25, 100])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for rate, processes in product(options.rates, options.processes):
        rows.append(measure(rate, processes, options.seconds))
        print(json.dumps(rows[-1]), file=sys.stderr)
    if options.json:
        print(json.dumps(rows))
        return
    print("\n rate/s  processes  utilisation  429s  peak in a second")
    for row in rows:
        print(
            f"{row['rate']:7}{row['processes']:11}{row['utilisation']:13.3f}{row['refused_429']:6}"
            f"{row['peak_in_a_second']:18}"
        )


if __name__ == "__main__":
    main()
