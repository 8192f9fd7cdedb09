"""What the joint laws of a study foretell: of one budget of one run, and as the file that plans read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from fcdm.analysis.stats.joint_laws import JointStudy, loss_map_of
from fcdm.analysis.stats.study_surface import LOSS, law_groups, surface_of
from fcdm.errors import UserError
from fcdm.laws.cuts import Cuts
from fcdm.laws.hold_outs import INTERPOLATION, Gap, Validation, baselines, validate
from fcdm.laws.joint_fit import DRAWS
from fcdm.laws.joint_law import FLOPS_PER_MAC, FORMS
from fcdm.laws.predictive import Predictive
from fcdm.laws.surface_points import SurfacePoints
from fcdm.laws.verdict import is_loss
from fcdm.ledger.foretold import LAST_TWO, LAST_VALUE, ForecastTarget, StudyForecast
from fcdm.ledger.law_file import ReachingLaw


@dataclass(frozen=True)
class JointTeller:
    """`ForecastTeller` by the joint law of size, in forward MACs, and images. Each law is fitted and validated once."""

    cuts: Cuts = field(default_factory=Cuts)
    draws: int = DRAWS
    seed: int = 0
    """Of the draws."""
    _fitted: dict[tuple[object, ...], JointStudy] = field(default_factory=dict, repr=False)

    def forecast_of(
        self,
        table: pd.DataFrame,
        metric: str,
        target: ForecastTarget,
        *,
        force: bool = False,
        losses: pd.DataFrame | None = None,
    ) -> StudyForecast:
        """See `ForecastTeller`. A distance of which no joint law can be fitted is foretold through the held-out loss,
        where it has been shown that it may be (`LossMap.unshown`)."""
        label, rows = group_of(table, target)
        try:
            study = self._study(rows, metric)
        except UserError as error:
            if losses is None:
                raise
            try:
                return self._through_loss(label, rows, group_of(losses, target)[1], metric, target, force)
            except UserError as other:
                raise UserError(f"{error}; and {other}") from None
        validation = study.validation
        why = _refused(validation, metric, target, force)
        forecast = validation.fit.forecast(*_place(target))
        return StudyForecast(
            law=forecast.law,
            new_run=forecast.new_run,
            settings=self._settings(label, study),
            points=_points(study.surface.rows, metric),
            baselines=_baselines(validation.fit.points, target),
            curve=tuple(validation.fit.law.along_compute(*_place(target))),
            seed_deviation=validation.fit.seed_deviation,
            **_where(validation, target, why),
        )

    def _through_loss(
        self, label: str, rows: pd.DataFrame, losses: pd.DataFrame, metric: str, target: ForecastTarget, force: bool
    ) -> StudyForecast:
        """rows: of the distance, with the losses beside them; losses: those that the loss's law is fitted to. Raises
        UserError where the two are not of one loss, or the map has not been shown to hold."""
        _refuse_other_losses(rows, losses)
        study = self._study(losses, LOSS)
        validation = study.validation
        why = _refused(validation, metric, target, force)
        loss_map = loss_map_of(rows, metric)
        if isinstance(loss_map, str):
            raise UserError(loss_map)
        forecast = validation.fit.forecast(*_place(target))
        curve = [(x, float(loss_map.of(y))) for x, y in validation.fit.law.along_compute(*_place(target))]
        measured = rows[rows[metric].notna()]
        points = SurfacePoints.ordered(
            measured["forward_gmacs"] * 1e9,
            measured["steps"] * measured["batch_size"],
            measured[metric],
            list(measured["run"]),
        )
        settings = self._settings(label, study)
        settings["through"] = {
            "map": "ln of the distance = level + slopes of (ln loss - centre, its square)",
            **{"level": loss_map.level, "slopes": list(loss_map.slopes), "centre": loss_map.centre},
            **{"deviation": loss_map.deviation, "scatter": loss_map.scatter},
        }
        return StudyForecast(
            law=loss_map.through(forecast.law),
            new_run=loss_map.through(forecast.new_run),
            settings=settings,
            points=[*_points(measured, metric), *_points(study.surface.rows, LOSS)],
            baselines=_baselines(points, target),
            curve=tuple(_falling(curve)),
            seed_deviation=points.luck()[1] or None,
            **_where(validation, target, why),
        )

    def laws_of(self, table: pd.DataFrame, metric: str) -> Sequence[tuple[ReachingLaw, Sequence[str]]]:
        """See `ForecastTeller`. A law of which no hold-out held is none."""
        found, refused = [], []
        for label, rows in law_groups(table).items():
            try:
                study = self._study(rows, metric)
                if not study.validation.validated:
                    raise UserError("no hold-out held, so it reaches nothing")
            except UserError as error:
                refused.append(f"{label}: {error}")
                continue
            found.append((_reaching(study), sorted(set(study.surface.rows["run"]))))
        if not found:
            raise UserError("; ".join(refused))
        return found

    def _study(self, rows: pd.DataFrame, metric: str) -> JointStudy:
        """The law of one of `law_groups`, validated. Raises UserError where there is none."""
        key = (metric, *rows["run"], *rows["steps"], *rows[metric])
        if key not in self._fitted:
            surface = surface_of(rows, metric, cuts=self.cuts)
            validation = validate(surface.points, is_loss=is_loss(metric), draws=self.draws, seed=self.seed)
            self._fitted[key] = JointStudy(surface, validation)
        return self._fitted[key]

    def _settings(self, label: str, study: JointStudy) -> dict[str, object]:
        validation = study.validation
        fit = validation.fit
        names = ("E", "A", "alpha", "B", "beta")
        return {
            "group": label,
            "form": FORMS[fit.law.form],
            "n": fit.points.unit,
            "fit": "log-Huber from the variable projection's end",
            **{"delta": fit.delta, "draws": self.draws, "seed": self.seed},
            "cuts": {**asdict(self.cuts), "text": self.cuts.text},
            "law": dict(zip(names, fit.law.numbers, strict=True)),
            "by_variable_projection": dict(zip(names, fit.projected.numbers, strict=True)),
            "offset_not_told": fit.profile.untold,
            "misfit": asdict(fit.misfit),
            "validated": [asdict(gap) for gap in validation.validated],
            "hold_outs": [f"{one.left_out}: {one.state}" for one in validation.held_out],
            "notes": [*study.surface.notes, *validation.notes],
        }


def group_of(table: pd.DataFrame, target: ForecastTarget) -> tuple[str, pd.DataFrame]:
    """(name, rows) of the law's group that the target belongs to. Raises UserError: to none."""
    family = table[(table["family"] == target.family) & (table["resolution"] == target.resolution)]
    if family.empty:
        raise UserError(f"the study has no run of family {target.family} at {target.resolution} px")
    cooldown, share = (target.science.get(f"optimiser.{key}") for key in ("cooldown", "cooldown_share"))
    cooled = math.nan if not cooldown else float(share or 1 - cooldown[0] / cooldown[1])
    row = family.iloc[[0]].assign(model=target.model, cooldown=cooled, run=_TARGET)
    for label, rows in law_groups(pd.concat([table, row], ignore_index=True)).items():
        if (rows["run"] == _TARGET).any():
            own = rows[rows["run"] != _TARGET]
            if own.empty:
                raise UserError(f"the study has no run as {target.model} is ({label}), and laws join no others with it")
            return label, own
    raise AssertionError(target)


