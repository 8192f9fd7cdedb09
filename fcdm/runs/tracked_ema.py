"""Which power function averages a run tracks: read off its checkpoints, without torch."""

from __future__ import annotations

from fcdm.config.ema_profiles import Kept
from fcdm.config.schema import PowerEMAConfig
from fcdm.runs.checkpoints import BrokenCheckpoint, checkpoints, read_manifest
from fcdm.runs.folder import Run

GROUP = "power-"
"""Of a checkpoint: begins the groups that hold averages (`power-0.05`)."""
EVERY = "power_every"
"""In a checkpoint's manifest: steps between snapshots."""


def tracked(run: Run, step: int | None = None) -> Kept | None:
    """What the checkpoint of `step` tracks, or the newest one that can be read; None where that is nothing."""
    for at, path in reversed(checkpoints(run.checkpoints)):
        if step not in (None, at):
            continue
        try:
            manifest = read_manifest(path)
        except BrokenCheckpoint:
            continue
        names = [name.removesuffix(".safetensors") for name in manifest["files"]]
        lengths = tuple(sorted(float(name.removeprefix(GROUP)) for name in names if name.startswith(GROUP)))
        return Kept(lengths, manifest["extra"].get(EVERY)) if lengths else None
    return None


def settled(asked: PowerEMAConfig, run: Run | None) -> Kept | None:
    """The snapshots of a run (None: still to be made) of which so much is asked; None where there will be none."""
    so_far = tracked(run) if run else None
    lengths = tuple(sorted(asked.sigma_rel)) if asked.sigma_rel is not None else so_far.lengths if so_far else ()
    every = asked.every if asked.every is not None else so_far.every if so_far else None
    return Kept(lengths, every) if lengths else None
