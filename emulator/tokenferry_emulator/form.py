"""Form bodies with bracketed keys: `card[number]=…`, `expand[0]=…`, `expand[]=…`."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

Pairs = list[tuple[str, str]]


def pairs_of(text: str) -> Pairs:
    """The pairs of a form body or a query string, in the order sent."""
    return parse_qsl(text, keep_blank_values=True)


def nest(pairs: Pairs) -> dict[str, Any]:
    """Nested dicts of strings. A list arrives as a dict with numbers for keys; what is a list, the tables know.

    >>> nest([("card[number]", "4242"), ("expand[]", "a"), ("expand[]", "b")])
    {'card': {'number': '4242'}, 'expand': {'0': 'a', '1': 'b'}}
    """
    root: dict[str, Any] = {}
    for key, value in pairs:
        path = _path(key)
        node = root
        for name in path[:-1]:
            below = node.get(_name(node, name))
            if not isinstance(below, dict):
                below = {}
                node[_name(node, name)] = below
            node = below
        node[_name(node, path[-1])] = value
    return root


def _name(node: dict[str, Any], name: str) -> str:
    return name or str(len(node))


def _path(key: str) -> list[str]:
    if "[" not in key or not key.endswith("]"):
        return [key]
    head, _, rest = key.partition("[")
    return [head, *rest[:-1].split("][")]
