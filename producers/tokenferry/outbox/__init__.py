"""The optional outbox: `send` returns once the sealed message is on the disk. A sender delivers it, even days later.

So a producer need not repeat anything if it dies together with the broker. And the sender finds messages that a broker
has lost, and sends them again.
"""

from tokenferry.outbox.errors import OutboxFailed, OutboxFull, UnusableOutbox
from tokenferry.outbox.locking import SenderLock
from tokenferry.outbox.outbox import Outbox
from tokenferry.outbox.sending import Sender
from tokenferry.outbox.store import OutboxLimits

__all__ = ["Outbox", "OutboxFailed", "OutboxFull", "OutboxLimits", "Sender", "SenderLock", "UnusableOutbox"]
