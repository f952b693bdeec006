"""A sealed outbox: `send` returns once the message is on the disk, and a sender delivers it, for days if need be.

Optional. What it gives: a producer that need not repeat anything when it dies together with the broker, and a sweep
that sends again what has no outcome, so that a message a broker has lost is found.
"""

from tokenferry.outbox.errors import OutboxFailed, OutboxFull, UnusableOutbox
from tokenferry.outbox.locking import SenderLock
from tokenferry.outbox.outbox import Outbox
from tokenferry.outbox.sending import Sender
from tokenferry.outbox.store import OutboxLimits

__all__ = ["Outbox", "OutboxFailed", "OutboxFull", "OutboxLimits", "Sender", "SenderLock", "UnusableOutbox"]
