"""Joint laws and forecasts as tables: what was held out, the scored ledger, and the checklist of a fit.

The checklist answers what "(Mis)Fitting: A Survey of Scaling Laws" (arXiv 2502.18969) found that papers leave out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fcdm.analysis.data.tidy_table import LOSS_BINS
from fcdm.analysis.reporting.cell_tables import Cell, CellTable, Value
from fcdm.analysis.stats.joint_laws import JointStudy
from fcdm.analysis.stats.metric_laws import LawSettings, MetricLaws
from fcdm.forecasts.ledger_table import LEGEND, TITLES, coverage_text, digits, digits_range, score_cells
from fcdm.forecasts.score_forecasts import LEVELS_SCORED, STATES, ScoredForecast, summaries
from fcdm.formatting import plural, steps_text, three_digits
from fcdm.laws.hold_outs import BOTH, BUDGET, SIZE
from fcdm.laws.joint_fit import JointFit
from fcdm.laws.joint_law import FORMS
from fcdm.laws.joint_solver import HUBER_SHARE
from fcdm.laws.predictive import LEVEL, SURE
from fcdm.laws.verdict import is_loss

WITHOUT = {SIZE: "size", BUDGET: "budget", BOTH: "both"}


def held_out_cells(laws: MetricLaws) -> CellTable:
    """A row for each cell that a law was not fitted to and was asked for."""
    rows: list[list[Cell]] = []
    for label, made in laws.told.items():
        for one in made.validation.held_out:
            law = one.forecast.new_run
            error, last, two = (f"{np.expm1(off):+.1%}" for off in (one.error, one.last_value, one.last_two))
            asked = [label, WITHOUT[one.left_out], three_digits(one.n / 1e6), steps_text(one.d), digits(one.measured)]
            said = [f"{digits(law.median)} ({digits_range(*law.interval(LEVEL))})", error, last, two]
            far = [f"×{one.compute_equivalent:.3g}", f"×{one.gap.compute:.3g}"]
            rows.append([*asked, *said, *far, one.state + (f": {one.why}" if one.why else "")])
    seeds = ", ".join(f"{made.validation.fit.seed_deviation:.1%} ({label})" for label, made in laws.told.items())
    notes = (
        f"Without the largest size, the largest budget or both. Forecast: of one new run, {SURE}. Errors: forecast "
        "over measured, less 1; last value and last two are the baselines: the nearest fitted value, and the line "
        "through the last two points. Compute: that at which the law says what was measured, over that at which it "
        "says what was forecast. Gap: compute over the largest that was fitted.",
        f"One seed moves a value by {seeds} (1 sd).",
        *(f"{label}: {note}." for label, made in laws.told.items() for note in made.validation.notes),
    )
    columns = ("Law", "Without", "N (MMACs)", "Images", "Measured", "Forecast", "Error")
    more = ("Last value", "Last two", "Compute", "Gap", "Came out")
    caption = f"Held out of the joint laws of {laws.name}"
    return CellTable(f"held-out-{laws.metric}", caption, (*columns, *more), rows, notes, frozenset({0, 1, 11}))


def by_time_cells(laws: Mapping[str, Mapping[str, JointFit | str]], losses: pd.DataFrame) -> CellTable:
    """A row for each bin of diffusion time and law. `laws`: of `laws_by_time`, of `losses`."""
    rows: list[list[Cell]] = []
    for column, by_label in laws.items():
        first, _, last = column.removeprefix("heldout_loss_").partition("_to_")
        tenths = f"{(int(first) - 1) / 10:g} to {int(last or first) / 10:g}"
        kept = losses[[*LOSS_BINS[int(first) - 1 : int(last or first)]]].sum(axis=1)
        share = float((kept / losses[[*LOSS_BINS]].sum(axis=1)).mean())
        for label, made in by_label.items():
            if isinstance(made, str):
                rows.append([tenths, label, f"{share:.0%}", made.removeprefix("no joint law: "), "", "", "", ""])
                continue
            ends = made.intervals
            offset = "not told" if made.profile.untold else f"{digits(made.law.offset)} ({digits_range(*ends['E'])})"
            exponents = [
                f"{value:.3g} ({ends[name][0]:.3g} to {ends[name][1]:.3g})"
                for name, value in (("alpha", made.law.size_exponent), ("beta", made.law.data_exponent))
            ]
            noise = [f"{made.seed_deviation:.1%}", f"{made.scatter():.1%}"]
            rows.append([tenths, label, f"{share:.0%}", offset, *exponents, *noise])
    columns = ("Time", "Law", "Share of the loss", "E", "alpha", "beta", "One seed", "Scatter of cells")
    notes = (
        f"Time: from data (0) to noise (1), in the ten bins that evaluations write. Brackets: {SURE}. Scatter: of "
        "cells about the law.",
    )
    caption = "Joint laws of the held-out loss by diffusion time"
    return CellTable("laws-by-time", caption, columns, rows, notes, frozenset({0, 1, 3, 4, 5}))


def ledger_cells(scored: Sequence[ScoredForecast]) -> CellTable:
    """Every forecast beside what was measured, and below it its baselines."""
    rows = [cells for one in scored for cells in score_cells(one)]
    notes = (f"{LEGEND[:1].upper()}{LEGEND[1:]}.",)
    columns = tuple(title[:1].upper() + title[1:] for title in TITLES)
    return CellTable(
        "forecasts", "Forecasts, each written before it was measured", columns, rows, notes, frozenset({1, 2, 4, 15})
    )


def coverage_cells(scored: Sequence[ScoredForecast]) -> CellTable:
    """What the forecasts of each kind and metric came to."""
    rows: list[list[Cell]] = []
    for one in summaries(scored):
        counts = ", ".join(f"{one.states[state]} {state}" for state in STATES if one.states[state])
        known = bool(one.trajectories)
        coverage = [coverage_text(one, level) if known else "–" for level in LEVELS_SCORED]
        skill = "; ".join(f"{value:.2f} over the {name}" for name, value in one.skills.items()) or "–"
        rows.append([one.kind, one.metric, counts, *coverage, Value(one.crps) if known else "–", skill])
    columns = (
        "Kind",
        "Metric",
        "Forecasts",
        *(f"{100 * level:.0f} % held" for level in LEVELS_SCORED),
        "CRPS",
        "Skill",
    )
    notes = (
        "Held: k of n trajectories whose interval held what was measured, with the exact 95 % interval of that share. "
        "Withdrawn, late and unscored forecasts are counted and in no other column.",
    )
    caption = "How the forecasts came out"
    return CellTable("forecast-coverage", caption, columns, rows, notes, frozenset({0, 1, 2, 7}))


def checklist(laws: MetricLaws) -> CellTable:
    """What was fitted, cut, held out, tuned and counted: a column for each law."""
    answers = [_answers(laws, made) for made in laws.told.values()]
    rows: list[list[Cell]] = [[question, *(one[question] for one in answers)] for question in answers[0]]
    columns = ("Asked", *laws.told)
    notes = ("The questions are those of arXiv 2502.18969.",)
    caption = f"Checklist of the joint laws of {laws.name}"
    return CellTable(f"checklist-{laws.metric}", caption, columns, rows, notes, frozenset(range(len(columns))))


def _answers(laws: MetricLaws, made: JointStudy) -> dict[str, str]:
    validation, rows = made.validation, made.surface.rows
    fit, points = validation.fit, validation.fit.points
    largest = float(points.n.max()), float(points.d.max())
    furthest = max(validation.validated, key=lambda gap: gap.compute, default=None)
    away = [("at the largest size and budget", *largest)]
    if furthest is not None:
        n, d = largest[0] * furthest.n, largest[1] * furthest.d
        away.append(("at the end of the largest validated gap", n, d))
    states = Counter(one.state for one in validation.held_out)
    cells = Counter(one.left_out for one in validation.held_out)
    budgets = [len(set(points.cells[points.sizes == size])) for size in range(points.count)]
    removed = [note for note in made.surface.notes if note.startswith("left out")]
    of_run = fit.forecast(*largest).new_run
    epochs = rows["epochs"].astype(float) if "epochs" in rows else None
    seen = "epochs are not told" if epochs is None or epochs.isna().all() else f"up to {epochs.max():.3g} epochs"
    level, shape, p = fit.misfit.level, fit.misfit.shape, fit.misfit.p
    return {
        "Form": f"{FORMS[fit.law.form]}",
        "Metric": f"{laws.name}, evaluated by {rows['protocol_id'].iloc[0]}"
        + ("" if is_loss(laws.metric) else f", {int(rows['samples'].iloc[0]):,} samples"),
        "N": f"MACs of one image's forward pass, not parameters; {_span(points.n)}, {plural(points.count, 'size')}",
        "D": f"images, steps × batch; {_span(points.d)}, {_span_of(budgets)} budgets of a size; {seen}",
        "Points": f"{plural(len(points.y), 'point')} of {plural(len(set(points.runs)), 'run')}",
        "Cut": f"{made.surface.cuts.text}: " + ("; ".join(removed) or "no point was"),
        "Held out": "; ".join(f"{name}: {plural(count, 'cell')}" for name, count in cells.items())
        + (f"; of all {', '.join(f'{count} {state}' for state, count in states.items())}" if states else "nothing")
        + f"; largest validated gap: {furthest.text if furthest else 'none'}",
        "Tuned": _tuned(laws.settings, made),
        "Counted": "training FLOPs 6 N D: three forward passes an image, 2 FLOPs a multiply-accumulate",
        "Optimiser": "variable projection of relative residuals (E, A, B linear, not below 0; Huber by reweighting), "
        f"then log-Huber from there, delta {fit.delta:.2g} ({HUBER_SHARE:g} × the seeds' deviation)",
        "Intervals": f"{SURE}; {len(fit.draws)} draws of whole runs, seeds pooled over sizes, and of the misfit; "
        f"stretched to Student's t with {of_run.freedom:.3g} degrees of freedom for a new run",
        "E": _offset(made),
        "Noise": f"one seed {fit.seed_deviation:.1%}; misfit of sizes {level:.1%}, of single cells {shape:.1%} "
        f"(p = {p:.2g}{', systematic: another form is true' if fit.misfit.is_systematic else ''})",
        "Second form": f"{FORMS[fit.second.form]}: scatter {fit.scatter(fit.second):.1%}, "
        f"the first {fit.scatter():.1%}; " + "; ".join(_away(fit, *where) for where in away),
    }


def _away(fit: JointFit, where: str, n: float, d: float) -> str:
    low, high = fit.forecast(n, d).law.interval(LEVEL)
    inside = "inside" if low <= float(fit.second(n, d)) <= high else "outside"
    return f"{np.expm1(fit.away(n, d)):+.1%} {where}, {inside} the first's interval"


def _tuned(settings: LawSettings, made: JointStudy) -> str:
    if not settings.tuning:
        return "not told"
    notes = [note for note in made.surface.notes if note.startswith("not tuned themselves")]
    return f"learning rates by study {settings.tuning}" + "".join(f"; {note}" for note in notes)


def _offset(made: JointStudy) -> str:
    profile = made.validation.fit.profile
    low, high = profile.ends
    return (
        f"not told, so larger sizes are not forecast: {profile.untold}"
        if profile.untold
        else f"{low:.4g} to {high:.4g}"
    )


def _span(values: np.ndarray) -> str:
    return f"{steps_text(float(values.min()))} to {steps_text(float(values.max()))}"


def _span_of(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"
