"""The queues of dead letters and of the quarantine, looked through: see `tokenferry.broker.queue_browser`."""

from __future__ import annotations

from tokenferry.broker.queue_browser import Item, Shelf, opened

__all__ = ["Item", "Shelf", "opened"]
