"""Evaluates what is no run's: a file of weights, or samples that somebody drew. One result, one JSON file, once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fcdm.atomic import write_atomic, write_json
from fcdm.config.schema import Config
from fcdm.data.dataset import data_checksum, open_dataset
from fcdm.engine.distributed import Ranks
from fcdm.engine.draw_and_measure import draw_for_all, save_all
from fcdm.engine.environment import matmul_precision
from fcdm.engine.evaluate import evaluate
from fcdm.engine.image_grid import png
from fcdm.engine.load_model import open_model
from fcdm.engine.reference_statistics import open_reference
from fcdm.engine.stop import Stopped
from fcdm.engine.streamed_metrics import ReferenceMeasure, result_of
from fcdm.engine.worker import Worker, in_batches
from fcdm.errors import UserError
from fcdm.features.find_reference import is_statistics, reference_identity, refuse_other_statistics
from fcdm.features.reference import Reference, read_reference
from fcdm.features.sample_statistics import KEEP, check_resolution
from fcdm.features.space import INCEPTION, Space, compared_with
from fcdm.images.image_stream import Images
from fcdm.images.listing import content_sha256
from fcdm.images.look import LOOKED, is_grey, notes_on
from fcdm.metrics.inception_score import shuffled
from fcdm.runs.find_weights import Weights
from fcdm.runs.identity import identifying, science, short_hash
from fcdm.runs.protocol import protocol_id, protocol_of
from fcdm.runs.revision import code_revision

OF_DATA = ("channels", "classes", "downsample", "checksum", "normalisation")
"""Of the data, what a file's result depends on."""


def evaluate_weights(weights: Weights, configs: Sequence[Config], out: Path, worker: Worker) -> list[Path]:
    """The result of a file's weights under each configuration's protocol, made unless it is there. Raises Stopped.

    The configurations differ in what is measured of the samples, which are drawn once. Raises UserError after
    the others are there where one cannot be had.
    """
    asked = [_Asked(weights, config) for config in configs]
    names = [one.name for one in asked]
    with _once(out, names, worker) as worker_here:
        if worker_here is not None:
            ranks, config = worker.ranks, configs[0]
            stands = ranks.first_does(lambda: _standing(out, names))
            left = [one for one, done in zip(asked, stands, strict=True) if not done]
            data = open_dataset(config, ranks.device) if asked[0].has_data else None
            if data is None and ranks.is_main:
                worker.progress.note(f"no store at {config.data.path}, so no held-out loss; all else needs none")
            model = open_model(weights, config, ranks.device)
            with matmul_precision(config.evaluation.precision):
                size = config.evaluation.batch_size
                measured = {_partial(out, one.name, ranks, size): one.config for one in left}
                refused = []
                for one, result in zip(left, evaluate(model, measured, data, 0, worker_here), strict=True):
                    if isinstance(result, UserError):
                        refused.append(str(result))
                    elif ranks.is_main:
                        if len(result.grid):
                            write_atomic(out / f"{one.name}.png", png(result.grid))
                        _write(out / f"{one.name}.json", one.content | result.content, result.seconds)
                refusal = UserError(f"{'; '.join(refused)} (what else was asked for is in {out})") if refused else None
                ranks.refuse_together(refusal if ranks.is_main else None)
    return [out / f"{name}.json" for name in names]


class _Asked:
    """One result that is asked of a file: its name, and what it says besides what was measured."""

    def __init__(self, weights: Weights, config: Config) -> None:
        self.config = config
        if compared_with(config) == "store":  # in the protocol then
            config.data.checksum = data_checksum(config.data, config.resolution)
        protocol = protocol_of(config)
        data = config.data
        self.has_data = data.name == "digits" or data.path is None or Path(data.path).exists()
        if self.has_data:
            config.data.checksum = data_checksum(config.data, config.resolution)
        evaluated = _evaluated(weights, config)
        # The protocol's readable half, and one hash of it with all that the command line says of the file.
        name = f"{protocol_id(protocol).rpartition('-')[0]}-{short_hash({**evaluated, 'protocol': protocol})}"
        self.name = f"weights-{weights.id.removeprefix('sha256:')[:8]}-{name}"
        self.content: dict[str, Any] = {
            "file": weights.path.name,
            "model": config.model.name,
            "judged": evaluated,
            "protocol_id": protocol_id(protocol),
            "protocol": protocol,
        }


def _evaluated(weights: Weights, config: Config) -> dict[str, Any]:
    """What a file's result depends on besides the protocol: dotted key -> value; no names, as in a run's identity."""
    kept = science(config)
    parts: dict[str, Any] = {key: kept[key] for key in ("model", "diffusion", "resolution")}
    parts["data"] = {key: kept["data"][key] for key in OF_DATA}
    return {"weights": weights.id, **identifying(parts)}


