"""One picture: horizontal bars, in a few lines of SVG."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

BAR, GAP, LEFT, WIDTH = 26, 12, 190, 640
"""Pixels: height of a bar, space between bars, where they begin, the whole width."""


def bars(title: str, values: Mapping[str, float], unit: str) -> str:
    """A bar for each of *values*, the first one (ours) in another colour. The value stands at its end."""
    height = 44 + len(values) * (BAR + GAP)
    longest = max(values.values(), default=0.0) or 1.0
    room = WIDTH - LEFT - 110
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' font-family="sans-serif" font-size="13" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="24" font-size="15" font-weight="bold" fill="#222222">{escape(title)}</text>',
    ]
    for number, (name, value) in enumerate(values.items()):
        top = 40 + number * (BAR + GAP)
        long = max(2.0, room * value / longest)
        colour = "#2a7f62" if number == 0 else "#9aa5b1"
        parts += [
            f'<text x="{LEFT - 10}" y="{top + 18}" text-anchor="end" fill="#222222">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{top}" width="{long:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<text x="{LEFT + long + 8:.1f}" y="{top + 18}" fill="#222222">{value:.2f} {escape(unit)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
