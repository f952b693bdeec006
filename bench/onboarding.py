"""Whole accounts at the endpoint's own latencies: is it the account-creation budget that bounds them, or waiting?

Each account has three persons, one of them with an id number of its own, and a bank account: fourteen calls, one after
the other, with the latencies measured on the real endpoint (writes of seconds). One call in a hundred is refused with a
lock time-out. Counted by the endpoint. Ends with 1 where a promise is broken, and says which.

    python -m bench.onboarding [--accounts 200] [--per-second 5] [--json]
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

from bench.contenders.firms import firms
from bench.stage import emulator, ledger, run, tokenferry, worker
from tokenferry import OnboardingResult, Producer, Results, load, onboarding_from
from tokenferry.broker import embedded

PROCESSES = 2
LOCKED = 0.01
"""Share of the calls that meet a lock time-out."""
ROOM, BEGINNING = 1.5, 10.0
"""How much longer than at its budget the making of accounts may take: so many times, and so many seconds."""
ONCE = {"account": 1, "person": 3, "external_account": 1}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=int, default=200)
    parser.add_argument("--per-second", type=float, default=5.0, help="account creations that the endpoint grants")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tokenferry-bench-") as name:
        figures = measured(Path(name), options.accounts, options.per_second)
    print(json.dumps(figures, indent=None if options.json else 2))
    if broken := [promise for promise, kept in promises(figures).items() if not kept]:
        sys.exit(f"broken: {'; '.join(broken)}")


def promises(figures: dict[str, Any]) -> dict[str, bool]:
    """What must hold, and whether it does."""
    budget = figures["seconds_that_the_creations_take_at_the_budget"]
    return {
        "every account is complete": figures["complete"] == figures["accounts"],
        "nothing is made twice": not any(figures["objects_too_many"].values()),
        "no token is spent twice": figures["tokens_used_twice"] == 0,
        "no two writes at once on one account": figures["most_writers_on_one_account"] <= 1,
        "the creation budget bounds it, not waiting": (
            figures["seconds_until_the_last_account_was_made"] <= ROOM * budget + BEGINNING
        ),
    }


def measured(folder: Path, accounts: int, per_second: float) -> dict[str, Any]:
    """Onboard so many accounts, and count."""
    grants = ("--sampled-latency", "--account-creation-rate", f"{per_second}", "--burst", "5")
    with emulator(folder, *grants) as endpoint, embedded.running(folder / ".tokenferry"):
        config = folder / "tokenferry.toml"
        config.write_text(
            f'[platforms.bench]\nbase_url = "{endpoint}"\nsecret_key = {{ env = "BENCH_KEY" }}\n'
            "[platforms.bench.limits]\nglobal_per_second = 400\nendpoint_per_second = 100\n"
            f"account_creation_per_second = {per_second}\n"
        )
        run(tokenferry("keys", "generate", "--out", str(folder / "keys")))
        body = json.dumps({"lock_timeout": LOCKED}).encode()
        urlopen(Request(f"{endpoint}/_faults", data=body, method="POST")).close()
        arguments = tokenferry("worker", "--role", "onboard", "--processes", str(PROCESSES), "--config", str(config))
        with worker(arguments, folder, ready=PROCESSES) as cpu_seconds, Producer(load(config)) as producer:
            began = time.monotonic()
            for document in firms(accounts):
                producer.onboard(onboarding_from(document), reply_to="bench")
            last_made, results = 0.0, []
            with Results("bench", load(config)) as route:
                while len(results) < accounts:
                    result = route.take(timeout=1.0)
                    if isinstance(result, OnboardingResult):
                        results.append(result)
                    if not last_made and ledger(endpoint)["objects"].get("account", 0) == accounts:
                        last_made = time.monotonic() - began
            seconds = time.monotonic() - began
        book = ledger(endpoint)
    return {
        "accounts": accounts,
        "complete": sum(result.complete for result in results),
        "seconds": round(seconds, 1),
        "seconds_that_the_creations_take_at_the_budget": accounts / per_second,
        "seconds_until_the_last_account_was_made": round(last_made, 1),
        "peak_account_creations_in_a_second": book["peak_admitted_per_second"].get("POST /v1/accounts"),
        "refused_with_429_for_their_rate": book["rate_limited"],
        "calls": book["calls"]["total"],
        "lock_time_outs": book["faults"].get("lock_timeout", 0),
        "most_writers_on_one_account": book["per_object_concurrent_writes_peak"],
        "objects_too_many": {kind: book["objects"][kind] - each * accounts for kind, each in ONCE.items()},
        "tokens_used_twice": len(book["uses"]["tokens_used_more_than_once"]),
        "unused_tokens": book["unused_tokens"],
        "worker_cpu_ms_per_account": round(1000 * cpu_seconds() / accounts, 1),
    }


if __name__ == "__main__":
    main()
