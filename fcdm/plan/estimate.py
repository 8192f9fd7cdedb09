"""What a job will take: FLOPs, hours on its processors, memory, starts under its time limit.

Training FLOPs are `fcdm.cost`'s; sampling is `samples x calls of the sampler` forward passes (twice under guidance)
for each budget and protocol, then decoding and features of each sample. Hours follow from the FLOPs and a pace:
measured where runs like this one have records, else a share (MFU) of the GPU's peak. CPUs are never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from fcdm.config.samplers import ADAPTIVE
from fcdm.config.schema import Config
from fcdm.cost.model_cost import FLOAT_BYTES, FLOPS_PER_MAC, sampling_passes
from fcdm.errors import UserError
from fcdm.formatting import flops_text
from fcdm.plan.evaluation_flops import decoding_macs, features_macs, losses_macs, metrics_macs, weak_macs
from fcdm.plan.gpus import DEFAULT_GPU, DEFAULT_MFU, Device, device_named, known_device
from fcdm.runs.benchmark_files import Benchmarks, Rate
from fcdm.runs.protocol import samples_key
from fcdm.runs.run_cost import average_bytes, checkpoint_bytes, run_cost
from fcdm.runs.throughput import Speed, Speeds, alike
from fcdm.slurm.options import SlurmOptions
from fcdm.slurm.resources import Resources, signal_delay

KINDS = ("training", "sampling", "decoding", "metrics")
EVALUATION = KINDS[1:]

START_UP_S = 30.0
"""Allowed for a job until it trains: importing torch, reading the checkpoint (5 s from a warm local disk)."""

PROCESS_BYTES = 500_000_000
"""Of a process on CPUs besides state and activations: Python, torch and scikit-learn take 0.45 GB."""

GPU_PROCESS_BYTES = 4_000_000_000
"""Of host memory, for a process that computes on a GPU. Assumed: 0.5 GB as above; 2 to 3 GB for CUDA's context and the
libraries (cuBLAS, cuDNN, NCCL) that it loads into the process; the rest for pinned batches and features of samples."""


@dataclass(frozen=True)
class Pace:
    """How many FLOP/s one process makes at one precision, and how that is known."""

    flops_per_s: float
    text: str
    assumed: bool = False
    """Nobody has measured anything that it follows from."""


@dataclass(frozen=True)
class Cost:
    """FLOPs by kind, and seconds of one process by kind; None: nothing is known about its pace."""

    flops: Mapping[str, float]
    seconds: Mapping[str, float | None]

    def total_flops(self) -> float:
        return sum(self.flops.values())

    def hours(self, kinds: Iterable[str] = KINDS) -> float | None:
        """GPU-hours (on CPUs: hours of processes) of these kinds; None where one of them is not known."""
        seconds = [self.seconds[kind] for kind in kinds]
        known = [value for value in seconds if value is not None]
        return sum(known) / 3600 if len(known) == len(seconds) else None


@dataclass(frozen=True)
class Memory:
    """Of one process while it trains, in bytes."""

    fixed: int
    per_image: int
    images: int
    """Per forward pass."""

    @property
    def total(self) -> int:
        return self.fixed + self.per_image * self.images


class Paces:
    """The paces of a command's runs; without `guess`, measured ones only. Raises UserError for an unknown GPU."""

    def __init__(
        self,
        gpu: str | Device | None,
        mfu: float | None,
        speeds: Speeds,
        benchmarks: Benchmarks,
        guess: bool = True,
    ) -> None:
        if mfu is not None and not 0 < mfu <= 1:
            raise UserError(f"hydra.launcher.mfu={mfu} cannot be: a share of the GPU's peak, more than 0 and at most 1")
        self.guess = guess
        self.named = device_named(gpu) if isinstance(gpu, str) else gpu
        self.device = self.named or device_named(DEFAULT_GPU)
        self.mfu = DEFAULT_MFU if mfu is None else mfu
        self.mfu_is_asked = mfu is not None
        self.speeds, self.benchmarks = speeds, benchmarks
        self._known: dict[tuple[object, ...], Pace | None] = {}

    def speed(self, config: Config, processes: int, on_gpu: bool) -> Speed | None:
        """The measured speed that tells most of this run: on the same kind of device, best with as many processes."""
        speeds = [speed for speed in self.speeds.measured(config) if (speed.device != "cpu") == on_gpu]
        if self.named is not None and on_gpu:
            speeds = [speed for speed in speeds if known_device(speed.device) == self.named]
        return next((speed for speed in speeds if speed.world_size == processes), speeds[0] if speeds else None)

    def rate(self, config: Config, kind: str, precision: str, on_gpu: bool) -> Rate | None:
        """What a benchmark says of this kind of work, on the GPU that is named where one is."""
        for rate in self.benchmarks.rates(config, kind, precision, run_cost(config).forward_macs):
            if (rate.device != "cpu") != on_gpu:
                continue
            if not on_gpu or self.named is None or known_device(rate.device) == self.named:
                return rate
        return None

    def of(self, config: Config, kind: str, where: Resources) -> Pace | None:
        """The pace of this kind of the run's work; None: on CPUs, where nothing was measured."""
        precision = config.precision
        if kind != "training":
            precision = computed_in(evaluation_precision(config, kind), where.gpus > 0)
        ways: tuple[object, ...] = config.activation_checkpointing, config.compile, config.micro_batch
        if kind != "training":
            ways = config.evaluation.guidance_scale != 1.0, config.evaluation.features
        key = (alike(config), kind, precision, ways, where.processes, where.gpus)
        if key not in self._known:
            self._known[key] = self._find(config, kind, precision, where.processes, where.gpus)
        return self._known[key]

    def _find(self, config: Config, kind: str, precision: str, processes: int, gpus: int) -> Pace | None:
        """From what tells most to what tells least: this work measured, its benchmark, its family's benchmark, a guess.

        A share of the peak that the user names (`hydra.launcher.mfu`) comes before the benchmark of another model.
        """
        speed = self.speed(config, processes, on_gpu=gpus > 0)
        measured = speed.per_process * run_cost(config).train_flops_per_image if speed else 0.0
        if speed and kind == "training":
            return Pace(measured, measured_text(config, speed, measured))
        rate = self.rate(config, kind, precision, on_gpu=gpus > 0)
        if rate is not None and rate.exact:
            return Pace(rate.flops_per_s, benchmark_text(rate, kind, precision))
        if speed and precision == computed_in(config.precision, gpus > 0):
            return Pace(measured, measured_text(config, speed, measured))
        if not gpus or not self.guess:
            return None if rate is None else Pace(rate.flops_per_s, benchmark_text(rate, kind, precision))
        device = known_device(speed.device) if speed else None
        if device is not None:
            mfu = measured / device.flops_per_s(config.precision)
            text = f"MFU {mfu:.2f} of the {device.name}'s peak in {precision}, as measured in {config.precision}"
            return Pace(mfu * device.flops_per_s(precision), text)
        if rate is not None and not self.mfu_is_asked:
            return Pace(rate.flops_per_s, benchmark_text(rate, kind, precision))
        peak = self.device.flops_per_s(precision)
        text = f"assumed MFU {self.mfu:g} of the {self.device.name}'s {peak / 1e12:g} TFLOP/s in {precision}"
        return Pace(self.mfu * peak, text, assumed=True)


