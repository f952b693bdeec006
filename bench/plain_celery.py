"""What one would write without this project: a Celery task, the official SDK, the card in the task's arguments."""

from __future__ import annotations

import os
import sys
import time

import stripe
from celery import Celery

app = Celery("plain", broker=os.environ.get("BENCH_BROKER"), backend=os.environ.get("BENCH_BROKER"))
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1)
client = stripe.StripeClient(
    os.environ["BENCH_KEY"], base_addresses={"api": os.environ.get("BENCH_ENDPOINT", "")}, max_network_retries=2
)


@app.task
def tokenize(card: dict[str, str]) -> str:
    """One token."""
    return client.v1.tokens.create({"card": card}).id


def main() -> None:
    """`publish` that many, or `wait` until that many results are there."""
    tokens, verb = int(sys.argv[1]), sys.argv[2]
    store = app.backend.client
    if verb == "publish":
        store.flushdb()
        for _ in range(tokens):
            tokenize.delay({"number": "4242424242424242", "exp_month": "12", "exp_year": "2034"})
        return
    deadline = time.monotonic() + 300
    while sum(1 for _ in store.scan_iter("celery-task-meta-*", count=1000)) < tokens:
        if time.monotonic() > deadline:
            raise SystemExit("the results did not come")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
