"""Charts as SVG, without a library: bars with a mark for the goal, and a figure over time with its band."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from html import escape

LABEL, WIDTH, HEIGHT, GAP = 330, 300, 18, 6
"""Pixels."""
Point = tuple[float, float, float, float]
"""When a bucket begins (Unix seconds); its least, mean and greatest value."""


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


def band(
    title: str,
    points: Sequence[tuple[float, float, float, float]],
    since: float,
    until: float,
    width_s: float,
) -> str:
    """A figure over time: (Unix seconds, least, mean, greatest) of each bucket, at least one, in order.

    Where more than a bucket of `width_s` is missing, so is the line.
    """
    left, top, wide, tall = 70, 34, 640, 240
    low, high = min(p[1] for p in points), max(p[3] for p in points)
    span = high - low or abs(high) or 1.0

    def x(at: float) -> float:
        return left + wide * (min(max(at, since), until) - since) / (until - since)

    def y(value: float) -> float:
        return top + tall * (1 - (value - low) / span)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + wide + 20}" height="{top + tall + 40}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="20" font-size="14">{escape(title)}</text>',
        *(
            f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.4g}</text>'
            for value in dict.fromkeys((low, high))
        ),
        *(
            f'<text x="{x(at):.1f}" y="{top + tall + 20}" text-anchor="{anchor}">{_when(at)}</text>'
            for at, anchor in ((since, "start"), (until, "end"))
        ),
    ]
    for run in _runs(points, width_s):
        upper = " ".join(f"{x(at):.1f},{y(most):.1f}" for at, _, _, most in run)
        lower = " ".join(f"{x(at):.1f},{y(least):.1f}" for at, least, _, _ in reversed(run))
        means = " ".join(f"{x(at):.1f},{y(mean):.1f}" for at, _, mean, _ in run)
        parts += [
            f'<polygon points="{upper} {lower}" fill="#2a7f9e" fill-opacity="0.25"/>',
            f'<polyline points="{means}" fill="none" stroke="#2a7f9e" stroke-width="1.5" '
            'stroke-linecap="round"/>',
        ]
        if len(run) == 1:
            parts.append(f'<circle cx="{x(run[0][0]):.1f}" cy="{y(run[0][2]):.1f}" r="2" fill="#2a7f9e"/>')
    return "\n".join([*parts, "</svg>", ""])


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


def _runs(points: Sequence[Point], width_s: float) -> list[list[Point]]:
    """Stretches without a gap of more than one bucket."""
    runs: list[list[Point]] = []
    for point in points:
        if runs and point[0] - runs[-1][-1][0] <= 2 * width_s:
            runs[-1].append(point)
        else:
            runs.append([point])
    return runs
