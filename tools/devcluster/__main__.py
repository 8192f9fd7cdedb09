"""A real SLURM of one's own on one machine: `python tools/devcluster up | status | down`.

munged, mariadbd, slurmdbd, slurmctld and one slurmd per node, as plain processes of the current user, root or not,
in one folder and without systemd. Standard library only: it runs with any Python from 3.11 on.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # the checkout, from wherever this is started
from tools.devcluster.cluster import DevCluster
from tools.devcluster.conf import Settings
from tools.devcluster.system import ClusterError


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        cluster = DevCluster(options.folder, **_chosen(options))
        lines, code = {"up": _up, "down": _down, "status": _status}[options.command](cluster, options)
    except (ClusterError, OSError) as error:
        print(f"devcluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    with suppress(BrokenPipeError):  # as of `| head -1`
        print("\n  ".join(lines) + "\n", end="", flush=True)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="devcluster", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="up|status|down")
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument("--folder", default=".devcluster", help="where everything of the cluster is (.devcluster)")
    up = commands.add_parser("up", parents=[folder], help="start it, or what is missing of it")
    for name, what in {
        "nodes": "number of nodes",
        "cpus": "CPUs of a node, more than there are if you like",
        "gpus": "make-believe GPUs of a node",
        "grace_time": "seconds that a preempted job of partition main has after its signal",
    }.items():
        default = getattr(Settings(), name)
        flag = f"--{name.replace('_', '-')}"
        up.add_argument(flag, type=int, metavar="N", help=f"{what} (as last time, at first {default})")
    up.add_argument("--option", action="append", metavar="KEY=VALUE", help="a line of slurm.conf to replace or add")
    down = commands.add_parser("down", parents=[folder], help="cancel all jobs and end every process")
    down.add_argument("--purge", action="store_true", help="remove the folder too: accounting, logs and all")
    commands.add_parser("status", parents=[folder], help="what runs; exit code 0 if all does")
    return parser


def _chosen(options: argparse.Namespace) -> dict[str, Any]:
    if options.command != "up":
        return {}
    lines = dict(line.partition("=")[::2] for line in options.option or ())
    numbers = {name: getattr(options, name) for name in ("nodes", "cpus", "gpus", "grace_time")}
    return {"options": lines or None, **numbers}


def _up(cluster: DevCluster, options: argparse.Namespace) -> tuple[list[str], int]:
    began = time.monotonic()
    fresh = cluster.up()
    how = f"up in {time.monotonic() - began:.1f} s" if fresh else "is up already"
    settings = cluster.settings()
    nodes = (
        f"{settings.nodes} node{'s' * (settings.nodes > 1)} of {settings.cpus} CPUs and {settings.gpus} GPUs (made up)"
    )
    first = f"devcluster: {how}: {nodes}; partitions main (default) and high"
    return [first, *_next(cluster, options, "sbatch --wrap hostname; squeue; sacct", "status", "down")], 0


def _down(cluster: DevCluster, options: argparse.Namespace) -> tuple[list[str], int]:
    there = cluster.folder.exists()
    ran = cluster.down(purge=options.purge)
    removed = ", and its folder is removed" if there and options.purge else ""
    return [f"devcluster: {'down' if ran else 'nothing runs'}: {cluster.folder}{removed}"], 0


def _status(cluster: DevCluster, options: argparse.Namespace) -> tuple[list[str], int]:
    daemons = cluster.daemons()
    if not daemons:
        return [f"devcluster: nothing runs: {cluster.folder}", *_next(cluster, options, "up")], 1
    up = cluster.is_up()
    lines = [f"devcluster: {'up' if up else 'partly up'}: {cluster.folder}"]
    states = cluster.node_states() if "slurmctld" in daemons else {}
    for role in cluster.settings().roles():
        lines.append(
            f"{role:10} {f'pid {daemons[role]}' if role in daemons else 'dead':12} {states.get(role, '')}".rstrip()
        )
    return [*lines, *_next(cluster, options, *(["down"] if up else ["up", "down"]))], 0 if up else 1


def _next(cluster: DevCluster, options: argparse.Namespace, *what: str) -> list[str]:
    """The commands to go on with."""
    folder = "" if options.folder == ".devcluster" else f" --folder {shlex.quote(options.folder)}"
    own = f"{Path(sys.executable).name} {shlex.quote(sys.argv[0])}"
    lines = [f"{own} {each}{folder}" if each in ("up", "down", "status") else each for each in what]
    return lines if what == ("up",) else [f"export SLURM_CONF={shlex.quote(str(cluster.conf))}", *lines]


if __name__ == "__main__":
    sys.exit(main())
