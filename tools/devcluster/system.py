"""What a development cluster asks of the machine: programs, free ports, and which processes are its own."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

PACKAGES = {  # Debian's and Ubuntu's, with the programs that are used of each
    "slurm-wlm": "slurmctld slurmd sbatch scancel scontrol sinfo squeue sacct sacctmgr",
    "munge": "munged munge",
    "slurmdbd": "slurmdbd",
    "mariadb-server": "mariadbd mariadb-install-db",
}
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # where daemons live; not on an ordinary user's PATH
FOLDER, ROLE = "FCDM_DEVCLUSTER", "FCDM_DEVCLUSTER_ROLE"  # environment variables that the daemons carry
INSTALLER = "mariadb-install-db"  # a role that ends by itself, if `up` is not killed in the middle of it
SLURM_VARIABLES = ("SLURM", "SBATCH_", "SRUN_", "SALLOC_", "SINFO_", "SQUEUE_", "SCANCEL_", "SACCT", "SCONTROL_")


class ClusterError(Exception):
    """Its message is shown alone, without a traceback, and the exit code is 1."""


def search_path() -> str:
    """PATH with the folders of daemons added."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join([*folders, *(folder for folder in SBIN if folder not in folders)])


def missing_packages() -> list[str]:
    """The packages of which a program is not found."""
    path = search_path()
    return [
        package
        for package, programs in PACKAGES.items()
        if not all(shutil.which(p, path=path) for p in programs.split())
    ]


def daemon_environment(**more: str) -> dict[str, str]:
    """Ours without what another cluster's job or a user's preferences have set, which would change what slurm does."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(SLURM_VARIABLES)}
    return {**kept, "PATH": search_path(), **more}


def run(command: Sequence[str], timeout: float = 30, **more: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself, with `more` environment; exit code 124 where it takes longer than `timeout` s."""
    try:
        return subprocess.run(
            command,
            env=daemon_environment(**more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer in {timeout:.0f} s")


def ask(command: Sequence[str], **more: str) -> str:
    """What it prints; ClusterError where it fails."""
    done = run(command, 30, **more)
    if done.returncode != 0:
        raise ClusterError(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def start(command: Sequence[str], folder: Path, log: Path, **more: str) -> None:
    """Start what goes on without us: it outlives this process and its terminal, and holds none of our files open."""
    with log.open("wb") as file:
        subprocess.run(
            ["setsid", "--fork", *command],
            env=daemon_environment(**more),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            check=True,
        )


def has_network() -> bool:
    """Whether any address but loopback's is there: slurm looks up even 127.0.0.1 in a way that fails without one."""
    try:
        socket.getaddrinfo("127.0.0.1", None, socket.AF_INET, flags=socket.AI_ADDRCONFIG)
    except socket.gaierror:
        return False
    return True


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as slurm does: a port just left is free
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True


def free_ports(count: int, avoid: Iterable[int] = ()) -> list[int]:
    """Random free ports below those that Linux gives to outgoing connections, which come and go."""
    candidates = [port for port in range(20_000, 32_000) if port not in set(avoid)]
    random.SystemRandom().shuffle(candidates)
    found: list[int] = []
    for port in candidates:
        if len(found) == count:
            break
        if is_free(port):
            found.append(port)
    return found


@dataclass(frozen=True)
class ClusterProcess:
    """A living process of a cluster. `role` is its daemon's, `node` is "" for the daemons of no node."""

    pid: int
    kind: Literal["daemon", "helper", "step", "task"]  # helper: a daemon's child; step: slurmstepd; task: a job's own
    role: str
    node: str


def cluster_processes(folder: Path, name: str) -> list[ClusterProcess]:
    """The living processes of the cluster in `folder`: its daemons, and what its jobs started.

    Nothing goes by a program's name or by a remembered pid, which may be another's by now. Daemons and slurmstepds
    carry the folder in their environment, tasks the cluster's (unique) name and their node's, and children belong to
    their parents. A user's shell with SLURM_CONF exported is none of them. What empties its environment and leaves
    its parents as well is not found: neither does slurm.
    """
    parents: dict[int, int] = {}
    found: dict[int, ClusterProcess] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or (pid := int(entry.name)) == os.getpid():
            continue
        try:
            state, parent = (entry / "stat").read_bytes().rpartition(b")")[2].split()[:2]
            if state in (b"Z", b"X"):  # dead, and not yet waited for
                continue
            parents[pid] = int(parent)
            pairs = (item.partition(b"=") for item in (entry / "environ").read_bytes().split(b"\0"))
            variables = {key: value for key, _, value in pairs}
            if variables.get(FOLDER.encode()) == os.fsencode(folder):
                role = variables.get(ROLE.encode(), b"").decode()
                node = role if role.startswith("node") else ""
                step = node and (entry / "exe").readlink().name.startswith("slurmstepd")
                found[pid] = ClusterProcess(pid, "step" if step else "daemon", role, node)
            elif variables.get(b"SLURM_CLUSTER_NAME") == name.encode() and b"SLURMD_NODENAME" in variables:
                node = variables[b"SLURMD_NODENAME"].decode()
                found[pid] = ClusterProcess(pid, "task", node, node)
        except OSError:  # ended meanwhile, or another user's
            continue
    for pid in parents:
        line = [pid]
        while line[-1] in parents and line[-1] not in found:
            line.append(parents[line[-1]])
        if (ancestor := found.get(line[-1])) is not None:
            kind: Literal["helper", "task"] = "helper" if ancestor.kind in ("daemon", "helper") else "task"
            found |= {child: replace(ancestor, pid=child, kind=kind) for child in line[:-1]}
    for process in list(found.values()):
        above = found.get(parents[process.pid])
        if process.kind == "daemon" and above and above.role == process.role:  # as slurmctld's slurmscriptd
            found[process.pid] = replace(process, kind="helper")
    return list(found.values())


def send(processes: Iterable[ClusterProcess], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, number)


def wait_until(condition: Callable[[], bool], seconds: float, interval: float = 0.05) -> bool:
    """Whether `condition` came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(interval)
    return True


def connects(family: socket.AddressFamily, address: str | tuple[str, int]) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        try:
            client.connect(address)
        except OSError:
            return False
        return True
