"""Samples along the budgets: a row for each model, a column for each number of steps."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from fcdm.analysis.data.seed_curves import SeedCurve, seed_curves
from fcdm.analysis.figures.axes import NOTE, Drawn, spread
from fcdm.analysis.figures.styles import DOUBLE, SINGLE
from fcdm.formatting import steps_text

MOST_COLUMNS = 6
MOST_ROWS = 12
NAME = 24
"""Letters of a model's name in a line; a longer one goes on in the next."""
TILES_SHOWN = (2, 5)
"""The first ten samples of each, in rows and columns: the same noise and labels in all."""
ASPECT = TILES_SHOWN[0] / TILES_SHOWN[1]
TITLE, GAP = 0.22, 0.06
"""Inches above the pictures, and between them."""


def sample_grid(table: pd.DataFrame) -> Drawn | None:
    """The first tiles of each evaluation's grid, of each line's lowest seed; None where there are no grids.

    The same starting noise and labels in every picture: what moves along a row is training, down a column the model.
    """
    pictured = table[table["grid"].notna()]
    order = [line for line in seed_curves(table) if line.label in set(pictured["label"])]
    if not order:
        return None
    order, hidden = _shown(order)
    left_out = _left_out(pictured, hidden)
    budgets = spread(sorted(set(pictured["steps"])), MOST_COLUMNS)
    rows, columns = len(order), len(budgets)
    names = {line.label: "\n".join(fill(part, NAME) for part in re.split(" (?!%)", line.label)) for line in order}
    longest = max(len(part) for name in names.values() for part in name.split("\n"))
    lines_of_label = max(name.count("\n") + 1 for name in names.values())
    figure, axes = _panels(rows, columns, 0.15 + 0.062 * longest, 0.125 * lines_of_label)
    shown = []
    for i, line in enumerate(order):
        of_line = pictured[pictured["label"] == line.label]
        of_line = of_line[of_line["seed"] == of_line["seed"].min()].set_index("steps")
        for j, steps in enumerate(budgets):
            axis = axes[i, j]
            axis.set(xticks=[], yticks=[], box_aspect=ASPECT)
            axis.grid(visible=False)
            for spine in axis.spines.values():
                spine.set_visible(False)
            if i == 0:
                axis.set_title(f"{steps_text(steps)} steps")
            if j == 0:
                axis.set_ylabel(names[line.label], rotation=0, ha="right", va="center", fontsize=NOTE)
            if steps in of_line.index:
                row = of_line.loc[steps]
                tiles = _first_tiles(row["grid"], int(row["grid_columns"]))
                axis.imshow(tiles, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
                told = {"label": line.label, "steps": steps, "epochs": row.get("epochs"), "run": row["run"]}
                shown.append({**told, "picture": str(row["grid"])})
            else:
                axis.set_facecolor("none")
                axis.text(0.5, 0.5, "–", transform=axis.transAxes, ha="center", va="center")
    numbers = pd.DataFrame(shown)
    numbers.attrs["left_out"] = left_out
    return figure, numbers


def _panels(rows: int, columns: int, beside: float, least: float) -> tuple[Figure, np.ndarray]:
    """The figure and its axes (rows, columns), which fill it. In inches: `beside` them is room for names, and no row is
    lower than `least`.

    The narrow figure where its pictures are as large as the wide one's with all its columns. Placed by hand:
    matplotlib's layouts cut names beside axes of a fixed aspect.
    """
    large = _cell(SINGLE, columns, beside) >= _cell(DOUBLE, MOST_COLUMNS, beside)
    width = SINGLE if large else DOUBLE
    cell = _cell(width, columns, beside)
    row = max(cell * ASPECT, least)
    height = TITLE + rows * (row + GAP)
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="none")
    for place, panel in enumerate(axes.flat):
        i, j = divmod(place, columns)
        left, bottom = beside + j * (cell + GAP), height - TITLE - row - i * (row + GAP)
        panel.set_position((left / width, bottom / height, cell / width, row / height))
    return figure, axes


def _cell(width: float, columns: int, beside: float) -> float:
    """Inches of one of so many pictures side by side."""
    return (width - beside) / columns - GAP


def _shown(order: list[SeedCurve]) -> tuple[list[SeedCurve], list[SeedCurve]]:
    """The MOST_ROWS lines that are shown, and the others: first each model's best setting, then each one's second."""
    place: dict[str, int] = {}
    of_model: dict[str, int] = {}
    for line in sorted(order, key=lambda line: float(line.points["fid"].iloc[-1])):
        place[line.label] = of_model[line.name] = of_model.get(line.name, -1) + 1
    chosen = {line.label for line in sorted(order, key=lambda line: place[line.label])[:MOST_ROWS]}
    return [line for line in order if line.label in chosen], [line for line in order if line.label not in chosen]


def _left_out(pictured: pd.DataFrame, not_shown: list[SeedCurve]) -> list[str]:
    """Which seeds, budgets and models of those with pictures are not shown."""
    left_out = []
    several = pictured.groupby("label")["seed"].nunique()
    if (several > 1).any():
        left_out.append("left out: pictures of all seeds but the lowest of each model")
    budgets = sorted(set(pictured["steps"]))
    hidden = sorted(set(budgets) - set(spread(budgets, MOST_COLUMNS)))
    if hidden:
        left_out.append(f"left out: pictures at {', '.join(f'{step:,}' for step in hidden)} steps")
    if not_shown:
        others = ", ".join(line.label for line in not_shown)
        left_out.append(f"left out: pictures of {others}: {MOST_ROWS} rows are shown")
    return left_out


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
