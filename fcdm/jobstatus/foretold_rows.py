"""Rows with what was foretold of their budgets, and how that came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fcdm.errors import UserError
from fcdm.forecasts.chain import ledger_folder, read_ledger
from fcdm.forecasts.ledger_table import forecast_note
from fcdm.forecasts.measured_budgets import measured_in_runs
from fcdm.forecasts.score_forecasts import WITHDRAWN, foremost, score_ledger
from fcdm.jobstatus.rows import StatusRow


def with_forecasts(rows: Sequence[StatusRow], runs_dir: Path) -> tuple[list[StatusRow], str]:
    """The rows, each with its `foremost` forecasts, and why the ledger cannot be read; "" where it can."""
    rows = list(rows)
    folder = ledger_folder(runs_dir)
    if not folder.is_dir():
        return rows, ""
    try:
        ledger = read_ledger(folder)
        scored = score_ledger(ledger, measured_in_runs(runs_dir, ledger.forecasts))
    except UserError as error:
        return rows, str(error)
    notes: dict[tuple[str, int, str], list[str]] = {}
    for one in foremost(scored):
        if one.state != WITHDRAWN:
            entry = one.entry
            notes.setdefault((entry.run.name, entry.steps, entry.protocol_id), []).append(forecast_note(one))
    return [replace(row, forecast="; ".join(notes.get(row.key, []))) for row in rows], ""
