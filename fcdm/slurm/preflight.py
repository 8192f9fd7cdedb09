"""What a cluster cannot do, said before anything is submitted, in one line that says what to do."""

from __future__ import annotations

import socket
from pathlib import Path

from fcdm.config.check import near
from fcdm.errors import UserError
from fcdm.slurm.client import Cluster, Partition
from fcdm.slurm.options import SlurmOptions
from fcdm.slurm.sbatch_script import Resources

_OF_ONE_MACHINE = frozenset({"tmpfs", "ramfs", "overlay", "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs"})
"""Types of file systems that other machines see only if somebody exports them."""


def check_requests(name: str, requests: list[Resources], options: SlurmOptions, cluster: Cluster) -> None:
    """Raise UserError for a partition that is not there, and for what no node of it has."""
    partition = partition_of(options, cluster)
    nodes = partition.nodes  # also those that are down or asleep: SLURM waits for them
    if not nodes:
        raise UserError(f"partition {partition.name} has no nodes (sinfo shows them): choose another one")
    for request in requests:
        most = max(node.gpus for node in nodes)
        if request.gpus_per_node > most:
            raise UserError(
                f"{name} asks for {request.gpus_per_node} GPUs on a node, but the nodes of partition {partition.name} "
                f"have {most}: "
                + (
                    f"say hydra.launcher.max_gpus_per_node={most} to spread it over nodes, or resources.gpus={most}"
                    if most
                    else "choose another partition, or resources.gpus=0 to train on CPUs"
                )
            )
        cpus = request.tasks_per_node * (request.cpus_per_task or 1)
        fitting = [
            node
            for node in nodes
            if node.gpus >= request.gpus_per_node
            and node.cpus >= cpus
            and (not request.mem_gb or node.mem_gb >= request.mem_gb * 1024 / 1000)
        ]
        if len(fitting) < request.nodes:
            largest = max(nodes, key=lambda node: (node.gpus, node.cpus, node.mem_gb))
            raise UserError(
                f"{name} asks for {request} ({cpus} CPUs a node), but partition {partition.name} has {len(fitting)} "
                f"such nodes (its largest: {largest.cpus} CPUs, {largest.mem_gb:g} GB, {largest.gpus} GPUs): ask for "
                "less with resources.gpus, .nodes, .cpus or .mem_gb"
            )
        if request.seconds / 60 > partition.max_minutes:
            asked = f"{request.minutes} min" if request.minutes else "no time limit (hydra.launcher.timeout_min=0)"
            raise UserError(
                f"{name} asks for {asked}, but partition {partition.name} gives at most "
                f"{partition.max_minutes:g}: say resources.hours={partition.max_minutes / 60:g} (a job saves and is "
                "requeued as long as it makes progress)"
            )


def partition_of(options: SlurmOptions, cluster: Cluster) -> Partition:
    """The partition that jobs go to. Raises UserError."""
    known = cluster.partitions
    wanted = options.additional_parameters.get("partition") or options.partition
    if wanted is None:
        default = [partition for partition in known.values() if partition.default]
        if not default:
            raise UserError(
                f"this cluster has no default partition: say hydra.launcher.partition= ({', '.join(known)})"
            )
        return default[0]
    # SLURM takes a list, and starts the job in whichever partition comes first.
    names = str(wanted).split(",")
    for name in names:
        if name not in known:
            raise UserError(f"hydra.launcher.partition={name} is not known here: {near(name, list(known))}")
    chosen = [known[name] for name in names]
    return Partition(
        str(wanted),
        default=False,
        max_minutes=max(partition.max_minutes for partition in chosen),
        nodes=tuple(node for partition in chosen for node in partition.nodes),
    )


def check_folder(runs_dir: Path, options: SlurmOptions, cluster: Cluster, mounts: Path = Path("/proc/mounts")) -> None:
    """Raise UserError for a folder of runs that other machines, where the jobs would start, cannot see."""
    here = {socket.gethostname(), socket.gethostname().split(".")[0], "localhost"}
    elsewhere = sorted({node.host for node in partition_of(options, cluster).nodes} - here)
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
