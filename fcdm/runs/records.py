"""The writer of `records.jsonl`: the truth about a run, one JSON object a line, appended and never rewritten.

Only the run's holder (`fcdm.runs.run_lock`) may open a writer. Three kinds of line:

- values at a step: `{"step": 50, "time": 1764..., "loss": 0.53, ...}`;
- an evaluation's: the same with `"protocol": "<protocol id>"`, which says whose `fid` this is;
- a segment's start or end: `{"step": 0, "time": ..., "segment": "start", "host": ..., ...}`.

`step` counts optimiser steps done, `time` is Unix time in seconds. NaN and infinities are the strings "NaN",
"Infinity" and "-Infinity", so every JSON parser reads every line (`float()` reads the strings).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from fcdm.atomic import describe_oserror, file_errors, plain, sync_folder
from fcdm.errors import UserError

_FRAME = frozenset({"step", "time", "protocol"})
"""Keys that say where a value belongs; alone they are worth no line."""


class RecordWriter:
    """Appends to one `records.jsonl`, so that a resume that replays steps writes no (key, step) twice.

    Opening cuts a torn last line (a process died in the middle of it) and learns which (key, step) stand.
    Within an evaluation's line the key counts together with its protocol, as `fid@<protocol id>`. Raises
    UserError for a line that cannot be read anywhere else, and whenever the file system refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._standing: set[tuple[str, int]] = set()
        with file_errors(path, "opening the records"):
            new = not path.exists()
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            try:
                self._read_and_cut()
                if new:
                    sync_folder(path.parent)
            except BaseException:
                os.close(self._descriptor)
                raise

    def write(self, step: int, values: Mapping[str, float | int | str | list[Any] | None]) -> bool:
        """Appends the values of this step that do not stand yet; False if all do: then nothing is written."""
        if "step" in values or "time" in values:
            raise ValueError("step and time are set by the writer")
        names = {key: _identity(key, values.get("protocol")) for key in values if key not in _FRAME}
        new = {key for key, name in names.items() if (name, step) not in self._standing}
        if not new:
            return False
        kept = {key: value for key, value in values.items() if key in new or key in _FRAME}
        self._append({"step": step, "time": round(time.time(), 3), **kept})
        self._standing.update((names[key], step) for key in new)
        return True

    def segment_start(self, step: int, **facts: Any) -> None:
        """Says that a stretch of work starts after `step`, where and how: host, pid, device, revision ..."""
        self._append({"step": step, "time": round(time.time(), 3), "segment": "start", **facts})

    def segment_end(self, step: int, **facts: Any) -> None:
        """Says that the stretch of work ended at `step`. A segment that died hard has no such line."""
        self._append({"step": step, "time": round(time.time(), 3), "segment": "end", **facts})

    def sync(self) -> None:
        """Puts everything written on the disk: before a checkpoint stands, its steps' records must."""
        with file_errors(self.path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            try:
                os.fsync(descriptor)
            except OSError as error:
                raise describe_oserror(error, self.path) from error
            finally:
                os.close(descriptor)

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, record: dict[str, Any]) -> None:
        line = (json.dumps(plain(record), allow_nan=False) + "\n").encode()
        with file_errors(self.path):
            before = os.fstat(self._descriptor).st_size
            try:
                # One system call: a reader sees the line whole or not yet; a crash tears at most the last.
                # Only a disk that fills up within the line makes it more, and then the next call says so.
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except BaseException:
                os.ftruncate(self._descriptor, before)
                raise

    def _read_and_cut(self) -> None:
        whole = 0  # bytes of good lines so far
        with open(self._descriptor, "rb", closefd=False) as file:
            end = os.fstat(self._descriptor).st_size
            for number, line in enumerate(file, start=1):
                record = _parse(line)
                if record is None:
                    if whole + len(line) < end:
                        raise UserError(
                            f"{self.path}, line {number}: not a record (a JSON object with a whole number "
                            "`step`), and lines follow it, so it is not the trace of a crash: mend or remove "
                            "that line by hand"
                        )
                    break
                whole += len(line)
                if "segment" not in record:
                    protocol = record.get("protocol")
                    self._standing.update((_identity(key, protocol), record["step"]) for key in record.keys() - _FRAME)
        if whole < end:
            os.ftruncate(self._descriptor, whole)
            os.fsync(self._descriptor)


def _identity(key: str, protocol: object) -> str:
    """What a value is, beside its step: its key, or `key@protocol` for an evaluation's."""
    return key if protocol is None or "@" in key else f"{key}@{protocol}"


def _parse(line: bytes) -> dict[str, Any] | None:
    """The record of a whole line, None if it is torn or no record."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:  # UnicodeDecodeError and JSONDecodeError both are
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return None
    return record
