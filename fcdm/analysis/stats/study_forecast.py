"""What the joint laws of a study foretell: of one budget of one run, and as the file that plans read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import pandas as pd

from fcdm.analysis.data.diverged_runs import diverged
from fcdm.analysis.stats.joint_laws import JointStudy, loss_map_of
from fcdm.analysis.stats.study_surface import law_groups, surface_of, unchecked_points
from fcdm.analysis.stats.tuning_trials import Tuned
from fcdm.errors import UserError
from fcdm.forecasts.foretold import LAST_TWO, LAST_VALUE, ForecastTarget, StudyForecast
from fcdm.forecasts.law_file import OffsetGrid, ReachingLaw
from fcdm.laws.cuts import Cuts
from fcdm.laws.hold_outs import INTERPOLATION, Gap, baselines, validate
from fcdm.laws.joint_fit import DRAWS
from fcdm.laws.joint_law import FLOPS_PER_MAC, FORMS
from fcdm.laws.loss_map import LossMap
from fcdm.laws.predictive import Predictive
from fcdm.laws.verdict import LOSS, is_loss


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
        force: bool = False,
        losses: pd.DataFrame | None = None,
    ) -> StudyForecast:
        """See `ForecastTeller`. A distance of which no joint law can be fitted is foretold through the held-out loss,
        where it has been shown that it may be (`LossMap.unshown`)."""
        label, rows = group_of(table, target)
        study, loss_map = self._law_of(rows, metric, None if losses is None else group_of(losses, target)[1])
        validation, place = study.validation, _place(target)
        why = validation.refusal(*place)
        if why and not force:
            raise UserError(f"no forecast of {metric}: {why}; --force forecasts all the same, and marks it")
        forecast, curve = validation.fit.forecast(*place), validation.fit.law.along_compute(*place)
        law, new_run = forecast.law, forecast.new_run
        points, settings = study.surface.points, self._settings(label, study)
        fitted, deviation = _points(study.surface.rows, study.surface.metric), validation.fit.seed_deviation
        if loss_map is not None:
            law, new_run = loss_map.through(law, single=False), loss_map.through(new_run, single=True)
            curve = _falling((x, float(loss_map.of(y))) for x, y in curve)
            settings["through"] = {
                "map": "ln of the distance = level + slopes of (ln loss - centre, its square)",
                **{"level": loss_map.level, "slopes": list(loss_map.slopes), "centre": loss_map.centre},
                **{"deviation": loss_map.deviation, "scatter": loss_map.scatter},
            }
            measured = rows[rows[metric].notna() & ~diverged(rows)]
            points = unchecked_points(measured, metric)
            fitted, deviation = [*_points(measured, metric), *fitted], points.luck()[1]
        if len(curve) < 2:
            raise UserError(f"no forecast of {metric}: by its law it does not fall there with compute")
        last, line = baselines(points, *place)
        return StudyForecast(
            law=law,
            new_run=new_run,
            settings=settings,
            points=fitted,
            baselines={LAST_VALUE: Predictive.log_t(last, 0.0), LAST_TWO: Predictive.log_t(line, 0.0)},
            curve=tuple(curve),
            gap=validation.gap(*place).compute,
            validated_gap=max((known.compute for known in validation.validated), default=None),
            inside=validation.reach(*place) == INTERPOLATION,
            seed_deviation=deviation or None,
            forced=(why,) if why else (),
        )

    def laws_of(
        self, table: pd.DataFrame, metric: str, *, losses: pd.DataFrame | None = None
    ) -> Sequence[tuple[ReachingLaw, Sequence[str]]]:
        """See `ForecastTeller`. A law of which no hold-out held is none."""
        found, refused = [], []
        of_losses = {} if losses is None else law_groups(losses)
        for label, rows in law_groups(table).items():
            try:
                study, loss_map = self._law_of(rows, metric, of_losses.get(label))
                if not study.validation.validated:
                    raise UserError("no hold-out held, so it reaches nothing")
                law = _reaching(study, metric, str(rows["protocol_id"].iloc[0]), loss_map)
            except UserError as error:
                refused.append(f"{label}: {error}")
                continue
            found.append((law, sorted(set(study.surface.rows["run"]))))
        if not found:
            raise UserError("; ".join(refused))
        return found

    def _law_of(
        self, rows: pd.DataFrame, metric: str, losses: pd.DataFrame | None
    ) -> tuple[JointStudy, LossMap | None]:
        """The law of a metric itself, or where that has too few points of the loss, with the map. Raises UserError."""
        try:
            return self._study(rows, metric), None
        except UserError as error:
            if losses is None:
                raise
            try:
                _refuse_other_losses(rows, losses)
                study, loss_map = self._study(losses, LOSS), loss_map_of(rows, metric)
                if isinstance(loss_map, str):
                    raise UserError(loss_map)
                return study, loss_map
            except UserError as other:
                raise UserError("; and ".join(dict.fromkeys([str(error), str(other)]))) from None

    def _study(self, rows: pd.DataFrame, metric: str) -> JointStudy:
        """The law of one of `law_groups`, validated. Raises UserError where there is none."""
        key = (metric, *rows["run"], *rows["steps"], rows[metric].to_numpy(float).tobytes())  # NaN is not itself
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
            "tuned": None if self.tuned is None else [one.name for one in self.tuned],
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
PLACES = 7
"""Sizes, and numbers of images, at which a law's file has what a new run's interval adds to it: between them it is
off by up to 3 % of the interval from 1 to 99 %."""
SAME_LOSS = 1e-6
"""Relative: two evaluations of one checkpoint's loss are as near, by whichever protocol."""


