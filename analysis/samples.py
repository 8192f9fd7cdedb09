"""Samples along the budgets: a row for each model, a column for each number of steps."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from analysis.comparison import lines
from analysis.styles import DOUBLE

MOST_COLUMNS = 6
TILES_SHOWN = (2, 5)
"""The first ten samples of each, in rows and columns: the same noise and labels in all."""


def sample_grid(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame] | None:
    """The first tiles of each evaluation's grid, of each line's lowest seed; None where there are no grids."""
    pictured = table[table["grid"].notna()]
    order = [line for line in lines(table) if line.label in set(pictured["label"])]
    if not order:
        return None
    budgets = _spread(sorted(set(pictured["steps"])))
    rows, columns = len(order), len(budgets)
    cell = (DOUBLE - 0.8) / columns
    height = rows * (cell * TILES_SHOWN[0] / TILES_SHOWN[1] + 0.06) + 0.35
    figure, axes = plt.subplots(rows, columns, figsize=(DOUBLE, height), squeeze=False)
    shown = []
    for i, line in enumerate(order):
        of_line = pictured[pictured["label"] == line.label]
        of_line = of_line[of_line["seed"] == of_line["seed"].min()].set_index("steps")
        for j, steps in enumerate(budgets):
            axis = axes[i, j]
            axis.set(xticks=[], yticks=[])
            axis.grid(visible=False)
            for spine in axis.spines.values():
                spine.set_visible(False)
            if i == 0:
                axis.set_title(f"{steps:,} steps")
            if j == 0:
                axis.set_ylabel(line.label.replace(" ", "\n"), rotation=0, ha="right", va="center")
            if steps in of_line.index:
                row = of_line.loc[steps]
                tiles = _first_tiles(row["grid"], int(row["grid_columns"]))
                axis.imshow(tiles, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
                shown.append({"label": line.label, "steps": steps, "run": row["run"], "picture": str(row["grid"])})
            else:
                axis.set_facecolor("none")
                axis.text(0.5, 0.5, "–", transform=axis.transAxes, ha="center", va="center")
    return figure, pd.DataFrame(shown)


def _spread(budgets: list[int]) -> list[int]:
    """At most MOST_COLUMNS of them: the first, the last, and evenly between."""
    if len(budgets) <= MOST_COLUMNS:
        return budgets
    return [budgets[round(k)] for k in np.linspace(0, len(budgets) - 1, MOST_COLUMNS)]


def _first_tiles(path: Path, columns: int) -> np.ndarray:
    """The grid's first tiles in reading order, in TILES_SHOWN, white between them: (height, width[, 3]) uint8.

    Tiles of a grid are square and have no gaps.
    """
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L" if picture.mode == "L" else "RGB"))
    side = pixels.shape[1] // columns
    tiles = [
        pixels[top : top + side, left : left + side]
        for top in range(0, pixels.shape[0] - side + 1, side)
        for left in range(0, columns * side, side)
    ]
    rows, across = TILES_SHOWN
    gap = max(1, round(side / 16))
    shown = np.full((rows * (side + gap) - gap, across * (side + gap) - gap, *pixels.shape[2:]), 255, dtype=np.uint8)
    for place, tile in enumerate(tiles[: rows * across]):
        top, left = (side + gap) * (place // across), (side + gap) * (place % across)
        shown[top : top + side, left : left + side] = tile
    return shown
