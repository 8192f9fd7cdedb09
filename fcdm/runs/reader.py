"""Reads runs from disk: frozen config, records, evaluations, segments, studies.

The records are the truth; MLflow, tables and figures are made from what is read here. Nothing is written, and
neither torch nor MLflow nor pandas is imported. A view is a snapshot: what it has read once it does not read
again, so a reader that follows a run at work takes a new view each time. A run that is being written to
at this moment is read up to its last whole line.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from fcdm.atomic import read_json
from fcdm.errors import UserError
from fcdm.redact import HIDDEN, is_secret, redacted
from fcdm.runs.folder import Run
from fcdm.runs.formats import (
    Evaluation,
    Record,
    Scalar,
    Segment,
    Study,
    end_of,
    read_evaluation,
    read_records,
    read_study_file,
    scalars_in,
    segment_of,
)
from fcdm.runs.identity import OF_OWN_CODE, flatten
from fcdm.runs.protocol import TRAINED_ONLY
from fcdm.runs.run_paths import RUN_FILE, evaluation_files, folders_of_runs

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where libyaml is there


class RunView:
    """A run's folder, read lazily and once. Raises UserError, naming file and line, where one is damaged."""

    def __init__(self, folder: Path, studies: tuple[Study, ...] = ()) -> None:
        self.folder = folder
        self.info: dict[str, Any] = read_json(folder / RUN_FILE)
        try:
            self.id = str(self.info["id"])
            self.model = str(self.info["model"])
            self.family = str(self.info["family"])
            self.data = str(self.info["data"])
            self.resolution = int(self.info["resolution"])
            self.batch_size = int(self.info["batch_size"])
            self.seed = int(self.info["seed"])
            self.cost: dict[str, float] = dict(self.info["cost"])
            self.created = float(self.info["created"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{folder / RUN_FILE} lacks or garbles {error}: restore the file, or move this folder away"
            ) from None
        self.studies = tuple(study for study in studies if any(r.id == self.id for r in study.requests))

    @property
    def name(self) -> str:
        """The folder's name: readable and unique, such as `N-digits-8px-1a2b3c4d`."""
        return self.folder.name

    @cached_property
    def config(self) -> dict[str, Any]:
        """The frozen science config, nested."""
        path = self.folder / "config.yaml"
        try:
            content = yaml.load(path.read_text(), Loader=_Loader)
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"{path} cannot be read ({type(error).__name__}): restore it") from None
        if not isinstance(content, dict):
            raise UserError(f"{path} holds no config: restore it")
        return content

    @cached_property
    def flat_config(self) -> dict[str, str]:
        """The science config as `{"optimiser.lr": "0.001", ...}`: one text per key, as in MLflow's params."""
        return {
            key: HIDDEN if is_secret(key, value) else redacted(str(value))
            for key, value in flatten(self.config).items()
            if not (key in OF_OWN_CODE and OF_OWN_CODE[key] == value)  # as of runs before there was any
        }

    @cached_property
    def records(self) -> list[Record]:
        """Every whole line of records.jsonl, as written."""
        return read_records(self.folder / "records.jsonl")

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """Each (step, protocol) once, by step: the evaluations' files, and records that have no file."""
        found = {}
        for *_, path in evaluation_files(self.folder / "evaluations"):
            try:
                evaluation = read_evaluation(path)
            except FileNotFoundError:
                continue
            found[evaluation.step, evaluation.protocol_id] = evaluation
        for _, fields in self.records:
            protocol_id = fields.get("protocol")
            if protocol_id is not None and (fields["step"], protocol_id) not in found:
                found[fields["step"], protocol_id] = Evaluation(
                    step=fields["step"],
                    time=fields["time"],
                    protocol_id=protocol_id,
                    metrics=scalars_in(fields),
                )
        return [found[key] for key in sorted(found)]

    @property
    def headline(self) -> str | None:
        """The protocol that `fid` means here: that of the run's first study that has it evaluated, else the first that
        evaluated it."""
        for study in sorted(self.studies, key=lambda study: (study.created, study.name)):
            headline = next(iter(study.asked(self.id)), TRAINED_ONLY)
            if headline != TRAINED_ONLY:
                return headline
        first = min(self.evaluations, key=lambda evaluated: (evaluated.time, evaluated.protocol_id), default=None)
        return first.protocol_id if first else None

    def training_scalars(self) -> Iterator[tuple[int, Scalar]]:
        """(end of the line in bytes, scalar) of each (key, step) of training; the first one stands."""
        seen = set()
        for end, fields in self.records:
            if "protocol" in fields or "segment" in fields:
                continue
            step = fields["step"]
            for key, value in scalars_in(fields).items():
                if (key, step) not in seen:
                    seen.add((key, step))
                    yield end, Scalar(step, fields["time"], key, value)

    def training_series(self, key: str) -> list[tuple[int, float]]:
        """(step, value) of one key of training, as `training_scalars` has them, without looking at the others."""
        found: dict[int, float] = {}
        for _, fields in self.records:
            if key in fields and "protocol" not in fields and "segment" not in fields:
                for value in scalars_in({key: fields[key]}).values():
                    found.setdefault(fields["step"], value)
        return list(found.items())

    def scalars(self, headline: str | None = None) -> Iterator[Scalar]:
        """Training's numbers, then the evaluations', without doubles.

        `headline`: the protocol whose metrics keep their bare names (`fid`); those of another are named
        `fid@<protocol id>`. Default: this view's own headline.
        """
        for _, scalar in self.training_scalars():
            yield scalar
        headline = headline or self.headline
        for evaluation in self.evaluations:
            suffix = "" if evaluation.protocol_id == headline else f"@{evaluation.protocol_id}"
            for key, value in evaluation.metrics.items():
                yield Scalar(evaluation.step, evaluation.time, f"{key}{suffix}", value)

    @cached_property
    def segments(self) -> list[Segment]:
        """Stretches of work in order. One that died hard ends at its last record."""
        segments = []
        current: list[dict[str, Any]] = []
        for fields in [record.fields for record in self.records] + [{"segment": "start"}]:
            if fields.get("segment") == "start":
                if current and current[0].get("segment") == "start":
                    segments.append(segment_of(current))
                current = []
            current.append(fields)
        return segments

    @property
    def error(self) -> str | None:
        """Why the last segment failed, in the words it left; None: it completed, was stopped, or is at work."""
        last: dict[str, Any] = next((fields for _, fields in reversed(self.records) if "segment" in fields), {})
        return end_of(last)[1] or None

    @cached_property
    def branched_from(self) -> tuple[str, int] | None:
        """(folder's name, step) of the checkpoint of another run that this one went on from; None: of none."""
        # The last, for one that died before it had a checkpoint of its own began again.
        return next(filter(None, (_branched(segment.fields) for segment in reversed(self.segments))), None)

    @property
    def begun(self) -> int:
        """The step from which the run was trained by itself: where a branch left its parent, else 0."""
        return self.branched_from[1] if self.branched_from else 0

    @cached_property
    def _parent(self) -> RunView | None:
        """The run that this one branched from; None: it is no branch, or that folder is gone."""
        folder = self.folder.parent / self.branched_from[0] if self.branched_from else None
        return RunView(folder) if folder and (folder / RUN_FILE).is_file() else None

    @property
    def places(self) -> list[str]:
        """What the run was trained on, each once, in order: more than one where it moved. Of a branch also what the
        steps before it were trained on."""
        trained = [segment for segment in self.segments if segment.last_step > segment.first_step]
        if self._parent is not None and self.branched_from is not None:
            trained = [
                *(
                    segment
                    for segment in self._parent.segments
                    if segment.first_step < min(segment.last_step, self.branched_from[1])
                ),
                *trained,
            ]
        return list(dict.fromkeys(segment.place for segment in trained))

    @cached_property
    def _clock(self) -> tuple[list[int], list[float], list[float]]:
        """(steps, seconds of training until each was first reached, the same times the number of devices).

        Of a branch both include what its parent took to the step where it left: NaN where that is not known any more.
        """
        steps, seconds, device_seconds = [0], [0.0], [0.0]
        total = device_total = 0.0
        before = device_before = 0.0
        devices = 1
        last: float | None = None
        for _, fields in self.records:
            gap = 0.0 if last is None or fields.get("segment") == "start" else max(0.0, fields["time"] - last)
            last = fields["time"]
            if "protocol" in fields:
                continue  # this gap was spent on evaluation, not on training
            total += gap
            device_total += gap * devices
            if fields.get("segment") == "start":
                devices = int(fields.get("world_size", 1))
                if _branched(fields):
                    before, device_before = self._of_parent(fields["step"])
            if fields["step"] > steps[-1]:  # a step replayed after a hard death cost time, reaching nothing new
                steps.append(fields["step"])
                seconds.append(before + total)
                device_seconds.append(device_before + device_total)
        return steps, seconds, device_seconds

    def _of_parent(self, step: int) -> tuple[float, float]:
        """(seconds, device-seconds) of the parent's training until `step`; NaN: not known."""
        parent = self._parent
        found = (parent.training_seconds(step), parent.training_device_seconds(step)) if parent else (None, None)
        seconds, device_seconds = (math.nan if value is None else value for value in found)
        return seconds, device_seconds

    def training_seconds(self, step: int) -> float | None:
        """Wall time of training until `step`, over all segments, evaluations left out; None: not reached, or not known.

        Of a branch (`branched_from`) it is the trajectory's: its parent's until the branch left, then its own.
        """
        steps, seconds, _ = self._clock
        return _at(step, steps, seconds)

    def training_device_seconds(self, step: int) -> float | None:
        """`training_seconds` times devices, segment by segment: GPU-hours are this / 3600; None as there."""
        steps, _, device_seconds = self._clock
        return _at(step, steps, device_seconds)


