"""What a study's joint laws say of a run that is asked for: the side of `python -m fcdm.forecast` that fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from fcdm.analysis.data.labels import cooldown_share, cooldowns, family_name
from fcdm.analysis.stats.joint_laws import JointStudy, joint_laws, loss_map_of
from fcdm.analysis.stats.study_surface import LOSS, is_loss, law_groups, patch_of, surface_of
from fcdm.analysis.stats.tuning_trials import Tuned
from fcdm.errors import UserError
from fcdm.laws.cuts import Cuts
from fcdm.laws.hold_outs import INTERPOLATION, baselines, validate
from fcdm.laws.joint_fit import DRAWS
from fcdm.laws.joint_law import FLOPS_PER_MAC, FORMS
from fcdm.laws.predictive import LEVELS, Predictive
from fcdm.ledger.foretold import LAST_TWO, LAST_VALUE, ForecastTarget, StudyForecast
from fcdm.ledger.law_file import ReachingLaw

GAPS = 5
"""At how many gaps a law's file has the quantiles of a new run."""


@dataclass(frozen=True)
class JointTeller:
    """A `ForecastTeller` by L(N, D), N in forward MACs."""

    cuts: Cuts = field(default_factory=Cuts)
    tuned: Sequence[Tuned] | None = None
    """Of the study that tuned these models."""
    draws: int = DRAWS

    def forecast_of(
        self,
        table: pd.DataFrame,
        metric: str,
        target: ForecastTarget,
        *,
        losses: pd.DataFrame | None = None,
        force: bool = False,
    ) -> StudyForecast:
        """As `ForecastTeller.forecast_of`. A distance whose own points tell no law goes through the held-out loss,
        where that has been shown not to depend on size."""
        rows = rows_of(table, target)
        try:
            return self._direct(rows, metric, target, force)
        except UserError as error:
            if is_loss(metric) or losses is None:
                raise
            try:
                return self._through_loss(rows, losses, metric, target, force)
            except UserError as other:
                raise UserError(f"{metric}: {error}; through the held-out loss: {other}") from None

    def laws_of(self, table: pd.DataFrame, metric: str) -> Sequence[tuple[ReachingLaw, Sequence[str]]]:
        """As `ForecastTeller.laws_of`: laws that a hold-out has validated, of constant rates."""
        found, refused = [], []
        for label, made in joint_laws(table, metric, cuts=self.cuts, tuned=self.tuned, draws=self.draws).items():
            if isinstance(made, str):
                refused.append(f"{label}: {made}")
            elif not made.validation.validated:
                refused.append(f"{label}: no hold-out held, so nothing is foretold")
            else:
                law = _reaching(made, str(table["protocol_id"].iloc[0]))
                found.append((law, list(dict.fromkeys(made.surface.rows["run"].astype(str)))))
        if not found:
            raise UserError("; ".join(refused))
        return found

    def _direct(self, rows: pd.DataFrame, metric: str, target: ForecastTarget, force: bool) -> StudyForecast:
        surface = surface_of(rows, metric, cuts=self.cuts, tuned=self.tuned)
        made = JointStudy(surface, validate(surface.points, is_loss=is_loss(metric), draws=self.draws))
        n, d = float(target.forward_macs), float(target.images)
        said = made.validation.forecast(n, d, force=force)
        return _told(made, target, said.law, said.new_run, baselines(made.validation.fit.points, n, d), {})

    def _through_loss(
        self, rows: pd.DataFrame, losses: pd.DataFrame, metric: str, target: ForecastTarget, force: bool
    ) -> StudyForecast:
        surface = surface_of(rows_of(losses, target), LOSS, cuts=self.cuts, tuned=self.tuned)
        made = JointStudy(surface, validate(surface.points, is_loss=True, draws=self.draws))
        to_distance = loss_map_of(rows, metric)
        if isinstance(to_distance, str):
            raise UserError(to_distance)
        n, d = float(target.forward_macs), float(target.images)
        said = made.validation.forecast(n, d, force=force)
        last, two = (float(to_distance.of(value)) for value in baselines(made.validation.fit.points, n, d))
        law, new_run = to_distance.through(said.law), to_distance.through(said.new_run)
        more = {"through": LOSS, "map": {"slopes": list(map(float, to_distance.slopes)), "level": to_distance.level}}
        told = _told(made, target, law, new_run, (last, two), more)
        curve = tuple((compute, float(to_distance.of(loss))) for compute, loss in told.curve)
        return replace(told, curve=curve)


