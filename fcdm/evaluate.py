"""`python -m fcdm.evaluate ...`: evaluates a run, a checkpoint, a public file or anybody's samples.

The same command again continues, or shows what is there. Under torchrun, or `srun` with several tasks, the processes
share the work.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcdm.atomic import read_json
from fcdm.config.spaces import DINOV2, OF_ANY_IMAGES
from fcdm.engine.stop import StopSignal, end_process
from fcdm.errors import UserError
from fcdm.paths import place
from fcdm.runs.processes import is_first_process

if TYPE_CHECKING:
    from fcdm.engine.worker import Worker
    from fcdm.images.image_stream import Images
    from fcdm.runs.folder import Run
    from fcdm.sweep.sampling_config import Words

HELP = """python -m fcdm.evaluate SOURCE key=value ...
python -m fcdm.evaluate samples=IMAGES reference=IMAGES
python -m fcdm.evaluate calibrate samples=FILE.npz reference=FILE.npz

Evaluates weights, or samples that somebody drew. The same command again continues, or shows what is there.

SOURCE
  a run's folder, name, or 4 or more digits of its id: all its budgets that have a checkpoint; with @400: that step.
      The result is an evaluation of the run as training's own, under runs/<run>/evaluations/ and in MLflow
  0400000.pt, *.pth, *.ckpt, *.safetensors: a file of the public DiT or FCDM code, or ours, with model= and resolution=.
      The result is a JSON file in results/ (out=FOLDER)

keys
  samples, seed, sampler, sampling_steps, guidance_scale, guidance_channels, guidance_interval, labels, weights,
  precision, features, features_options.NAME, dinov2, reference, decoder, batch_size, clip_denoised: as evaluation.* of
  python -m fcdm.train; what is not said is as in the recipe of the run's data
  data.path=STORE device=auto threads=N runs_dir=runs mlflow_uri=off
  --config-dir DIR: where a model of your own has its model/NAME.yaml

samples=IMAGES
  FID, sFID, Inception Score, precision and recall of anybody's images, read as a stream and never resized: a folder of
  images of any layout, a folder of python -m fcdm.sample, an .npz (arr_0, arr, or its one array) or a .npy; uint8, or
  floats with range=0..1, -1..1 or 0..255; (N, side, side, 3 or 1) or (N, 3 or 1, side, side), and layout=NHWC or NCHW
  where the shape does not tell.
  reference=: statistics in ADM's format, or real images in any of these forms (floats: python -m fcdm.prepare
  reference), of which statistics are made once, cropped to the samples' side, and kept beside them.
  features=inception, dinov2, dinov2-pil, pixels, or several of one reading: 'features=[inception,dinov2]'
  dinov2=MODEL: of dinov2 and dinov2-pil, a hub id or a folder
  shuffle=SEED: before the Inception Score's splits, where the samples come class by class; batch_size=64 out=results

calibrate
  ADM's published samples against its published reference: exit code 1 where a metric is further off than its tolerance.
  published=values.json: the values of another batch; without, other samples than ADM's are refused

examples
  python -m fcdm.evaluate 6fbb@400 samples=50000 sampler=ddpm sampling_steps=250
  python -m fcdm.evaluate 6fbb guidance_scale=1.5
  python -m fcdm.evaluate DiT-XL-2-256x256.pt model=dit/XL-2 resolution=256 reference=VIRTUAL_imagenet256_labeled.npz
  python -m fcdm.evaluate samples=samples/mine reference=VIRTUAL_imagenet256_labeled.npz
  python -m fcdm.evaluate samples=generated.npy range=-1..1 reference=/data/photos
  torchrun --standalone --nproc-per-node 8 -m fcdm.evaluate 6fbb samples=50000
