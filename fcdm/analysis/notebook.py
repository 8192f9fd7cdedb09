"""What the notebooks call besides the rest of `analysis`: where results come from, and how tables and figures show.

`RUNS=folder` (and `STUDY=name`) in the environment puts one's own runs beside the published points.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from fcdm.analysis.data.epochs import epochs_text
from fcdm.analysis.data.table_csv import table_in_csv
from fcdm.analysis.data.tidy_table import tidy_table
from fcdm.analysis.figures.axes import fid_label
from fcdm.analysis.reporting.cell_tables import MISSING, Cell, CellTable, Value
from fcdm.analysis.reporting.claim_tables import claims_table
from fcdm.analysis.reporting.page import html_table
from fcdm.analysis.stats.claim_sides import Pair, pairs_of, published_pair
from fcdm.analysis.stats.paper_claims import ClaimRow
from fcdm.analysis.stats.tuning_trials import tune, unfair
from fcdm.credentials import taken_out
from fcdm.errors import UserError
from fcdm.paths import home_expanded

RESULTS = Path(__file__).resolve().parent.parent.parent / "analysis" / "results"
"""Of this checkout."""
DOTS = 130
"""Per inch: figures that a page shows, small in a repository."""
COLOURS = 64


class Shown:
    """A table in a notebook: HTML on a page, aligned columns in a terminal."""

    def __init__(self, table: CellTable) -> None:
        self.table = table

    def _repr_html_(self) -> str:
        return html_table(self.table)

    def __repr__(self) -> str:
        rows = [self.table.columns, *([str(cell) for cell in row] for row in self.table.rows)]
        widths = [max(len(row[at]) for row in rows) for at in range(len(self.table.columns))]
        lines = ["  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([self.table.caption, *lines, *self.table.notes])


class Picture:
    """A figure in a notebook, drawn once; `told` says in words what it shows and what it leaves out."""

    def __init__(self, figure: Figure, told: str) -> None:
        drawn, small = io.BytesIO(), io.BytesIO()
        figure.savefig(drawn, format="png", dpi=DOTS)
        plt.close(figure)
        # A palette: a third of the bytes, which a committed notebook keeps for ever.
        Image.open(drawn).convert("RGB").quantize(COLOURS).save(small, format="png", optimize=True)
        self.png, self.told = small.getvalue(), told

    def _repr_png_(self) -> bytes:
        return self.png

    def __repr__(self) -> str:
        return self.told


def load_results(name: str) -> pd.DataFrame:
    """The committed results of a study, `results/NAME.csv`: a tidy table without its pictures.

    Written by `python -m analysis.table --runs DIR --study STUDY > analysis/results/NAME.csv`. Raises UserError.
    """
    path = RESULTS / f"{name}.csv"
    if not path.is_file():
        there = ", ".join(sorted(found.stem for found in RESULTS.glob("*.csv"))) or "none"
        raise UserError(f"no results '{name}' in {RESULTS}; there: {there}")
    return table_in_csv(path)


def own_runs(data: str, resolution: int) -> pd.DataFrame | None:
    """The runs on this data at this resolution below $RUNS (of $STUDY, by $PROTOCOL); None: no RUNS, or none there."""
    source = taken_out(home_expanded(os.environ.get("RUNS") or ""))
    if not source:
        return None
    table = tidy_table(source, os.environ.get("STUDY"), os.environ.get("PROTOCOL"))
    same = table[(table["data"] == data) & (table["resolution"] == resolution)].reset_index(drop=True)
    same.attrs = table.attrs
    return same if len(same) else None


def pairs_to_compare(points: pd.DataFrame, runs: pd.DataFrame | None, a: str, b: str, resolution: int) -> list[Pair]:
    """The published pair and those of one's own runs."""
    published = published_pair(points, a, b, resolution)
    return [*([published] if published else []), *(pairs_of(runs) if runs is not None else [])]


def unguided(points: pd.DataFrame, resolution: int, steps: int | None = None) -> pd.DataFrame:
    """The published points without guidance that a line may join, at one resolution (and budget)."""
    kept = points[(points["resolution"] == resolution) & (points["guidance_scale"] == 1) & (points["series"] != "")]
    return kept if steps is None else kept[kept["steps"] == steps]


def published_table(points: pd.DataFrame, resolution: int, models: Sequence[str] = ()) -> Shown:
    """Published FIDs without guidance, each with its source: of these models, or of all."""
    kept = points[(points["resolution"] == resolution) & (points["guidance_scale"] == 1)]
    kept = kept[kept["model"].isin(models)] if models else kept
    rows: list[list[Cell]] = []
    for row in kept.sort_values(["family", "model", "steps", "fid"]).itertuples():
        numbers = [Value(float(str(value))) for value in (row.forward_gmacs, row.train_flops, row.fid)]
        rows.append(
            [
                str(row.model),
                f"{row.steps:,}",
                epochs_text(float(str(row.epochs))),
                *numbers,
                str(row.source),
                str(row.confidence),
            ]
        )
    columns = ("Model", "Steps", "Epochs", "Forward GMACs", "Training FLOPs", "FID-50K", "Source", "Confidence")
    caption = f"Published FIDs without guidance at {resolution} px"
    return Shown(CellTable("published", caption, columns, rows, texts=frozenset({0, 6, 7})))


def trials(table: pd.DataFrame) -> Shown:
    """Every trial of a tuning study, best first, what was chosen, and where the models were not tuned alike."""
    tuned = tune(table)
    rows: list[list[Cell]] = []
    for one in tuned:
        for trial in one.trials:
            by_seed = ", ".join(f"{trial.fid[seed]:.4g}" if seed in trial.fid else MISSING for seed in one.seeds)
            rows.append([one.name, trial.text, by_seed, Value(trial.mean), "chosen" if trial is one.best else ""])
    seeds = "; ".join(f"{one.name}: seeds {', '.join(map(str, one.seeds))}" for one in tuned)
    columns = ("Model", "Setting", f"{fid_label(table)} by seed", "Mean", "")
    notes = (f"{seeds}.", *(f"{line}." for line in unfair(tuned)))
    return Shown(
        CellTable("trials", f"Trials at {tuned[0].steps:,} steps", columns, rows, notes, frozenset({0, 1, 2, 4}))
    )


def claims_about(claim_rows: Sequence[ClaimRow], caption: str, about: Sequence[str]) -> Shown:
    """The claims whose key has one of these words in it."""
    kept = [one for one in claim_rows if any(word in one.key for word in about)]
    return Shown(claims_table(kept, "claims", caption))
