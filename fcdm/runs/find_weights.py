"""Where weights come from: a checkpoint of a run, or a file of anybody's. Looks only, and without torch.

`fcdm.engine.read_weights` reads what is found here.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from fcdm.atomic import read_json
from fcdm.errors import UserError
from fcdm.hashing import known_sha256
from fcdm.paths import place
from fcdm.runs.checkpoints import BrokenCheckpoint, checkpoints, looks_whole, read_manifest
from fcdm.runs.folder import Run
from fcdm.runs.run_paths import RUN_FILE, folders_of_runs, step_of

SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")
"""Files of weights: torch's and Lightning's, read weights-only, and safetensors."""
PINNED = re.compile(r"[0-9a-f]{64}@\d+|sha256:[0-9a-f]{64}")
"""What `Weights.id` looks like."""
_SHORTEST_ID = 4


@dataclass(frozen=True)
class Weights:
    """Weights that are there, not read yet. Either of a run's checkpoint (`run`, `step`), or in a file."""

    id: str
    """`<64 hex digits of the run's id>@<step>`, or `sha256:<64 hex digits of the file>`."""
    path: Path
    """The checkpoint's folder, or the file."""
    run: Run | None = None
    step: int | None = None

    @property
    def name(self) -> str:
        """For people: `N-digits-8px-6fbbfea8@400`, or the file's name."""
        return f"{self.run.name}@{self.step}" if self.run else self.path.name


def find_weights(text: str, runs_dir: Path | str = "runs") -> Weights:
    """The weights that `text` names.

    A run's folder, its name in `runs_dir`, or 4 or more digits of its id, each with an optional `@STEP` (else its
    newest checkpoint that is whole); a checkpoint's folder `.../checkpoints/step-00000400`; a file `*.pt`, `*.pth`,
    `*.ckpt` or `*.safetensors`, which is hashed, once per process. Raises UserError, naming what there is, where
    nothing or more than one thing is meant, and BrokenCheckpoint.
    """
    path = place(text)
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise UserError(f"{path}: there is no such file{_siblings(path)}")
        return Weights(f"sha256:{known_sha256(path)}", path)
    if (step := step_of(path.name)) is not None and path.is_dir():
        run = _run_at(path.parent.parent) if path.parent.name == "checkpoints" else None
        if run is None:
            raise UserError(
                f"{path} lies in no run's folder, so nothing says which model it is: name its ema.safetensors instead"
            )
        return checkpoint_of(run, step)
    name, at, wanted = text.rpartition("@")
    if at and wanted.isdigit() and not path.is_dir():
        return checkpoint_of(find_run_named(name, runs_dir), int(wanted))
    return _newest(find_run_named(text, runs_dir))


def find_run_named(text: str, runs_dir: Path | str = "runs") -> Run:
    """The run whose folder, name in `runs_dir`, or 4 or more first digits of whose id `text` is. Raises UserError."""
    path, runs_dir = place(text), Path(runs_dir)
    for folder in (path, runs_dir / text):
        if text and (run := _run_at(folder)):
            return run
    folders = folders_of_runs(runs_dir)
    if re.fullmatch(rf"[0-9a-f]{{{_SHORTEST_ID},64}}", text):
        near = [folder for folder in folders if folder.name[-8:].startswith(text[:8])]
        found = [run for run in map(_run_at, near) if run and run.id.startswith(text)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{text} begins the ids of {', '.join(run.name for run in found)}: give more digits")
    if path.is_dir():
        raise UserError(f"{path} is no run's folder: there is no {RUN_FILE} in it")
    names = [folder.name for folder in folders]
    near_names = difflib.get_close_matches(text, names, n=3, cutoff=0.4) or names[:3]
    if near_names:
        there = f"in {runs_dir} there is {', '.join(near_names)}"
        there += f" and {len(names) - len(near_names)} more" if len(names) > len(near_names) else ""
    else:
        there = f"there are no runs in {runs_dir} (runs_dir=...)"
    raise UserError(f"{text}: no run's folder, name or id, and no file *.pt, *.pth, *.ckpt or *.safetensors; {there}")


def _run_at(folder: Path) -> Run | None:
    try:
        identity = str(read_json(folder / RUN_FILE).get("id"))
    except OSError:
        return None
    except UserError:
        identity = ""
    if not re.fullmatch(r"[0-9a-f]{64}", identity):
        raise UserError(f"{folder / RUN_FILE} is damaged: it holds no run's id; restore it")
    return Run(folder.resolve() if not folder.name else folder, identity)


def checkpoint_of(run: Run, step: int) -> Weights:
    """The run's checkpoint of that step. Raises UserError where it is not kept, BrokenCheckpoint."""
    there = dict(checkpoints(run.checkpoints))
    if step not in there:
        kept = f"kept: {', '.join(map(str, there))}" if there else "none is kept"
        raise UserError(f"{run.folder}: no checkpoint of step {step} ({kept})")
    manifest = read_manifest(there[step])
    if manifest["step"] != step:
        raise BrokenCheckpoint(f"{there[step]} is broken: its manifest is of step {manifest['step']}")
    return Weights(f"{run.id}@{step}", there[step], run, step)


def _newest(run: Run) -> Weights:
    there = checkpoints(run.checkpoints)
    for step, path in reversed(there):
        if looks_whole(path):
            return Weights(f"{run.id}@{step}", path, run, step)
    why = f"none of its {len(there)} checkpoints is whole" if there else "it has no checkpoint (yet)"
    raise UserError(f"{run.folder}: {why}: train it first, with the command that made it")


def _siblings(path: Path) -> str:
    """`; there is a.pt, b.pt`: what the folder holds instead."""
    if not path.parent.is_dir():
        return f", nor a folder {path.parent}"
    names = sorted(other.name for other in path.parent.iterdir() if other.suffix in SUFFIXES)
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.4) or names[:3]
    return f"; there is {', '.join(near)}" if near else ""
