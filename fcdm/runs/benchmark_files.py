"""`<runs_dir>/benchmarks/<device>.json`: what `python -m fcdm.benchmark` measured, for plans of what is not run yet.

    {"device", "cpu", "threads",
     "models": {name: {"like", "precision", "ceilings", "torch", "training": [...], "sampling": [...], ...}}}

One file for each kind of device; a model that is measured again replaces its entry.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fcdm.atomic import file_errors, locked, read_json, read_json_if_whole, write_json
from fcdm.config.schema import Config
from fcdm.errors import UserError
from fcdm.runs.formats import place_name
from fcdm.runs.identity import science, short_hash
from fcdm.runs.throughput import speed_like

FOLDER = "benchmarks"


def benchmark_like(config: Config) -> dict[str, Any]:
    """What rates depend on besides precision and batch: the model, and the shape of its data."""
    like = speed_like(science(config))
    return {key: value for key, value in like.items() if key not in ("batch_size", "precision")}


def benchmark_name(config: Config) -> str:
    """`XL 256px bf16`; of a model that is no preset as it stands, with four digits of what it is."""
    name = f"{config.model.name} {config.resolution}px {config.precision}"
    return f"{name} {short_hash(benchmark_like(config), 4)}"


def benchmark_file(runs_dir: Path | str, facts: Mapping[str, Any]) -> Path:
    """The file of a device: `nvidia-h100-80gb-hbm3.json`; facts as in a segment's record."""
    slug = re.sub(r"[^a-z0-9]+", "-", place_name(dict(facts)).lower()).strip("-")
    return Path(runs_dir) / FOLDER / f"{slug}.json"


def record_benchmark(runs_dir: Path | str, facts: Mapping[str, Any], models: Mapping[str, Any]) -> Path:
    """Put these measurements into the device's file, beside those of other models; facts: the device's own.

    Without any it only tries whether that could be done. Raises UserError, also for a file that is damaged.
    """
    path = benchmark_file(runs_dir, facts)
    with locked(path.parent / ".lock"):
        before = read_benchmark(path)["models"] if path.exists() else {}
        if models:
            write_json(path, {**facts, "models": {**before, **models}})
    return path


def read_benchmark(path: Path) -> dict[str, Any]:
    """A device's file, which names models. Raises UserError where it cannot be read or is damaged."""
    with file_errors(path, "reading"):
        content = read_json(path)
    if not isinstance(content.get("models"), dict):
        raise UserError(f"{path} is damaged: it names no models; restore it or delete it")
    return content


def device_files(runs_dir: Path) -> list[Path]:
    """The files that were written below a folder of runs, the newest first."""
    return sorted((runs_dir / FOLDER).glob("[!.]*.json"), key=lambda path: -path.stat().st_mtime)


@dataclass(frozen=True)
class Rate:
    """FLOPs a second of one kind of work on one device."""

    flops_per_s: float
    peak: float
    """Of products in this precision, measured on the device, in FLOP/s."""
    name: str
    """Of the measured model: `XL 256px bf16`."""
    device: str
    place: str
    file: Path
    exact: bool
    """Whether it is this model that was measured, and not another of its family."""

    @property
    def share(self) -> float:
        return self.flops_per_s / self.peak


class Benchmarks:
    """What was measured below a folder of runs, the newest file first. Damaged files tell nothing."""

    def __init__(self, runs_dir: Path | str) -> None:
        self.runs_dir = Path(runs_dir)

    @cached_property
    def _files(self) -> list[tuple[Path, dict[str, Any]]]:
        return [(path, content) for path in device_files(self.runs_dir) if (content := read_json_if_whole(path))]

    def rates(self, config: Config, kind: str, precision: str, forward_macs: int) -> Iterable[Rate]:
        """What is known of `kind` (training, sampling, decoding, metrics) work in a precision, exact ones first.

        Of a model that was not measured, the nearest in FLOPs of its family tells most. Decoders and extractors are
        the same networks whatever the model is.
        """
        like = benchmark_like(config)
        found: list[tuple[float, Rate]] = []
        for path, content in self._files:
            device, models = str(content.get("device")), content.get("models")
            for entry in models.values() if isinstance(models, dict) else ():
                with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
                    if entry["kind"] != config.model.kind and kind in ("training", "sampling"):
                        continue
                    flops = _flops_per_s(entry, config, kind, precision, device == "cpu")
                    if flops is None:
                        continue
                    exact = entry["like"] == like or kind not in ("training", "sampling")
                    away = abs(math.log(float(entry["forward_macs"]) / forward_macs))
                    peak = float(entry["ceilings"]["flops_per_s"][precision])
                    rate = Rate(flops, peak, str(entry["name"]), device, place_name(content), path, exact)
                    found.append((-1.0 if exact else away, rate))
        return [rate for _, rate in sorted(found, key=lambda pair: pair[0])]


def _flops_per_s(entry: Mapping[str, Any], config: Config, kind: str, precision: str, on_cpu: bool) -> float | None:
    """The best that was reached in the way that the configuration asks for; None: not measured.

    Of training, what was measured in another way tells still more than a guess.
    """
    if kind == "training":
        ways = [way for way in entry["training"] if entry["precision"] == precision]
        asked: dict[str, Any] = {
            "activation_checkpointing": config.activation_checkpointing,
            "compiled": not on_cpu if config.compile is None else config.compile,
        }
        for key, value in asked.items():
            ways = [way for way in ways if way[key] == value] or ways
        most = config.micro_batch or config.batch_size
        ways = [way for way in ways if way["images"] <= most] or ways
    elif kind == "sampling":
        guided = config.evaluation.guidance_scale != 1.0
        ways = [way for way in entry.get("sampling", []) if way["precision"] == precision and way["guided"] == guided]
    elif kind == "decoding":
        ways = [entry[kind]] if kind in entry and entry[kind]["precision"] == precision else []
    else:
        ways = [entry["features"]] if "features" in entry and entry["extractor"] == config.evaluation.features else []
    return max((float(way["flops_per_s"]) for way in ways), default=None)
