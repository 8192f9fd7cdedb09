"""The ledger on disk: one JSON file an entry, chained by hash, written once and never changed.

runs/forecasts/000001.json ...    a forecast, or the withdrawal of one
runs/forecasts/head.json          how many there are and the last one's hash

An entry holds the hash of the one before it and its own, the sha256 of all its other content. So an entry that is
edited, missing or put in shows. Whoever rewrites every hash behind it is met by the copies that were published
(`publish`), which must be where the chain begins, and by their history in git.

An entry gets its name by a hard link, which fails where the name exists (on NFS too), under a lock: of two that write
at once each has its number, and one that is killed leaves nothing, or all.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from fcdm.atomic import (
    describe_oserror,
    file_errors,
    locked,
    plain,
    read_json,
    read_json_if_whole,
    remove_unfinished,
    sync_folder,
    temporary_name,
    write_json,
    write_new,
)
from fcdm.errors import UserError
from fcdm.features.distance_names import distance_name
from fcdm.laws.predictive import LEVELS, Predictive
from fcdm.laws.scores import compute_equivalent
from fcdm.ledger.foretold import ForecastTarget, StudyForecast
from fcdm.runs.checkpoints import digest

FOLDER, HEAD = "forecasts", "head.json"
PREDICTION, CONTINUATION, HOLD_OUT, INTERPOLATION = "prediction", "continuation", "hold-out", "interpolation"
KINDS = {
    PREDICTION: "no checkpoint of the run existed",
    CONTINUATION: "the run had begun, and nothing of the budget existed",
    HOLD_OUT: "the budget was measured, and held out of the fit",
    INTERPOLATION: "the budget lay within the sizes and images that were fitted",
}
"""What each kind of forecast is of. They are never pooled."""
SCHEMA = 1
_NAME = re.compile(r"\d{6,}\.json")
_TRIES = 100


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
        return _NAMES.get(self.metric) or distance_name(self.metric, str(self.protocol.get("features", "")))

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


_NAMES = {"heldout_loss": "held-out loss"}
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
_Entry = TypeVar("_Entry", ForecastEntry, ForecastWithdrawal)
_WHAT: dict[str, type[ForecastEntry] | type[ForecastWithdrawal]] = {
    "forecast": ForecastEntry,
    "withdrawal": ForecastWithdrawal,
}


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

    def forecast(self, number: int) -> ForecastEntry:
        """Raises UserError where there is no forecast of this number."""
        for entry in self.forecasts:
            if entry.number == number:
                return entry
        there = ", ".join(str(entry.number) for entry in self.forecasts) or "none yet"
        raise UserError(f"entry {number} is no forecast of this ledger; forecasts: {there}")


def ledger_folder(runs_dir: Path | str) -> Path:
    return Path(runs_dir) / FOLDER


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
    points = plain(list(forecast.points))
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
            "settings": dict(forecast.settings),
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


def read_ledger(folder: Path) -> Ledger:
    """Every entry, once the whole chain is checked; empty where there is no such folder.

    Raises UserError with one line, naming the file, for an entry that was edited, deleted or put in by hand.
    """
    with file_errors(folder, "reading the ledger"):
        paths = sorted((path for path in folder.glob("*.json") if _NAME.fullmatch(path.name)), key=_number)
    entries: list[LedgerEntry] = []
    for path in paths:
        missing = entry_path(folder, len(entries) + 1)
        if path != missing:
            raise UserError(
                f"{missing} is missing, and {path.name} follows it: restore it (git, a published copy); entries are "
                "never deleted: --withdraw takes a forecast back"
            )
        entries.append(_read(path, entries[-1].hash if entries else ""))
    head = read_json_if_whole(folder / HEAD)
    count = head.get("entries", 0)
    if isinstance(count, int) and count > len(entries):
        raise UserError(
            f"{entry_path(folder, count)} is missing: {folder / HEAD} counts {count} entries; restore it (git, a "
            "published copy)"
        )
    if head and count and entries[count - 1].hash != head.get("hash"):
        raise UserError(
            f"{entry_path(folder, count)} is another entry than {folder / HEAD} says was written: restore both"
        )
    return Ledger(tuple(entries))


def entry_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.json"


def append(folder: Path, entry: _Entry) -> _Entry:
    """Write an entry behind the last one: as it stands then, with number, time and hash. Raises UserError.

    Nothing is written where the chain is broken.
    """
    with locked(folder / ".lock"):
        for _ in range(_TRIES):
            remove_unfinished(folder)
            ledger = read_ledger(folder)
            number = len(ledger.entries) + 1
            content = {
                "schema": SCHEMA,
                "number": number,
                "time": round(time.time(), 3),
                "previous": ledger.head,
                **entry.content(),
            }
            content["hash"] = digest(content)
            if _create(entry_path(folder, number), content):
                write_json(folder / HEAD, {"entries": number, "hash": content["hash"]})
                return type(entry).of_content(content)
            # Somebody was faster, on a file system whose locks do not hold.
    raise UserError(f"{folder}: other processes keep writing; run the same command again")


def publish(source: Path, to: Path) -> int:
    """Copy the entries that are not there yet; returns how many. Raises UserError where what is there is another chain:
    a published entry is never replaced."""
    ours, theirs = read_ledger(source), read_ledger(to)
    for mine, published in zip(ours.entries, theirs.entries, strict=False):
        if mine.hash != published.hash:
            raise UserError(
                f"{entry_path(to, published.number)} is another entry than {entry_path(source, mine.number)}: one of "
                "the two was made anew; what is published stands"
            )
    if len(theirs.entries) > len(ours.entries):
        raise UserError(
            f"{to} has {len(theirs.entries)} entries and {source} {len(ours.entries)}: copy them back first, so that "
            "the chain goes on"
        )
    new = ours.entries[len(theirs.entries) :]
    with file_errors(to, "making the folder"):
        to.mkdir(parents=True, exist_ok=True)
    for entry in new:
        _create(entry_path(to, entry.number), read_json(entry_path(source, entry.number)))
    if ours.entries:
        write_json(to / HEAD, {"entries": len(ours.entries), "hash": ours.head})
    return len(new)


def _read(path: Path, previous: str) -> LedgerEntry:
    with file_errors(path, "reading"):
        content = read_json(path)
    told = content.pop("hash", None)
    if told != digest(content):
        raise UserError(
            f"{path} was changed since it was written: its content has another hash than it says; restore it (git, a "
            "published copy). Entries are never changed: --withdraw takes a forecast back"
        )
    if content.get("previous") != previous or content.get("number") != _number(path):
        raise UserError(
            f"{path} does not follow the entry before it, whose hash it lacks: it was put in, or the one before it was "
            "made anew; restore the folder (git, a published copy)"
        )
    try:
        if content["schema"] > SCHEMA:
            raise UserError(f"{path} is of a later version of fcdm: this one reads entries of schema {SCHEMA}")
        return _WHAT[content["what"]].of_content({**content, "hash": told})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} lacks or garbles {error}: no command of fcdm has written it") from None


def _create(path: Path, content: Mapping[str, Any]) -> bool:
    """Make the file, whole; False where it exists already. Raises UserError."""
    temporary = path.with_name(temporary_name(path.name))
    try:
        write_new(temporary, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
            if path.exists():  # no hard links here (FAT, some FUSE file systems): the lock alone must do
                return False
            temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise describe_oserror(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return True


def _number(path: Path) -> int:
    return int(path.stem)


def _predictive(content: Mapping[str, Any]) -> Predictive:
    return Predictive(tuple(map(float, content["quantiles"])), float(content["freedom"]))
