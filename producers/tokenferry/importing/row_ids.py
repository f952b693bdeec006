"""Request ids of rows with a key: the same row has the same id in every import, so workers do it once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final

from tokenferry.bulk.outputs import may_be_card_number
from tokenferry.contract.names import LETTERS
from tokenferry.contract.requests import Problem
from tokenferry.contract.targets import MOVES_MONEY
from tokenferry.inputs.rows import BrokenRow, Row, UnreadableFile
from tokenferry.ordering import Order

PREFIX: Final = "key-"
"""Every id that was derived from a key begins with it. A random one never does."""
FIRST_ROWS: Final = 100
"""Rows that are read ahead to see whether the key column holds keys."""
_DOMAIN: Final = "tokenferry/v1/row-id"


@dataclass(frozen=True, slots=True)
class KeyedRow:
    """What makes a row the same row in another import."""

    platform: str
    account: str
    """The connected account, or nothing."""
    kind: str
    target: str
    """The name of the target that its token is used for, or nothing."""
    key: str
    """As it stands in the file."""

    @classmethod
    def of(cls, order: Order, platform: str, key: str) -> KeyedRow:
        """*platform*: the name of the platform that is meant, where the order names none."""
        target = order.attach.to if order.attach is not None else ""
        return cls(platform, order.connected_account or "", order.request.kind, target, key)

    def request_id(self, namespace: str) -> str:
        """Return the request id (docs/formats.md, "The id of a row").

        >>> KeyedRow("main", "", "card", "customer_create", "seller-7").request_id("")
        'key-nglbmooiopgllbhkfooafmclfjahmgmo'
        """
        # Only the key, which is the last one, may contain a line feed or be of any length.
        parts = (_DOMAIN, self.platform, self.account, namespace, self.kind, self.target, self.key)
        found = hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return PREFIX + found.translate(LETTERS)


@dataclass(frozen=True)
class KeyRules:
    """Which rows an import may send by their key."""

    prefix: str = ""
    """The user's word that the keys are no card numbers. It stands before each key in the outputs."""
    namespace: str | None = None

    def shown(self, key: str) -> str:
        """The key of a row in the outputs."""
        return self.prefix + key

    def problems(self, row: Row, order: Order) -> list[Problem]:
        """Why no id may be derived from the key of *row*. Rows without a key have none."""
        if not row.has_key:
            return []
        if not self.prefix and may_be_card_number(row.key):
            return [Problem("key", "could be a card number; if your ids are like that: --key-prefix seller-")]
        if order.attach is not None and order.attach.to in MOVES_MONEY and self.namespace is None:
            reason = "moves money, so the import needs a name: --namespace 2030-01. Under one name, each key pays once"
            return [Problem("attach.to", reason)]
        return []


def with_usable_keys(rows: Iterable[Row | BrokenRow]) -> tuple[Iterator[Row | BrokenRow], bool]:
    """Return *rows*, and whether the first ones all have keys.

    Raises `UnreadableFile` if most of those could be card numbers.
    """
    source = iter(rows)
    first = list(islice(source, FIRST_ROWS))
    sound = [row for row in first if isinstance(row, Row)]
    keys = [row.key for row in sound if row.has_key]
    suspects = sum(map(may_be_card_number, keys))
    if suspects * 2 > len(keys):
        raise UnreadableFile(
            f"the key column: {suspects} of its first {len(keys)} values could be card numbers, so it is no key; map "
            'another column to it (--map "Id=key"), or leave it out. --key-prefix does not help here'
        )
    return chain(first, source), len(keys) == len(sound)