def rows_of(table: pd.DataFrame, target: ForecastTarget) -> pd.DataFrame:
    """The rows of the law that speaks of such a run. Raises UserError where the study has none."""
    share = cooldown_share({key: str(value) for key, value in target.science.items()})
    for rows in law_groups(table).values():
        first = rows.iloc[0]
        same = (first["family"], int(first["resolution"])) == (target.family, target.resolution)
        cooled = float(cooldowns(rows).iloc[0]) == (0.0 if np.isnan(share) else share)
        if (
            same
            and cooled
            and patch_of(str(first["model"]), str(first["family"])) == patch_of(target.model, target.family)
        ):
            return rows
    raise UserError(
        f"the study has no law for {target.model}: no run of {family_name(target.family)} at {target.resolution} px "
        "with its patch size and cooldown"
    )


def _told(
    made: JointStudy,
    target: ForecastTarget,
    law: Predictive,
    new_run: Predictive,
    others: tuple[float, float],
    more: dict[str, Any],
) -> StudyForecast:
    """A forecast with all that a ledger's entry holds of the fit."""
    validation = made.validation
    fit, points = validation.fit, validation.fit.points
    n, d = float(target.forward_macs), float(target.images)
    refusal, reached = validation.refusal(n, d), validation.validated
    rows = made.surface.rows
    return StudyForecast(
        law=law,
        new_run=new_run,
        settings={
            "form": FORMS[fit.law.form],
            "law": asdict(fit.law),
            "n": points.unit,
            "cuts": made.surface.cuts.text,
            "notes": list(made.surface.notes),
            "draws": len(fit.draws),
            "seed": fit.seed,
            "misfit": asdict(fit.misfit),
            "E told": fit.profile.untold or True,
            "gap": asdict(validation.gap(n, d)),
            "validated": [asdict(gap) for gap in reached],
            **more,
        },
        points=[
            {"run": str(row.run), "steps": int(str(row.steps)), "value": float(str(getattr(row, made.surface.metric)))}
            for row in rows.itertuples()
        ],
        baselines={
            LAST_VALUE: Predictive.log_t(others[0], 0.0),
            LAST_TWO: Predictive.log_t(others[1], 0.0),
        },
        curve=tuple(fit.law.along_compute(n, d)),
        gap=validation.gap(n, d).compute,
        validated_gap=max((gap.compute for gap in reached), default=None),
        inside=validation.reach(n, d) == INTERPOLATION,
        seed_deviation=fit.seed_deviation,
        forced=(refusal,) if refusal else (),
    )


def _reaching(made: JointStudy, protocol_id: str) -> ReachingLaw:
    """The law as a file holds it: it reaches as far as one validated gap in each of size, data and FLOPs."""
    validation = made.validation
    fit, points = validation.fit, validation.fit.points
    furthest = max(validation.validated, key=lambda gap: gap.compute)
    flops = points.compute * FLOPS_PER_MAC
    reach = {
        "n": (float(points.n.min()), float(points.n.max()) * furthest.n),
        "images": (float(points.d.min()), float(points.d.max()) * furthest.d),
        "train_flops": (float(flops.min()), float(flops.max()) * furthest.compute),
    }
    if fit.profile.untold:
        reach["n"] = (reach["n"][0], float(points.n.max()))
    offsets = []
    for share in np.linspace(0, 1, GAPS):
        n, d = float(points.n.max()) * furthest.n**share, float(points.d.max()) * furthest.d**share
        quantiles = fit.forecast(n, d).new_run.quantiles
        gap = max(1.0, n * d / float(points.compute.max()))
        offsets.append((gap, tuple(float(np.log(value / float(fit.law(n, d)))) for value in quantiles)))
    assert len(offsets[0][1]) == len(LEVELS)
    law = fit.law
    return ReachingLaw(
        metric=made.surface.metric,
        protocol_id=protocol_id,
        n_unit=points.unit,
        e=law.offset,
        a=law.size_scale,
        alpha=law.size_exponent,
        b=law.data_scale,
        beta=law.data_exponent,
        reach=reach,
        fitted_flops=float(flops.max()),
        offsets=tuple({gap: (gap, added) for gap, added in offsets}.values()),
        freedom=fit.forecast(float(points.n.max()), float(points.d.max())).new_run.freedom,
        common={},
    )
