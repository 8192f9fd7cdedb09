"""Names beside points, where nothing else is drawn."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from fcdm.analysis.figures.axes import NOTE

Box = tuple[float, float, float, float]
"""Left, lower, right and upper end, in points."""
LETTER, HEIGHT, AWAY = 4.4, 7.0, 4.0
"""Points: of a text of 7 pt, and from the point to its name."""
COVERED = 0.25
"""Share of a name that may lie on points or lines; on another name none may."""
AROUND = ((0, 1), (1, 0), (-1, 0), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
MOST = 14
"""Letters of a model's name beside its point."""


def name_points(axes: Axes, named: pd.DataFrame, x: str, y: str) -> None:
    """Write `text` in `colour` beside each point of `named` (columns x, y, text, colour), in the order of its rows.

    A name that finds no free place stays away: the numbers beside the figure name every point. Needs the layout:
    `Figure.draw_without_rendering`.
    """
    to_points = 72 / axes.figure.dpi
    drawn: list[Box] = []
    for line in axes.lines:
        path = to_points * line.get_transform().transform(np.column_stack(line.get_data()).astype(float))
        drawn += [(left - 3, low - 3, left + 3, low + 3) for left, low in path]
        if line.get_linestyle() not in ("None", "none"):
            drawn += _along(path)
    left, low, right, high = (to_points * axes.get_window_extent().get_points()).ravel()
    names: list[Box] = []
    for row in named.to_dict("records"):
        at = to_points * axes.transData.transform((float(row[x]), float(row[y])))
        wide = LETTER * len(row["text"])
        choices: list[tuple[float, int, tuple[float, float], Box]] = []
        for place, (dx, dy) in enumerate(AROUND):
            offset = (dx * (AWAY + wide / 2), dy * (AWAY + HEIGHT / 2))
            cx, cy = at[0] + offset[0], at[1] + offset[1]
            box = (cx - wide / 2, cy - HEIGHT / 2, cx + wide / 2, cy + HEIGHT / 2)
            inside = left <= box[0] and box[2] <= right and low <= box[1] and box[3] <= high
            if inside and not any(_overlap(box, other) for other in names):
                choices.append((round(sum(_overlap(box, other) for other in drawn), 1), place, offset, box))
        if not choices:
            continue
        covered, _, offset, box = min(choices)
        if covered > COVERED * wide * HEIGHT:
            continue
        names.append(box)
        axes.annotate(
            row["text"],
            (row[x], row[y]),
            offset,
            textcoords="offset points",
            fontsize=NOTE,
            ha="center",
            va="center",
            color=row["colour"],
            path_effects=[withStroke(linewidth=2, foreground="white")],
            zorder=5,
        )


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
