"""What was measured of the budgets that the ledger's forecasts are of."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from fcdm.atomic import file_errors
from fcdm.errors import UserError
from fcdm.forecasts.entries import ForecastEntry
from fcdm.forecasts.known_budget import known_since
from fcdm.runs.folder import find_runs
from fcdm.runs.reader import RunView


class MeasuredBudget(NamedTuple):
    """One metric of a budget of which something is known."""

    value: float | None
    """As it was evaluated, which may be no number above 0; None: not yet."""
    known: float
    """When something of the budget or beyond was first known, in seconds since 1970: see `known_since`."""


MeasuredKey = tuple[str, int, str, str]
"""(run's id, steps, protocol id, metric)."""


def measured_in_runs(runs_dir: Path, entries: Iterable[ForecastEntry]) -> dict[MeasuredKey, MeasuredBudget]:
    """What the runs' folders hold of the budgets of these entries. Raises UserError for a damaged run."""
    entries = list(entries)
    found: dict[MeasuredKey, MeasuredBudget] = {}
    for folder in find_runs(runs_dir, {entry.run.id for entry in entries}).values():
        found |= measured_in_run(RunView(folder), entries)
    return found


def measured_in_run(view: RunView, entries: Iterable[ForecastEntry]) -> dict[MeasuredKey, MeasuredBudget]:
    """The same of one run; entries of other runs are passed over."""
    metrics = {(view.id, one.step, one.protocol_id): one.metrics for one in view.evaluations}
    return {
        (*entry.key, entry.metric): MeasuredBudget(metrics.get(entry.key, {}).get(entry.metric), known)
        for entry in entries
        if entry.run.id == view.id and (known := known_since(view, entry.steps)) < math.inf
    }


def measured_in_csv(path: Path, entries: Iterable[ForecastEntry]) -> dict[MeasuredKey, MeasuredBudget]:
    """The same of a tidy table's CSV (columns run, steps, protocol_id, metrics), for those who lack the folders.

    It does not say when that was: no forecast counts as late, and every withdrawal counts but a hold-out's. Raises
    UserError.
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