_TARGET = "the target"
SAME_LOSS = 1e-6
"""Relative: two evaluations of one checkpoint's loss are as near, by whichever protocol."""


def _place(target: ForecastTarget) -> tuple[float, float]:
    return float(target.forward_macs), float(target.images)


def _refused(validation: Validation, metric: str, target: ForecastTarget, force: bool) -> str:
    """Why the target is beyond what was validated, where that is forced; "" where it is not. Raises UserError."""
    why = validation.refusal(*_place(target))
    if why and not force:
        raise UserError(f"no forecast of {metric}: {why}; --force forecasts all the same, and marks it")
    return why


def _where(validation: Validation, target: ForecastTarget, why: str) -> dict[str, Any]:
    """Where the target lies, for a `StudyForecast`."""
    return {
        "gap": validation.gap(*_place(target)).compute,
        "validated_gap": max((known.compute for known in validation.validated), default=None),
        "inside": validation.reach(*_place(target)) == INTERPOLATION,
        "forced": (why,) if why else (),
    }


def _baselines(points: SurfacePoints, target: ForecastTarget) -> dict[str, Predictive]:
    last, line = baselines(points, *_place(target))
    return {LAST_VALUE: Predictive.log_t(last, 0.0), LAST_TWO: Predictive.log_t(line, 0.0)}


