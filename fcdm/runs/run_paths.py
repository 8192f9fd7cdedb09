"""The names of what stands in a folder of runs: the one place where they are written and parsed.

runs/<readable name>-<first 8 digits of the id>/
    run.json                                        what the run is
    checkpoints/step-00000400/
    ema/step-00000400/                              snapshots of power function averages
    evaluations/step-00000400-<protocol id>.json    (and .png: a picture of its samples)
    evaluations/.step-00000400-<protocol id>*.npz   features of an evaluation that is not done yet
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from fcdm.atomic import read_json_if_whole

RUN_FILE = "run.json"


def folders_of_runs(runs_dir: Path) -> list[Path]:
    """The folders that hold a run, by name; [] without any. One that is being made is none yet."""
    return sorted(path.parent for path in runs_dir.glob(f"[!.]*/{RUN_FILE}"))


def run_facts(folder: Path) -> dict[str, Any]:
    """What run.json says of a run, for those who pass over damaged runs; {} where it is missing or damaged."""
    return read_json_if_whole(folder / RUN_FILE)


def checkpoint_name(step: int) -> str:
    """`step-00000400`: a checkpoint's folder, or a snapshot's."""
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """The step of a checkpoint's or snapshot's folder; None: the name is no such folder's."""
    match = re.fullmatch(r"step-(\d+)", name)
    return int(match[1]) if match else None


def evaluation_name(step: int, protocol_id: str) -> str:
    """`step-00000400-<protocol id>.json`: an evaluation is named by its key."""
    return f"{checkpoint_name(step)}-{protocol_id}.json"


def evaluation_files(folder: Path) -> list[tuple[int, str, Path]]:
    """(step, protocol id, path) of each evaluation in the folder, by name; [] where the folder cannot be listed."""
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - names alone, in half the time
    except OSError:
        return []
    matches = [re.fullmatch(r"step-(\d+)-(.+)\.json", name) for name in names]
    return [(int(match[1]), match[2], folder / match[0]) for match in matches if match]


def unfinished_evaluations(folder: Path) -> list[Path]:
    """The features that evaluations under way have saved."""
    return list(folder.glob(".step-*.npz"))
