"""What a report is made of: the study, its runs with their states, and one table for each protocol."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from fcdm.analysis.data.curves import RunCurves
from fcdm.analysis.data.guidance_table import guidance_table
from fcdm.analysis.data.labels import cooldown_share, cooled_text, display_name
from fcdm.analysis.data.other_protocols import losses_beside, other_tables
from fcdm.analysis.data.seed_curves import dropped
from fcdm.analysis.data.tidy_table import read_curves, table_of
from fcdm.errors import UserError
from fcdm.forecasts.score_forecasts import ScoredForecast
from fcdm.forecasts.study_scores import study_scores
from fcdm.jobstatus.collect import Looker, what_is_asked
from fcdm.jobstatus.rows import DONE, StatusRow
from fcdm.jobstatus.status_table import what
from fcdm.runs.formats import Study
from fcdm.runs.protocol import TRAINED_ONLY
from fcdm.runs.reader import RunView, list_studies, read_study, run_folders
from fcdm.runs.study_description import question_of


@dataclass(frozen=True)
class ProtocolResults:
    """What one protocol evaluated in a study."""

    id: str
    settings: dict[str, Any]
    """Key -> value; {} where nothing was evaluated by it and it is not the study's last."""
    floor: dict[str, float]
    """What real images score."""
    table: pd.DataFrame | None
    """As of `fcdm.analysis.data.tidy_table`; None: nothing is evaluated by it yet."""
    asked: int
    """Budgets of runs that the study wants evaluated by it."""
    others: dict[str, pd.DataFrame] = field(default_factory=dict)
    """Of the headline: the same runs in other features, at other sampling steps, ..., as of `other_protocols`."""
    left_out: tuple[str, ...] = ()
    """Lines: what is in the table and in no curve, fit or claim, and why."""


@dataclass(frozen=True)
class StudyFacts:
    """A study as it stands."""

    study: Study
    runs_dir: Path
    question: str
    rows: tuple[StatusRow, ...]
    """One per run, budget and protocol, as `fcdm.status` shows them."""
    problem: str
    """Why SLURM could not be asked; "" where it was, or where there is nothing to ask."""
    views: dict[str, RunView]
    """Run -> its files; those that have a folder."""
    by_protocol: tuple[ProtocolResults, ...]
    """One per protocol, the headline first; none where the study asks for training alone."""
    guidance: pd.DataFrame
    """Checkpoints evaluated at several guidance scales; as of `fcdm.analysis.data.guidance_table`."""
    differing: dict[str, dict[str, str]] = field(default_factory=dict)
    """Run -> the science settings that are not the same in all runs, model and seed left out."""

    losses: pd.DataFrame | None = None
    """As of `losses_beside`, for the headline: more held-out losses than its own table may have."""
    forecasts: tuple[ScoredForecast, ...] = ()
    """Of the ledger beside the runs, those by this study's laws."""
    forecasts_problem: str = ""
    """Why the ledger could not be read."""

    @property
    def runs(self) -> list[str]:
        """Folder names in the order in which they were asked for."""
        return list(dict.fromkeys(request.run for request in self.study.requests))

    def model(self, run: str) -> str:
        """`FCDM-N`, `FCDM-N cooled 20 %`; "–" for a run without a folder."""
        view = self.views.get(run)
        return display_name(view.model, view.family) + cooled_text(cooldown_share(view.flat_config)) if view else "–"


def state_text(row: StatusRow, protocol: bool = False) -> str:
    """`400: stopped, by SIGTERM`."""
    note = what(row)
    return f"{asked_text(row, protocol)}: {row.state}{f', {note}' if note else ''}"


def asked_text(row: StatusRow, protocol: bool = False) -> str:
    """`400`, `400 by ddim25-...` where the protocol is asked for, `400 trained` of what nobody is to evaluate."""
    if row.protocol == TRAINED_ONLY:
        return f"{row.budget:,} trained"
    return f"{row.budget:,}{f' by {row.protocol}' if protocol else ''}"


