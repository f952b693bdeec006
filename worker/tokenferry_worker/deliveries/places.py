"""In which queue a message belongs. Only its signed header says so; anybody who may write to a queue can move it."""

from __future__ import annotations

from typing import Final

from tokenferry_worker.outcomes import Quarantined

WRONG_QUEUE: Final = "in another queue than its header says"


def misplaced(came_from: str | None, own: str) -> Quarantined | None:
    """Return the outcome of a message that was found in another queue than its *own*; None where it is at home.

    *came_from*: None where the queue is not known. The journal learns nothing of a misplaced message, so the worker
    that it was meant for can still carry it out: `dead-letters redrive --quarantine` sends it to its own queue.
    """
    if came_from is None or came_from == own:
        return None
    return Quarantined(WRONG_QUEUE)
