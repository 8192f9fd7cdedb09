"""What a run's files hold, one reader per kind of file. `fcdm.runs.reader` puts them together.

Every reader raises UserError, naming the file (and line), where a file is damaged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fcdm.atomic import read_json
from fcdm.errors import UserError
from fcdm.formatting import plural
from fcdm.redact import redacted, redacted_words
from fcdm.runs.protocol import TRAINED_ONLY


class Scalar(NamedTuple):
    """One number of a run: `key` at a training step; `time` in seconds since 1970."""

    step: int
    time: float
    key: str
    value: float


class Record(NamedTuple):
    """One line of records.jsonl; `end` is the position in bytes just behind it."""

    end: int
    fields: dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """One checkpoint evaluated by one protocol; `grid` is the picture of its samples, where there is one."""

    step: int
    time: float
    protocol_id: str
    metrics: dict[str, float]
    protocol: dict[str, Any] = field(default_factory=dict)
    floor: dict[str, float] = field(default_factory=dict)
    """The metrics of real images against the reference: what no model can be expected to beat."""
    seconds: float | None = None
    grid: Path | None = None
    grid_columns: int = 1
    """Tiles in a row of the picture; tiles are square and have no gaps."""
    loss_bins: tuple[float, ...] = ()
    """heldout_loss per equal bin of diffusion time, from data to noise."""


@dataclass(frozen=True)
class Segment:
    """One stretch of work on a run, by one process or group of processes; times in seconds since 1970."""

    start: float
    end: float
    """The last sign of life where the segment died without saying so."""
    ended: bool
    first_step: int
    last_step: int
    fields: dict[str, Any]
    """The start record: host, device, threads, world_size, micro_batch, revision, ..."""

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def device_seconds(self) -> float:
        """Seconds times devices: GPU-hours are this / 3600 where the device is a GPU."""
        return self.seconds * int(self.fields.get("world_size", 1))

    @property
    def place(self) -> str:
        """What it ran on, as `place_name` tells it."""
        return place_name(self.fields)


def place_name(fields: dict[str, Any]) -> str:
    """What a segment's record says it ran on: `NVIDIA H100 80GB HBM3`, `cpu (AMD EPYC, 1 thread)`; empty: nothing."""
    device, processor, threads = (fields.get(key) for key in ("device", "cpu", "threads"))
    if device is None or device != "cpu":
        return str(device or "")
    text = plural(int(threads or 1), "thread")
    return f"cpu ({processor}, {text})" if processor else f"cpu ({text})"


class StudyRequest(NamedTuple):
    """What a study asks of one run: `run` is its folder's name, `budgets` are steps, evaluated by `protocol_id`."""

    run: str
    id: str
    budgets: tuple[int, ...]
    protocol_id: str


@dataclass(frozen=True)
class Study:
    """A named list of (run, budget, protocol) requests; `protocol_id` is that of the last command that evaluates."""

    name: str
    created: float
    revision: str
    command: tuple[str, ...]
    protocol_id: str
    protocol: dict[str, Any]
    requests: tuple[StudyRequest, ...]
    """All that was ever asked for."""
    wanted: tuple[StudyRequest, ...] = ()
    """What is still asked for: by each of its commands as it was given last."""
    commands: tuple[str, ...] = ()
    """All that asked, as a shell takes them, the last one last."""
    question: str = ""
    """What it is for, in words."""
    asked_by: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Command, as `fcdm.jobs.record_study.asker` has it, -> the runs that it asked for when it was given last."""
    spaces: Mapping[str, str] = field(default_factory=dict)
    """Protocol id -> the features of its distances; of what was asked since this key."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Protocol id -> the weights that are evaluated, `ema` or `raw`; of what was asked since this key."""

    def asked(self, run_id: str) -> dict[str, tuple[int, ...]]:
        """Protocol id -> budgets that this study asks of a run, what `fid` means for it first; TRAINED_ONLY last."""
        found: dict[str, set[int]] = {}
        for request in self.requests:
            if request.id == run_id:
                found.setdefault(request.protocol_id, set()).update(request.budgets)
        evaluating = [key for key in found if key != TRAINED_ONLY]
        headline = self.protocol_id if self.protocol_id in evaluating else next(reversed(evaluating), "")
        order = sorted(found, key=lambda key: (key == TRAINED_ONLY, key != headline))
        return {key: tuple(sorted(found[key])) for key in order}

    def budgets(self, run_id: str) -> tuple[int, ...]:
        """The budgets asked of a run, by whatever protocol."""
        return tuple(sorted({budget for budgets in self.asked(run_id).values() for budget in budgets}))

    def headline(self, run_id: str) -> str:
        """What `fid` means for a run: the study's protocol if it asked that of the run or evaluates nothing of it, else
        the run's last one."""
        first = next(iter(self.asked(run_id)), TRAINED_ONLY)
        return self.protocol_id if first == TRAINED_ONLY else first


_SPELT_OUT = ("NaN", "Infinity", "-Infinity")  # JSON has no such numbers: the writer spells them as strings
_NOT_SCALARS = ("step", "time")