def benchmark_text(rate: Rate, kind: str, precision: str) -> str:
    """`XL 256px benchmarked on NVIDIA H100 80GB HBM3: 247 TFLOP/s in bf16, MFU 0.31 of its measured peak`."""
    what = f"{rate.name}{'' if rate.exact else ' (the nearest of its family)'}"
    what = {"decoding": "the VAE", "metrics": "the feature extractor"}.get(kind, what)
    return (
        f"{what} benchmarked on {rate.place}: {flops_text(rate.flops_per_s)}FLOP/s in {precision}, "
        f"MFU {rate.share:.2f} of its measured peak"
    )


def measured_text(config: Config, speed: Speed, flops_per_s: float) -> str:
    """`S 256px: 1,234 images/s measured on 4 x NVIDIA A100 (MFU 0.21), run S-imagenet-256px-12345678`."""
    device = known_device(speed.device)
    mfu = f", MFU {flops_per_s / device.flops_per_s(config.precision):.2f}" if device else ""
    many = f"{speed.world_size} x " if speed.world_size > 1 else ""
    return (
        f"{config.model.name} {config.resolution}px batch {config.batch_size} {config.precision}: "
        f"{speed.images_per_s:,.0f} images/s measured on {many}{speed.place}{mfu} ({speed.run})"
    )


ADAPTIVE_CALLS = 36
"""Of `dopri5`, which takes the steps that it needs: 28 to 36 on mixtures of Gaussians at its default tolerances."""


