"""Celery's consumer, made to lose nothing: what it would drop with the body in the log is set aside, silently."""

from __future__ import annotations

import logging
from typing import Any

from celery.worker.consumer import Consumer

from tokenferry.broker.publishing import PublishError
from tokenferry.contract.queues import QUARANTINE
from tokenferry_worker.settling import set_aside

log = logging.getLogger(__name__)


class CarefulConsumer(Consumer):
    """Moves unknown tasks, foreign messages and undecodable bodies to the quarantine queue instead of dropping them."""

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """A message that is no task."""
        self._set_aside(message, "not a task message")

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """A task that is not ours."""
        self._set_aside(message, "unknown task")

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """A task message with broken parts."""
        self._set_aside(message, "invalid task message")

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """A body that its own content type does not fit, or a content type that is not accepted."""
        self._set_aside(message, "undecodable message")

    def _set_aside(self, message: Any, reason: str) -> None:
        body = message.body
        text = body.decode("utf-8", "backslashreplace") if isinstance(body, bytes) else str(body)
        log.warning("a message is not ours or not readable (%s); moved to %s", reason, QUARANTINE)
        try:
            self.app.tokenferry_publisher().publish(set_aside(QUARANTINE, text, reason))
        except PublishError:
            message.reject_log_error(log, self.connection_errors, requeue=True)
        else:
            message.ack_log_error(log, self.connection_errors)
