"""Looks through the quarantine for messages of senders that this fleet does not know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Final

from tokenferry.broker.error_text import CONNECTION_LOST
from tokenferry.broker.queue_browser import open_browser
from tokenferry.configuration import Configuration
from tokenferry.contract.queues import QUARANTINE, full_name
from tokenferry_worker.dead_letters.record import DeadLetter
from tokenferry_worker.doctor.verdicts import Check, warning
from tokenferry_worker.errors import OF_STRANGERS

MOST: Final = 500
"""Messages that are looked at: enough to name who sends."""
NAMED: Final = 5
"""Senders that are named, those with the most messages first."""
PATIENCE: Final = 2.0
"""Seconds for which a RabbitMQ that cannot answer is asked again."""


def examine(configuration: Configuration) -> Iterator[Check]:
    """Name the unknown signers, and how many messages each has sent. Nothing where the quarantine cannot be read."""
    try:
        with open_browser(configuration, QUARANTINE, patience=PATIENCE) as waiting:
            found = Counter(sender for item in islice(waiting, MOST) if (sender := _stranger(item.body)) is not None)
    except CONNECTION_LOST:
        return  # the check of the queue itself has said it, or this user has no right to look
    for sender, count in found.most_common(NAMED):
        messages = "a message" if count == 1 else f"{count} messages"
        yield warning(
            "broker strangers",
            full_name(configuration.broker.prefix, QUARANTINE),
            f"{messages} of signer '{sender}', which this fleet does not know",
            "is another fleet on this broker? give each its own [broker] prefix; "
            "a producer of yours: put its public key into the folder of [keys] signers",
        )


def _stranger(record: str) -> str | None:
    """Who is said to have sent a message that no known key has signed. The name itself is not proven."""
    found = DeadLetter.read(record)
    if found.reason not in OF_STRANGERS:
        return None
    if found.order is not None:
        return found.order.request.signer_id
    return None if found.header is None else found.header.producer_id
