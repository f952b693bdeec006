"""The errors of an outbox."""

from __future__ import annotations

from tokenferry.broker.publishing import PublishError
from tokenferry.errors import ProducerError


class UnusableOutbox(ProducerError, ValueError):
    """The file is no outbox, is damaged, or cannot be written. The message names the file and says what to do."""

    exit_code = 2


class OutboxFailed(PublishError):
    """The outbox could not accept the request now. Nothing was accepted, unless `maybe_sent`."""


class OutboxFull(OutboxFailed):
    """The outbox is at its limit, or the disk is full. Nothing was accepted."""
