"""A run's forecasts, and how they came out, as MLflow has them: metrics at the budget's step, and a tag."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fcdm.forecasts.entries import ForecastEntry, Ledger
from fcdm.forecasts.ledger_table import forecast_note
from fcdm.forecasts.measured_budgets import measured_in_run
from fcdm.forecasts.score_forecasts import WITHDRAWN, ScoredForecast, foremost, score_entry
from fcdm.laws.predictive import LEVEL
from fcdm.runs.formats import Scalar
from fcdm.runs.reader import RunView


def forecasts_of(view: RunView, ledger: Ledger) -> list[ScoredForecast]:
    """The ledger's forecasts of this run, scored where they can be: of each budget and metric the `foremost`."""
    entries = [entry for entry in ledger.forecasts if entry.run.id == view.id]
    if not entries:
        return []
    measured = measured_in_run(view, entries)
    return foremost(score_entry(entry, ledger, measured.get((*entry.key, entry.metric))) for entry in entries)


def forecast_scalars(
    forecasts: Sequence[ScoredForecast], headline: str | None, told: list[int], scored: list[int]
) -> Iterator[list[Scalar]]:
    """What is not sent yet, what belongs together at once; asked for more, notes in `told` and `scored`, the numbers of
    entries whose forecasts and scores are sent, that it is.

    `forecast_fid`: the median of one new run, `_low` and `_high`: its interval at LEVEL; then `_error` (ln of forecast
    over measured), `_compute`, `_pit`, `_crps`, `_log_score`. `@<protocol id>` behind where that is not the headline.
    """
    for one in forecasts:
        entry = one.entry
        if entry.number not in told and one.state != WITHDRAWN:
            low, high = entry.new_run.interval(LEVEL)
            yield _scalars(entry, headline, {"": entry.new_run.median, "_low": low, "_high": high})
            told.append(entry.number)
        if entry.number not in scored and one.score is not None:
            numbers = one.score.numbers()
            names = {"log_error": "_error", "compute_equivalent": "_compute"}
            values = {names.get(key, f"_{key}"): value for key, value in numbers.items() if value is not None}
            yield _scalars(entry, headline, values)
            scored.append(entry.number)


def forecast_tags(forecasts: Sequence[ScoredForecast], headline: str | None) -> dict[str, str]:
    """`forecast.fid.1600`: `forecast FID 12.3 (9.8 to 15), prediction, entry 3`."""
    tags = {}
    for one in forecasts:
        entry = one.entry
        name = f"{entry.metric}{_suffix(entry, headline)}"
        tags[f"forecast.{name}.{entry.steps}"] = f"{forecast_note(one)}, {entry.kind}, entry {entry.number}"
    return tags


def _scalars(entry: ForecastEntry, headline: str | None, values: Mapping[str, float]) -> list[Scalar]:
    name = f"forecast_{entry.metric}"
    return [
        Scalar(entry.steps, entry.time, f"{name}{key}{_suffix(entry, headline)}", value)
        for key, value in values.items()
    ]


def _suffix(entry: ForecastEntry, headline: str | None) -> str:
    return "" if entry.protocol_id == headline else f"@{entry.protocol_id}"
