"""From a study's table to an entry of the ledger, or to the laws that plans foretell by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from fcdm.analysis.data.other_protocols import losses_beside
from fcdm.analysis.data.tidy_table import read_curves, table_of
from fcdm.errors import UserError
from fcdm.jobs.job import Job
from fcdm.laws.verdict import is_loss
from fcdm.ledger.common_settings import common_settings, off_common, settings_of
from fcdm.ledger.entries import HOLD_OUT, ForecastEntry, entry_of
from fcdm.ledger.foretold import ForecastTarget, ForecastTeller
from fcdm.ledger.known_budget import kind_of, what_is_known
from fcdm.ledger.law_file import ReachingLaw
from fcdm.runs.folder import Run, find_run
from fcdm.runs.identity import flatten, science
from fcdm.runs.protocol import Part
from fcdm.runs.reader import RunView, read_study
from fcdm.runs.revision import code_revision
from fcdm.runs.run_cost import run_cost


@dataclass(frozen=True)
class ForecastRequest:
    """One budget of one run by one metric, to be foretold from a study."""

    study: str
    runs_dir: Path
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
        if job.parent_id is not None and (folder := find_run(self.runs_dir, job.parent_id)):
            parent = Run(folder, job.parent_id)
        if self.hold_out is None:
            kind_of(run, self.steps, parent=parent)
        elif not what_is_known(run, self.steps):
            raise UserError(
                f"--hold-out={self.hold_out} is for a budget that was measured, and {run.name} has nothing at step "
                f"{self.steps}: leave it away"
            )
        table, losses = _tables(self.runs_dir, self.study, self.part.protocol_id, self.metric)
        if self.hold_out is not None:
            table, losses = (_below(one, target, self.hold_out) for one in (table, losses))
        off = self._off_study(table)
        if off and not self.force:
            raise UserError(
                f"{run.name} is not as the runs of study '{self.study}' are: {off}: say what they have, or --force"
            )
        forecast = teller.forecast_of(table, self.metric, target, losses=losses, force=self.force)
        if off:
            forecast = replace(forecast, forced=(*forecast.forced, f"not as the study's runs: {off}"))
        inside = forecast.inside
        return entry_of(
            forecast,
            target,
            study=self.study,
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
        common = common_settings(_settings(self.runs_dir, table.loc[table["family"] == family, "run"]))
        if not common:
            raise UserError(f"study '{self.study}' has no run of family {family} to fit")
        return ", ".join(off_common(settings_of(science(self.job.config)), common))


def laws_told(
    runs_dir: Path, study: str, metrics: Iterable[str], teller: ForecastTeller
) -> tuple[list[ReachingLaw], list[str]]:
    """The laws that a study tells, and for which metrics it tells none, with the reason. Raises UserError for an
    unknown study."""
    known = read_study(runs_dir, study)
    found: list[ReachingLaw] = []
    refused: list[str] = []
    for metric in metrics:
        try:
            laws = teller.laws_of(_tables(runs_dir, known.name, known.protocol_id, metric)[0], metric)
        except UserError as error:
            refused.append(f"{metric}: {error}")
            continue
        found += [replace(law, common=common_settings(_settings(runs_dir, runs))) for law, runs in laws]
    return found, refused


def law_line(law: ReachingLaw) -> str:
    """`fid of fcdm = 2.1 + 300 N^-0.3 + 4000 D^-0.6, to 4e+15 FLOPs of training`."""
    form = f"{law.e:.4g} + {law.a:.4g} N^-{law.alpha:.3g} + {law.b:.4g} D^-{law.beta:.3g}"
    most = max(box["train_flops"][1] for box in law.reach)
    whose = law.common.get("model.family", "all families")
    return f"{law.metric} of {whose} = {form}, to {most:.3g} FLOPs of training"


def _tables(runs_dir: Path, study: str, protocol_id: str, metric: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(the study's measured points by one protocol, its held-out losses by whichever that measures them alike most).

    For a loss both are the second. Raises UserError where there is none of the metric.
    """
    curves = read_curves(runs_dir, study)
    table = table_of(curves, runs_dir, study, protocol_id)
    losses = losses_beside(curves, table, study)
    table = losses if is_loss(metric) else table
    if metric not in table or table[metric].isna().all():
        raise UserError(f"study '{study}' has no {metric} by protocol {protocol_id}: nothing to fit")
    return table, losses


def _below(table: pd.DataFrame, target: ForecastTarget, held_out: str) -> pd.DataFrame:
    """The points that are left where the target's size, its budget or both are held out. Raises UserError: none is."""
    smaller = table["forward_gmacs"] * 1e9 < target.forward_macs * (1 - 1e-9)
    earlier = table["images"] < target.images
    kept = {"size": smaller, "budget": earlier, "both": smaller & earlier}[held_out]
    if not kept.any():
        raise UserError(f"--hold-out={held_out} leaves no point: the study has nothing below this run")
    return table[kept].copy()


def _settings(runs_dir: Path, names: Sequence[str] | Any) -> list[dict[str, Any]]:
    """Of each run once."""
    return [settings_of(RunView(runs_dir / name).config) for name in dict.fromkeys(names)]