"""

OF_IMAGES = ("samples", "reference", "batch_size", "out", "range", "layout")
DRAWN = "samples that are drawn already"


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 once it is evaluated, 1 after a one-line message or a calibration that is off, 3 where
    another process is at it."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    from fcdm.sample import told

    return told("fcdm.evaluate", lambda: _run(words))


def _run(words: list[str]) -> int:
    from fcdm.sweep.sampling_config import ALL, take_apart

    if words[0] == "calibrate":
        return _calibrate(take_apart(words[1:], (*OF_IMAGES, "published"), (), DRAWN, ALL))
    given = [word.removeprefix("samples=") for word in words if word.startswith("samples=")]
    if given and _names_images(given[-1]):
        asked = take_apart(words, (*OF_IMAGES, "shuffle", "features", "dinov2"), (), DRAWN, ALL)
        if asked.source is not None:
            raise UserError(f"{asked.source} and samples={given[-1]}: one thing to evaluate at a time")
        with short_keys():
            results = _samples(asked)
        for path in results:
            _show(path)
        return 0
    asked = take_apart(words, ("out",), (), "an evaluation by itself")
    if asked.source is None:
        missing = f"samples={given[-1]} is no file or folder that is there, and no source is named: " if given else ""
        raise UserError(
            f"{missing}say what to evaluate: a run, a checkpoint, a file of weights, or samples=<a folder, .npz or "
            ".npy of images>; --help shows examples"
        )
    _weights(asked)
    return 0


def _names_images(text: str) -> bool:
    """Whether `samples=` names a file or folder; else it is their number, such as 50_000."""
    return text.endswith((".npz", ".npy")) or (not text.replace("_", "").isdigit() and place(text).exists())


def _weights(asked: Words) -> None:
    from fcdm.config.conditions import check_labels
    from fcdm.runs.find_weights import SUFFIXES, find_run_named, find_weights
    from fcdm.runs.run_paths import step_of
    from fcdm.sweep.sampling_config import run_config, source_config, spaces_said, value_of

    assert asked.source is not None
    runs_dir = value_of(asked.overrides, "runs_dir") or "runs"
    path = place(asked.source)
    _, at, step = asked.source.rpartition("@")
    one_step = (at and step.isdigit() and not path.is_dir()) or step_of(path.name) is not None
    if path.suffix in SUFFIXES or one_step:
        weights = find_weights(asked.source, runs_dir)
        if weights.run is None:
            if (value_of(asked.overrides, "mlflow_uri") or "off") != "off":
                raise UserError("mlflow_uri has no effect on the evaluation of a file, which stands in results/")
            configs = [source_config(weights, words) for words in spaces_said(asked.overrides)]
            _make_classifiers(configs)
            with worker_of(configs[0].device, configs[0].threads) as worker:
                from fcdm.engine.evaluate_files import evaluate_weights

                results = evaluate_weights(weights, configs, _out(asked), worker)
            for result in results:
                _show(result)
            return
        run, steps = weights.run, [weights.step or 0]
    else:
        run = find_run_named(asked.source, runs_dir)
        steps = _budgets(run)
    if "out" in asked.own:
        raise UserError("out= is for files: a run's evaluations stand in its folder")
    configs = [run_config(run, words) for words in spaces_said(asked.overrides)]
    for config in configs:
        check_labels(config)
        config.steps = steps
        config.runs_dir = str(run.folder.parent)
    _evaluate_run(run, configs)


def _make_classifiers(configs: list[Any]) -> None:
    """Those of the stores that a file's configurations name, before anything is named by them. Raises UserError."""
    from fcdm.data.dataset import data_checksum
    from fcdm.jobs.store_classifier import make_classifiers

    asked = [config for config in configs if config.evaluation.features == "classifier"]
    for config in asked:
        config.data.checksum = data_checksum(config.data, config.resolution)
    make_classifiers(asked)


def _budgets(run: Run) -> list[int]:
    """What studies asked of the run, as far as checkpoints of it are kept; else all that are. Raises UserError."""
    from fcdm.runs.checkpoints import checkpoints
    from fcdm.runs.reader import budgets_asked_of

    kept = [step for step, _ in checkpoints(run.checkpoints)]
    asked = budgets_asked_of(run)
    found = [step for step in kept if step in asked] or kept
    if not found:
        raise UserError(f"{run.folder} has no checkpoint (yet): train it first, with the command that made it")
    return found


def _evaluate_run(run: Run, configs: list[Any]) -> None:
    """As a job of its own does it: the claim, the evaluation files and MLflow are those of `evaluation=job`."""
    from fcdm.jobs.job import EVALUATE, Job
    from fcdm.jobs.run_job import do_here
    from fcdm.jobs.store_classifier import make_classifiers
    from fcdm.runs.protocol import Part

    make_classifiers(configs)
    job = Job(run.id, run.folder, tuple(map(Part, configs)), work=EVALUATE)
    if job.left():
        _tell([(job.config, step) for step in job.left()])
        from fcdm.tracking.background import forwarding

        do_here(job, forwarding(job.config, only=run.name))
    if is_first_process():
        for step in job.budgets:
            for part in job.parts:
                path = run.evaluation(step, part.protocol_id)
                if path.exists():
                    _show(path)


def _tell(evaluations: list[tuple[Any, int]]) -> None:
    """Whether an average that is evaluated still is what training began from."""
    from fcdm.config.ema_lag import lag_warning

    if is_first_process() and (warning := lag_warning(evaluations)):
        print(f"warning: {warning}", file=sys.stderr)


