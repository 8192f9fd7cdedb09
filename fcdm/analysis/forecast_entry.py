"""From a study's table to an entry of the ledger, or to the laws that plans foretell by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from fcdm.analysis.data.tidy_table import tidy_table
from fcdm.errors import UserError
from fcdm.forecasts.common_settings import common_settings, off_common, settings_of
from fcdm.forecasts.entries import HOLD_OUT, ForecastEntry, entry_of
from fcdm.forecasts.foretold import ForecastTarget, ForecastTeller
from fcdm.forecasts.known_budget import kind_of, what_is_known
from fcdm.forecasts.law_file import ReachingLaw
from fcdm.jobs.job import Job
from fcdm.laws.verdict import LOSS, is_loss
from fcdm.runs.folder import Run, find_run
from fcdm.runs.formats import Study
from fcdm.runs.identity import flatten, science
from fcdm.runs.protocol import TRAINED_ONLY, Part
from fcdm.runs.reader import RunView, read_study
from fcdm.runs.revision import code_revision
from fcdm.runs.run_cost import run_cost


@dataclass(frozen=True)
class StudyTables:
    """The measured points of a study, by protocol; each table is read once."""

    runs_dir: Path
    study: Study
    _read: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    @classmethod
    def named(cls, runs_dir: Path, study: str) -> StudyTables:
        """Raises UserError for an unknown study."""
        return cls(runs_dir, read_study(runs_dir, study))

    def table(self, protocol_id: str, metric: str) -> pd.DataFrame:
        """Raises UserError where nothing of the metric was measured by the protocol."""
        if protocol_id not in self._read:
            self._read[protocol_id] = tidy_table(self.runs_dir, self.study.name, protocol_id)
        table = self._read[protocol_id]
        if metric not in table or table[metric].isna().all():
            raise UserError(f"study '{self.study.name}' has no {metric} by protocol {protocol_id}: nothing to fit")
        return table

    def count(self, protocol_id: str, metric: str) -> int:
        """How many points of the metric there are by a protocol."""
        try:
            return int(self.table(protocol_id, metric)[metric].notna().sum())
        except UserError:
            return 0

    def best(self, metric: str) -> str:
        """The protocol by which there are most points of the metric, the study's own of several. Raises UserError."""
        asked = dict.fromkeys([self.study.protocol_id, *(request.protocol_id for request in self.study.requests)])
        evaluating = [one for one in asked if one != TRAINED_ONLY]
        if not evaluating:
            raise UserError(f"study '{self.study.name}' evaluates nothing, so there is nothing to fit")
        return max(evaluating, key=lambda one: self.count(one, metric))

    def losses_for(self, metric: str) -> pd.DataFrame | None:
        """The table with most held-out losses, for a distance; None: it is a loss, or there are none."""
        best = self.best(LOSS)
        return self.table(best, LOSS) if not is_loss(metric) and self.count(best, LOSS) else None

    def settings(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """Of runs, each once: what they may have in common."""
        return [settings_of(RunView(self.runs_dir / name).config) for name in dict.fromkeys(names)]


@dataclass(frozen=True)
class ForecastRequest:
    """One budget of one run by one metric, to be foretold from a study."""

    tables: StudyTables
    job: Job
    part: Part
    """Whose protocol it is evaluated by."""
    steps: int
    metric: str
    hold_out: str | None = None
    """`size`, `budget` or `both`: what is left out of the fit, of a budget that was measured."""
    force: bool = False

    @property
    def target(self) -> ForecastTarget:
        config = self.job.config
        cost = run_cost(config)
        return ForecastTarget(
            model=config.model.name,
            family=config.model.kind,
            parameters=cost.parameters,
            forward_macs=cost.forward_macs,
            batch_size=config.batch_size,
            resolution=config.resolution,
            seed=config.seed,
            steps=self.steps,
            science=flatten(science(config)),
        )

    def entry(self, teller: ForecastTeller) -> ForecastEntry:
        """What is foretold, not written yet. Raises UserError for what is known already, is not as the study's runs
        are, or cannot be told."""
        job, run, target = self.job, self.job.run, self.target
        parent = None
        if job.parent_id is not None and (folder := find_run(self.tables.runs_dir, job.parent_id)):
            parent = Run(folder, job.parent_id)
        if self.hold_out is None:
            kind_of(run, self.steps, parent=parent)
        elif not what_is_known(run, self.steps):
            raise UserError(
                f"--hold-out={self.hold_out} is for a budget that was measured, and {run.name} has nothing at step "
                f"{self.steps}: leave it away"
            )
        study = self.tables.study.name
        table = self.tables.table(self.part.protocol_id, self.metric)
        if self.hold_out is not None:
            table = _below(table, target, self.hold_out)
        off = self._off_study(table)
        if off and not self.force:
            raise UserError(
                f"{run.name} is not as the runs of study '{study}' are: {off}: say what they have, or --force"
            )
        losses = self.tables.losses_for(self.metric)
        if losses is not None and self.hold_out is not None:
            losses = _below(losses, target, self.hold_out)
        forecast = teller.forecast_of(table, self.metric, target, force=self.force, losses=losses)
        if off:
            forecast = replace(forecast, forced=(*forecast.forced, f"not as the study's runs: {off}"))
        inside = forecast.inside
        return entry_of(
            forecast,
            target,
            study=study,
            run_id=job.id,
            run_name=job.name,
            parent_id=job.parent_id,
            data=job.config.data.name,
            data_checksum=str(job.config.data.checksum),
            metric=self.metric,
            protocol=self.part.protocol,
            protocol_id=self.part.protocol_id,
            kind=HOLD_OUT if self.hold_out else kind_of(run, self.steps, parent=parent, inside=inside),
            code=code_revision(),
        )

    def _off_study(self, table: pd.DataFrame) -> str:
        """In what the run is not as all the study's runs of its family are; "": in nothing that counts."""
        family = self.job.config.model.kind
        common = common_settings(self.tables.settings(table.loc[table["family"] == family, "run"]))
        if not common:
            raise UserError(f"study '{self.tables.study.name}' has no run of family {family} to fit")
        return ", ".join(off_common(settings_of(science(self.job.config)), common))


def requests_of(
    job: Job, tables: StudyTables, metrics: Iterable[str], hold_out: str | None = None, force: bool = False
) -> list[ForecastRequest]:
    """What is asked of a job: each budget by each metric, by the protocol of the job's that the study has most points
    of. What others only branch from is not evaluated, and not foretold."""
    found = []
    for metric in metrics:
        for steps in job.budgets:
            parts = [part for part in job.parts if part.evaluates and steps in part.budgets]
            if parts:
                part = max(parts, key=lambda part: tables.count(part.protocol_id, metric))
                found.append(ForecastRequest(tables, job, part, steps, metric, hold_out, force))
    return sorted(found, key=lambda one: one.steps)


def laws_told(
    tables: StudyTables, metrics: Iterable[str], teller: ForecastTeller
) -> tuple[list[ReachingLaw], list[str]]:
    """The laws that a study tells, and for which metrics it tells none, with the reason."""
    found: list[ReachingLaw] = []
    refused: list[str] = []
    for metric in metrics:
        try:
            table = tables.table(tables.best(metric), metric)
            laws = teller.laws_of(table, metric, losses=tables.losses_for(metric))
        except UserError as error:
            refused.append(f"{metric}: {error}")
            continue
        found += [replace(law, common=common_settings(tables.settings(runs))) for law, runs in laws]
    return found, refused


def law_line(law: ReachingLaw) -> str:
    """`fid of fcdm = 2.1 + 300 N^-0.3 + 4000 D^-0.6, to 4e+15 FLOPs of training`."""
    form = f"{law.e:.4g} + {law.a:.4g} N^-{law.alpha:.3g} + {law.b:.4g} D^-{law.beta:.3g}"
    most = max(box["train_flops"][1] for box in law.reach)
    form = f"a function of the loss, {form}" if law.through else form
    whose = law.common.get("model.family", "all families")
    return f"{law.metric} of {whose} = {form}, to {most:.3g} FLOPs of training"


def _below(table: pd.DataFrame, target: ForecastTarget, held_out: str) -> pd.DataFrame:
    """The points that are left where the target's size, its budget or both are held out. Raises UserError: none is."""
    smaller = table["forward_gmacs"] * 1e9 < target.forward_macs * (1 - 1e-9)
    earlier = table["images"] < target.images
    kept = {"size": smaller, "budget": earlier, "both": smaller & earlier}[held_out]
    if not kept.any():
        raise UserError(f"--hold-out={held_out} leaves no point: the study has nothing below this run")
    return table[kept].copy()