def _points(rows: pd.DataFrame, metric: str) -> list[dict[str, object]]:
    columns = ("run", "steps", "forward_gmacs", "batch_size", metric)
    return [
        {
            **{"run": str(run), "steps": int(steps), "metric": metric},
            **{"n": float(gmacs) * 1e9, "d": int(steps * batch), "value": float(value)},
        }
        for run, steps, gmacs, batch, value in zip(*(rows[name] for name in columns), strict=True)
    ]


def _refuse_other_losses(rows: pd.DataFrame, losses: pd.DataFrame) -> None:
    """Raise UserError where the losses beside a distance are not those that the law of the loss is of."""
    both = rows[["run", "steps", LOSS]].merge(losses[["run", "steps", LOSS]], on=["run", "steps"]).dropna()
    if both.empty:
        raise UserError("no forecast through the loss: no point has both")
    off = (both[f"{LOSS}_x"] / both[f"{LOSS}_y"] - 1).abs().max()
    if off > SAME_LOSS:
        raise UserError(f"no forecast through the loss: two protocols have losses {off:.2g} apart, of other images say")


def _falling(curve: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The part of a curve around its middle, at compute 1, in which it falls."""
    points = list(curve)
    middle = min(range(len(points)), key=lambda at: abs(math.log(points[at][0])))
    first, last = middle, middle
    while first and points[first - 1][1] > points[first][1]:
        first -= 1
    while last + 1 < len(points) and points[last + 1][1] < points[last][1]:
        last += 1
    return points[first : last + 1]


def _reaching(study: JointStudy) -> ReachingLaw:
    """Offsets are those at the corner of what was fitted and of each validated gap; the widest, of those alike."""
    validation = study.validation
    fit = validation.fit
    points = fit.points
    flops = FLOPS_PER_MAC * float(points.compute.max())
    gaps = [Gap(1.0, 1.0, 1.0), *validation.validated]
    if fit.profile.untold:
        gaps = [Gap(1.0, gap.d, gap.compute) for gap in gaps]
    boxes = tuple(
        {
            "n": (float(points.n.min()), float(points.n.max()) * gap.n),
            "images": (float(points.d.min()), float(points.d.max()) * gap.d),
            "train_flops": (0.0, flops * gap.compute),
        }
        for gap in gaps
    )
    corners: dict[float, Predictive] = {}
    for gap in gaps:
        there = fit.forecast(float(points.n.max()) * gap.n, float(points.d.max()) * gap.d).new_run
        corners[gap.compute] = max(there, corners.get(gap.compute, there), key=_width)
    e, a, alpha, b, beta = fit.law.numbers
    return ReachingLaw(
        metric=study.surface.metric,
        protocol_id=str(study.surface.rows["protocol_id"].iloc[0]),
        n_unit=points.unit,
        e=e,
        a=a,
        alpha=alpha,
        b=b,
        beta=beta,
        reach=boxes,
        fitted_flops=flops,
        offsets=tuple(
            (gap, tuple(math.log(quantile / law.median) for quantile in law.quantiles))
            for gap, law in sorted(corners.items())
        ),
        freedom=min(law.freedom for law in corners.values()),
        common={},
    )


def _width(law: Predictive) -> float:
    return law.quantiles[-1] / law.quantiles[0]