def _place(target: ForecastTarget) -> tuple[float, float]:
    return float(target.forward_macs), float(target.images)


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


def _reaching(study: JointStudy, metric: str, protocol_id: str, loss_map: LossMap | None) -> ReachingLaw:
    """The law as plans read it, without what its runs have in common."""
    validation = study.validation
    fit = validation.fit
    points = fit.points
    gaps = [Gap(1.0, 1.0, 1.0), *validation.validated]
    if fit.profile.untold:
        gaps = [Gap(1.0, gap.d, gap.compute) for gap in gaps]
    boxes = tuple(
        {
            "n": (float(points.n.min()), float(points.n.max()) * gap.n),
            "images": (float(points.d.min()), float(points.d.max()) * gap.d),
            "train_flops": (0.0, FLOPS_PER_MAC * float(points.compute.max()) * gap.compute),
        }
        for gap in gaps
    )
    n, images = (_places(box[name] for box in boxes) for name in ("n", "images"))
    new_runs = [[fit.forecast(size, each).new_run for each in images] for size in n]
    middles = fit.law(np.array(n)[:, None], np.array(images))
    if loss_map is not None:
        new_runs = [[loss_map.through(one, single=True) for one in row] for row in new_runs]
        middles = loss_map.of(middles)
    offsets = np.log([[one.quantiles for one in row] for row in new_runs]) - np.log(middles)[..., None]
    e, a, alpha, b, beta = fit.law.numbers
    return ReachingLaw(
        metric=metric,
        protocol_id=protocol_id,
        n_unit=points.unit,
        e=e,
        a=a,
        alpha=alpha,
        b=b,
        beta=beta,
        reach=boxes,
        offsets=OffsetGrid(n, images, tuple(tuple(tuple(map(float, one)) for one in row) for row in offsets)),
        freedom=min(one.freedom for row in new_runs for one in row),
        common={},
        through=None if loss_map is None else loss_map.numbers,
    )


def _places(ends: Iterable[tuple[float, float]]) -> tuple[float, ...]:
    """PLACES from the lowest of (low, high) to the highest."""
    lows, highs = zip(*ends, strict=True)
    return tuple(map(float, np.geomspace(min(lows), max(highs), PLACES)))
