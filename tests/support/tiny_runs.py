"""Runs as training leaves them, made in a moment: untrained weights that differ from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from fcdm.config.schema import Config
from fcdm.data.dataset import data_checksum
from fcdm.engine.state import TrainState
from fcdm.runs.folder import Run, open_run
from tests.support.commands import TINY, composing


def tiny_run(runs: Path, *more: str, steps: Sequence[int] = (2, 4)) -> tuple[Run, Config, TrainState]:
    """A run on the digits with a checkpoint at each of `steps`; the state of the last."""
    with composing(*TINY) as composer:
        config = composer.config(["model=N", "model.width=8", f"steps=[{steps[-1]}]", f"runs_dir={runs}", *more])
    config.data.checksum = data_checksum(config.data, config.resolution)
    run = open_run(config)
    state = TrainState.create(config, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for step in steps:
        state.step = step
        with torch.no_grad():
            for parameter in state.ema.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        state.save(run.checkpoints)
    return run, config, state
