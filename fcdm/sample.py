"""`python -m fcdm.sample SOURCE key=value ...`: images from a run, a checkpoint or a public file.

The same command again continues. Under torchrun, or `srun` with several tasks, the processes share the work.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcdm.engine.stop import StopSignal, end_process
from fcdm.errors import UserError, traceback_text
from fcdm.paths import place

if TYPE_CHECKING:
    from fcdm.config.schema import Config
    from fcdm.runs.find_weights import Weights

HELP = """python -m fcdm.sample SOURCE key=value ...

Draws samples and keeps them: samples.npz in ADM's format (arr_0: images, arr_1: labels), or PNGs, always with a
picture of the first ones (grid.png) and the whole protocol (samples.json). The same command again continues; the i-th
sample depends on (seed, i) only, whatever the batch size and the number of processes.

SOURCE
  runs/N-digits-8px-6fbbfea8, its name, or 4 or more digits of its id: a run's newest checkpoint, which is another one
      while the run still trains, and then another request; with @400: that step's, which stays
  runs/<run>/checkpoints/step-00000400                                  a checkpoint
  0400000.pt, *.pth, *.ckpt, *.safetensors                              a file of the public DiT or FCDM code, or ours

keys
  out=FOLDER            where to (default: samples/<source>-<hash of the request>)
  format=npz            npz, png, or npz,png
  label=207             all of one class: its number, or its name in the store (label=faces; label=name:11 where
                        names are numbers)
  samples, seed, sampler, sampling_steps, guidance_scale, guidance_channels, guidance_interval, labels (uniform,
  balanced), weights (ema, raw, power:0.08), precision, decoder, batch_size, clip_denoised: as evaluation.* of
  python -m fcdm.train; what is not said is as in the recipe of the run's data
  model=XL resolution=256 objective=flow: of a file, which does not say so itself
  --config-dir DIR      where a model of your own has its model/NAME.yaml
  device=auto threads=N runs_dir=runs
  --dry-run             say what it would take, and do nothing

examples
  python -m fcdm.sample N-digits-8px-6fbbfea8 samples=1000
  python -m fcdm.sample 6fbb@400 samples=64 label=3 format=png out=threes
  python -m fcdm.sample DiT-XL-2-256x256.pt model=dit/XL-2 resolution=256 samples=50000 guidance_scale=1.5
  torchrun --standalone --nproc-per-node 8 -m fcdm.sample 6fbb samples=50000
  srun --ntasks 8 --gpus-per-task 1 python -m fcdm.sample 6fbb samples=50000
"""
OWN = ("out", "format", "label")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 once all is there, 1 after a one-line message, 3 where another process is at it."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    return told("fcdm.sample", lambda: _run(words))


def told(program: str, run: Any) -> int:
    """Runs a command; what goes wrong in what the user asked for becomes one line."""
    from fcdm.runs.run_lock import RunHeld
    from fcdm.sweep.hydra_errors import is_users, one_line

    try:
        return int(run() or 0)
    except RunHeld as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 3
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            print(f"{program}: out of GPU memory: the same command with a smaller batch_size= goes on", file=sys.stderr)
            return 1
        if not is_users(error):
            print(traceback_text(error), end="", file=sys.stderr)
        print(f"{program}: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program}: interrupted; the same command continues", file=sys.stderr)
        return 130


def _run(words: list[str]) -> int:
    from fcdm.config.conditions import check_labels
    from fcdm.data.class_names import find_class
    from fcdm.formatting import printable
    from fcdm.runs.find_weights import find_weights
    from fcdm.runs.processes import is_first_process
    from fcdm.sweep.sampling_config import DRAWING, source_config, take_apart, value_of

    asked = take_apart(words, OWN, ("dry-run",), "samples that are only drawn", DRAWING)
    if asked.source is None:
        raise UserError("say what to sample: a run, a checkpoint or a file; --help shows examples")
    weights = find_weights(asked.source, value_of(asked.overrides, "runs_dir") or "runs")
    text, labels = asked.own.get("label"), value_of(asked.overrides, "evaluation.labels")
    if text is not None and labels is not None:
        raise UserError(f"labels={labels} has no effect where label={text} is all of them: say one of the two")
    if weights.run is not None and text is None and value_of(asked.overrides, "data.path") is not None:
        raise UserError("data.path has no effect on samples of a run but for label=NAME: leave it away")
    config = source_config(weights, asked.overrides)
    if config.evaluation.samples == 0:
        raise UserError("samples=0 draws nothing: say how many, samples=64")
    formats = asked.own.get("format", "npz").split(",")
    if not set(formats) <= {"npz", "png"}:
        raise UserError(f"format={asked.own['format']} is not known: npz, png, or npz,png")
    label = name = None
    if text is not None:
        label, name = find_class(text, config.data)
    if weights.run:
        check_labels(config, label)
    request = _request(weights, config, label, formats)
    out = place(asked.own["out"]) if asked.own.get("out") else _folder(weights, request)
    if is_first_process():
        for line in _forecast(weights, config, formats, out):
            print(line, flush=True)
        if label is not None:
            unknown = "whose name the store knows (data.path=STORE)"
            print(f"all of class {label}, {unknown if name is None else printable(name)}", flush=True)
    if "dry-run" in asked.flags:
        return 0
    with StopSignal() as stop:
        _sample(weights, config, (label, name), formats, request, out, stop)
    return 0


def _request(weights: Weights, config: Config, label: int | None, formats: list[str]) -> dict[str, Any]:
    """What the samples are, not how they are made, and of no file's name: equal requests give equal files."""
    from dataclasses import asdict

    from fcdm.runs.protocol import sampling_protocol

    protocol = sampling_protocol(config)
    if label is not None:
        protocol["labels"] = label
    side = config.resolution
    channels = config.data.channels if config.data.downsample == 1 else 3
    return {
        "source": weights.id,
        "model": asdict(config.model),
        "diffusion": asdict(config.diffusion),
        "resolution": config.resolution,
        "classes": config.data.classes,
        "shape": [config.evaluation.samples, side, side, channels],
        "protocol": protocol,
        "formats": sorted(set(formats)),
    }


