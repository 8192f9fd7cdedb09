"""What was measured of the budgets that the ledger's forecasts are of."""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from fcdm.atomic import file_errors
from fcdm.errors import UserError
from fcdm.forecasts.entries import ForecastEntry
from fcdm.runs.folder import Run, find_runs
from fcdm.runs.formats import Evaluation, read_evaluation


class MeasuredBudget(NamedTuple):
    """One metric of one evaluation; time in seconds since 1970."""

    value: float
    time: float


MeasuredKey = tuple[str, int, str, str]
"""(run's id, steps, protocol id, metric)."""


def measured_in_runs(runs_dir: Path, entries: Iterable[ForecastEntry]) -> dict[MeasuredKey, MeasuredBudget]:
    """What the runs' folders hold of the budgets of these entries. Raises UserError for a damaged evaluation."""
    entries = list(entries)
    folders = find_runs(runs_dir, {entry.run.id for entry in entries})
    evaluations = {}
    for entry in entries:
        if entry.run.id in folders:
            path = Run(folders[entry.run.id], entry.run.id).evaluation(entry.steps, entry.protocol_id)
            with contextlib.suppress(FileNotFoundError):
                evaluations[entry.key] = read_evaluation(path)
    return measured_budgets(entries, evaluations)


def measured_in_csv(path: Path, entries: Iterable[ForecastEntry]) -> dict[MeasuredKey, MeasuredBudget]:
    """The same of a tidy table's CSV (columns run, steps, protocol_id, metrics), for those who lack the folders.

    It does not say when that was: no forecast counts as late, and every withdrawal counts. Raises UserError.
    """
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    try:
        with file_errors(path, "reading the table"), open(path, newline="") as file:
            for line in csv.DictReader(file):
                found[line["run"], line["steps"], line["protocol_id"]] = line
        return {
            (*entry.key, entry.metric): MeasuredBudget(float(row[entry.metric]), math.inf)
            for entry in entries
            if (row := found.get((entry.run.name, str(entry.steps), entry.protocol_id))) and row.get(entry.metric)
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} lacks or garbles {error}: it is no tidy table of analysis.plots") from None


def measured_budgets(
    entries: Iterable[ForecastEntry], evaluations: Mapping[tuple[str, int, str], Evaluation]
) -> dict[MeasuredKey, MeasuredBudget]:
    """What evaluations, by (run's id, steps, protocol id), hold of the budgets of these entries."""
    return {
        (*entry.key, entry.metric): MeasuredBudget(value, one.time)
        for entry in entries
        if (one := evaluations.get(entry.key)) is not None
        and (value := one.metrics.get(entry.metric)) is not None
        and 0 < value < math.inf
    }
