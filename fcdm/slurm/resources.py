"""What one job asks the cluster for: its `resources`, and the launcher's options where they speak of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fcdm.config.schema import ResourcesConfig
from fcdm.errors import UserError
from fcdm.formatting import duration_text, plural
from fcdm.slurm.options import SlurmOptions

PLACEMENT = ("partition", "qos", "account", "constraint", "gres")
"""Where a job goes and who pays, as `resources` says it of a job and the launcher of all."""

_COUNTED = frozenset({"nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task", "mem_gb", "timeout_min"})
"""Options of the launcher that `request_of` has put into the numbers of a request."""
_OF_TRAINING = frozenset(
    {"gres", "gpus_per_task", "cpus_per_gpu", "mem_per_gpu", "mem_per_cpu", "exclusive", "nodelist"}
)
"""Those that say besides how much a training gets: an evaluation's job asks for `evaluation.resources`."""


@dataclass(frozen=True)
class Resources:
    """What one job asks the cluster for; jobs that ask for the same make one array."""

    nodes: int
    tasks_per_node: int
    gpus_per_node: int
    minutes: int
    """0: no limit, as sbatch's --time=0."""
    mem_gb: float | None
    """Per node; 0: all that it has, as sbatch's --mem=0; None: what the cluster gives."""
    cpus_per_task: int | None
    gpu_type: str | None = None
    """Of which kind the GPUs have to be, as SLURM names them."""
    placement: tuple[tuple[str, str], ...] = ()
    """(option of sbatch, value) of PLACEMENT, where the job's own `resources` say one."""
    evaluation: bool = False
    """Whether it is an evaluation's job, of which _OF_TRAINING options do not speak."""

    @property
    def processes(self) -> int:
        return self.nodes * self.tasks_per_node

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node

    @property
    def seconds(self) -> float:
        """Of one start; inf without a limit."""
        return 60.0 * self.minutes if self.minutes else math.inf

    def __str__(self) -> str:
        parts = [f"{self.nodes} nodes x " if self.nodes > 1 else ""]
        if self.gpus_per_node:
            kind = f"{self.gpu_type} " if self.gpu_type else ""
            parts.append(plural(self.gpus_per_node, f"{kind}GPU"))
        else:
            parts.append(f"{self.tasks_per_node * (self.cpus_per_task or 1)} CPU")
        memory = "" if self.mem_gb is None else f", {self.mem_gb:g} GB" if self.mem_gb else ", all memory"
        place = "".join(f", {name} {value}" for name, value in self.placement)
        return f"{''.join(parts)}, {duration_text(self.seconds) if self.minutes else 'no time limit'}{memory}{place}"

    def parameters(self, options: SlurmOptions) -> dict[str, object]:
        """submitit's parameters, by the shared names: what this asks for, and what the launcher's options say of it."""
        own: dict[str, object] = {
            "nodes": self.nodes,
            "tasks_per_node": self.tasks_per_node,
            "timeout_min": self.minutes,
            "cpus_per_task": self.cpus_per_task,
            **dict(self.placement),
        }
        others = _COUNTED | _OF_TRAINING if self.evaluation else _COUNTED
        said = {name: value for name, value in options.said.items() if name not in others}
        if self.gpus_per_node and "gpus_per_task" not in said:
            own["gpus_per_node"] = f"{self.gpu_type}:{self.gpus_per_node}" if self.gpu_type else self.gpus_per_node
        if self.mem_gb is not None and "mem_per_gpu" not in said and "mem_per_cpu" not in said:
            own["mem_gb"] = self.mem_gb
        return {name: value for name, value in {**said, **own}.items() if value is not None}


def request_of(resources: ResourcesConfig, options: SlurmOptions, *, evaluation: bool = False) -> Resources:
    """A job's resources. How much: the launcher's options come before them, but not for an evaluation's job. Where:
    they come before the launcher's options, which are for all jobs.

    Raises UserError where the GPUs cannot be spread over the nodes, or have a kind and there are none.
    """
    own = SlurmOptions(max_gpus_per_node=options.max_gpus_per_node) if evaluation else options
    nodes, gpus = resources.nodes if own.nodes is None else own.nodes, resources.gpus
    per_node = -(-gpus // nodes)
    limit = own.max_gpus_per_node
    if limit is not None and per_node > limit and own.nodes is None and resources.nodes == 1:
        nodes = -(-gpus // limit)
        per_node = gpus // nodes
    if own.gpus_per_node is not None:
        per_node = own.gpus_per_node
    elif nodes * per_node != gpus:
        raise UserError(f"resources.gpus={gpus} cannot be shared out evenly over {nodes} nodes: ask for a multiple")
    if resources.gpu_type and (not per_node or own.gpus_per_task is not None):
        why = "beside hydra.launcher.gpus_per_task" if per_node else "on a job without GPUs"
        raise UserError(f"resources.gpu_type={resources.gpu_type} has no effect {why}: leave it away")
    return Resources(
        nodes=nodes,
        tasks_per_node=max(1, per_node) if own.tasks_per_node is None else own.tasks_per_node,
        gpus_per_node=per_node,
        minutes=math.ceil(resources.hours * 60) if own.timeout_min is None else own.timeout_min,
        mem_gb=own.mem_gb if own.mem_gb is not None else resources.mem_gb,
        cpus_per_task=own.cpus_per_task if own.cpus_per_task is not None else resources.cpus,
        gpu_type=resources.gpu_type if per_node else None,
        placement=tuple((name, value) for name in PLACEMENT if (value := getattr(resources, name)) is not None),
        evaluation=evaluation,
    )


SAVED_BYTES_PER_S = 100e6
"""Of a slow disk: one that many jobs share, or a network's."""
STEP_S = 30
"""For the step in hand when the signal comes."""


def signal_delay(request: Resources, options: SlurmOptions, saved_bytes: int) -> int:
    """Seconds before its time limit at which a job is told to save; SLURM may do so up to a minute earlier still.

    Enough to write `saved_bytes` to a slow disk, 120 at least, and at most a quarter of the limit.
    """
    if options.signal_delay_s is not None:
        return int(options.signal_delay_s)
    return int(min(max(120, STEP_S + math.ceil(saved_bytes / SAVED_BYTES_PER_S)), request.seconds / 4))
