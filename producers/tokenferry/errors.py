"""The base of every error that this package raises on purpose. Imports nothing, so that the command line stays light.

    ProducerError
      InvalidInput        a request, target or option cannot be sent: `problems` says field and reason
      StillRunning        no answer in time; the request goes on
      UnknownRequest      nothing is known here of this request
      PublishError, InvalidConfiguration, UnusableKey, UnusableOutbox, EmbeddedServerError, ...

Every text is safe to show and to log: what, where, what to do, and never a value.
"""

from __future__ import annotations

from typing import ClassVar


class ProducerError(Exception):
    """The base class. Its text is safe to show."""

    exit_code: ClassVar[int] = 1
    """How the command line ends: 1, something failed; 2, wrong usage or configuration, and nothing was done."""

    def on_command_line(self) -> str:
        """Return the line that the command line prints."""
        return str(self)


class OutputFailed(ProducerError, RuntimeError):
    """An output file cannot be written any more: the disk is full, for instance."""


class StillRunning(ProducerError, TimeoutError):
    """There was no answer in time. The request goes on: `outcome(request_id)` of the same producer has it later."""

    def __init__(self, request_id: str, seconds: float) -> None:
        """*seconds*: how long was waited."""
        self.request_id = request_id
        self.seconds = seconds
        super().__init__(
            f"no answer for {request_id} after {seconds:g} s; it goes on. Ask this producer again with "
            f"outcome({request_id!r}), or run `tokenferry show {request_id}`. Do not send it under a new id"
        )

    def __reduce__(self) -> tuple[type[StillRunning], tuple[str, float]]:
        return type(self), (self.request_id, self.seconds)


class UnknownRequest(ProducerError, LookupError):
    """This producer did not ask for this request, or its answer was too long ago to be still here."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        super().__init__(
            f"this producer has no answer for {request_id}: another process asked, or it is too long ago. "
            f"`tokenferry show {request_id}` says what became of it"
        )

    def __reduce__(self) -> tuple[type[UnknownRequest], tuple[str]]:
        return type(self), (self.request_id,)
