"""Names beside points: on no marker and no other name, and where nothing else is drawn."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from fcdm.analysis.figures.axes import NOTE

Box = tuple[float, float, float, float]
"""Left, lower, right and upper end, in points."""
AWAY = 4.0
"""Points from the point to its name."""
COVERED = 0.25
"""Share of a name that may lie on lines; on a marker or another name none may."""
AROUND = (
    *((0, 1), (1, 0), (-1, 0), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)),
    *((0.5, 1), (-0.5, 1), (0.5, -1), (-0.5, -1)),
)
FURTHER = (10.0, 15.0, 20.0, 26.0, 34.0, 46.0, 60.0)
"""Points from the point to its name where a line leads to it."""
MOST = 14
"""Letters of a model's name beside its point."""
MOST_OF_FAMILY = 5
"""Of more models of a family only the smallest and the largest are named."""


def name_points(axes: Axes, named: pd.DataFrame, x: str, y: str, leaders: bool = False) -> list[str]:
    """Write `text` in `colour` beside each point of `named` (columns x, y, text, colour).

    The longest first, for it has the fewest places. `leaders`: where no place beside the point is free, one further off
    with a line to it. Returns the texts that found no place. Needs the layout: `Figure.draw_without_rendering`.
    """
    to_points = 72 / axes.figure.dpi
    markers, lines = _drawn(axes, to_points)
    left, low, right, high = (float(end) * to_points for end in axes.get_window_extent().extents)
    frame, distances = (left, low, right, high), [AWAY, *(FURTHER if leaders else ())]
    names: list[Box] = []
    unnamed = []
    for row in sorted(named.to_dict("records"), key=lambda row: -len(row["text"])):
        at = to_points * axes.transData.transform((float(row[x]), float(row[y])))
        written = axes.annotate(row["text"], (row[x], row[y]), (0, 0), textcoords="offset points", fontsize=NOTE)
        extent = written.get_window_extent()
        wide, tall = to_points * extent.width, to_points * extent.height
        offset = _place(at, wide, tall, frame, markers, lines, names, distances)
        written.remove()
        if offset is None:
            unnamed.append(str(row["text"]))
            continue
        names.append(_box(at, offset, wide, tall))
        far = max(abs(offset[0]) - wide / 2, abs(offset[1]) - tall / 2) > AWAY + 0.1
        if far:
            lines += _along(np.array([at, at + offset]))
        axes.annotate(
            row["text"],
            (row[x], row[y]),
            offset,
            textcoords="offset points",
            fontsize=NOTE,
            ha="center",
            va="center",
            color=row["colour"],
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": row["colour"], "shrinkB": 2.5} if far else None,
            path_effects=[withStroke(linewidth=2, foreground="white")],
            zorder=5,
        )
    return unnamed


def ends_of_many(models: pd.DataFrame, size: str) -> pd.DataFrame:
    """Those of `models` (columns family, size) to be named: all, or of many of a family its smallest and largest."""
    kept = [
        rows if len(rows) <= MOST_OF_FAMILY else rows.sort_values(size).iloc[[0, -1]]
        for _, rows in models.groupby("family", sort=False)
    ]
    return pd.concat(kept).sort_values(size)


def _place(
    at: np.ndarray,
    wide: float,
    high: float,
    frame: Box,
    markers: list[Box],
    lines: list[Box],
    names: list[Box],
    distances: list[float],
) -> tuple[float, float] | None:
    """The offset of a name's middle from its point, the nearest distance that has a free place; None: none has."""
    for distance in distances:
        choices = []
        for place, (dx, dy) in enumerate(AROUND):
            offset = (dx * (distance + wide / 2), dy * (distance + high / 2))
            if distance > AWAY and dy:  # a line leads to the edge above or below, wherever on it
                offset = (dx * wide / 2, offset[1])
            box = _box(at, offset, wide, high)
            inside = frame[0] <= box[0] and box[2] <= frame[2] and frame[1] <= box[1] and box[3] <= frame[3]
            if not inside or any(_overlap(box, other) for other in [*markers, *names]):
                continue
            if distance > AWAY and not _leads(at, offset, distance, [*markers, *names]):
                continue
            covered = sum(_overlap(box, other) for other in lines)
            if covered <= COVERED * wide * high:
                choices.append((round(covered, 1), place, offset))
        if choices:
            return min(choices)[2]
    return None


def _leads(at: np.ndarray, offset: tuple[float, float], distance: float, taken: list[Box]) -> bool:
    """Whether a line from the point to its name passes by all else."""
    length = float(np.hypot(*offset))
    start = min(1.0, (AWAY + 2) / length)  # past the point's own marker
    path = np.array([at + start * np.array(offset), at + np.array(offset)])
    return not any(_overlap(small, other) for small in _along(path) for other in taken)


def _drawn(axes: Axes, to_points: float) -> tuple[list[Box], list[Box]]:
    """(boxes of all markers, small boxes along all lines)."""
    markers: list[Box] = []
    lines: list[Box] = []
    for line in axes.lines:
        path = to_points * line.get_transform().transform(np.column_stack(line.get_data()).astype(float))
        if line.get_marker() not in ("None", "none", None, "", " "):
            half = (line.get_markersize() + line.get_markeredgewidth()) / 2
            markers += [(left - half, low - half, left + half, low + half) for left, low in path]
        if line.get_linestyle() not in ("None", "none"):
            lines += _along(path)
    return markers, lines


def _box(at: np.ndarray, offset: tuple[float, float], wide: float, high: float) -> Box:
    left, low = at[0] + offset[0] - wide / 2, at[1] + offset[1] - high / 2
    return (left, low, left + wide, low + high)


def _along(path: np.ndarray) -> list[Box]:
    """Small boxes along a line of points, shape (n, 2)."""
    boxes = []
    for (x0, y0), (x1, y1) in pairwise(path):
        for share in np.linspace(0, 1, 1 + int(np.hypot(x1 - x0, y1 - y0) / 4)):
            x, y = x0 + share * (x1 - x0), y0 + share * (y1 - y0)
            boxes.append((x - 1, y - 1, x + 1, y + 1))
    return boxes


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
