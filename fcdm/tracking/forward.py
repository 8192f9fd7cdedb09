"""Forwards records to MLflow, one way: from a run's folder to one MLflow run, never back.

One experiment, `fcdm`; one MLflow run per training trajectory, however often it was requeued and however many
studies it serves. A run of several studies must not stand several times, so studies are tags: `studies` lists
them, and `study.NAME` holds what the study asked of the run, `PROTOCOL: BUDGETS; ...` (filter in the UI:
tags.`study.NAME` != ''); `study_protocol.NAME` is the protocol of the study's last command.

The MLflow run is found again by its tag `fcdm.run_id`; how far it got stands in its own tag `fcdm.forwarded`,
written after the rows that it counts. A crash in between sends rows again that MLflow already has, and MLflow
keeps a row (key, step, timestamp, value) once. So a second forwarding adds nothing, and a store that was
deleted is filled again from the records alone.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from fcdm.errors import UserError
from fcdm.features.distance_names import headline_name, shown_of
from fcdm.forecasts.chain import ledger_folder, read_ledger
from fcdm.forecasts.entries import Ledger
from fcdm.forecasts.score_forecasts import ScoredForecast
from fcdm.redact import redacted
from fcdm.runs.checkpoints import newest_step
from fcdm.runs.formats import Study
from fcdm.runs.protocol import TRAINED_ONLY
from fcdm.runs.reader import RunView, list_studies, run_folders
from fcdm.runs.run_lock import current_holder
from fcdm.runs.run_paths import evaluation_files
from fcdm.tracking.forecast_rows import forecast_scalars, forecast_tags, forecasts_of
from fcdm.tracking.mlflow_store import Store, store_lock

RUN_ID, PROGRESS, HEADLINE, ERROR = "fcdm.run_id", "fcdm.forwarded", "fcdm.headline", "fcdm.error"
PARENT = "fcdm.parent_run_id"
"""Of a cooldown branch: `fcdm.run_id` of the run that it leaves."""
Row = tuple[str, float, int, int]
"""(key, value, timestamp in ms, step)."""
BATCH = 900
"""Metrics per call; MLflow takes 1,000 entities, and a line's metrics stay together."""
TAG_LIMIT = 8000
"""Characters that MLflow takes in a tag's value."""
SILENT_SECONDS = 900.0
"""A holder on a machine that cannot be asked counts as dead after this long without a heartbeat."""


@dataclass
class Forwarded:
    """What one pass did. `problems` are lines for people: what could not be forwarded and why."""

    runs: int = 0
    points: int = 0
    problems: list[str] = field(default_factory=list)
    cut: bool = False
    """The deadline came before the end: something may be left for the next pass."""