def _samples(asked: Words, check: Callable[[Images, Path], None] | None = None) -> list[Path]:
    """Evaluates images; a result for each space. check: raises UserError for images that it is not meant for."""
    from fcdm.features.find_reference import is_statistics, reference_images
    from fcdm.features.inception_weights import find_weights as find_inception
    from fcdm.features.space import INCEPTION, Space
    from fcdm.images.open_images import open_images
    from fcdm.sweep.sampling_config import value_of

    own = asked.own
    if "reference" not in own:
        raise UserError(
            "say reference=<statistics in ADM's format, such as VIRTUAL_imagenet256_labeled.npz, or a folder, .npz or "
            ".npy of real images>"
        )
    spaces = [Space(name, own.get("dinov2") if name in DINOV2 else None) for name in _spaces(own.get("features"))]
    if "dinov2" in own and not any(space.name in DINOV2 for space in spaces):
        raise UserError(f"dinov2={own['dinov2']} has no effect: say features=dinov2 too, or leave it away")
    if "shuffle" in own and INCEPTION not in spaces:
        raise UserError(
            f"shuffle={own['shuffle']} has no effect: it is before the Inception Score's splits, and inception is not "
            "among the features: leave it away"
        )
    samples = open_images(place(own["samples"]), own.get("range"), own.get("layout"))
    reference = place(own["reference"])
    if not is_statistics(reference):
        reference_images(reference, samples.height)
    if check:
        check(samples, reference)
    if INCEPTION in spaces:
        find_inception()
    threads = _number("threads", value_of(asked.overrides, "threads"), 1)
    batch_size = _number("batch_size", asked.own.get("batch_size"), 1) or 64
    order = _number("shuffle", asked.own.get("shuffle"), 0)
    with worker_of(value_of(asked.overrides, "device") or "auto", threads) as worker:
        from fcdm.engine.evaluate_files import evaluate_samples

        return evaluate_samples(samples, reference, _out(asked), worker, batch_size, order, spaces)


def _spaces(text: str | None) -> list[str]:
    """The spaces of features that `features=` names for samples; None: Inception's. Raises UserError."""
    from fcdm.config.check import near
    from fcdm.sweep.sampling_config import spaces_said, value_of

    if text is None:
        return ["inception"]
    key = "evaluation.features"
    names = [value_of(words, key) or "" for words in spaces_said([f"{key}={text}"])]
    for name in names:
        if name not in OF_ANY_IMAGES:
            raise UserError(f"features={name} does not fit samples that are drawn already: {near(name, OF_ANY_IMAGES)}")
    return names


def _calibrate(asked: Words) -> int:
    from fcdm.features.calibration import check_batch, compare, missing_files, published_values

    if asked.source is not None:
        raise UserError(f"{asked.source}: calibrate takes samples= and reference=")
    if missing := missing_files(asked.own.get("samples"), asked.own.get("reference")):
        raise UserError(missing)
    own_values = asked.own.get("published")
    published = published_values(own_values)
    with short_keys():
        (path,) = _samples(asked, check_batch if own_values is None else None)
    if not is_first_process():
        return 0
    lines = compare(read_json(path)["metrics"], published)
    print(f"{'metric':16} {'published':>10} {'here':>10} {'allowed':>10}")
    for line in lines:
        verdict = "agrees" if line.agrees else "OFF"
        print(f"{line.metric:16} {line.published:10.4f} {line.found:10.4f} {'±':>3}{line.allowed:7.4f}  {verdict}")
    return 0 if all(line.agrees for line in lines) else 1


@contextlib.contextmanager
def short_keys() -> Iterator[None]:
    """Errors name the keys of a command that composes no configuration: `dinov2=`, not `evaluation.dinov2=`."""
    try:
        yield
    except UserError as error:
        raise UserError(re.sub(r"\bevaluation\.(dinov2|features|reference)\b", r"\1", str(error))) from None


@contextlib.contextmanager
def worker_of(device: str, threads: int | None, stop: StopSignal | None = None) -> Iterator[Worker]:
    """This process at work, with all that it needs around it; one of several under torchrun or `srun`.

    stop: where a signal is told of in other words.
    """
    import torch

    from fcdm.engine.distributed import Ranks
    from fcdm.engine.worker import Worker
    from fcdm.jobs.image_progress import BarProgress

    if threads is not None:
        torch.set_num_threads(threads)
    with stop or StopSignal() as stop, contextlib.ExitStack() as stack:
        ranks = Ranks.from_environment(device, stop)
        stack.callback(ranks.close)
        with BarProgress(ranks.world_size, quiet=not ranks.is_main) as progress:
            yield Worker(ranks, progress, stop)
            ranks.barrier()


def _show(path: Path) -> None:
    if not is_first_process():
        return
    metrics = read_json(path)["metrics"]
    print(f"{path}:\n  " + "  ".join(f"{key} {float(value):.4f}" for key, value in metrics.items()))


def _out(asked: Words) -> Path:
    return place(asked.own.get("out", "results"))


def _number(key: str, text: str | None, low: int) -> int | None:
    """What is said of the key; None: nothing. Raises UserError."""
    if text is None:
        return None
    if not text.isdigit() or int(text) < low:
        raise UserError(f"{key}={text} cannot be: a whole number, at least {low}")
    return int(text)


if __name__ == "__main__":
    end_process(main)
