"""What the engine costs: its training step against the barest PyTorch loop over the same model and data.

    OMP_NUM_THREADS=1 python benchmarks/engine_overhead.py [model=N] [steps=100] [rounds=7]

Both do the same work: batch 128 of the digits, the hybrid loss, AdamW, EMA. The bare loop draws with torch.randn and
records nothing; the engine draws each image's numbers as a function of (seed, step, place), records loss, gradient
norm and speed, watches for NaN and signals. Rounds alternate in one process, so a noisy machine moves both; the
figure is the median of the rounds' ratios. The engine's time is that of its own records: training only.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_module

from fcdm.config.check import checked
from fcdm.config.schema import Config
from fcdm.data.dataset import PixelDataset
from fcdm.diffusion.ddpm_loss import training_loss
from fcdm.diffusion.process import Process
from fcdm.engine.distributed import Ranks
from fcdm.engine.environment import cpu_name
from fcdm.engine.state import create_model
from fcdm.engine.train import train
from fcdm.engine.worker import Worker
from fcdm.jobs.make_jobs import make_jobs
from fcdm.jobs.progress import TerminalProgress
from fcdm.sweep.hydra_schema import register_schema


class BareLoop:
    """The loop that one writes first."""

    def __init__(self, config: Config) -> None:
        device = torch.device("cpu")
        self.model = create_model(config, device).train()
        self.ema = copy.deepcopy(self.model).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=config.optimiser.lr, weight_decay=0, fused=True)
        self.data = PixelDataset(config, device)
        self.process = Process.create()
        self.batch = config.batch_size

    def steps(self, count: int) -> float:
        """Seconds for `count` steps."""
        began = time.perf_counter()
        for _ in range(count):
            chosen = torch.randint(len(self.data), (self.batch,))
            x0, labels = self.data.train.images[chosen], self.data.train.labels[chosen]
            labels = torch.where(torch.rand(self.batch) < 0.1, 10, labels)
            t = torch.randint(1000, (self.batch,))
            noise = torch.randn_like(x0)
            x_t = self.process.q_sample(x0, t, noise)
            output = self.model(x_t, t, labels)
            training_loss(self.process, output, x0, x_t, t, noise).loss.mean().backward()
            self.optimiser.step()
            self.optimiser.zero_grad()
            with torch.no_grad():
                for average, current in zip(self.ema.parameters(), self.model.parameters(), strict=True):
                    average.lerp_(current, 1e-4)
        return time.perf_counter() - began


class Engine:
    """Our training function, asked for so many more steps each time."""

    def __init__(self, config: Config, runs: Path) -> None:
        quiet = dataclasses.replace(config.evaluation, samples=2, sampling_steps=2, batch_size=2)
        self.config = dataclasses.replace(config, runs_dir=str(runs), evaluation=quiet)
        self.done = 0

    def steps(self, count: int) -> float:
        """Seconds for `count` steps, by the records."""
        target = self.done + count
        (job,) = make_jobs([dataclasses.replace(self.config, steps=[target], log_every=count)])
        run = job.open()
        progress = TerminalProgress("", target, quiet=True)
        ranks = Ranks(0, 1, torch.device("cpu"))
        train(run, job.parts[:1], Worker(ranks, progress), keep=set())
        self.done = target
        lines = [json.loads(line) for line in run.records.read_text().splitlines()]
        speed = next(line["images_per_s"] for line in lines if line["step"] == target and "images_per_s" in line)
        return count * self.config.batch_size / float(speed)


def main(arguments: list[str]) -> None:
    asked = dict(argument.split("=", 1) for argument in arguments)
    steps, rounds = int(asked.pop("steps", 100)), int(asked.pop("rounds", 7))
    register_schema()
    with initialize_config_module("fcdm.conf", version_base="1.3"):
        config = checked(compose("train", [f"model={asked.pop('model', 'N')}", "threads=1"]))
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {cpu_name()}, {torch.get_num_threads()} thread, batch {config.batch_size}")
    with tempfile.TemporaryDirectory() as folder:
        bare, engine = BareLoop(config), Engine(config, Path(folder))
        bare.steps(10), engine.steps(10)
        ratios = []
        for number in range(rounds):
            # Alternating which comes first: a machine that slows down moves both alike.
            if number % 2:
                ours, theirs = engine.steps(steps), bare.steps(steps)
            else:
                theirs, ours = bare.steps(steps), engine.steps(steps)
            ratios.append(ours / theirs)
            print(f"round {number + 1}: bare {steps / theirs:.2f} steps/s, engine {steps / ours:.2f} steps/s")
    print(f"engine / bare: {statistics.median(ratios):.3f} (rounds {min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main(sys.argv[1:])