@dataclass
class ForwardingProgress:
    """How far an MLflow run got: bytes of records.jsonl, steps evaluated and steps pictured by protocol."""

    # The names are the tag's, in stores of every version.
    records: int = 0
    judged: dict[str, list[int]] = field(default_factory=dict)
    pictured: dict[str, list[int]] = field(default_factory=dict)
    config: bool = False
    foretold: list[int] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)
    """Entries of the ledger whose forecasts, and whose scores, were sent."""

    @classmethod
    def parse(cls, text: str | None) -> ForwardingProgress:
        try:
            return cls(**json.loads(text or "{}"))
        except (ValueError, TypeError):
            return cls()  # edited by hand: sending everything again doubles nothing

    def dump(self) -> str:
        while len(text := json.dumps(self.__dict__, separators=(",", ":"))) > TAG_LIMIT:
            # About 500 evaluations of one run: forget the oldest, they would be sent again and not doubled.
            longest = max([*self.judged.values(), *self.pictured.values()], key=len)
            del longest[: len(longest) // 4 + 1]
        return text


class Forwarder:
    """Forwards the runs below `runs_dir` to one store, or `only` the run of that name.

    `uri`: see `fcdm.tracking.mlflow_store.store_uri`.
    """

    def __init__(self, runs_dir: Path | str, uri: str | None = None, only: str | None = None) -> None:
        self.runs_dir, self.only = Path(runs_dir), only
        self.store = Store(self.runs_dir, uri)
        self.deadline = math.inf
        """time.monotonic() after which no further call is begun; the rest stays for the next pass."""
        self._seen: dict[Path, object] = {}

    def forward(self, *, changed_only: bool = False, wait: float = 600.0) -> Forwarded:
        """Brings the store up to the records. `changed_only`: leaves out runs that this object saw unchanged.

        Raises StoreBusy where another process forwards for longer than `wait` seconds, UserError where the
        store cannot be reached. A damaged run is told in the result and keeps no other from being forwarded.
        """
        done = Forwarded()
        studies = tuple(list_studies(self.runs_dir))
        ledger = self._ledger(done.problems)
        if self.store.replaced():
            self._seen.clear()
        work = {}
        for folder in run_folders(self.runs_dir):
            if self.only not in (None, folder.name):
                continue
            signature = _signature(folder, studies), ledger.head
            if not (changed_only and self._seen.get(folder) == signature):
                work[folder] = signature
        if not work:
            return done
        with store_lock(self.runs_dir, self.store.uri, wait):
            views = _views(work, studies, done.problems)  # inside: another forwarder is never ahead of them
            try:
                with self.store.reaching():
                    known = self.store.find(RUN_ID, [view.id for view in views.values()])
                    for folder, view in views.items():
                        if time.monotonic() > self.deadline:
                            break
                        done.points += self._forward_run(view, known.get(view.id), ledger, done.problems)
                        done.runs += 1
                        self._seen[folder] = work[folder]
                done.cut = time.monotonic() > self.deadline
            except UserError:
                self._seen.clear()  # the store may come back empty
                raise
        return done

    def _ledger(self, problems: list[str]) -> Ledger:
        """The forecasts; none, and a problem, where they cannot be read."""
        try:
            return read_ledger(ledger_folder(self.runs_dir))
        except UserError as error:
            problems.append(f"no forecasts are forwarded: {error}")
            return Ledger()

    def _forward_run(self, view: RunView, known: Any, ledger: Ledger, problems: list[str]) -> int:
        """Returns how many metric rows were sent."""
        if known is None:
            known = self.store.create(view.name, view.created, {RUN_ID: view.id})
        elif known.info.lifecycle_stage == "deleted":
            return 0  # deleted by a person in MLflow: it stays so until it is restored or purged there
        run_id, there = known.info.run_id, known.data.tags
        progress = ForwardingProgress.parse(there.get(PROGRESS))
        # Once `fid` was told of this run, it never changes its meaning.
        headline = (there.get(HEADLINE) if progress.judged else None) or view.headline
        forecasts = forecasts_of(view, ledger)
        tags = _tags(view, headline) | forecast_tags(forecasts, headline)
        self.store.describe(
            run_id,
            params={key: value for key, value in _params(view).items() if key not in known.data.params},
            tags={name: value for key, value in tags.items() if there.get(name := metric_name(key)) != value},
        )
        for key in _gone(there, view, headline):
            self.store.remove_tag(run_id, key)
        sent = 0
        batch: list[Row] = []
        for rows in self._units(view, headline, progress, forecasts):
            if batch and len(batch) + len(rows) > BATCH:
                sent += self.store.send(run_id, batch, {PROGRESS: progress.dump()})
                batch = []
                if time.monotonic() > self.deadline:
                    return sent
            batch += rows
        if batch:
            sent += self.store.send(run_id, batch, {PROGRESS: progress.dump()})
        if infinite := _first_infinite(view):
            self.store.describe(run_id, tags={"infinite": infinite} if there.get("infinite") != infinite else {})
        self._send_files(view, run_id, progress, problems)
        self.store.set_status(known, _status(view), _last_sign(view))
        return sent

    def _units(
        self, view: RunView, headline: str | None, progress: ForwardingProgress, forecasts: Sequence[ScoredForecast]
    ) -> Iterator[list[Row]]:
        """Rows that belong together: a line's, an evaluation's. Asked for more, moves `progress` behind."""
        start = progress.records
        if view.records and start > view.records[-1].end:
            start = 0  # another records.jsonl than the one that was forwarded: send it whole
        for end, line in groupby(view.training_scalars(), key=lambda pair: pair[0]):
            if end <= start:
                continue
            yield [row for _, scalar in line for row in _row(*scalar)]
            progress.records = end
        for evaluated in view.evaluations:
            step, when, protocol_id = evaluated.step, evaluated.time, evaluated.protocol_id
            if step in progress.judged.get(protocol_id, ()):
                continue
            values = evaluated.metrics
            if protocol_id != headline:
                values = {f"{key}@{protocol_id}": value for key, value in values.items()}
            elif (seconds := view.training_seconds(step)) is not None:
                values = {**values, "train_seconds": seconds}
            yield [row for key, value in values.items() for row in _row(step, when, key, value)]
            progress.judged.setdefault(protocol_id, []).append(step)
        for scalars in forecast_scalars(forecasts, headline, progress.foretold, progress.scored):
            yield [row for scalar in scalars for row in _row(*scalar)]

    def _send_files(self, view: RunView, run_id: str, progress: ForwardingProgress, problems: list[str]) -> None:
        """config.yaml and each evaluation's sample grid. A store that takes no files has the numbers."""
        before = progress.dump()
        try:
            if not progress.config:
                self._send_config(run_id, view.folder / "config.yaml")
                progress.config = True
            for evaluated in view.evaluations:
                there = progress.pictured.get(evaluated.protocol_id, ())
                if evaluated.grid is None or evaluated.step in there or time.monotonic() > self.deadline:
                    continue
                self.store.send_file(run_id, evaluated.grid, "samples")
                progress.pictured.setdefault(evaluated.protocol_id, []).append(evaluated.step)
        except self.store.errors as error:
            line = f"files were not taken by {self.store.uri} ({_first_line(error)}); the numbers were"
            if line not in problems:
                problems.append(line)
        if progress.dump() != before:
            self.store.describe(run_id, tags={PROGRESS: progress.dump()})

    def _send_config(self, run_id: str, path: Path) -> None:
        """As it stands; one that holds a secret (a model's option, of a version before) without it."""
        shown = redacted(text := path.read_text())
        if shown == text:
            self.store.send_file(run_id, path)
            return
        with tempfile.TemporaryDirectory() as folder:
            (copy := Path(folder) / path.name).write_text(shown)
            self.store.send_file(run_id, copy)


def _views(folders: Iterable[Path], studies: tuple[Study, ...], problems: list[str]) -> dict[Path, RunView]:
    views = {}
    for folder in folders:
        try:
            view = RunView(folder, studies)
            view.records, view.evaluations, view.flat_config  # noqa: B018 - damage shows here
            views[folder] = view
        except (UserError, OSError) as error:
            problems.append(str(error))
    return views


def _row(step: int, seconds: float, key: str, value: float) -> list[Row]:
    """MLflow keeps NaN but turns an infinity into 1.8e308: that is left out and told in tag `infinite`."""
    return [] if math.isinf(value) else [(metric_name(key), value, round(seconds * 1000), step)]


def metric_name(key: str) -> str:
    """`fid@ddim25-...` as `fid/ddim25-...`: MLflow allows no @; it groups charts by what is before /."""
    return re.sub(r"[^/\w.\- ]", "_", key.replace("@", "/"))


def _first_infinite(view: RunView) -> str | None:
    return next((f"{key} at step {step}" for step, _, key, v in view.scalars() if math.isinf(v)), None)


def _params(view: RunView) -> dict[str, str]:
    cost = {f"cost.{key}": str(value) for key, value in view.cost.items()}
    cost["cost.forward_gmacs"] = f"{view.cost['forward_macs'] / 1e9:.6g}"
    return {**view.flat_config, **cost}


def _tags(view: RunView, headline: str | None) -> dict[str, str]:
    fields = view.segments[-1].fields if view.segments else {}
    tags = {
        RUN_ID: view.id,
        "folder": str(view.folder.resolve()),
        "model": view.model,
        "family": view.family,
        "data": view.data,
        "resolution": str(view.resolution),
        "seed": str(view.seed),
        "studies": ",".join(study.name for study in view.studies),
        "revision": str(fields.get("revision", "")),
        "device": str(fields.get("device", "")),
        "places": " + ".join(view.places),
        "world_sizes": ",".join(sorted({str(segment.fields.get("world_size", 1)) for segment in view.segments})),
        HEADLINE: headline or "",
        ERROR: redacted(view.error or "")[:TAG_LIMIT],
    }
    tags |= _branch(view)
    for study in view.studies:
        asked = [f"{key}: {','.join(map(str, budgets))}" for key, budgets in study.asked(view.id).items()]
        tags[metric_name(f"study.{study.name}")] = "; ".join(asked)
        tags[metric_name(f"study_protocol.{study.name}")] = study.protocol_id
    if names := _distances(view, headline):
        tags["distances"] = "; ".join(f"{key}: {name}" for key, name in names.items())[:TAG_LIMIT]
    for evaluated in view.evaluations:
        if evaluated.protocol:
            told = {"protocol": evaluated.protocol, "floor": evaluated.floor}
            tags[metric_name(f"protocol.{evaluated.protocol_id}")] = json.dumps(told, sort_keys=True)
    return {key: value for key, value in tags.items() if value}


def _branch(view: RunView) -> dict[str, str]:
    """Of a cooldown branch: the run that it leaves, by name and step and by its id, and its share; {} of others."""
    try:
        branch = view.info["branch"]
        parent = str(branch["parent"])
        name, step = view.branched_from or (branch["name"], int(branch["start"]))
    except (KeyError, TypeError, ValueError):
        return {}
    return {
        "branched_from": f"{name}@{step}",
        PARENT: parent,
        "cooldown": str(branch.get("share") or ""),
    }


def _distances(view: RunView, headline: str | None) -> dict[str, str]:
    """Metric -> what people call it: `fid/ddim25-...` is FD-DINOv2 where its protocol's features are."""
    found = {}
    for evaluated in view.evaluations:
        shown = shown_of(evaluated.metrics)
        if shown is not None and evaluated.protocol:
            key = shown if evaluated.protocol_id == headline else f"{shown}@{evaluated.protocol_id}"
            found[metric_name(key)] = headline_name(shown, evaluated.protocol)
    return dict(sorted(found.items()))


def _gone(there: Mapping[str, str], view: RunView, headline: str | None) -> list[str]:
    """Tags that say what is no longer so: an error that a later start got over, requests that were withdrawn."""
    now = _tags(view, headline)
    ours = ("study.", "study_protocol.")
    return [key for key in there if key not in now and (key in (ERROR, "studies") or key.startswith(ours))]


def _holder(folder: Path) -> tuple[int, bool] | None:
    """(number of the claim, does the holder live), None if nobody does. Polled, so SLURM is not asked."""
    try:
        holder = current_holder(folder, scheduler=lambda job: None)
    except (UserError, OSError):
        return None
    if holder is None:
        return None
    alive = holder.alive if holder.alive is not None else time.time() - holder.heartbeat < SILENT_SECONDS
    return holder.number, alive


def _status(view: RunView) -> str:
    """RUNNING, FINISHED (all that was asked is done), FAILED (died), SCHEDULED (waits to go on)."""
    holder = _holder(view.folder)
    if holder is not None:
        return "RUNNING" if holder[1] else "FAILED"
    if not view.segments and view.error is None:
        return "SCHEDULED"
    newest = newest_step(view.folder / "checkpoints")
    done = {(evaluation.protocol_id, evaluation.step) for evaluation in view.evaluations}
    asked = {
        (protocol_id, budget)
        for study in view.studies
        for protocol_id, budgets in study.asked(view.id).items()
        for budget in budgets
    }
    done |= {
        (TRAINED_ONLY, budget) for protocol_id, budget in asked if protocol_id == TRAINED_ONLY and budget <= newest
    }
    if view.error is not None or not view.segments[-1].ended:
        return "FINISHED" if asked and asked <= done else "FAILED"
    return "FINISHED" if asked <= done else "SCHEDULED"


def _last_sign(view: RunView) -> float:
    return max(
        [record.fields["time"] for record in view.records[-1:]] + [e.time for e in view.evaluations],
        default=0,
    )


def _signature(folder: Path, studies: tuple[Study, ...]) -> object:
    """Changes whenever there may be something to forward."""
    try:
        stat = (folder / "records.jsonl").stat()
        records = (stat.st_size, stat.st_mtime_ns)
    except OSError:
        records = (0, 0)
    evaluations = evaluation_files(folder / "evaluations")
    return records, evaluations, _holder(folder), hash(repr(studies))


def _first_line(error: BaseException) -> str:
    return redacted((str(error).splitlines() or [type(error).__name__])[0])[:200]
