"""Keys by their ids. An id of version 1, with 16 digits, is the beginning of one with 32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from tokenferry.sealing import UnusableKey, id_in

Key = TypeVar("Key")


class KeyRing(Mapping[str, Key]):
    """The keys of one folder. Each is found by its id, and by the 16 digits with which version 1 spells it."""

    def __init__(self, keys: Mapping[str, Key]) -> None:
        self._keys = dict(keys)
        self._by_beginning = {id_in(1, key_id): key_id for key_id in keys}

    @classmethod
    def of(cls, files: Iterable[tuple[Path, tuple[str, Key]]]) -> KeyRing[Key]:
        """Return the keys of *files*: each with its path, key id and key.

        Raises `UnusableKey` where version 1 could not tell two of them apart.
        """
        keys: dict[str, Key] = {}
        seen: dict[str, tuple[str, Path]] = {}
        for path, (key_id, key) in files:
            other, where = seen.setdefault(id_in(1, key_id), (key_id, path))
            if other != key_id:
                raise UnusableKey(
                    f"{path}: its key id begins like that of {where.name} ({id_in(1, key_id)}), and messages of "
                    "version 1 name no more than that; remove one of the two files, and make another key in its place"
                )
            keys[key_id] = key
        return cls(keys)

    def __getitem__(self, key_id: str) -> Key:
        return self._keys[self._by_beginning.get(key_id, key_id)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)