def study_facts(runs_dir: Path | str, name: str, question: str | None = None) -> StudyFacts:
    """Reads everything about a study. Raises UserError: no such study, nothing asked for, a damaged file."""
    if "://" in str(runs_dir):
        raise UserError(
            f"{runs_dir}: a report is made from the runs' folder (states, segments and configurations are not in "
            "MLflow); say --runs FOLDER, or draw the figures alone: python -m analysis.plots --uri URI"
        )
    folder = Path(runs_dir)
    folders = {path.name: path for path in run_folders(folder)}
    study = read_study(folder, name)
    if not study.requests:
        raise UserError(f"study '{name}' in {folder} asks for nothing yet: launch it, then report on it")
    overview = Looker(folder).look(what_is_asked(folder, name))
    studies = tuple(list_studies(folder))
    wanted = dict.fromkeys(request.run for request in study.requests)
    views = {run: RunView(folders[run], studies) for run in wanted if run in folders}
    found = (
        question
        or study.question
        or next(filter(None, (question_of(command, name) for command in _commands(study))), "")
    )
    curves = read_curves(folder, name) if views else []
    evaluating = {row.protocol for row in overview.rows} - {TRAINED_ONLY}
    protocols = sorted(evaluating, key=lambda key: (key != study.protocol_id, key))
    by_protocol = tuple(
        _results_of(curves, folder, study, key, overview.rows, views.values(), headline=key == protocols[0])
        for key in protocols
    )
    headline = by_protocol[0].table if by_protocol else None
    forecasts: tuple[ScoredForecast, ...] = ()
    forecasts_problem = ""
    try:
        forecasts = tuple(study_scores(folder, name))
    except UserError as error:
        forecasts_problem = str(error)
    return StudyFacts(
        study=study,
        runs_dir=folder,
        question=found,
        rows=tuple(overview.rows),
        problem=overview.problem,
        views=views,
        by_protocol=by_protocol,
        guidance=guidance_table(curves, name),
        differing=differing_settings(views.values()),
        losses=None if headline is None else losses_beside(curves, headline, name),
        forecasts=forecasts,
        forecasts_problem=forecasts_problem,
    )


def differing_settings(views: Iterable[RunView]) -> dict[str, dict[str, str]]:
    """Run -> {key: value} of the settings that differ between runs, but for the model's shape and the seed."""
    configs = {view.name: view.flat_config for view in views}
    keys = sorted({key for config in configs.values() for key in config})
    keys = [key for key in keys if not key.startswith("model.") and key not in ("seed", "data.path")]
    keys = [key for key in keys if len({config.get(key) for config in configs.values()}) > 1]
    return {run: {key: config.get(key, "none") for key in keys} for run, config in configs.items()}


def _commands(study: Study) -> list[list[str]]:
    return [list(study.command), *(shlex.split(line) for line in reversed(study.commands))]


def _results_of(
    curves: list[RunCurves],
    folder: Path,
    study: Study,
    protocol: str,
    rows: Iterable[StatusRow],
    views: Iterable[RunView],
    headline: bool,
) -> ProtocolResults:
    mine = [row for row in rows if row.protocol == protocol]
    settings = study.protocol if protocol == study.protocol_id else {}
    floor: dict[str, float] = {}
    for evaluated in (
        evaluated for view in views for evaluated in view.evaluations if evaluated.protocol_id == protocol
    ):
        settings, floor = settings or evaluated.protocol, floor or evaluated.floor
    table, others = None, {}
    if any(row.state == DONE for row in mine):
        table = table_of(curves, folder, study.name, protocol)
        others = other_tables(curves, table, study.name) if headline else {}
    left_out = (*table.attrs["instead"], *dropped(table)) if table is not None else ()
    return ProtocolResults(protocol, settings, floor, table, len(mine), others, left_out)