def evaluation_flops(config: Config, samples_are_drawn: bool = False) -> dict[str, int]:
    """FLOPs of one evaluation, by kind; in a second space of features those of the same samples' features alone."""
    if samples_are_drawn:
        return {"sampling": 0, "decoding": 0, "metrics": FLOPS_PER_MAC * features_macs(config)}
    forward = run_cost(config).forward_macs
    asked = config.evaluation
    steps = ADAPTIVE_CALLS if asked.sampler in ADAPTIVE else asked.sampling_steps
    if asked.guidance_weak is None or asked.guidance_scale == 1.0:
        macs = sampling_passes(asked.sampler, steps, asked.guidance_scale) * forward
    else:
        macs = sampling_passes(asked.sampler, steps, 1.0) * (forward + weak_macs(config))
    return {
        "sampling": FLOPS_PER_MAC * asked.samples * macs,
        "decoding": FLOPS_PER_MAC * asked.samples * decoding_macs(config),
        "metrics": FLOPS_PER_MAC * metrics_macs(config, forward),
    }


def computed_in(precision: str, on_gpu: bool) -> str:
    """A CPU has no TF32: float32 is what it computes in where that is asked."""
    return "fp32" if precision == "tf32" and not on_gpu else precision


def evaluation_precision(config: Config, kind: str) -> str:
    """Samples are drawn under autocast where that is asked, decoded in float32 or TF32; features are always float32."""
    asked = config.evaluation.precision
    if kind == "sampling" or asked == "fp32":
        return asked
    return "tf32" if kind == "decoding" else "fp32"


def job_cost(
    config: Config,
    steps: int,
    evaluations: Iterable[tuple[Config, int]],
    paces: Paces,
    request: Resources,
    evaluation: Resources,
) -> Cost:
    """The cost of `steps` of training on `request` and of `evaluations` on `evaluation` (the same where inline).

    Those of one checkpoint that share their samples draw them once.
    """
    training = run_cost(config).train_flops(config.batch_size, steps)
    work = [("training", training, "training", config, request)]
    drawn: set[tuple[str, int]] = set()
    for part, step in evaluations:
        samples = samples_key(part), step
        found = evaluation_flops(part, samples in drawn)
        # Losses are forward passes of the model, which are as fast as those that draw samples.
        losses = 0 if samples in drawn else FLOPS_PER_MAC * losses_macs(part, run_cost(part).forward_macs)
        found["metrics"] -= losses
        work += [(kind, amount, kind, part, evaluation) for kind, amount in found.items()]
        work.append(("metrics", losses, "sampling", part, evaluation))
        drawn.add(samples)
    flops: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    seconds: dict[str, float | None] = dict.fromkeys(KINDS, 0.0)
    for kind, amount, as_fast_as, part, where in work:
        flops[kind] += amount
        so_far = seconds[kind]
        if amount and so_far is not None:
            pace = paces.of(part, as_fast_as, where)
            seconds[kind] = so_far + amount / pace.flops_per_s if pace else None
    return Cost(flops, seconds)


def memory(config: Config, processes: int) -> Memory:
    """What one process of training needs on its device: state, and activations of one forward pass."""
    share = math.ceil(config.batch_size / processes)
    fixed, per_image = run_cost(config).training_bytes_parts(config.precision, config.activation_checkpointing)
    fixed += average_bytes(config)
    return Memory(fixed, per_image, min(config.micro_batch or share, share))


def process_memory(config: Config, request: Resources) -> Memory:
    """`memory` of a job's process on a GPU; on CPUs all of its memory: also Python, and the copy of the state that is
    written to disk."""
    need = memory(config, request.processes)
    if request.gpus_per_node:
        return need
    return replace(need, fixed=need.fixed + PROCESS_BYTES + checkpoint_bytes(config))


def host_bytes(config: Config, request: Resources, trains: bool = True) -> int:
    """Host memory that a job on GPUs needs on one node, its first.

    That of its processes, and the larger of two things that come one after the other: each process draws or reads its
    model on the CPU (two copies of the weights for a moment); the first holds the copy of the state that is written to
    disk. A resume reads each tensor from the mapped file, whose pages the kernel may take back.
    """
    models = 2 * FLOAT_BYTES * run_cost(config).parameters * request.tasks_per_node
    copy = checkpoint_bytes(config) if trains else 0
    return GPU_PROCESS_BYTES * request.tasks_per_node + max(models, copy)


def useful_seconds(request: Resources, options: SlurmOptions, saved_bytes: int) -> float:
    """Seconds of work in one start: without start-up, and until SLURM signals that the end is near.

    saved_bytes: what is written then (`fcdm.runs.run_cost.saved_bytes`; of an evaluation nothing that counts).
    """
    return request.seconds - START_UP_S - signal_delay(request, options, saved_bytes)


def starts(seconds: float | None, request: Resources, options: SlurmOptions, saved_bytes: int) -> int | None:
    """How often a job must be started for so many seconds of work; None: not known, or it never gets anywhere."""
    useful = useful_seconds(request, options, saved_bytes)
    return None if seconds is None or useful <= 0 else max(1, math.ceil(seconds / useful))
