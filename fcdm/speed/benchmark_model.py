"""The benchmark of one model at one resolution on one device, in bounded time, the most telling first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fcdm.config.schema import Config, CustomConfig
from fcdm.config.shape import shape_of
from fcdm.data.dataset import Dataset, open_dataset
from fcdm.engine.environment import deterministic, matmul_precision
from fcdm.errors import UserError
from fcdm.formatting import duration_text
from fcdm.models import build_model
from fcdm.plan.evaluation_flops import decoding_macs, extractor_macs
from fcdm.runs.benchmark_files import benchmark_like, benchmark_name
from fcdm.runs.revision import code_revision
from fcdm.runs.run_cost import run_cost
from fcdm.speed.ceilings import Ceilings
from fcdm.speed.operations import profile_step, what_limits
from fcdm.speed.random_latents import RandomLatents
from fcdm.speed.roofline import training_roofline
from fcdm.speed.sampling_speed import measure_decoding, measure_features, measure_sampling
from fcdm.speed.stopwatch import Deadline, free_memory
from fcdm.speed.training_speed import LargestBatch, Trainer, TrainingSpeed

IMAGES = 64
"""In one forward pass, unless `micro_batch` says otherwise; at most the run's batch."""
CPU_FLOPS = 2e11
"""Of a training step on a CPU at most, some seconds: fewer images, down to one, else."""
LARGER_BATCHES = (128, 256)
"""Tried too, where they fit."""
COMPILE_S = {"cuda": 40.0, "cpu": 60.0}
"""What must be left of the time for a compiled variant to be begun."""


class _NotNow(Exception):
    """Why something is not measured."""