def scalars_in(fields: dict[str, Any]) -> dict[str, float]:
    """The numbers of a record, by key, without its step and time."""
    return {
        key: float(value)
        for key, value in fields.items()
        if key not in _NOT_SCALARS
        and ((isinstance(value, (int, float)) and not isinstance(value, bool)) or value in _SPELT_OUT)
    }


def read_records(path: Path) -> list[Record]:
    """Every whole line of a records.jsonl, as written; [] without the file.

    The last line may be torn (a process died while it wrote, or is writing now): it is left out. A
    damaged line that others follow is no such thing: UserError.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []  # opened, not started
    lines = content.split(b"\n")[:-1]  # behind the last newline: nothing, or a torn line
    records = []
    end = 0
    for number, (line, parsed) in enumerate(zip(lines, _parsed(lines), strict=True), 1):
        end += len(line) + 1
        try:
            fields = json.loads(line) if parsed is None else parsed
            if type(fields["step"]) is not int:
                raise TypeError
            fields["time"] = float(fields["time"])
        except (ValueError, TypeError, KeyError):
            if number == len(lines) and end == len(content):
                break
            raise UserError(
                f"{path}, line {number} is damaged ({line[:40]!r}): mend or remove that line by hand"
            ) from None
        records.append(Record(end, fields))
    return records


def _parsed(lines: list[bytes]) -> list[Any]:
    """Each line's JSON value; None for all where one is damaged. In one go: three times as fast as line by line."""
    try:
        values = json.loads(b"[" + b",".join(lines) + b"]")
    except ValueError:
        values = []
    return values if len(values) == len(lines) else [None] * len(lines)


def read_evaluation(path: Path) -> Evaluation:
    content = read_json(path)
    grid = path.with_suffix(".png")
    try:
        return Evaluation(
            step=int(content["step"]),
            time=float(content["time"]),
            protocol_id=str(content["protocol_id"]),
            protocol=dict(content["protocol"]),
            metrics=scalars_in(content["metrics"]),
            floor=scalars_in(content.get("floor") or {}),
            seconds=content.get("seconds"),
            grid=grid if grid.is_file() else None,
            grid_columns=int(content.get("grid", {}).get("columns", 1)),
            loss_bins=tuple(float(value) for value in content.get("heldout_loss_bins") or ()),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} lacks or garbles {error}: delete it and evaluate again") from None


def segment_of(records: list[dict[str, Any]]) -> Segment:
    first = records[0]
    return Segment(
        start=first["time"],
        end=max(fields["time"] for fields in records),
        ended=any(fields.get("segment") == "end" for fields in records),
        first_step=first["step"],
        last_step=max(fields["step"] for fields in records),
        fields=first,
    )


def end_of(fields: Mapping[str, Any]) -> tuple[str, str]:
    """(signal that stopped it, error that it failed with) of a segment by its last line; "" for what was not."""
    if fields.get("segment") != "end" or fields.get("completed"):
        return "", ""
    error = str(fields.get("error") or "")
    kind, _, text = error.partition(": ")
    if kind in ("Stopped", "KeyboardInterrupt"):  # as records say it that were written before there was a field
        return text.removeprefix("stopped by ") or "SIGINT", ""
    return str(fields.get("stopped") or ""), error


def read_study_file(path: Path) -> Study:
    content = read_json(path)
    try:
        return Study(
            name=str(content["name"]),
            created=float(content["created"]),
            revision=str(content.get("revision", "")),
            command=tuple(redacted_words(map(str, content.get("command", ())))),
            protocol_id=str(content["protocol_id"]),
            protocol=dict(content["protocol"]),
            requests=_requests(content),
            wanted=_wanted(content),
            commands=tuple(redacted(str(line)) for line in content.get("commands", ())),
            question=str(content.get("question", "")),
            spaces={str(key): str(features) for key, features in (content.get("spaces") or {}).items()},
            weights={str(key): str(weights) for key, weights in (content.get("weights") or {}).items()},
            asked_by={str(command): frozenset(runs) for command, runs in content.get("asked_by", {}).items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} lacks or garbles {error}: launch the study again to rewrite it") from None


def _requests(content: dict[str, Any]) -> tuple[StudyRequest, ...]:
    return tuple(
        StudyRequest(
            str(asked["run"]),
            str(asked["id"]),
            tuple(int(budget) for budget in asked["budgets"]),
            str(asked.get("protocol_id") or content["protocol_id"]),
        )
        for asked in content["requests"]
    )


def _wanted(content: dict[str, Any]) -> tuple[StudyRequest, ...]:
    """The requests, with the budgets that some command still asks for; all where nothing is noted (version 0.1)."""
    requests = _requests(content)
    if "asked_by" not in content:
        return requests
    asked = {
        (run, protocol, budget)
        for by_run in content["asked_by"].values()
        for run, by_protocol in by_run.items()
        for protocol, budgets in by_protocol.items()
        for budget in budgets
    }
    still = (
        one._replace(budgets=tuple(step for step in one.budgets if (one.run, one.protocol_id, step) in asked))
        for one in requests
    )
    return tuple(one for one in still if one.budgets)
