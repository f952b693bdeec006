"""A Celery worker's application for tests: everything it is told comes through the environment."""

import json
import os
import time
from pathlib import Path

from broker.hands import write
from celery import Celery

app = Celery("transport_test", broker=os.environ.get("TRANSPORT_TEST_BROKER", "memory://"))
app.conf.update(
    broker_transport_options=json.loads(os.environ.get("TRANSPORT_TEST_OPTIONS", "{}")),
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
)


@app.task(name="transport_test.note")
def note(number: int, seconds: float) -> None:
    """Write the number into the log of what has begun, take that long, then write it into the log of what is done."""
    log = Path(os.environ["TRANSPORT_TEST_LOG"])
    write(log.with_suffix(".begun"), number)
    time.sleep(seconds)
    write(log, number)
