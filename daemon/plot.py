"""A bar chart as SVG, without a library: names, values, and a mark where the goal is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

LABEL, WIDTH, HEIGHT, GAP = 330, 300, 18, 6
"""Pixels."""


def bars(
    title: str,
    rows: Sequence[tuple[str, float, float | None]],
    full: float = 1.0,
    said: Callable[[float], str] = "{:.0%}".format,
) -> str:
    """Rows of (name, value, goal); `full` is the longest bar, and `said` what stands beside one."""
    tall = 40 + len(rows) * (HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABEL + WIDTH + 70}" height="{tall}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="20" font-size="14">{escape(title)}</text>',
    ]
    for k, (name, value, goal) in enumerate(rows):
        y = 34 + k * (HEIGHT + GAP)
        long = WIDTH * min(max(value / full, 0.0), 1.0)
        parts += [
            f'<text x="{LABEL - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LABEL}" y="{y}" width="{long:.1f}" height="{HEIGHT}" fill="#2a7f9e"/>',
            f'<text x="{LABEL + long + 6:.1f}" y="{y + 13}">{said(value)}</text>',
        ]
        if goal is not None:
            x = LABEL + WIDTH * goal / full
            parts.append(
                f'<line x1="{x:.1f}" y1="{y - 2}" x2="{x:.1f}" y2="{y + HEIGHT + 2}" stroke="#c0392b"/>'
            )
    return "\n".join([*parts, "</svg>", ""])
