"""The joint laws of a study: fitted and held against hold-outs, of each family, and told in words and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fcdm.analysis.data.diverged_runs import diverged
from fcdm.analysis.data.labels import trajectories
from fcdm.analysis.stats.study_surface import StudySurface, law_groups, mixtures, surface_of
from fcdm.analysis.stats.tuning_trials import Tuned
from fcdm.errors import UserError
from fcdm.formatting import plural, three_digits
from fcdm.laws.cuts import Cuts
from fcdm.laws.hold_outs import Gap, Validation, validate
from fcdm.laws.joint_law import FORMS
from fcdm.laws.loss_map import LossMap, map_loss
from fcdm.laws.plain import MACS, PARAMETERS
from fcdm.laws.predictive import LEVEL
from fcdm.laws.shared_offset import SharedOffset, share_offset
from fcdm.laws.verdict import LOSS, is_loss

UNITS = {MACS: "forward MACs", PARAMETERS: "parameters"}


@dataclass(frozen=True)
class JointStudy:
    """One law of a study, validated."""

    surface: StudySurface
    validation: Validation


def joint_laws(
    table: pd.DataFrame,
    metric: str = LOSS,
    *,
    unit: str = MACS,
    cuts: Cuts | None = None,
    tuned: Sequence[Tuned] | None = None,
    **how: int,
) -> dict[str, JointStudy | str]:
    """Each of `law_groups` -> its validated law of `metric`, or the line that says why there is none.

    `unit`: what sizes are counted in. `tuned`: of the study that tuned these models (`tune`). `how`: `draws` and `seed`
    of `validate`.
    """
    laws: dict[str, JointStudy | str] = {}
    for label, rows in law_groups(table).items():
        try:
            surface = surface_of(rows, metric, unit=unit, cuts=cuts, tuned=tuned)
            laws[label] = JointStudy(surface, validate(surface.points, is_loss=is_loss(metric), **how))
        except UserError as error:
            laws[label] = str(error)
    return laws


def shared_offset_of(laws: Mapping[str, JointStudy | str]) -> SharedOffset | str:
    """Whether the laws of a study share one E, or why that cannot be told. Of one metric, on one scale."""
    fits = {label: made.validation.fit for label, made in laws.items() if isinstance(made, JointStudy)}
    try:
        return share_offset(fits)
    except UserError as error:
        return str(error)


def loss_map_of(rows: pd.DataFrame, distance: str = "fid") -> LossMap | str:
    """The map from held-out loss to a distance, of the rows of one of `law_groups`, or why there is none."""
    values = rows[[LOSS, distance]].to_numpy(float)
    both = rows[(np.isfinite(values) & (values > 0)).all(axis=1)]
    both = both[~diverged(both)]
    try:
        for why in mixtures(both, distance):
            raise UserError(f"no map from the loss: {why}")
        return map_loss(both["forward_gmacs"], both["steps"], both[LOSS], both[distance], trajectories(both))
    except UserError as error:
        return str(error)


def joint_lines(label: str, made: JointStudy | str, *, held_out: bool = True) -> list[str]:
    """The law in words: both estimates, what is told of E, misfit, hold-outs, and how far it has been validated.

    `held_out`: with a line for each cell that was held out; not where a table has them.
    """
    if isinstance(made, str):
        return [f"{label}: {made}"]
    validation, metric = made.validation, made.surface.metric
    fit, points = validation.fit, validation.fit.points
    ends = fit.intervals
    each = ", ".join(f"{name} {ends[name][0]:.3g} to {ends[name][1]:.3g}" for name in ("alpha", "beta"))
    offset = "not told, " + fit.profile.untold if fit.profile.untold else f"{ends['E'][0]:.4g} to {ends['E'][1]:.4g}"
    lines = [
        f"{label}: {metric} = {_equation(fit.law.numbers)} by log-Huber, N in {UNITS[points.unit]}, D in images; "
        f"{_equation(fit.projected.numbers)} by variable projection",
        f"{label}: 95 % intervals: {each}; E {offset} ({plural(points.count, 'size')}, "
        f"{plural(len(set(points.runs)), 'run')}, {plural(len(points.y), 'point')}; a seed moves a value by "
        f"{fit.seed_deviation:.1%}; beyond that sizes differ by {fit.misfit.level:.1%}, single cells by "
        f"{fit.misfit.shape:.1%})",
    ]
    if fit.misfit.is_systematic:
        lines.append(
            f"{label}: misfit: seeds alone leave such residuals with p = {fit.misfit.p:.2g}: another form is true"
        )
    lines.append(f"{label}: {_second_form_text(validation)}")
    for one in validation.held_out if held_out else ():
        lines.append(
            f"{label}: without {one.left_out}, at N = {one.n:.3g}, D = {three_digits(one.d)}: "
            f"{np.expm1(one.error):+.1%} (seeds {one.seed_deviation:.1%}; last value {np.expm1(one.last_value):+.1%}, "
            f"last two {np.expm1(one.last_two):+.1%}; {one.gap.text}; x{one.compute_equivalent:.3g} in compute), "
            f"{one.state}" + (f": {one.why}" if one.why else "")
        )
    reached = "; ".join(gap.text for gap in validation.validated) or "none"
    lines.append(f"{label}: largest validated gap: {reached}")
    return [*lines, *(f"{label}: {note}" for note in (*made.surface.notes, *validation.notes))]


def shared_offset_line(shared: SharedOffset | str) -> str:
    """Whether families have one E, in words."""
    if isinstance(shared, str):
        return shared
    names = " and ".join(shared.laws)
    told = f"F({shared.freedom[0]:.0f}, {shared.freedom[1]:.1f}) = {shared.statistic:.2f}, p = {shared.p:.2g}"
    if shared.agrees:
        return f"{names}: one E, {shared.offset:.4g}, is as good as one each ({told})"
    return f"{names}: one E is worse than one each ({told}); E belongs to the data, so this is misfit of a law"


def hold_out_table(laws: Mapping[str, JointStudy | str]) -> pd.DataFrame:
    """A row for each cell that was held out."""
    rows = [
        {
            **{"label": label, "metric": made.surface.metric, "left_out": one.left_out, "n": one.n, "images": one.d},
            **{"measured": one.measured, "runs": one.runs, "forecast": one.forecast.new_run.median},
            **dict(zip(("low", "high"), one.forecast.new_run.interval(LEVEL), strict=True)),
            **{"error": one.error, "seed_deviation": one.seed_deviation, "last_value": one.last_value},
            **{"last_two": one.last_two, "compute_equivalent": one.compute_equivalent, "gap_n": one.gap.n},
            **{"gap_d": one.gap.d, "gap_flops": one.gap.compute, "state": one.state, "why": one.why},
        }
        for label, made in laws.items()
        if isinstance(made, JointStudy)
        for one in made.validation.held_out
    ]
    return pd.DataFrame(rows)


def _second_form_text(validation: Validation) -> str:
    """How well the second form fits, and how far it is from the first as far out as was validated."""
    fit, points = validation.fit, validation.fit.points
    gap = max(validation.validated, key=lambda one: one.compute, default=Gap(1.0, 1.0, 1.0))
    n, d = gap.n * float(points.n.max()), gap.d * float(points.d.max())
    return (
        f"as {FORMS[fit.second.form]} cells scatter by {fit.scatter(fit.second):.2%} about it, here by "
        f"{fit.scatter():.2%}; at N = {n:.3g}, D = {three_digits(d)} it lies {np.expm1(fit.away(n, d)):+.1%} away"
    )


def _equation(numbers: tuple[float, ...]) -> str:
    offset, size_scale, alpha, data_scale, beta = numbers
    return f"{offset:.4g} + {size_scale:.4g} N^-{alpha:.3g} + {data_scale:.4g} D^-{beta:.3g}"
