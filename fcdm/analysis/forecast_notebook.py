"""What `analysis/forecast.ipynb` calls: joint laws of committed results, and the committed ledger, scored by them.

Whatever is not there yet is one line, and no table or picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import matplotlib as mpl
import matplotlib.pyplot as plt

from fcdm.analysis import notebook
from fcdm.analysis.figures.axes import Drawn
from fcdm.analysis.figures.draw_forecasts import calibration_figure
from fcdm.analysis.figures.recipes import law_recipes
from fcdm.analysis.figures.styles import STYLE
from fcdm.analysis.notebook import Picture, Shown, load_results
from fcdm.analysis.reporting.forecast_tables import checklist, coverage_cells, held_out_cells, ledger_cells
from fcdm.analysis.stats.metric_laws import LawSettings, MetricLaws, laws_by_metric, told_lines
from fcdm.forecasts.chain import FOLDER, read_ledger
from fcdm.forecasts.ledger_table import summary_words
from fcdm.forecasts.measured_budgets import MeasuredBudget, MeasuredKey, measured_in_csv
from fcdm.forecasts.score_forecasts import ScoredForecast, score_ledger
from fcdm.laws.cuts import Cuts
from fcdm.laws.joint_fit import DRAWS
from fcdm.laws.surface_points import LEAST_SIZES


def joint_results(
    name: str,
    *,
    losses: str | None = None,
    tuning: str | None = None,
    cuts: Cuts | None = None,
    draws: int = DRAWS,
) -> list[MetricLaws]:
    """The joint laws of `results/NAME.csv`. `losses`: the results that have held-out losses at more budgets;
    `tuning`: those of the study that tuned the models. Raises UserError for results that are not there."""
    settings = LawSettings(cuts or Cuts())
    if tuning is not None:
        settings = LawSettings.tuned_by(load_results(tuning), tuning, settings.cuts)
    settings = replace(settings, draws=draws)
    return laws_by_metric(load_results(name), None if losses is None else load_results(losses), settings)


def law_words(laws: Sequence[MetricLaws]) -> list[str]:
    """The laws in words, and why there is none of a metric."""
    return told_lines(laws) or [f"no joint law: it needs {LEAST_SIZES} sizes of a family, and no family here has two"]


def hold_outs_of_laws(laws: Sequence[MetricLaws]) -> list[Shown]:
    return [Shown(held_out_cells(one)) for one in laws if one.told]


def checklists(laws: Sequence[MetricLaws]) -> list[Shown]:
    return [Shown(checklist(one)) for one in laws if one.told]


def law_pictures(laws: Sequence[MetricLaws], scored: Sequence[ScoredForecast] = ()) -> list[Picture]:
    """The figures of the laws that are told. `scored`: of the same study."""
    found = [one for one in laws if one.told]
    recipes = law_recipes(found, scored) if found else {}
    with mpl.rc_context(), plt.style.context(STYLE):
        drawn = {name: make() for name, make in recipes.items() if name != "forecast_calibration"}
        return [_picture(name, one) for name, one in drawn.items() if one is not None]


def scored_results(study: str | None = None) -> list[ScoredForecast]:
    """The forecasts of `results/forecasts/` (by the laws of one study), scored by all tables of `results/`. Raises
    UserError for a damaged one."""
    ledger = read_ledger(notebook.RESULTS / FOLDER)
    ledger = ledger if study is None else ledger.of_study(study)
    measured: dict[MeasuredKey, MeasuredBudget] = {}
    if ledger.forecasts:
        for path in sorted(notebook.RESULTS.glob("*.csv")):
            measured |= measured_in_csv(path, ledger.forecasts)
    return score_ledger(ledger, measured)


def ledger_words(scored: Sequence[ScoredForecast]) -> list[str]:
    return summary_words(scored) or ["no forecast is published yet"]


def ledger_tables(scored: Sequence[ScoredForecast]) -> list[Shown]:
    return [Shown(coverage_cells(scored)), Shown(ledger_cells(scored))] if scored else []


def ledger_pictures(scored: Sequence[ScoredForecast]) -> list[Picture]:
    with mpl.rc_context(), plt.style.context(STYLE):
        drawn = calibration_figure(scored)
        return [] if drawn is None else [_picture("forecast_calibration", drawn)]


def _picture(name: str, drawn: Drawn) -> Picture:
    figure, numbers = drawn
    return Picture(figure, "\n".join([name, *numbers.attrs["left_out"]]))