def _branched(fields: dict[str, Any]) -> tuple[str, int] | None:
    """(folder's name, step) of another run's checkpoint that a segment's start record says it goes on from."""
    name, _, step = str(fields.get("branched_from") or "").rpartition("@")
    return (name, int(step)) if name and step.isdigit() else None


def _at(step: int, steps: list[int], amounts: list[float]) -> float | None:
    """The amount at a step, in a straight line between those recorded; None: not reached, or NaN."""
    after = bisect_left(steps, step)
    if after == len(steps):
        return None
    amount = amounts[after]
    if steps[after] != step:
        share = (step - steps[after - 1]) / (steps[after] - steps[after - 1])
        amount = amounts[after - 1] + share * (amount - amounts[after - 1])
    return None if math.isnan(amount) else amount


def list_runs(runs_dir: Path | str) -> list[RunView]:
    """Every run below `runs_dir`, by name, each knowing its studies. Raises UserError without the folder."""
    studies = tuple(list_studies(runs_dir))
    return [RunView(folder, studies) for folder in run_folders(runs_dir)]


def run_folders(runs_dir: Path | str) -> list[Path]:
    """The folders that hold a run, by name. Raises UserError where `runs_dir` is missing."""
    directory = Path(runs_dir)
    if not directory.is_dir():
        raise UserError(f"no runs in {directory}: there is no such folder; train first, or name another folder")
    return folders_of_runs(directory)


def list_studies(runs_dir: Path | str) -> list[Study]:
    """The studies below `runs_dir`, by name."""
    return [read_study_file(path) for path in sorted((Path(runs_dir) / "studies").glob("[!.]*.json"))]


def budgets_asked_of(run: Run) -> set[int]:
    """What all studies ask of a run, evaluated or not yet. Raises UserError for a study that cannot be read."""
    return {step for study in list_studies(run.folder.parent) for step in study.budgets(run.id)}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # too long a name
        return False


def read_study(runs_dir: Path | str, name: str) -> Study:
    """One study, by its name, which need not be its file's.

    Raises UserError, with the names there are, where it is missing.
    """
    path = Path(runs_dir) / "studies" / f"{name}.json"
    if _is_file(path) and (study := read_study_file(path)).name == name:
        return study
    studies = {study.name: study for study in list_studies(runs_dir)}
    if name not in studies:
        near = get_close_matches(name, studies, 1)
        meant = f" (did you mean '{near[0]}'?)" if near else ""
        raise UserError(f"no study '{name}' in {runs_dir}{meant}; there: {', '.join(studies) or 'none yet'}")
    return studies[name]
