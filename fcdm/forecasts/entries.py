"""What the ledger of forecasts holds: forecasts, withdrawals, and all of them together. As files: `chain.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from fcdm.atomic import (
    plain,
)
from fcdm.errors import UserError
from fcdm.features.distance_names import told_name
from fcdm.forecasts.foretold import ForecastTarget, StudyForecast
from fcdm.laws.predictive import LEVELS, Predictive
from fcdm.laws.scores import compute_equivalent
from fcdm.runs.checkpoints import digest

PREDICTION, CONTINUATION, HOLD_OUT, INTERPOLATION = "prediction", "continuation", "hold-out", "interpolation"
KINDS = {
    PREDICTION: "no checkpoint of the run existed",
    CONTINUATION: "the run had begun, and nothing of the budget existed",
    HOLD_OUT: "the budget was measured, and held out of the fit",
    INTERPOLATION: "the budget lay within the sizes, images and compute that were fitted",
}
"""What each kind of forecast is of. They are never pooled."""


@dataclass(frozen=True)
class ForecastRun:
    """The run that a forecast is of."""

    id: str
    name: str
    """Its folder's, made already or not."""
    model: str
    family: str
    data: str
    data_checksum: str
    resolution: int
    batch_size: int
    seed: int
    parameters: int
    forward_macs: int
    trajectory: str
    """What its scores are counted by: its id, of a branch its parent's."""


@dataclass(frozen=True)
class ForecastEntry:
    """A forecast as it stands in the ledger. Times in seconds since 1970."""

    study: str
    run: ForecastRun
    steps: int
    metric: str
    """A key of evaluations: `fid`, `heldout_loss`."""
    protocol_id: str
    protocol: Mapping[str, Any]
    kind: str
    """One of KINDS."""
    code: str
    """The revision that fitted it."""
    fit: Mapping[str, Any]
    """`settings`, the number of `points`, and the `points_sha256` of them."""
    law: Predictive
    new_run: Predictive
    baselines: Mapping[str, Predictive]
    curve: tuple[tuple[float, float], ...]
    gap: float
    validated_gap: float | None
    seed_deviation: float | None
    forced: tuple[str, ...] = ()
    number: int = 0
    time: float = 0.0
    hash: str = ""

    @property
    def key(self) -> tuple[str, int, str]:
        """(run's id, steps, protocol id): which evaluation it foretells."""
        return self.run.id, self.steps, self.protocol_id

    @property
    def metric_name(self) -> str:
        """`FID`, `FD-DINOv2`, `held-out loss`."""
        return told_name(self.metric, self.protocol)

    @property
    def images(self) -> int:
        return self.steps * self.run.batch_size

    @property
    def says(self) -> str:
        """The hash of what it says, whenever and of a run however begun: the same forecast again is no second entry."""
        return digest({key: value for key, value in self.content().items() if key not in ("code", "kind")})

    def content(self) -> dict[str, Any]:
        """As JSON, without what the chain adds."""
        told = {name: getattr(self, name) for name in _PLAIN}
        laws = {"law": self.law, "new_run": self.new_run}
        content = {
            "what": "forecast",
            **told,
            "run": asdict(self.run),
            "levels": LEVELS,
            **{name: asdict(law) for name, law in laws.items()},
            "baselines": {name: asdict(law) for name, law in self.baselines.items()},
        }
        return dict(plain(content))

    @classmethod
    def of_content(cls, content: Mapping[str, Any]) -> ForecastEntry:
        """Raises KeyError, TypeError and ValueError."""
        if tuple(content["levels"]) != LEVELS or content["kind"] not in KINDS:
            raise ValueError("levels or kind")
        told = {name: content[name] for name in (*_PLAIN, "number", "time", "hash")}
        return cls(
            **told
            | {
                "run": ForecastRun(**content["run"]),
                "law": _predictive(content["law"]),
                "new_run": _predictive(content["new_run"]),
                "baselines": {name: _predictive(law) for name, law in content["baselines"].items()},
                "curve": tuple((float(x), float(y)) for x, y in content["curve"]),
                "forced": tuple(content["forced"]),
                "gap": float(content["gap"]),
            }
        )


