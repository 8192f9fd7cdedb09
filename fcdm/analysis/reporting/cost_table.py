"""What a study has cost: hours on each kind of device, FLOPs of training and of sampling, disk."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fcdm.analysis.reporting.cell_tables import Cell, CellTable, Value
from fcdm.cost.model_cost import FLOPS_PER_MAC, sampling_passes
from fcdm.runs.formats import Segment
from fcdm.runs.reader import RunView


@dataclass
class MeasuredCost:
    """Of one run, or summed over many. FLOPs are 2 x MACs; a training step is three forward passes."""

    hours: dict[str, float] = field(default_factory=dict)
    """Device -> hours for which processes held it: GPU-hours of a GPU, core-hours of a CPU."""
    evaluation_hours: float = 0.0
    """Wall time of the evaluations: inside `hours`, but for those made by jobs of their own."""
    train_flops: float = 0.0
    sampling_flops: float = 0.0
    sampling_known: bool = True
    """False: some sampler chose its own steps, whose number is not recorded; those samples are not counted."""
    disk_bytes: int = 0

    def add(self, other: MeasuredCost) -> None:
        for device, hours in other.hours.items():
            self.hours[device] = self.hours.get(device, 0.0) + hours
        self.evaluation_hours += other.evaluation_hours
        self.train_flops += other.train_flops
        self.sampling_flops += other.sampling_flops
        self.sampling_known &= other.sampling_known
        self.disk_bytes += other.disk_bytes


def measured_cost(view: RunView) -> MeasuredCost:
    """What a run has cost so far, over all studies that it serves."""
    cost = MeasuredCost()
    trained = 0
    for segment in view.segments:
        key = device(segment)
        cost.hours[key] = cost.hours.get(key, 0.0) + _device_seconds(segment) / 3600
        trained = max(trained, segment.last_step)
    cost.train_flops = float(view.cost.get("train_flops_per_step", 0.0)) * max(0, trained - view.begun)
    for evaluated in view.evaluations:
        cost.evaluation_hours += (evaluated.seconds or 0.0) / 3600
        steps = evaluated.protocol.get("sampling_steps")
        if steps is None:
            cost.sampling_known = False
            continue
        how = evaluated.protocol
        passes = sampling_passes(str(how.get("sampler")), int(steps), float(how.get("guidance_scale", 1.0)))
        cost.sampling_flops += FLOPS_PER_MAC * float(view.cost["forward_macs"]) * passes * int(how.get("samples", 0))
    cost.disk_bytes = folder_bytes(view.folder)
    return cost


def device(segment: Segment) -> str:
    """`NVIDIA H100 80GB HBM3`, or `CPU core (AMD EPYC)`."""
    name = str(segment.fields.get("device", "unknown device"))
    if name != "cpu":
        return name
    processor = str(segment.fields.get("cpu", ""))
    return f"CPU core ({processor})" if processor else "CPU core"


def _device_seconds(segment: Segment) -> float:
    cores = int(segment.fields.get("threads", 1)) if segment.fields.get("device") == "cpu" else 1
    return segment.device_seconds * cores


def folder_bytes(folder: Path) -> int:
    """Bytes of the files below a folder; what vanishes meanwhile counts nothing."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size  # noqa: PTH118 - many files
            except OSError:
                continue
    return total


def cost_table(views: Iterable[RunView], models: dict[str, str]) -> tuple[CellTable, MeasuredCost]:
    """A row for each run and the sum. `models`: run -> how it is called."""
    rows: list[list[Cell]] = []
    total = MeasuredCost()
    for view in views:
        cost = measured_cost(view)
        total.add(cost)
        rows.append([view.name, models[view.name], *_cells(cost)])
    rows.append(["all", "", *_cells(total)])
    notes = [
        "Hours: the whole time for which processes held their devices, with start-up, repeated steps and evaluation "
        "that training jobs do; evaluation by jobs of its own is in 'evaluation' only. " + devices_text(total) + ".",
        "Training FLOPs: of the steps reached, of a branch from where it left its parent; three forward passes a step "
        "and 2 FLOPs a multiply-accumulate. Sampling FLOPs: of the network, without decoder and features.",
        "A run that serves several studies is counted whole here.",
    ]
    if not total.sampling_known:
        notes.append("Some samples were drawn by a solver that chooses its steps: their FLOPs are not in the sum.")
    columns = (
        "Run",
        "Model",
        "Device hours",
        "of it evaluation (h)",
        "Training PFLOPs",
        "Sampling PFLOPs",
        "Disk (MB)",
    )
    caption = "Cost so far, by run"
    return CellTable("cost", caption, columns, rows, tuple(notes), frozenset({0, 1})), total


def devices_text(cost: MeasuredCost) -> str:
    """`NVIDIA H100: 12.3 GPU-hours; CPU core (AMD EPYC): 0.4 core-hours`."""
    parts = [
        f"{name}: {hours:.3g} {'core-hours' if name.startswith('CPU core') else 'GPU-hours'}"
        for name, hours in sorted(cost.hours.items())
    ]
    return "; ".join(parts) or "No work is recorded"


def _cells(cost: MeasuredCost) -> list[Cell]:
    hours = sum(cost.hours.values())
    numbers = (hours, cost.evaluation_hours, cost.train_flops / 1e15, cost.sampling_flops / 1e15, cost.disk_bytes / 1e6)
    return [Value(value) for value in numbers]
