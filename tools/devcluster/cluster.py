"""The life of a development cluster: start what is missing, look, end everything."""

from __future__ import annotations

import shutil
import signal
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from tools.devcluster import system
from tools.devcluster.cluster_folder import Folder
from tools.devcluster.conf import SERVICES, Settings, Site, command
from tools.devcluster.system import INSTALLER, ClusterError, ClusterProcess, wait_until

PATIENCE = 30.0  # seconds for one daemon to be ready
READY = {"idle", "mixed", "allocated", "completing", "planned"}  # what sinfo calls nodes that take jobs


class DevCluster:
    """A SLURM cluster in `folder`, on this machine. What is None is as it was last, or else as in `Settings`.

    CPUs and GPUs (links to /dev/null) are per node, `grace_time` in seconds; `options` replace or add lines of
    slurm.conf, as in `{"MaxArraySize": 11}`. What a user can mend raises ClusterError.
    """

    def __init__(
        self,
        folder: str | Path,
        nodes: int | None = None,
        cpus: int | None = None,
        gpus: int | None = None,
        grace_time: int | None = None,
        options: Mapping[str, object] | None = None,
    ) -> None:
        self.home = Folder(folder)
        self.folder = self.home.path
        texts = None if options is None else {key: str(value) for key, value in options.items()}
        asked = {"nodes": nodes, "cpus": cpus, "gpus": gpus, "grace_time": grace_time, "options": texts}
        self._asked: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
        try:
            Settings(**self._asked)
        except ValueError as error:
            raise ClusterError(str(error)) from None

    @property
    def conf(self) -> Path:
        """slurm.conf."""
        return self.home.conf

    def environment(self) -> dict[str, str]:
        """The variables with which sbatch and its kin mean this cluster; to be added to os.environ."""
        return {"SLURM_CONF": str(self.conf), "PATH": system.search_path()}

    def settings(self) -> Settings:
        """What it runs with, or would run with."""
        kept = self.home.state()
        return replace(kept.settings if kept else Settings(), **self._asked)

    def processes(self) -> list[ClusterProcess]:
        """All its living processes: daemons, job steps and what jobs started."""
        return system.cluster_processes(self.folder, self.home.name)

    def daemons(self) -> dict[str, int]:
        """The pid of each living daemon by its role: munged, mariadbd, slurmdbd, slurmctld, node1, ..."""
        return {process.role: process.pid for process in self.processes() if process.kind == "daemon"}

    def node_processes(self, node: str) -> list[int]:
        """The pids of a node: its slurmd, its slurmstepds and the tasks with all below them."""
        return [process.pid for process in self.processes() if process.node == node]

    def node_states(self) -> dict[str, str]:
        """What sinfo says of each node: idle, mixed, allocated, down*, ... (* means that it does not answer)."""
        lines = self._run("sinfo", "-h", "-N", "-o", "%N %T").stdout.splitlines()
        return dict(line.split(maxsplit=1) for line in lines if " " in line)

    def is_up(self) -> bool:
        """Whether all daemons live and the controller answers."""
        daemons, kept = self.daemons(), self.home.state()
        return kept is not None and all(role in daemons for role in kept.settings.roles()) and self._answers()

    # ------------------------------------------------------------------------------------------------ up

    def up(self) -> bool:
        """Start what does not run and wait until jobs can; False where all ran already."""
        if missing := system.missing_packages():
            install = f"apt-get install --no-install-recommends {' '.join(missing)}"
            raise ClusterError(f"SLURM is not complete here: `make slurm`, or `{install}`")
        if not system.has_network():
            raise ClusterError(
                "SLURM does not start where loopback is the only network: give the machine another address"
            )
        self.home.claim()
        with self.home.locked():
            settings, kept = self.settings(), self.home.state()
            # Left where an earlier folder of this name was removed while in use, or where an `up` was killed.
            self._stop([INSTALLER] if kept else None, kill=True)
            alive = self.daemons()
            if kept and alive and kept.settings != settings:
                raise ClusterError(f"{self.folder} runs with {kept.settings}: `down` first to change that")
            if self.is_up():
                return False
            started = [INSTALLER]
            try:
                site = self.home.prepare(settings, alive)
                self._start_all(settings, site, alive, started)
            except BaseException:
                self._stop(started)
                if not alive and (made := self.home.state()):  # what failed is not to be "as last time"
                    self.home.keep(replace(made, settings=kept.settings if kept else Settings()))
                raise
        return True

    def start_node(self, node: str) -> None:
        """Start the slurmd of a node that was killed, and wait until the node takes jobs."""
        with self.home.locked():
            kept = self.home.state()
            if kept is None or node not in kept.settings.node_names():
                raise ClusterError(f"{self.folder} has no {node}")
            alive = self.daemons()
            site = self.home.prepare(kept.settings, alive)
            if node not in alive:
                self._start(node, site)
            self._wait_nodes([node], site)

    def _start_all(self, settings: Settings, site: Site, alive: Collection[str], started: list[str]) -> None:
        for role in SERVICES:
            if role not in alive:
                started.append(role)
                self._start(role, site)
            self._wait(role, site)
            if role == "slurmdbd":  # which slurmctld asks for its cluster
                known = self._ask("sacctmgr", "-nP", "list", "cluster", "format=cluster").split()
                if site.name not in known:
                    self._ask("sacctmgr", "-i", "add", "cluster", site.name)
        if "slurmctld" in started:  # a slurmd that ran on tells it of itself at once when asked, else after 5 s
            system.send((p for p in self.processes() if p.kind == "daemon" and p.node in alive), signal.SIGHUP)
        for node in settings.node_names():
            if node not in alive:
                started.append(node)
                self._start(node, site)
        self._wait_nodes(settings.node_names(), site)
        trial = ("sbatch", "--test-only", "--wrap", "true")
        if not wait_until(lambda: self._run(*trial).returncode == 0, 5):
            self._ask(*trial)

    def _start(self, role: str, site: Site) -> None:
        variables = {"SLURM_CONF": str(site.base / "etc" / "slurm.conf"), "MYSQL_UNIX_PORT": str(site.database_socket)}
        variables |= {system.FOLDER: str(self.folder), system.ROLE: role}
        system.start(command(role, site), self.folder, self.folder / "log" / f"{role}.out", **variables)

    def _wait(self, role: str, site: Site) -> None:
        """Wait until one of SERVICES is ready."""
        ready = {
            "munged": lambda: system.run(["munge", "-n", "-S", str(site.munge_socket)]).returncode == 0,
            "mariadbd": lambda: system.connects(socket.AF_UNIX, str(site.database_socket)),
            "slurmdbd": lambda: system.connects(socket.AF_INET, ("127.0.0.1", site.ports["slurmdbd"])),
            "slurmctld": self._answers,
        }[role]
        end = time.monotonic() + PATIENCE
        while not ready():
            if self._is_dead(role):
                raise self._failure(role, "ended")
            if time.monotonic() > end:
                raise self._failure(role, f"is not ready after {PATIENCE:.0f} s")
            time.sleep(0.03)

    def _wait_nodes(self, nodes: Sequence[str], site: Site) -> None:
        end = time.monotonic() + PATIENCE
        states: dict[str, str] = {}

        def ready(node: str) -> bool:  # a slurmd just killed is called idle for a while: so ask it too
            return states.get(node) in READY and system.connects(socket.AF_INET, ("127.0.0.1", site.ports[node]))

        while True:
            states = self.node_states()
            waiting = [node for node in nodes if not ready(node)]
            if not waiting:
                return
            for node in nodes:
                if self._is_dead(node):
                    raise self._failure(node, "ended")
            if time.monotonic() > end:
                raise self._failure(waiting[0], f"is {states.get(waiting[0], 'unknown')} after {PATIENCE:.0f} s")
            for node in waiting:
                if states.get(node, "").startswith("drain"):  # slurm does so where it could not kill a job
                    self._run("scontrol", "update", f"nodename={node}", "state=resume")
            time.sleep(0.05)

    def _is_dead(self, role: str) -> bool:
        # Looked at twice: in the middle of its exec a process shows no environment.
        return role not in self.daemons() and role not in self.daemons()

    def _failure(self, role: str, what: str) -> ClusterError:
        log = self.folder / "log" / f"{role}.out"
        lines = log.read_text(errors="replace").splitlines()[-6:] if log.exists() else []
        return ClusterError("\n    ".join([f"{role} {what}; the end of {log}:", *(lines or ["(nothing)"])]))

    def _answers(self) -> bool:
        return " is UP" in self._run("scontrol", "ping").stdout

    def _run(self, *command: str, timeout: float = PATIENCE) -> CompletedProcess[str]:
        if not self.conf.exists():  # slurm's commands would wait a minute for it
            return CompletedProcess(command, 1, "", f"{self.conf} is gone")
        return system.run(command, timeout, SLURM_CONF=str(self.conf))

    def _ask(self, *command: str) -> str:
        return system.ask(command, SLURM_CONF=str(self.conf))

    # ------------------------------------------------------------------------------------------------ down

    def down(self, purge: bool = False) -> bool:
        """Cancel all jobs and end every process; False where none ran. `purge` kills, and removes the folder."""
        if not self.home.is_ours():
            if purge and self.folder.exists():
                raise ClusterError(f"{self.folder} has other files in it: remove it yourself")
            return self._end(kill=True)  # of a folder removed in use: nothing to save
        with self.home.locked():
            ran = self._end(kill=purge)
            with suppress(ClusterError):  # a damaged state: nothing to be found in it
                self.home.unlink()
            if purge:
                shutil.rmtree(self.folder)
        return ran

    def _end(self, kill: bool) -> bool:
        processes = self.processes()
        if not kill and any(process.role == "slurmctld" for process in processes):
            if jobs := set(self._run("squeue", "-h", "-o", "%F", timeout=5).stdout.split()):
                self._run("scancel", *jobs, timeout=5)
            # A second for those that end by themselves; submitit's, for one, ignore SIGTERM.
            if not wait_until(self._no_jobs, 1):
                system.send((process for process in self.processes() if process.kind == "task"), signal.SIGKILL)
                wait_until(self._no_jobs, 2)
        self._stop(None, kill)
        return bool(processes)

    def _no_jobs(self) -> bool:
        return all(process.kind in ("daemon", "helper") for process in self.processes())

    def _stop(self, roles: Collection[str] | None, kill: bool = False) -> None:
        """End these daemons (None: all), the ones that others need last, and the jobs of their nodes."""

        def left() -> list[ClusterProcess]:
            return [p for p in self.processes() if roles is None or p.role in roles or p.node in roles]

        def killed() -> bool:
            system.send(left(), signal.SIGKILL)
            return not left()

        if not kill:
            # A slurmd may go on for KillWait seconds on behalf of a job that is gone: nobody waits for it.
            system.send((p for p in left() if p.node and p.kind == "daemon"), signal.SIGTERM)
            for service in reversed(SERVICES):
                system.send((p for p in left() if p.role == service and p.kind == "daemon"), signal.SIGTERM)
                wait_until(lambda service=service: all(p.role != service for p in left()), 4, 0.02)  # type: ignore[misc]
        if not wait_until(killed, 5):
            raise ClusterError(f"these processes cannot be ended: {', '.join(str(process.pid) for process in left())}")
