"""What the joint laws of a study foretell: of one budget of one run, and as the file that plans read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import pandas as pd

from fcdm.analysis.stats.joint_laws import JointStudy, loss_map_of
from fcdm.analysis.stats.study_surface import LOSS, law_groups, surface_of, unchecked_points
from fcdm.analysis.stats.tuning_trials import Tuned
from fcdm.errors import UserError
from fcdm.laws.cuts import Cuts
from fcdm.laws.hold_outs import INTERPOLATION, Gap, baselines, validate
from fcdm.laws.joint_fit import DRAWS
from fcdm.laws.joint_law import FLOPS_PER_MAC, FORMS
from fcdm.laws.predictive import Predictive
from fcdm.laws.verdict import is_loss
from fcdm.ledger.foretold import LAST_TWO, LAST_VALUE, ForecastTarget, StudyForecast
from fcdm.ledger.law_file import ReachingLaw


@dataclass(frozen=True)
class JointTeller:
    """`ForecastTeller` by the joint law of size, in forward MACs, and images. Each law is fitted and validated once."""

    cuts: Cuts = field(default_factory=Cuts)
    tuned: Sequence[Tuned] | None = None
    """Of the study that tuned these models."""
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
        losses: pd.DataFrame | None = None,
        force: bool = False,
    ) -> StudyForecast:
        """See `ForecastTeller`. A distance whose own points tell no law, or do not reach the target, goes through the
        held-out loss, where at equal loss it has been shown not to depend on size."""
        try:
            return self._direct(table, metric, target, force=force and losses is None)
        except UserError as error:
            if is_loss(metric) or losses is None:
                raise
            try:
                return self._through_loss(table, losses, metric, target, force=False)
            except UserError as other:
                if not force:
                    raise UserError(f"{error}; through the held-out loss: {other}") from None
        try:
            return self._direct(table, metric, target, force=True)
        except UserError:
            return self._through_loss(table, losses, metric, target, force=True)

    def _through_loss(
        self, table: pd.DataFrame, losses: pd.DataFrame, metric: str, target: ForecastTarget, *, force: bool
    ) -> StudyForecast:
        _, rows = group_of(table, target)
        to_distance = loss_map_of(rows, metric)
        if isinstance(to_distance, str):
            raise UserError(to_distance)
        told = self._direct(losses, LOSS, target, force=force)
        through = {
            "through": LOSS,
            "map": {"level": to_distance.level, "slopes": to_distance.slopes.tolist(), "centre": to_distance.centre},
        }

        n, d = float(target.forward_macs), float(target.images)
        last, line = baselines(unchecked_points(rows, metric), n, d)
        middle, of_seed = told.law.median, told.seed_deviation or 0.0
        moved = math.log(float(to_distance.of(middle * math.exp(of_seed)) / to_distance.of(middle)))
        return replace(
            told,
            law=to_distance.through(told.law),
            new_run=to_distance.through(told.new_run),
            settings={**told.settings, **through},
            baselines={LAST_VALUE: Predictive.log_t(last, 0.0), LAST_TWO: Predictive.log_t(line, 0.0)},
            curve=tuple((compute, float(to_distance.of(loss))) for compute, loss in told.curve),
            # Of the distance: what a seed does to it by the loss, and what it does beside that.
            seed_deviation=math.hypot(moved, to_distance.scatter),
        )

    def _direct(self, table: pd.DataFrame, metric: str, target: ForecastTarget, *, force: bool) -> StudyForecast:
        label, rows = group_of(table, target)
        study = self._study(rows, metric)
        validation = study.validation
        fit, n, d = validation.fit, float(target.forward_macs), float(target.images)
        if (why := validation.refusal(n, d)) and not force:
            raise UserError(f"no forecast of {metric}: {why}; --force forecasts all the same, and marks it")
        forecast, gap = fit.forecast(n, d), validation.gap(n, d)
        last, line = baselines(fit.points, n, d)
        return StudyForecast(
            law=forecast.law,
            new_run=forecast.new_run,
            settings=self._settings(label, study),
            points=_points(study),
            baselines={LAST_VALUE: Predictive.log_t(last, 0.0), LAST_TWO: Predictive.log_t(line, 0.0)},
            curve=tuple(fit.law.along_compute(n, d)),
            gap=gap.compute,
            validated_gap=max((known.compute for known in validation.validated), default=None),
            inside=validation.reach(n, d) == INTERPOLATION,
            seed_deviation=fit.seed_deviation,
            forced=(why,) if why else (),
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
            surface = surface_of(rows, metric, cuts=self.cuts, tuned=self.tuned)
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


def _points(study: JointStudy) -> list[dict[str, object]]:
    rows, metric = study.surface.rows, study.surface.metric
    columns = ("run", "steps", "forward_gmacs", "batch_size", metric)
    return [
        {"run": str(run), "steps": int(steps), "n": float(gmacs) * 1e9, "d": int(steps * batch), "value": float(value)}
        for run, steps, gmacs, batch, value in zip(*(rows[name] for name in columns), strict=True)
    ]


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
