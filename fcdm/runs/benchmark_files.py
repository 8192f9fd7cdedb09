"""`<runs_dir>/benchmarks/<device>.json`: what `python -m fcdm.benchmark` measured, for plans of what is not run yet.

    {"device", "cpu", "threads", "torch", ..., "ceilings": {"flops_per_s": {precision: ...}, "bytes_per_s": ...},
     "models": {name: {"like", "precision", "forward_macs", "training": [...], "sampling": [...], ...}}}

One file for each kind of device; a model that is measured again replaces its entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fcdm.atomic import locked, read_json_if_whole, write_json
from fcdm.config.schema import Config
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


def record_benchmark(
    runs_dir: Path | str, facts: Mapping[str, Any], ceilings: Mapping[str, Any], models: Mapping[str, Any]
) -> Path:
    """Put these measurements into the device's file, beside those of other models. Raises UserError."""
    path = benchmark_file(runs_dir, facts)
    with locked(path.parent / ".lock"):
        before = read_json_if_whole(path).get("models", {})
        write_json(path, {**facts, "ceilings": ceilings, "models": {**before, **models}})
    return path


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
            try:
                peak = float(content["ceilings"]["flops_per_s"][precision])
                for entry in content["models"].values():
                    if entry["kind"] != config.model.kind and kind in ("training", "sampling"):
                        continue
                    flops = _flops_per_s(entry, config, kind, precision)
                    if flops is None:
                        continue
                    exact = entry["like"] == like or kind not in ("training", "sampling")
                    away = abs(float(entry["forward_macs"]) / forward_macs - 1)
                    place = place_name(content)
                    name = str(entry["name"])
                    rate = Rate(flops, peak, name, str(content["device"]), place, path, exact)
                    found.append((-1.0 if exact else away, rate))
            except (KeyError, TypeError, ValueError, AttributeError):
                continue
        return [rate for _, rate in sorted(found, key=lambda pair: pair[0])]


def _flops_per_s(entry: Mapping[str, Any], config: Config, kind: str, precision: str) -> float | None:
    """The best that was reached in the way that the configuration asks for; None: not measured."""
    if kind == "training":
        ways = [way for way in entry["training"] if entry["precision"] == precision]
        asked = [way for way in ways if way["activation_checkpointing"] == config.activation_checkpointing]
        ways = asked or ways
    elif kind == "sampling":
        guided = config.evaluation.guidance_scale != 1.0
        ways = [way for way in entry["sampling"] if way["precision"] == precision and way["guided"] == guided]
    elif kind == "decoding":
        ways = [entry[kind]] if kind in entry else []
    else:
        ways = [entry["features"]] if "features" in entry and entry["extractor"] == config.evaluation.features else []
    return max((float(way["flops_per_s"]) for way in ways), default=None)
