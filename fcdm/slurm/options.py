"""The options of `hydra/launcher=submitit_slurm`: every stock one, and ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fcdm.config.setting import setting
from fcdm.errors import UserError


@dataclass
class SlurmOptions:
    """Stock options mean what they mean in hydra-submitit-launcher; null leaves it to the job's `resources`.

    Written out, and not inherited from that package: what plans and trains must not need it (a test compares).
    """

    _target_: str = ""
    submitit_folder: str | None = None
    """Refused: a launch has its folder in `<runs_dir>/launches/`, a job prints into its run's `log.txt`."""
    timeout_min: int | None = None
    """Minutes of one start of a job, 0: no limit; null: `resources.hours`."""
    cpus_per_task: int | None = None
    gpus_per_node: int | None = None
    tasks_per_node: int | None = None
    """Null: one per GPU, else one."""
    mem_gb: int | None = None
    """Of each node, 0: all that it has; null: `resources.mem_gb`."""
    nodes: int | None = None
    name: str = "fcdm-${study}"
    stderr_to_stdout: bool = False
    partition: str | None = None
    qos: str | None = None
    comment: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    gres: str | None = None
    cpus_per_gpu: int | None = None
    gpus_per_task: int | None = None
    mem_per_gpu: str | None = None
    mem_per_cpu: str | None = None
    account: str | None = None
    signal_delay_s: int | None = None
    """Seconds before the time limit at which a job is told to save; null: enough for one save on a slow disk, 120 at
    least, and a quarter of a short limit."""
    max_num_timeout: int | None = None
    """A job is requeued at most so often after a time limit or a user's signal; null: as long as it makes progress."""
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    array_parallelism: int = 256
    setup: list[str] | None = None
    """Lines for the shell before the job starts: module load, source, export."""

    # Ours.
    wait: bool = False
    """Wait with a live table until all is done; Ctrl-C leaves the jobs as they are."""
    slurm_conf: str | None = setting(None, path=True)
    """slurm.conf of the cluster, where it is not this machine's own (`python tools/devcluster up`)."""
    max_gpus_per_node: int | None = None
    """GPUs of one node of the cluster: a job that asks for more is spread over nodes."""
    gpu: str | None = None
    """Which GPU the cluster has, for the plan: its speed and memory."""
    mfu: float | None = None
    """Share of the GPU's peak that training reaches, where nothing is measured yet; null: the plan's own guess."""
    check_folder: bool = True
    """Refuse a runs folder on a file system that other machines cannot see."""

    def __post_init__(self) -> None:
        if self.submitit_folder is not None:
            raise UserError(
                "hydra.launcher.submitit_folder has no effect: a launch has its folder in <runs_dir>/launches/, a job "
                "prints into its run's log.txt: leave it away"
            )


LOWEST = {
    "timeout_min": 0,
    "cpus_per_task": 1,
    "gpus_per_node": 0,
    "tasks_per_node": 1,
    "mem_gb": 0,
    "nodes": 1,
    "cpus_per_gpu": 1,
    "gpus_per_task": 1,
    "signal_delay_s": 1,  # 0: SLURM would not tell the job to save
    "max_num_timeout": 0,
    "array_parallelism": 1,
    "max_gpus_per_node": 1,
}


def check_numbers(options: SlurmOptions) -> None:
    """Raise UserError for a number that SLURM could not take, or would take for another wish."""
    for name, low in LOWEST.items():
        value = getattr(options, name)
        if value is not None and value < low:
            raise UserError(f"hydra.launcher.{name}={value} cannot be: at least {low}, or leave it away")


ROWS = ("auto", "all", "groups")


@dataclass
class PlanOptions(SlurmOptions):
    """Every option of `submitit_slurm`, so that cluster profiles fit (`+slurm=h100x4`), and how to print."""

    json: bool = False
    """Print JSON for programs instead of tables."""
    rows: str = "auto"
    """`all`: a row for each run; `groups`: one for each model and resolution; `auto`: groups beyond 60 runs."""
