"""From a job's resources and the launcher's options to what `sbatch` reads."""

from __future__ import annotations

import math
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from fcdm.config.schema import ResourcesConfig
from fcdm.errors import UserError
from fcdm.formatting import duration_text, plural
from fcdm.slurm.options import SlurmOptions

# Until Python has its handlers, a signal that asks for a requeue would kill the task: it is held back until then
# (fcdm.engine.stop), or lost where env cannot do that (coreutils before 8.31).
_HOLD_SIGNALS = (
    'trap "" USR1 USR2; hold="env --default-signal=USR1,USR2 --block-signal=USR1,USR2"; '
    '$hold true 2>/dev/null || hold=; exec $hold "$@"'
)


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
            parts.append(plural(self.gpus_per_node, "GPU"))
        else:
            parts.append(f"{self.tasks_per_node * (self.cpus_per_task or 1)} CPU")
        memory = "" if self.mem_gb is None else f", {self.mem_gb:g} GB" if self.mem_gb else ", all memory"
        return f"{''.join(parts)}, {duration_text(self.seconds) if self.minutes else 'no time limit'}{memory}"


def request_of(resources: ResourcesConfig, options: SlurmOptions, *, evaluation: bool = False) -> Resources:
    """A job's resources, where the launcher's options do not say otherwise (they do not speak of evaluation jobs).

    Raises UserError where the GPUs cannot be spread over the nodes.
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
    return Resources(
        nodes=nodes,
        tasks_per_node=max(1, per_node) if own.tasks_per_node is None else own.tasks_per_node,
        gpus_per_node=per_node,
        minutes=math.ceil(resources.hours * 60) if own.timeout_min is None else own.timeout_min,
        mem_gb=own.mem_gb if own.mem_gb is not None else resources.mem_gb,
        cpus_per_task=own.cpus_per_task if own.cpus_per_task is not None else resources.cpus,
    )


def script(
    request: Resources,
    options: SlurmOptions,
    job_files: list[Path],
    launch: Path,
    code: Path,
    name: str,
    saved_bytes: int = 0,
) -> str:
    """The batch script of an array whose i-th task does the i-th job file.

    saved_bytes: what a task writes when it is told to save; the most of all tasks.
    """
    lines = ["#!/bin/bash"]
    lines += [_flag(key, value) for key, value in _flags(request, options, launch, name, saved_bytes).items()]
    lines += [
        "",
        "jobs=(",
        *(f"  {shlex.quote(str(path))}" for path in job_files),
        ")",
        "job=${jobs[$SLURM_ARRAY_TASK_ID]}",
        "run=${job%/jobs/*}",
        "export FCDM_SLURM=1",
    ]
    if options.max_num_timeout is not None:
        lines.append(f"export FCDM_MAX_REQUEUES={options.max_num_timeout}")
    if options.slurm_conf:
        lines.append(f"export SLURM_CONF={shlex.quote(str(Path(options.slurm_conf).absolute()))}")
    if request.cpus_per_task:
        # Else every job starts as many threads as the node has cores, not as it was given.
        lines += [f"export {name}={request.cpus_per_task}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")]
    lines += options.setup or []
    lines += [
        "# The code as it was at submission. -P below: else the working directory would come before it.",
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "unset PYTHONDONTWRITEBYTECODE",
    ]
    # Since SLURM 22.05 a step does not take over the job's --cpus-per-task by itself.
    cpus = f" --cpus-per-task={request.cpus_per_task}" if request.cpus_per_task else ""
    lines += [
        "# exec: a signal to this shell must reach srun, and through it the tasks, instead of ending the job.",
        f"exec srun --unbuffered --kill-on-bad-exit=1{cpus} \\",
        f"  bash -c {shlex.quote(_HOLD_SIGNALS)} fcdm \\",
        f'  {shlex.quote(sys.executable)} -P -u -m fcdm.job "$job" >> "$run/log.txt" 2>&1',
    ]
    return "\n".join(lines) + "\n"


def _flags(request: Resources, options: SlurmOptions, launch: Path, name: str, saved_bytes: int) -> dict[str, object]:
    flags: dict[str, object] = {
        "job-name": name,
        "nodes": request.nodes,
        "ntasks-per-node": request.tasks_per_node,
        "time": request.minutes,
        "signal": f"USR2@{signal_delay(request, options, saved_bytes)}",
        "requeue": True,
        "open-mode": "append",
        "chdir": launch,
        "output": f"{str(launch).replace('%', '%%')}/%A_%a.log",
        "cpus-per-task": request.cpus_per_task,
        "partition": options.partition,
        "qos": options.qos,
        "comment": options.comment,
        "constraint": options.constraint,
        "exclude": options.exclude,
        "gres": options.gres,
        "cpus-per-gpu": options.cpus_per_gpu,
        "gpus-per-task": options.gpus_per_task,
        "mem-per-gpu": options.mem_per_gpu,
        "mem-per-cpu": options.mem_per_cpu,
        "account": options.account,
    }
    if request.gpus_per_node and not options.gpus_per_task:
        flags["gpus-per-node"] = request.gpus_per_node
    if request.mem_gb is not None and not options.mem_per_gpu and not options.mem_per_cpu:
        flags["mem"] = f"{math.ceil(request.mem_gb * 1024)}M" if request.mem_gb else 0
    flags.update({key.replace("_", "-"): value for key, value in options.additional_parameters.items()})
    return {key: value for key, value in flags.items() if value is not None and value is not False}


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


def _flag(key: str, value: object) -> str:
    return f"#SBATCH --{key}" if value is True else f"#SBATCH --{key}={shlex.quote(str(value))}"
