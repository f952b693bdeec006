"""Decides which entries of the store a worker believes, and raises the alarm about the others."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from tokenferry_worker.keys.state_keys import Entry, StateKeys

log = logging.getLogger(__name__)

ALARM_SECONDS: Final = 3600.0
"""How long `tokenferry health` fails after an entry that did not verify."""


class StateTags:
    """Tags what is written, and checks what is read."""

    def __init__(
        self,
        keys: StateKeys,
        *,
        believes_untagged: Callable[[], bool] = lambda: True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """*believes_untagged*: True while entries of the version before, which made no tags, may be there."""
        self._keys = keys
        self._believes_untagged = believes_untagged
        self._monotonic = monotonic
        self._latest: float | None = None
        self.refused = 0
        """Entries that did not verify since the start."""

    @property
    def verifies(self) -> bool:
        """True if there is a key, so that entries are checked."""
        return self._keys.current is not None

    def tag(self, entry: Entry, *facts: str) -> str:
        """Return the tag to write beside an entry. Empty without a key."""
        return self._keys.tag(entry, *facts)

    def is_authentic(self, tag: str, entry: Entry, *facts: str) -> bool:
        """True if a worker wrote these *facts*. Without a key every entry counts as authentic.

        So does every entry while the version before may have written it. It wrote no tags, and left those that were
        there: a wrong tag says no more than none.
        """
        return not self.verifies or self._keys.verify(tag, entry, *facts) or self._believes_untagged()

    def refuse(self, name: str) -> None:
        """Raise the alarm about the entry under the key *name*."""
        self.refused += 1
        self._latest = self._monotonic()
        log.error(
            "state: the entry %s was not written by a worker, or was changed: its tag does not verify. It counts as "
            "unknown. Find out who can write to the store, and change its password (docs/threat-model.md)",
            name,
        )

    @property
    def trouble(self) -> str | None:
        """What `tokenferry health` says for an hour after an entry that did not verify. None: there was none."""
        if self._latest is None or self._monotonic() - self._latest > ALARM_SECONDS:
            return None
        return f"the store holds what no worker wrote ({self.refused} entries since the start)"


def untagged() -> StateTags:
    """Return tags without a key: everything is believed."""
    return StateTags(StateKeys())