def evaluate_samples(
    samples: Images,
    reference_path: Path,
    out: Path,
    worker: Worker,
    batch_size: int = 64,
    shuffle: int | None = None,
    spaces: Sequence[Space] = (INCEPTION,),
) -> list[Path]:
    """Metrics of the samples, read as a stream, against reference statistics or the images to make them of.

    A result for each space, of which Inception's has the five metrics of ADM; the samples are read once for all.
    shuffle: the seed of a shuffle before the Inception Score's splits; None: in order, as ADM's evaluator does.
    Raises Stopped between batches, and UserError.
    """
    ranks = worker.ranks
    for space in spaces:
        refuse_other_statistics(reference_path, space.name, lambda asked=space: asked.id)  # type: ignore[misc]
    reference = read_reference(reference_path) if is_statistics(reference_path) else None
    if reference is None and samples.height != samples.width:
        raise UserError(
            f"{samples.path}: {samples.told}, but a reference made of images is of squares: say reference=<a file of "
            "statistics>"
        )
    if reference is not None:
        check_resolution(samples.height, samples.width, reference)
    identity, digest = ranks.first_does(
        lambda: (reference_identity(reference_path, samples.height), content_sha256(samples.path))
    )
    protocols: dict[str, tuple[Space, dict[str, Any]]] = {}
    for space in spaces:
        protocol: dict[str, Any] = {
            "samples": samples.count,
            "resolution": samples.height,
            "features": space.id,
            "reference": f"{(reference.resolution if reference else None) or samples.height}px@{identity}",
            "kept": KEEP,
        }
        if space == INCEPTION:
            protocol["splits"] = "in order" if shuffle is None else f"shuffled by seed {shuffle}"
        if samples.said:
            protocol["read_as"] = samples.said
        protocols[f"samples-{digest[:8]}-{short_hash(protocol)}"] = space, protocol
    with samples, _once(out, list(protocols), worker) as worker_here:
        if worker_here is not None:
            began = time.monotonic()
            worker.progress.note(f"samples: {samples.path}: {samples.told}")
            places = None if shuffle is None else shuffled(samples.count, shuffle)
            measures: dict[str, ReferenceMeasure] = {}
            for name, done in zip(protocols, ranks.first_does(lambda: _standing(out, protocols)), strict=True):
                if not done:
                    space = protocols[name][0]
                    of_space = reference or open_reference(reference_path, samples.height, worker_here, space)
                    opened = partial(ReferenceMeasure, of_space, ranks.device, space, places)
                    measures[name] = ranks.all_or_none(opened)
            first = next(iter(measures.values())).reference
            notes = ranks.first_does(lambda: notes_on(samples, _is_grey(first)))
            for note in (*samples.notes, *notes):
                worker.progress.note(note)

            def images(first: int, last: int) -> Tensor:
                return samples.read(first, last).to(ranks.device)

            files = {_partial(out, name, ranks, batch_size): measure for name, measure in measures.items()}
            drawn = draw_for_all(images, in_batches(samples.count, batch_size), files, 0, worker_here)
            save_all(drawn[1:])  # a kill between two results costs no features
            for place, (name, measure) in enumerate(measures.items()):
                try:
                    metrics, _ = result_of(measure, worker_here)
                except Stopped:
                    save_all(drawn[place:])
                    raise
                if ranks.is_main:
                    content = {"file": samples.path.name, "sha256": digest, "protocol": protocols[name][1]}
                    content |= {"metrics": metrics, "warnings": [*measure.warnings, *notes]}
                    _write(out / f"{name}.json", content, time.monotonic() - began)
                began = time.monotonic()
    return [out / f"{name}.json" for name in protocols]


def _standing(out: Path, names: Iterable[str]) -> list[bool]:
    return [(out / f"{name}.json").exists() for name in names]


def _is_grey(reference: Reference) -> bool | None:
    """Whether the reference's images have no colour; None where it has none."""
    if reference.images is None:
        return None
    with reference.images as images:
        return is_grey(images.pixels(0, min(LOOKED, images.count)))


@contextlib.contextmanager
def _once(out: Path, names: Sequence[str], worker: Worker) -> Iterator[Worker | None]:
    """Claims the making of results; None where all are there. Partial results go when the block ends well."""
    work = [out / f".{name}" for name in names]
    with worker.claiming(work, lambda: all((out / f"{name}.json").exists() for name in names)) as worker_here:
        yield worker_here
        worker.ranks.barrier()
        if worker.ranks.is_main:
            for leftover in (path for folder in work for path in folder.glob("*.npz")):
                leftover.unlink(missing_ok=True)


def _partial(out: Path, name: str, ranks: Ranks, batch_size: int) -> Path:
    return out / f".{name}" / f"{ranks.share_name(batch_size)}.npz"


def _write(path: Path, content: dict[str, Any], seconds: float) -> None:
    more = {"seconds": round(seconds, 2), "time": round(time.time(), 3), "revision": code_revision()}
    write_json(path, {**content, **more, "torch": str(torch.__version__)})