def _folder(weights: Weights, request: dict[str, Any]) -> Path:
    from fcdm.atomic import plain
    from fcdm.runs.identity import identifying, short_hash

    name = weights.name.removesuffix(weights.path.suffix)
    return Path("samples") / f"{name}-{short_hash(identifying(plain(request)))}"


def _forecast(weights: Weights, config: Config, formats: list[str], out: Path) -> list[str]:
    """What it takes, before anything is drawn."""
    from fcdm.config.ema_lag import lag_warning
    from fcdm.config.samplers import ADAPTIVE
    from fcdm.cost.model_cost import sampling_passes
    from fcdm.formatting import bytes_text
    from fcdm.plan.estimate import ADAPTIVE_CALLS, evaluation_flops

    asked = config.evaluation
    side, channels = config.resolution, config.data.channels if config.data.downsample == 1 else 3
    steps, about = (ADAPTIVE_CALLS, "about ") if asked.sampler in ADAPTIVE else (asked.sampling_steps, "")
    guided = asked.guidance_scale != 1.0
    weak = guided and asked.guidance_weak is not None
    passes = asked.samples * sampling_passes(asked.sampler, steps, 1.0 if weak else asked.guidance_scale)
    flops = evaluation_flops(config)["sampling"]
    how = asked.sampler + ("" if about else f", {asked.sampling_steps} steps")
    if guided:
        how += f", guidance {asked.guidance_scale:g}" + (" by a weaker model" if weak else "")
    size = asked.samples * side * side * channels
    largest = size * (1 + ("npz" in formats)) + (size if "png" in formats else 0)
    lines = [
        f"{weights.name}: model {config.model.name} ({asked.weights}), {how}",
        f"{asked.samples:,} samples of {side}x{side}x{channels}: {about}{passes:,} forward passes of one image"
        f"{' and as many of the weaker model' if weak else ''}, {flops:.3g} FLOPs; {bytes_text(size)} of pixels, "
        f"up to {bytes_text(largest)} on disk while they are put together -> {out}",
    ]
    if weights.run and weights.step is not None and (warning := lag_warning([(config, weights.step)])):
        lines.append(f"warning: {warning}")
    folder = next(place for place in (out, *out.absolute().parents) if place.is_dir())
    if (free := shutil.disk_usage(folder).free) < largest:
        lines.append(f"warning: {folder} has {bytes_text(free)} free")
    return lines


def _sample(
    weights: Weights,
    config: Config,
    label: tuple[int | None, str | None],
    formats: list[str],
    request: dict[str, Any],
    out: Path,
    stop: StopSignal,
) -> None:
    import contextlib

    import torch

    from fcdm.engine.distributed import Ranks
    from fcdm.engine.environment import matmul_precision
    from fcdm.engine.load_model import open_model
    from fcdm.engine.sample_files import SampleFolder, draw, facts_of, put_together
    from fcdm.engine.sampler import Sampler
    from fcdm.engine.worker import Worker
    from fcdm.jobs.image_progress import BarProgress

    began = time.monotonic()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    ranks = Ranks.from_environment(config.device, stop)
    folder = SampleFolder(out, config.evaluation.samples)

    def is_done() -> bool:
        return folder.is_done(request) and not folder.parts.exists()

    def tidy() -> None:
        if folder.is_done(request):  # killed at its very end
            folder.tidy()

    with contextlib.ExitStack() as stack:
        stack.callback(ranks.close)
        progress = stack.enter_context(BarProgress(ranks.world_size, quiet=not ranks.is_main))
        worker = stack.enter_context(Worker(ranks, progress, stop).claiming([out], is_done, tidy))
        if worker is not None:
            sampler = Sampler(
                open_model(weights, config, ranks.device), config, ranks.device, label[0], interrupt=worker.interrupt
            )
            if ranks.is_main:  # not before the weights have proven to fit
                folder.take(request)
            with matmul_precision(config.evaluation.precision), torch.no_grad():
                draw(folder, sampler, config.evaluation.batch_size, "png" in formats, worker)
                if ranks.is_main:
                    seconds = time.monotonic() - began
                    facts = facts_of(
                        request,
                        seconds,
                        name=weights.name,
                        device=str(ranks.device),
                        processes=ranks.world_size,
                        **({"class": {"number": label[0], "name": label[1]}} if label[0] is not None else {}),
                    )
                    put_together(folder, sampler, "npz" in formats, facts, worker.beat)
            ranks.barrier()
    if ranks.is_main:
        print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir() if path.name[0] not in '.h'))}")


if __name__ == "__main__":
    end_process(main)
