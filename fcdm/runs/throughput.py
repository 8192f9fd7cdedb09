"""How fast runs trained, from their records: what plans of further runs are made with.

Only runs of the same model, resolution, batch size and precision tell anything; the newest counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fcdm.config.schema import Config
from fcdm.errors import UserError
from fcdm.runs.formats import place_name, read_records
from fcdm.runs.identity import flatten, science
from fcdm.runs.reader import RunView
from fcdm.runs.run_cost import run_cost
from fcdm.runs.run_paths import folders_of_runs, run_facts

_RUNS_READ = 8
"""Runs whose records are read for one question; the newest first."""


@dataclass(frozen=True)
class Speed:
    """A measured training speed: the median over the last stretch of work that tells."""

    images_per_s: float
    """Of the whole job."""
    world_size: int
    device: str
    """`cpu`, or the GPU's name as torch gives it."""
    processor: str
    """Of a CPU: its name."""
    threads: int
    run: str
    records: int
    """How many records it is the median of."""

    @property
    def per_process(self) -> float:
        """Images per second of one process: one GPU, or one process on CPUs."""
        return self.images_per_s / self.world_size

    @property
    def place(self) -> str:
        """`NVIDIA H100 80GB HBM3`, `cpu (AMD EPYC, 1 thread)`."""
        return place_name({"device": self.device, "cpu": self.processor, "threads": self.threads})


class Speeds:
    """The measured speeds below a folder of runs; without the folder there are none. Reads what is asked for, once."""

    def __init__(self, runs_dir: Path | str) -> None:
        self.runs_dir = Path(runs_dir)
        self._found: dict[tuple[object, ...], list[Speed]] = {}

    def measured(self, config: Config) -> list[Speed]:
        """Speeds of runs like this one, newest run first, one per run. Damaged runs tell nothing."""
        key = alike(config)
        if key not in self._found:
            rough = (config.model.kind, config.resolution, config.batch_size, run_cost(config).forward_macs)
            found = self._index.get(rough)
            self._found[key] = list(self._read(found, speed_like(science(config)))) if found else []
        return self._found[key]

    @cached_property
    def _index(self) -> dict[tuple[Any, ...], list[Path]]:
        """Run folders by what run.json says of them, newest records first."""
        found: dict[tuple[Any, ...], list[tuple[float, Path]]] = {}
        for folder in folders_of_runs(self.runs_dir):
            try:
                info = run_facts(folder)
                key = (info["family"], info["resolution"], info["batch_size"], info["cost"]["forward_macs"])
                age = (folder / "records.jsonl").stat().st_mtime
                found.setdefault(key, []).append((-age, folder))
            except (OSError, KeyError, TypeError):
                continue  # not started, or damaged: others say so
        return {key: [folder for _, folder in sorted(folders)] for key, folders in found.items()}

    def _read(self, folders: list[Path], wanted: dict[str, Any]) -> Iterator[Speed]:
        read = 0
        for folder in folders:
            try:
                if speed_like(RunView(folder).config) != wanted:
                    continue
                speed = _last_speed(folder)
            except (OSError, UserError, KeyError, TypeError, ValueError, AttributeError):
                continue
            read += 1
            if speed is not None:
                yield speed
            if read == _RUNS_READ:
                return


def alike(config: Config) -> tuple[object, ...]:
    """Runs of the same key train equally fast on the same machine, and cost the same."""
    data = config.data
    shape = (data.channels, data.downsample, data.classes, config.diffusion.learn_sigma)
    return (repr(config.model), config.resolution, config.batch_size, config.precision, *shape)


def speed_like(science_config: dict[str, Any]) -> dict[str, Any]:
    """What speed depends on: two runs with the same of this train equally fast on the same machine."""
    flat = flatten(science_config)
    return {
        key: value
        for key, value in sorted(flat.items())
        if (key.startswith("model.") and key != "model.name")
        or key in ("resolution", "batch_size", "precision", "data.channels", "data.downsample")
    }


def _last_speed(folder: Path) -> Speed | None:
    """The median of `images_per_s` in the newest segment that has any; its first record, which saw the warm-up, only
    where there is no other."""
    segment: dict[str, Any] = {}
    stretches: list[tuple[dict[str, Any], list[float]]] = []
    for _, fields in read_records(folder / "records.jsonl"):
        if fields.get("segment") == "start":
            segment = fields
            stretches.append((segment, []))
        elif stretches and isinstance(fields.get("images_per_s"), int | float):
            stretches[-1][1].append(float(fields["images_per_s"]))
    for facts, values in reversed(stretches):
        steady = [value for value in values[1:] or values if value > 0]
        if steady:
            return Speed(
                images_per_s=statistics.median(steady),
                world_size=max(1, int(facts.get("world_size", 1))),
                device=str(facts["device"]),
                processor=str(facts.get("cpu", "")),
                threads=int(facts.get("threads", 1)),
                run=folder.name,
                records=len(steady),
            )
    return None
