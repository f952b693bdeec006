"""Another Celery application: its tasks send bank accounts of sellers to Tokenferry, and its beat reads the results.

    celery --app celery_app worker        # in examples/; Tokenferry's own workers run elsewhere

Card and bank data must not be arguments of a task: brokers and result backends keep them in clear. So a task gets the
seller's id, and reads the data where it is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from celery import Celery
from celery.signals import worker_process_shutdown

from tokenferry import BankAccountRequest, ExternalAccount, InvalidInput, Producer, PublishError

ROUTE = "sellers"
"""Where the results go: `Results(ROUTE)` or `tokenferry results sellers` reads them."""

app = Celery("shop", broker="redis://127.0.0.1:6379/9")


@cache
def producer() -> Producer:
    """The one producer of this process: made when a task first needs it, so after Celery's prefork."""
    return Producer()


def close_producer(**_: Any) -> None:
    """Send what is under way before the process ends."""
    if producer.cache_info().currsize:
        producer().close()


def bank_account_of(seller: str) -> BankAccountRequest:
    """Read a seller's bank account. Here it is the one that Stripe publishes for tests."""
    return BankAccountRequest(country="US", currency="usd", account_number="000123456789", routing_number="110000000")


def send_seller(
    seller: str,
    account: str,
    *,
    to: Callable[[], Producer] = producer,
    read: Callable[[str], BankAccountRequest] = bank_account_of,
) -> dict[str, Any]:
    """Send one bank account. The request id is made of the seller's, so a repeated task makes nothing twice."""
    try:
        target = ExternalAccount(account=account)
        sent = to().send(read(seller), request_id=f"seller-{seller}-bank", reply_to=ROUTE, attach=target)
    except InvalidInput as error:
        return {"refused": [str(problem) for problem in error.problems]}
    return {"request_id": sent}


# A PublishError is retried by Celery: the same request id again.
migrate = app.task(
    send_seller, name="shop.migrate", autoretry_for=(PublishError,), retry_backoff=True, max_retries=10, typing=False
)
worker_process_shutdown.connect(close_producer, weak=False)
