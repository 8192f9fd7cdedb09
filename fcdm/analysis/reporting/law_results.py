"""The results of a study of laws in `docs/`: what was measured, the laws, what was held out, how forecasts came out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fcdm.analysis.data.diverged_runs import diverged, diverged_note
from fcdm.analysis.data.labels import metric_name
from fcdm.analysis.reporting.budget_table import budget_table
from fcdm.analysis.reporting.forecast_tables import by_time_cells, coverage_cells, held_out_cells, ledger_cells
from fcdm.analysis.reporting.markdown import markdown_table
from fcdm.analysis.stats.laws_by_time import laws_by_time
from fcdm.analysis.stats.metric_laws import MetricLaws, told_lines
from fcdm.analysis.stats.tuning_trials import chosen_lines, tune, unfair
from fcdm.forecasts.ledger_table import digits, summary_words
from fcdm.forecasts.score_forecasts import ScoredForecast
from fcdm.laws.verdict import LOSS


def law_result(
    losses: pd.DataFrame,
    table: pd.DataFrame,
    tuning: pd.DataFrame,
    laws: Sequence[MetricLaws],
    scored: Sequence[ScoredForecast],
) -> str:
    """Tables and sentences in Markdown. `losses`, `table`, `tuning`: as of `load_results`: the held-out losses at all
    budgets, the distances, and the study that tuned. `scored`: the ledger of the study."""
    tuned = tune(tuning, LOSS)
    chosen = [*chosen_lines(tuned, "held-out loss", digits), *(f"{line}." for line in unfair(tuned, "held-out loss"))]
    measured = budget_table(losses, LOSS, "Held-out loss"), budget_table(table, "fid", metric_name(table, "fid"))
    parts = [
        "\n".join(["Chosen by tuning:", "", *(f"- {line}" for line in chosen)]),
        *(markdown_table(one) for one in measured if one),
        _generalisation(losses),
        _copying(table),
    ]
    if (lost := diverged(losses)).any():
        note = diverged_note(losses, lost)
        parts.append(f"{note[:1].upper()}{note[1:]}.")
    parts.append("\n".join(["Joint laws:", "", *(f"- {line}." for line in told_lines(laws))]))
    if by_time := laws_by_time(losses, laws[0].settings):
        parts.append(markdown_table(by_time_cells(by_time, losses)))
    parts += [markdown_table(held_out_cells(one)) for one in laws if one.told]
    if scored:
        parts.append("\n".join(f"- {line}." for line in summary_words(scored)))
        parts += [markdown_table(coverage_cells(scored)), markdown_table(ledger_cells(scored))]
    return "\n\n".join(part for part in parts if part)


def _generalisation(losses: pd.DataFrame) -> str:
    """How far the loss on training images lies below that on held-out ones, with the same weights and noise."""
    kept = losses[~diverged(losses)].dropna(subset=["train_loss", LOSS])
    if kept.empty:
        return ""
    off = np.log(kept[LOSS].to_numpy(float) / kept["train_loss"].to_numpy(float))
    late = kept["steps"].to_numpy() == kept["steps"].max()
    ends = np.expm1([off[late].min(), off[late].max()])
    before = f", {_above(np.expm1(off[~late].mean()))} before" if (~late).any() else ""
    return (
        "Memorisation: with the same weights and noise the held-out loss lies "
        f"{_above(np.expm1(off[late].mean()))} that on training images on average at the last budget "
        f"({ends[0]:+.1%} to {ends[1]:+.1%} over runs){before}."
    )


def _above(share: float) -> str:
    return f"{abs(share):.1%} {'above' if share > 0 else 'below'}"


def _copying(table: pd.DataFrame) -> str:
    """Whether samples are nearer to training images than held-out ones are (`fcdm.metrics.data_copying`)."""
    known = table.dropna(subset=["data_copying"]) if "data_copying" in table else table.iloc[:0]
    if known.empty:
        return ""
    by_steps = known.groupby("steps")["data_copying"].agg(["min", "max"])
    each = "; ".join(f"{at:,} steps {row['min']:.2f} to {row['max']:.2f}" for at, row in by_steps.iterrows())
    return (
        "Copies: the share of (sample, held-out image) pairs in which the sample is nearer to its nearest training "
        f"image, over runs: {each}. 0.5 would be as near as fresh images are, 1 copies; below 0.5 samples lie further "
        "off than fresh images do."
    )
