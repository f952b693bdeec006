"""Durations as people read them."""

from __future__ import annotations


def span(seconds: float) -> str:
    """Return *seconds* as a short text.

    >>> span(7.9), span(200), span(9000), span(300_000)
    ('7 s', '3 min', '2 h', '3 d')
    """
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds / size)} {name}"
    return f"{max(0, int(seconds))} s"
