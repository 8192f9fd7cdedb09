"""What a cluster cannot do, said before anything is submitted, in one line that says what to do."""

from __future__ import annotations

import math
import re
import socket
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from fcdm.errors import UserError
from fcdm.slurm.client import Cluster, Partition, Refused, Scheduler
from fcdm.slurm.executor import ArrayExecutor
from fcdm.slurm.options import SlurmOptions
from fcdm.slurm.resources import Resources

_OF_ONE_MACHINE = frozenset({"tmpfs", "ramfs", "overlay", "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs"})
"""Types of file systems that other machines see only if somebody exports them."""


def try_requests(requests: Mapping[Resources, str], options: SlurmOptions, scheduler: Scheduler) -> None:
    """Raise UserError for what SLURM would not take, or would let wait for ever. `requests`: and which run asks so.

    sbatch --test-only tells of nodes, GPUs, memory, partitions, features and, where they are enforced, accounts; not
    of a time limit above the partition's (SLURM 22.05), which it takes, and lets wait as PartitionTimeLimit.
    """
    cluster = scheduler.cluster()
    for request, name in requests.items():
        if options.use_srun is False and request.processes > 1:
            what = f"{name}'s evaluation" if request.evaluation else name
            raise UserError(
                f"hydra.launcher.use_srun=false starts one process, and {what} asks for {request.processes}: leave it "
                "away"
            )
        text = ArrayExecutor(Path("/"), 0, request, options, scheduler, Path("/")).prepare([Path("/run/jobs/0.json")])
        _check_shell(text)
        try:
            scheduler.test(text)
        except Refused as error:
            raise Refused(f"SLURM refuses {name} ({request}): {error}{_advice(str(error), cluster)}") from None
        limits = [partition.max_minutes for partition in _partitions(request, options, cluster)]
        if request.seconds / 60 > (most := max(limits, default=math.inf)):
            asked = f"{request.minutes} min" if request.minutes else "no time limit (hydra.launcher.timeout_min=0)"
            raise UserError(
                f"{name} asks for {asked}, but its partition gives at most {most:g}: say "
                f"resources.hours={most / 60:g} (a job saves and is requeued as long as it makes progress)"
            )


def hosts_of(requests: Iterable[Resources], options: SlurmOptions, cluster: Cluster) -> set[str]:
    """The machines on which such jobs may start."""
    places = [partition for request in requests for partition in _partitions(request, options, cluster)]
    return {host for place in places for host in place.hosts}


def _advice(said: str, cluster: Cluster) -> str:
    """What to write instead, where that can be told."""
    if "node configuration" in said:
        return ": ask for less with resources.gpus, .nodes, .cpus or .mem_gb, or spread it with max_gpus_per_node"
    if "artition" in said:
        return f": partitions here are {', '.join(sorted(cluster.partitions))}"
    return ""


def _partitions(request: Resources, options: SlurmOptions, cluster: Cluster) -> list[Partition]:
    """Those that a job may start in: SLURM takes a list, and the first that is free."""
    wanted = request.parameters(options).get("partition")
    if wanted is None:
        return [partition for partition in cluster.partitions.values() if partition.default]
    return [cluster.partitions[name] for name in str(wanted).split(",") if name in cluster.partitions]


def _check_shell(text: str) -> None:
    """Raise UserError where a shell cannot read the script: a quote that is open in a user's `setup`, say."""
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        said = re.sub(r"^bash: line \d+: ", "", done.stderr.strip().splitlines()[0])
        raise UserError(f"hydra.launcher's setup, teardown, srun_args or launch_prefix is no shell: {said}")


def check_folder(runs_dir: Path, hosts: Iterable[str], mounts: Path = Path("/proc/mounts")) -> None:
    """Raise UserError for a folder of runs that other machines, where the jobs would start, cannot see."""
    here = {socket.gethostname(), socket.gethostname().split(".")[0], "localhost"}
    elsewhere = sorted(set(hosts) - here)
    if not elsewhere:
        return
    kind, place = file_system(runs_dir, mounts)
    if kind in _OF_ONE_MACHINE:
        raise UserError(
            f"runs_dir={runs_dir} is on {place} ({kind}), a file system of this machine alone, and the jobs would "
            f"start on {', '.join(elsewhere[:3])}: put it on a shared one (runs_dir=/shared/...), or, if the nodes "
            "do see it, say hydra.launcher.check_folder=false"
        )


def file_system(folder: Path, mounts: Path = Path("/proc/mounts")) -> tuple[str, str]:
    """(type, mount point) of the file system that a folder, made already or not, is on; ("", "") if unknown."""
    path = folder.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    path = path.resolve()
    best = ("", "")
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return best
    for line in lines:
        _, place, kind, *_ = line.split()
        place = place.replace("\\040", " ")
        if path.is_relative_to(place) and len(place) >= len(best[1]):
            best = (kind, place)
    return best
