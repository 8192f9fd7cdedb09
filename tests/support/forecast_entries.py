"""Entries of a ledger, and what was measured of them, without a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fcdm.forecasts.entries import PREDICTION, ForecastEntry, Ledger, LedgerEntry, entry_of
from fcdm.forecasts.foretold import LAST_TWO, LAST_VALUE, ForecastTarget, StudyForecast
from fcdm.forecasts.measured_budgets import MeasuredBudget
from fcdm.forecasts.score_forecasts import ScoredForecast, score_ledger
from fcdm.laws.predictive import Predictive

TARGET = ForecastTarget(
    model="M",
    family="fcdm",
    parameters=550_000,
    forward_macs=9_000_000,
    batch_size=128,
    resolution=8,
    seed=0,
    steps=800,
)


def an_entry(
    median: float = 10.0,
    scale: float = 0.1,
    *,
    steps: int = 800,
    run: str = "a",
    seed_deviation: float | None = 0.02,
    **fields: Any,
) -> ForecastEntry:
    """A forecast of FID 10, a new run off by 10 % (1 sd), FID falling with the root of compute; of a run `aaaa...`."""
    forecast = StudyForecast(
        law=Predictive.log_t(median, scale / 2, 5.0),
        new_run=Predictive.log_t(median, scale, 5.0),
        settings={"form": "additive", "cuts": {"least_steps": 1000}},
        points=[{"run": "x", "steps": 100, "value": 30.0}, {"run": "x", "steps": 400, "value": 15.0}],
        baselines={LAST_VALUE: Predictive.log_t(15.0, 0.0), LAST_TWO: Predictive.log_t(11.0, 0.1)},
        curve=((0.25, 2 * median), (4.0, median / 2)),
        gap=2.0,
        validated_gap=4.0,
        inside=False,
        seed_deviation=seed_deviation,
    )
    entry = entry_of(
        forecast,
        replace(TARGET, steps=steps),
        study="demo",
        run_id=run * 64,
        run_name=f"M-digits-8px-{run * 8}",
        parent_id=None,
        data="digits",
        data_checksum="5678abcd" * 8,
        metric="fid",
        protocol={"features": "digits-cnn@1234abcd"},
        protocol_id="ddim25-1000-12345678",
        kind=PREDICTION,
        code="abc1234",
    )
    return replace(entry, **fields)


def ledger_of(*entries: LedgerEntry) -> Ledger:
    """Numbered, a second apart."""
    numbered = [replace(entry, number=at, time=float(at)) for at, entry in enumerate(entries, 1)]
    return Ledger(tuple(numbered))


def scored(*entries: LedgerEntry, measured: float | Sequence[float], time: float = 1000.0) -> list[ScoredForecast]:
    """measured: of each forecast in their order, or of all; 0: not yet."""
    ledger = ledger_of(*entries)
    values = measured if isinstance(measured, Sequence) else [measured] * len(ledger.forecasts)
    pairs = zip(ledger.forecasts, values, strict=True)
    found = {(*entry.key, entry.metric): MeasuredBudget(value, time) for entry, value in pairs if value}
    return score_ledger(ledger, found)