class ModelBenchmark:
    """Measures one model; what did not fit into the time or the memory is noted, and left out."""

    def __init__(
        self,
        config: Config,
        ceilings: Ceilings,
        device: torch.device,
        seconds: float,
        note: Callable[[str], None],
        keep: Callable[[str, dict[str, Any]], None],
    ) -> None:
        """keep: called with (name, entry) as `fcdm.runs.benchmark_files` has them, after each measurement."""
        self.config, self.ceilings, self.device, self.note, self.keep = config, ceilings, device, note, keep
        self.seconds = seconds
        self.cost = run_cost(config)
        self.name = f"{config.model.name} {config.resolution}px"
        self.training: list[TrainingSpeed] = []
        self.entry: dict[str, Any] = {
            "name": self.name,
            "kind": config.model.kind,
            "like": benchmark_like(config),
            "precision": config.precision,
            "parameters": self.cost.parameters,
            "forward_macs": self.cost.forward_macs,
            "extractor": config.evaluation.features,
            "time": time.time(),
            "torch": str(torch.__version__),
            "revision": code_revision(),
            "ceilings": asdict(ceilings),
            "left_out": [],
        }

    def run(self, trace: Path | None = None) -> None:
        """Measure, and `keep`. trace: where the profiler's trace goes.

        Raises UserError where nothing at all could be measured.
        """
        users = isinstance(self.config.model, CustomConfig)  # which is given checkpointing when it is built
        try:
            with matmul_precision(self.config.precision), deterministic(self.config.deterministic, self.device):
                data = self._data()
                self.deadline = Deadline(self.seconds)
                self.trainer = Trainer(self.config, data, self.device)
                self._first()
                stages: list[tuple[str, Callable[[], None], float]] = [
                    ("sampling", self._sampling, 0.0),
                    ("operators", lambda: self._operators(trace), -math.inf),  # some steps more: always
                    *([] if users else [("activation checkpointing", self._checkpointed, 0.0)]),
                    ("features", self._features, 0.0),
                    *([("decoding", self._decoding, 0.0)] if decoding_macs(self.config) else []),
                ]
                if self.config.compile is not False:
                    stages.append(("compiled", self._compiled, COMPILE_S[self.device.type]))
                larger = [images for images in LARGER_BATCHES if self.images < images <= self.config.batch_size]
                stages += [(f"{images} images a pass", partial(self._larger, images), 0.0) for images in larger]
                stages.append(("the largest micro-batch", self._largest, 0.0))
                for what, stage, needed in stages:
                    self._try(what, stage, needed)
        finally:
            self.__dict__.pop("trainer", None)
            torch.compiler.reset()  # which keeps what it has compiled: the next model needs the memory
            free_memory(self.device)

    def _try(self, what: str, stage: Callable[[], None], needed_s: float) -> None:
        """One thing to measure. That it fails is said, and ends nothing: the others may tell all the same."""
        if self.deadline.left <= needed_s:
            self._leave_out(f"{what}: no time was left")
        else:
            try:
                stage()
            except _NotNow as reason:
                self._leave_out(f"{what}: {reason}")
            except torch.OutOfMemoryError:
                self._leave_out(f"{what}: out of memory")
            except ImportError as error:
                self._leave_out(f"{what}: needs {error.name}, which is not installed")
            except (RuntimeError, OSError, UserError) as error:  # no compiler, no deterministic variant, a full disk
                self._leave_out(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            free_memory(self.device)
        if self.training:
            training = [asdict(way) for way in self.training]
            seconds = time.time() - self.entry["time"]
            self.keep(benchmark_name(self.config), {**self.entry, "training": training, "seconds": seconds})

    def _leave_out(self, text: str) -> None:
        self.entry["left_out"].append(text)
        self.note(f"{self.name}: not measured: {text}")

    def _data(self) -> Dataset:
        """The run's own where it is here, else latents that mean nothing."""
        if self.config.data.downsample > 1:
            try:
                return open_dataset(self.config, self.device)
            except UserError:
                self.entry["data"] = "random latents in memory"
                return RandomLatents(self.config, self.device)
        return open_dataset(self.config, self.device)

    def _first(self) -> None:
        """Eager training on as many images as are usual, fewer where they do not fit."""
        self.images = min(self.config.micro_batch or self._usual(), self.config.batch_size)
        while self.images:
            self._try(f"{self.images} images a pass", lambda: self._train(self.images, False, False), -math.inf)
            if self.training:
                return
            self.images //= 2
        raise UserError(f"{self.name}: not even one image can be trained on: {self.entry['left_out'][-1]}")

    def _usual(self) -> int:
        if self.device.type != "cpu":
            return IMAGES
        affordable = max(1, int(CPU_FLOPS / self.cost.train_flops_per_image))
        return 1 << (affordable.bit_length() - 1)

    def _train(self, images: int, compiled: bool, checkpointing: bool) -> None:
        self.training.append(self.trainer.measure(images, compiled, checkpointing, self._share()))
        way = self.training[-1]
        self.note(f"{self.name}: {way.text}: {way.images_per_s:,.2f} images/s")

    def _share(self) -> float:
        """Seconds for one of the things to measure."""
        return max(0.1, self.deadline.left / 12)

    def _operators(self, trace: Path | None) -> None:
        step_s = self.training[0].images / self.training[0].images_per_s
        seen = profile_step(lambda: self.trainer.step(self.images, False, False), self.device, step_s, trace)
        self.entry["operators"] = [asdict(operator) for operator in seen.operators]
        self.entry["launches"], self.entry["busy"] = seen.launches, seen.busy
        if isinstance(self.config.model, CustomConfig):
            return
        expected = training_roofline(
            lambda: build_model(self.config.model, **shape_of(self.config)), self.config, self.images
        )
        self.entry["expected"] = expected.described(self.ceilings, self.config.precision)
        phases = self.training[0].phases_s
        self.entry["limit"] = what_limits(phases, seen, expected, self.ceilings, self.config.precision)

    def _checkpointed(self) -> None:
        self._train(self.images, False, True)

    def _compiled(self) -> None:
        self._train(self.images, True, False)

    @property
    def _evaluated(self) -> int:
        """Images at a time in evaluation: no more than training has been seen to have room for."""
        return min(self.config.evaluation.batch_size, self.images)

    def _sampling(self) -> None:
        model, macs = self.trainer.state.ema, self.cost.forward_macs
        found = measure_sampling(model, self.config, macs, self.device, self._evaluated, self.deadline.left / 4)
        self.entry["sampling"] = [asdict(way) for way in found]

    def _features(self) -> None:
        found = measure_features(self.config, extractor_macs(self.config), self.device, self._evaluated, self._share())
        self.entry["features"] = asdict(found)

    def _decoding(self) -> None:
        macs = decoding_macs(self.config)
        found = measure_decoding(self.config, macs, self.device, self._evaluated, self._share())
        self.entry["decoding"] = asdict(found)

    def _larger(self, images: int) -> None:
        """In the way that was the fastest so far."""
        best = max(self.training, key=lambda way: way.images_per_s)
        needed = 4 * images / best.images_per_s + best.compiled * COMPILE_S[self.device.type]
        if self.deadline.left <= needed:
            raise _NotNow(f"would take about {duration_text(needed)}, and {duration_text(self.deadline.left)} are left")
        self._train(images, best.compiled, best.activation_checkpointing)

    def _largest(self) -> None:
        slowest = min(way.images_per_s for way in self.training)
        most = max(1, int(slowest * self.deadline.left / 4))
        largest = {}
        for name, checkpointing in (("plain", False), ("checkpointed", True)):
            ran = max((way.images for way in self.training if way.activation_checkpointing == checkpointing), default=0)
            found = LargestBatch(ran, False) if most <= ran else self.trainer.largest_batch(checkpointing, most)
            largest[name] = asdict(found)
        self.entry["largest_micro_batch"] = largest