_PLAIN = (
    *("study", "steps", "metric", "protocol_id", "protocol", "kind", "code", "fit"),
    *("curve", "gap", "validated_gap", "seed_deviation", "forced"),
)


@dataclass(frozen=True)
class ForecastWithdrawal:
    """Takes a forecast back, which stays where it is."""

    of: int
    """The number of the entry."""
    why: str
    number: int = 0
    time: float = 0.0
    hash: str = ""

    def content(self) -> dict[str, Any]:
        return {"what": "withdrawal", "of": self.of, "why": self.why}

    @classmethod
    def of_content(cls, content: Mapping[str, Any]) -> ForecastWithdrawal:
        return cls(**{name: content[name] for name in ("of", "why", "number", "time", "hash")})


LedgerEntry = ForecastEntry | ForecastWithdrawal


@dataclass(frozen=True)
class Ledger:
    """All entries of a folder, in their order."""

    entries: tuple[LedgerEntry, ...] = ()

    @cached_property
    def forecasts(self) -> tuple[ForecastEntry, ...]:
        return tuple(entry for entry in self.entries if isinstance(entry, ForecastEntry))

    @cached_property
    def withdrawn(self) -> dict[int, ForecastWithdrawal]:
        """Number of a forecast -> what first took it back."""
        found: dict[int, ForecastWithdrawal] = {}
        for entry in self.entries:
            if isinstance(entry, ForecastWithdrawal):
                found.setdefault(entry.of, entry)
        return found

    @property
    def head(self) -> str:
        """The last entry's hash; "" of none."""
        return self.entries[-1].hash if self.entries else ""

    def of_study(self, study: str) -> Ledger:
        """The forecasts from a study's laws, and their withdrawals."""
        kept = {entry.number for entry in self.forecasts if entry.study == study}
        of = (entry.number if isinstance(entry, ForecastEntry) else entry.of for entry in self.entries)
        return Ledger(tuple(entry for entry, number in zip(self.entries, of, strict=True) if number in kept))

    def forecast(self, number: int) -> ForecastEntry:
        """Raises UserError where there is no forecast of this number."""
        for entry in self.forecasts:
            if entry.number == number:
                return entry
        there = ", ".join(str(entry.number) for entry in self.forecasts) or "none yet"
        raise UserError(f"entry {number} is no forecast of this ledger; forecasts: {there}")


def entry_of(
    forecast: StudyForecast,
    target: ForecastTarget,
    *,
    study: str,
    run_id: str,
    run_name: str,
    parent_id: str | None,
    data: str,
    data_checksum: str,
    metric: str,
    protocol: Mapping[str, Any],
    protocol_id: str,
    kind: str,
    code: str,
) -> ForecastEntry:
    """A forecast as an entry that is not written yet. parent_id: of a branch. Raises ValueError for a curve that is
    none."""
    compute_equivalent(forecast.curve, forecast.law.median)
    points = _json(list(forecast.points))
    return ForecastEntry(
        study=study,
        run=ForecastRun(
            id=run_id,
            name=run_name,
            data=data,
            data_checksum=data_checksum,
            trajectory=parent_id or run_id,
            **{name: getattr(target, name) for name in _OF_TARGET},
        ),
        steps=target.steps,
        metric=metric,
        protocol_id=protocol_id,
        protocol=protocol,
        kind=kind,
        code=code,
        fit={
            "settings": _json(dict(forecast.settings)),
            "points": len(points),
            "points_sha256": digest({"points": points}),
        },
        law=forecast.law,
        new_run=forecast.new_run,
        baselines=forecast.baselines,
        curve=forecast.curve,
        gap=forecast.gap,
        validated_gap=forecast.validated_gap,
        seed_deviation=forecast.seed_deviation,
        forced=forecast.forced,
    )


_OF_TARGET = ("model", "family", "resolution", "batch_size", "seed", "parameters", "forward_macs")


def _json(value: Any) -> Any:
    """As JSON reads it back: without tuples, and numbers of numpy as Python's."""
    return json.loads(json.dumps(plain(value), default=lambda number: plain(number.item()), allow_nan=False))


def _predictive(content: Mapping[str, Any]) -> Predictive:
    return Predictive(tuple(map(float, content["quantiles"])), float(content["freedom"]))
