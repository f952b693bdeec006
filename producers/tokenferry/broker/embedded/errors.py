"""What goes wrong with the embedded server."""

from __future__ import annotations

from tokenferry.errors import ProducerError


class EmbeddedServerError(ProducerError, RuntimeError):
    """The embedded server cannot be started, reached or stopped. The message says where, why and what to do."""


class EmbeddedServerUnavailable(EmbeddedServerError):
    """This machine has no server program that could be started."""
