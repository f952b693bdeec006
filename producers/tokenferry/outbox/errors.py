"""What an outbox can answer instead of taking a request."""

from __future__ import annotations

from tokenferry.broker.publishing import PublishError


class UnusableOutbox(ValueError):
    """The file is no outbox, is damaged, or cannot be written. Says which file and what to do."""


class OutboxFailed(PublishError):
    """The outbox could not take the request now. Nothing was accepted, unless `maybe_sent`."""


class OutboxFull(OutboxFailed):
    """There is no room: the outbox is at its limit, or the disk is full. Nothing was accepted."""
