"""A signal in the middle of a batch of samples: it is dropped at the next network call, and the resume gives the same.

The model sends the signal itself, so that what is called after it can be counted; all else is a real process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.commands import TINY, Command, environment, evaluations, only_run, ranks_of

pytestmark = pytest.mark.slow

BATCH, STEPS = 7, 60
MODEL = f"""
import os
import signal

import torch
from torch import nn


class Counting(nn.Module):
    \"\"\"Says of each call in evaluation that it was made; its process signals itself in the one that is named.\"\"\"

    def __init__(self, channels, out_channels, side, classes):
        super().__init__()
        self.head = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.label = nn.Embedding(classes + 1, 1)

    def forward(self, x, t, labels):
        if not self.training and len(x) == {BATCH}:
            name = os.environ["CALLS"] + os.environ.get("RANK", "0")
            with open(name, "ab") as file:
                file.write(b".")
            at = os.environ.get("STOP_AT" + os.environ.get("RANK", "0"), "0")
            if os.path.getsize(name) == int(at):
                signal.raise_signal(int(os.environ["STOP_BY"]))
        return self.head(x) + self.label(labels)[:, :, None, None]
"""
YAML = """
defaults:
  - /schema/custom@_here_
  - override /data@_global_.data: digits
  - override /resources@_global_.resources: cpu
name: counting
target: counting.Counting
"""


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/counting.yaml").write_text(YAML)
    (tmp_path / "counting.py").write_text(MODEL)
    sampling = [
        f"evaluation.{key}" for key in (f"batch_size={BATCH}", f"sampling_steps={STEPS}", f"samples={4 * BATCH}")
    ]
    return ["--config-dir", ".", "model=counting", "steps=2", *TINY, *sampling, "evaluation.sampler=ddpm"]


def calls(path: Path) -> int:
    return path.stat().st_size


def batches_kept(run: Path, share: str) -> int:
    (partial,) = (run / "evaluations").glob(f".*-{share}.npz")
    with np.load(partial) as arrays:
        return int(arrays["batches"])


def test_a_signal_ends_sampling_at_the_next_call(fcdm: Command, words: list[str], tmp_path: Path) -> None:
    whole = fcdm(*words, "runs_dir=whole", CALLS="undisturbed")
    assert whole.returncode == 0, whole.stderr
    all_calls = calls(tmp_path / "undisturbed0")
    assert all_calls > 4 * STEPS, "the held-out loss is measured too"

    run, at = None, 0
    # In the third batch; and, going on, in the middle of the held-out loss, when all is sampled.
    for signum, more_calls, batches in ((signal.SIGUSR2, 2 * STEPS + 11, 2), (signal.SIGTERM, 2 * STEPS + 3, 4)):
        at += more_calls
        told = {"CALLS": "calls", "STOP_BY": str(int(signum)), "STOP_AT0": str(at)}
        stopped = fcdm(*words, "runs_dir=cut", **told)
        assert stopped.returncode == 128 + signum, stopped.stderr
        assert calls(tmp_path / "calls0") == at, "no call after the signal"
        run = only_run(tmp_path / "cut")
        assert batches_kept(run, f"rank0of1-by{BATCH}") == batches
        assert not evaluations(run)

    resumed = fcdm(*words, "runs_dir=cut", CALLS="calls")
    assert resumed.returncode == 0, resumed.stderr
    assert calls(tmp_path / "calls0") == at + all_calls - 4 * STEPS
    assert run is not None
    assert evaluations(run) == evaluations(only_run(tmp_path / "whole"))


def test_a_rank_that_got_no_signal_stops_after_its_batch(words: list[str], tmp_path: Path) -> None:
    """The other has dropped its own, in the last round too; both keep what they had."""

    def ranks(**more: str) -> list[int]:
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "fcdm.train", *words, "batch_size=16", "runs_dir=runs"],
                cwd=tmp_path,
                env=environment(**rank, **more),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in ranks_of(2)
        ]
        try:
            said = [process.communicate(timeout=240)[1] for process in started]
        finally:
            for process in started:
                process.kill()
        assert "Traceback" not in "".join(said), said
        return [process.returncode for process in started]

    at = STEPS + 5  # in the second round of two
    told = {"CALLS": "calls", "STOP_BY": str(int(signal.SIGTERM))}
    assert ranks(STOP_AT1=str(at), **told) == [128 + signal.SIGTERM] * 2
    assert [calls(tmp_path / f"calls{rank}") for rank in (0, 1)] == [2 * STEPS, at]
    run = only_run(tmp_path / "runs")
    assert [batches_kept(run, f"rank{rank}of2-by{BATCH}") for rank in (0, 1)] == [2, 1]
    assert not evaluations(run)

    os.truncate(tmp_path / "calls1", 0)
    assert ranks(CALLS="calls") == [0, 0]
    assert calls(tmp_path / "calls1") > STEPS, "the dropped batch, and the held-out loss"
    (evaluated,) = evaluations(run).values()
    assert isinstance(evaluated, dict)
    assert json.dumps(evaluated["metrics"])


def test_sampling_to_files_drops_its_batch_too(fcdm: Command, words: list[str], tmp_path: Path) -> None:
    assert fcdm(*words, CALLS="trained").returncode == 0
    source = f"{only_run(tmp_path / 'runs').name}@2"
    sampling = [f"samples={3 * BATCH}", f"batch_size={BATCH}", f"sampling_steps={STEPS}", "sampler=ddpm"]
    command = [source, *sampling, "--config-dir", "."]
    told = {"CALLS": "calls", "STOP_AT0": str(STEPS + 3), "STOP_BY": str(int(signal.SIGTERM))}
    stopped = fcdm(*command, "out=cut", module="fcdm.sample", **told)
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    assert calls(tmp_path / "calls0") == STEPS + 3
    assert [path.name for path in (tmp_path / "cut/.parts").iterdir()] == [f"{0:09d}-{BATCH:09d}.npy"]
    for folder in ("cut", "whole"):
        assert fcdm(*command, f"out={folder}", module="fcdm.sample", CALLS="calls").returncode == 0
    assert (tmp_path / "cut/samples.npz").read_bytes() == (tmp_path / "whole/samples.npz").read_bytes()
