"""How the forecasts and hold-outs of our own studies came out, failures first: a part of `docs/forecast.md`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fcdm.analysis.reporting.cell_tables import Cell, CellTable
from fcdm.analysis.reporting.forecast_tables import WITHOUT
from fcdm.analysis.reporting.markdown import markdown_table
from fcdm.analysis.stats.metric_laws import MetricLaws
from fcdm.forecasts.foretold import LAST_TWO, LAST_VALUE
from fcdm.forecasts.ledger_table import coverage_text, digits
from fcdm.forecasts.score_forecasts import STATES, ScoredForecast, summaries
from fcdm.laws.hold_outs import HeldOut
from fcdm.laws.predictive import LEVEL, SURE
from fcdm.laws.verdict import FAILED, HELD, UNINFORMATIVE

BASELINES = (LAST_VALUE, LAST_TWO)
ERRORS = ("error", "last_value", "last_two")
"""Of a `HeldOut`: of the law, and of the baselines."""
VERDICTS = (HELD, FAILED, UNINFORMATIVE)


@dataclass(frozen=True)
class OwnStudy:
    """A study of laws: its name for people, its laws, and its forecasts, scored."""

    name: str
    laws: Sequence[MetricLaws]
    scored: Sequence[ScoredForecast]


def own_part(studies: Sequence[OwnStudy]) -> str:
    """Markdown: what failed, then a table of the forecasts and one of the hold-outs."""
    failed = [line for study in studies for line in _failures(study)]
    parts = ["\n".join(["What failed:", "", *(failed or ["- No forecast."])])]
    parts += [markdown_table(_forecasts(studies)), markdown_table(_hold_outs(studies))]
    return "\n\n".join(parts)


def _failures(study: OwnStudy) -> Iterator[str]:
    for one in study.scored:
        if one.state == FAILED and one.measured is not None:
            entry = one.entry
            error = np.expm1(np.log(entry.new_run.median / one.measured))
            yield (
                f"- {study.name}: the {entry.kind} of {entry.metric_name} of {entry.run.model}, seed {entry.run.seed}, "
                f"at {entry.steps:,} steps said {digits(entry.new_run.median)}; measured {digits(one.measured)} "
                f"({error:+.1%}): {one.why}."
            )


def _forecasts(studies: Sequence[OwnStudy]) -> CellTable:
    rows: list[list[Cell]] = []
    for study in studies:
        for one in summaries(study.scored):
            counts = [str(one.states[state]) for state in VERDICTS]
            others = sum(one.states[state] for state in STATES if state not in VERDICTS)
            known = coverage_text(one, LEVEL) if one.trajectories else "–"
            skills = [f"{one.skills[name]:.2f}" if name in one.skills else "–" for name in BASELINES]
            rows.append([study.name, one.kind, one.metric, *counts, str(others), str(one.forced), known, *skills])
    columns = ("Study", "Kind", "Metric", "Held", "Failed", "Uninformative", "Not scored", "Forced", f"Inside {SURE}")
    notes = (
        "Inside: k of n trajectories, with the exact 95 % interval of that share. Skill: 1 - CRPS over that of the "
        "baseline. Forced: beyond the largest gap that the study's hold-outs validated, or refused otherwise; each "
        "entry says why.",
    )
    skill = tuple(f"Skill over the {name}" for name in BASELINES)
    caption = "Forecasts, written and committed before the runs were trained"
    return CellTable("own-forecasts", caption, (*columns, *skill), rows, notes, frozenset({0, 1, 2, 8}))


def _hold_outs(studies: Sequence[OwnStudy]) -> CellTable:
    rows: list[list[Cell]] = []
    for study in studies:
        for of_metric in study.laws:
            for label, made in of_metric.told.items():
                by_cut: dict[str, list[HeldOut]] = {}
                for one in made.validation.held_out:
                    by_cut.setdefault(one.left_out, []).append(one)
                for cut, cells in by_cut.items():
                    states = Counter(one.state for one in cells)
                    off = [_root_mean_square([getattr(one, name) for one in cells]) for name in ERRORS]
                    further = max(one.gap.compute for one in cells)
                    counts = [str(states[state]) for state in VERDICTS]
                    rows.append([study.name, of_metric.name, label, WITHOUT[cut], f"×{further:.3g}", *counts, *off])
    columns = ("Study", "Metric", "Law", "Without", "Furthest", "Held", "Failed", "Uninformative")
    notes = (
        "Furthest: compute over the largest that was fitted. Errors: root mean square of ln(forecast / measured), of "
        "the law, the nearest fitted value and the line through the last two points.",
    )
    caption = "Hold-outs: laws without the largest size, the largest budget or both, asked for these"
    return CellTable(
        "own-hold-outs", caption, (*columns, "Error", "Last value", "Last two"), rows, notes, frozenset({0, 1, 2, 3})
    )


def _root_mean_square(errors: Sequence[float]) -> str:
    return f"{np.sqrt(np.mean(np.square(errors))):.1%}"
