"""Ids belong to the group that chose them: the same id in two groups is two requests (docs/formats.md, "Groups").

Every name that is derived from an id is derived here or takes a `GroupedId`. `legacy` keeps the names of version 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenferry.contract.envelope import LEGACY


@dataclass(frozen=True)
class GroupedId:
    """A request or attach id, the group that it belongs to, and which generation of it is meant."""

    id: str
    group: str = LEGACY
    generation: int = 1

    @property
    def key(self) -> str:
        """Its name in the store. No id has a colon, so no two groups share one.

        >>> GroupedId("req-1").key, GroupedId("req-1", "shop").key
        ('req-1', 'shop:req-1')
        """
        return self.id if self.group == LEGACY else f"{self.group}:{self.id}"

    @property
    def shown(self) -> str:
        """What its outcome ids begin with.

        >>> GroupedId("req-1").shown, GroupedId("req-1", "shop").shown
        ('req-1', 'shop/req-1')
        """
        return self.id if self.group == LEGACY else f"{self.group}/{self.id}"

    @property
    def is_as_before(self) -> bool:
        """True if its idempotency keys are those of version 1."""
        return self.group == LEGACY and self.generation == 1


def named(key: str) -> GroupedId:
    """Return what *key* stands for in the store.

    >>> named("req-1"), named("shop:req-1").group
    (GroupedId(id='req-1', group='legacy', generation=1), 'shop')
    """
    group, _, id_ = key.rpartition(":")
    return GroupedId(id_, group or LEGACY)


def own_id(key: str, group: str) -> str | None:
    """Return the id that *key* stands for in the store, if it is one of *group*. Else None: that is told to nobody.

    >>> own_id("req-1", "legacy"), own_id("shop:req-1", "shop"), own_id("req-1", "shop")
    ('req-1', 'req-1', None)
    """
    name = named(key)
    return name.id if name.group == group else None
