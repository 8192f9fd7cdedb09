"""The forecasts of one study, scored by what its runs' folders hold."""

from __future__ import annotations

from pathlib import Path

from fcdm.forecasts.chain import ledger_folder, read_ledger
from fcdm.forecasts.measured_budgets import measured_in_runs
from fcdm.forecasts.score_forecasts import ScoredForecast, score_ledger


def study_scores(runs_dir: Path, study: str) -> list[ScoredForecast]:
    """Scored as a ledger of its own, for the forecasts of another study say nothing of this one's law. Raises
    UserError for a damaged ledger or evaluation."""
    ledger = read_ledger(ledger_folder(runs_dir)).of_study(study)
    return score_ledger(ledger, measured_in_runs(runs_dir, ledger.forecasts)) if ledger.forecasts else []
