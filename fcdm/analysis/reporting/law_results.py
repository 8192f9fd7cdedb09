"""The results of a study of laws in `docs/`: what was measured, the laws, what was held out, how forecasts came out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fcdm.analysis.data.diverged_runs import diverged, diverged_note
from fcdm.analysis.data.labels import metric_name
from fcdm.analysis.reporting.budget_table import budget_table
from fcdm.analysis.reporting.forecast_tables import coverage_cells, held_out_cells, ledger_cells
from fcdm.analysis.reporting.markdown import markdown_table
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
    ]
    if (lost := diverged(losses)).any():
        note = diverged_note(losses, lost)
        parts.append(f"{note[:1].upper()}{note[1:]}.")
    parts.append("\n".join(["Joint laws:", "", *(f"- {line}." for line in told_lines(laws))]))
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
    return (
        f"Memorisation: the held-out loss lies over that on training images, with the same weights and noise, by "
        f"{np.expm1(off[late].mean()):+.1%} on average at the last budget ({np.expm1(off[late].min()):+.1%} to "
        f"{np.expm1(off[late].max()):+.1%} over runs), by {np.expm1(off[~late].mean()):+.1%} before."
    )
