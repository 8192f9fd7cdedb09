"""What the daemons of a development cluster read and how they are started: pure text, nothing is run here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SERVICES = ("munged", "mariadbd", "slurmdbd", "slurmctld")  # in the order in which they need each other


@dataclass(frozen=True)
class Settings:
    """What a user can choose. Times in seconds, CPUs and GPUs per node; `options` are lines of slurm.conf."""

    nodes: int = 2
    cpus: int = 4
    gpus: int = 2
    grace_time: int = 20
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least, most in (("nodes", 1, 64), ("cpus", 1, 1024), ("gpus", 0, 64), ("grace_time", 0, 65533)):
            value = getattr(self, name)
            if not isinstance(value, int) or not least <= value <= most:
                raise ValueError(f"--{name.replace('_', '-')} {value}: between {least} and {most}")
        for key, value in self.options.items():
            if not key.isalpha() or not value.strip() or "\n" in value:
                raise ValueError(f"--option {key}={value}: write KEY=VALUE, a line of slurm.conf")

    def __str__(self) -> str:
        flags = [f"--{key.replace('_', '-')} {value}" for key, value in asdict(self).items() if key != "options"]
        return " ".join([*flags, *(f"--option {key}={value}" for key, value in self.options.items())])

    def node_names(self) -> list[str]:
        return [f"node{number}" for number in range(1, self.nodes + 1)]

    def roles(self) -> list[str]:
        """Every daemon, in the order of starting; the slurmd of a node goes by the node's name."""
        return [*SERVICES, *self.node_names()]

    def port_roles(self) -> list[str]:
        return ["slurmdbd", "slurmctld", *self.node_names()]  # munged and mariadbd have sockets only


@dataclass(frozen=True)
class Site:
    """Where a cluster lives: a path without odd characters, short enough for sockets; its name, user and ports."""

    base: Path
    name: str
    host: str
    user: str
    ports: Mapping[str, int]

    @property
    def munge_socket(self) -> Path:
        return self.base / "run" / "munge"

    @property
    def database_socket(self) -> Path:
        return self.base / "run" / "mariadb"


def slurm_conf(site: Site, settings: Settings) -> str:
    """slurm.conf: `settings.options` replace lines of the same key (in any case), or come at its end."""
    run, log = site.base / "run", site.base / "log"
    lines: dict[str, Any] = {
        "ClusterName": site.name,
        "SlurmctldHost": f"{site.host}(127.0.0.1)",
        "SlurmUser": site.user,
        "SlurmdUser": site.user,
        "AuthType": "auth/munge",
        # cred_expire is also how long a requeued job waits: 120 s if left out, 6 s with 5, and 120 s again with 2 to 4.
        "AuthInfo": f"socket={site.munge_socket},cred_expire=5",
        "SlurmctldPort": site.ports["slurmctld"],
        "SlurmctldPidFile": run / "slurmctld.pid",
        "SlurmdPidFile": run / "%n.pid",
        "SlurmctldLogFile": log / "slurmctld.log",
        "SlurmdLogFile": log / "%n.log",
        "StateSaveLocation": site.base / "state",
        "SlurmdSpoolDir": run / "%n",
        "MailProg": "/bin/true",
        # No cgroups: they take root's rights and a systemd that hands them out.
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU_Memory",
        "DefMemPerCPU": 100,  # without it one job takes the whole memory of a node
        "SchedulerType": "sched/backfill",
        # Intervals of 5, 2 and 1 s: an array of 200 times `true` takes 18, 14 and 10 s, five jobs in a chain of
        # dependencies 5.9, 5.0 and 3.7 s. sched_min_interval=0 adds nothing.
        "SchedulerParameters": "batch_sched_delay=0,bf_interval=1,sched_interval=1",
        "SlurmctldParameters": "preempt_send_user_signal",  # silently ignored in SchedulerParameters
        "SlurmdParameters": "config_overrides",  # nodes may be larger than this machine
        "ReturnToService": 2,
        # A node killed with all its processes is DOWN after 31 s with SlurmdTimeout 20 and MessageTimeout 10, 28 s with
        # 10 and 10, 18 s with 10 and 5, 15 s with 5 and 5, 9 s with 5 and 2; its job runs elsewhere 6 s later. Shorter
        # than 10 and 5 is not for a busy machine: a node that is only slow would lose its jobs.
        "SlurmdTimeout": 10,
        "MessageTimeout": 5,
        "KillWait": 5,
        "OverTimeLimit": 0,
        "JobRequeue": 1,
        "MaxArraySize": 5001,
        "MinJobAge": 300,
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": "127.0.0.1",
        "AccountingStoragePort": site.ports["slurmdbd"],
        "AccountingStoragePass": site.munge_socket,
    }
    if settings.gpus:
        lines["GresTypes"] = "gpu"
    own = {key.lower(): key for key in lines}
    extra: dict[str, str] = {}
    for key, value in settings.options.items():
        if key.lower() in own:
            lines[own[key.lower()]] = value
        else:
            extra[key] = value
    gres = f" Gres=gpu:{settings.gpus}" if settings.gpus else ""
    nodes = [
        f"NodeName={node} NodeHostname={site.host} NodeAddr=127.0.0.1 Port={site.ports[node]}"
        f" CPUs={settings.cpus} RealMemory=8000{gres} State=UNKNOWN"
        for node in settings.node_names()
    ]
    partitions = [
        "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE"
        f" GraceTime={settings.grace_time}",
        "PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF",
    ]
    every = [*(f"{key}={value}" for key, value in lines.items()), *nodes, *partitions]
    return "\n".join([*every, *(f"{key}={value}" for key, value in extra.items())]) + "\n"


def gres_conf(site: Site, settings: Settings) -> str:
    """gres.conf: GPUs that are links to /dev/null, so that CUDA_VISIBLE_DEVICES is set and too many are refused."""
    if not settings.gpus:
        return ""
    files = f"{site.base}/dev/gpu[0-{settings.gpus - 1}]"
    return "".join(f"NodeName={node} Name=gpu File={files}\n" for node in settings.node_names())


def cgroup_conf(version: str) -> str:
    """cgroup.conf: no cgroups. `version` is what `slurmd -V` says, as in "slurm-wlm 22.05.8".

    Left to itself slurmd looks for them although nothing uses them, and ends in a container where they are read-only
    or not mounted. Version 1's plugin does nothing unasked; "disabled" came with 24.05 (as its manual says; not tried).
    """
    major = re.search(r"\d+", version)
    return f"CgroupPlugin={'disabled' if major and int(major[0]) >= 24 else 'cgroup/v1'}\n"


def slurmdbd_conf(site: Site) -> str:
    """slurmdbd.conf; the database is found by MYSQL_UNIX_PORT in slurmdbd's environment."""
    lines = {
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={site.munge_socket}",
        "DbdHost": site.host,
        "DbdAddr": "127.0.0.1",
        "DbdPort": site.ports["slurmdbd"],
        "SlurmUser": site.user,
        "LogFile": site.base / "log" / "slurmdbd.log",
        "PidFile": site.base / "run" / "slurmdbd.pid",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "localhost",
        "StorageLoc": "accounting",
        "StorageUser": "root",
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())


def command(role: str, site: Site) -> list[str]:
    """The command of a daemon, in the foreground; slurmd's role is its node's name."""
    base, run = site.base, site.base / "run"
    if role == "munged":
        # --force: a parent folder that others can write to is no reason to refuse here
        names = {"socket": site.munge_socket, "key-file": base / "etc" / "munge.key", "pid-file": run / "munged.pid"}
        names |= {"seed-file": base / "state" / "munge.seed", "log-file": base / "log" / "munged.log"}
        return ["munged", "--foreground", "--force", *(f"--{key}={value}" for key, value in names.items())]
    if role == "mariadbd":
        # Its socket is in a folder that only this user can enter; there is no network port and no password.
        return [
            *("mariadbd", *mariadb_options(site), "--skip-grant-tables", "--skip-networking"),
            *(f"--socket={site.database_socket}", f"--pid-file={run / 'mariadbd.pid'}"),
        ]
    if role == "slurmdbd":
        return ["slurmdbd", "-D"]
    if role == "slurmctld":
        return ["slurmctld", "-D"]
    return ["slurmd", "-D", "-N", role]


def mariadb_install_command(site: Site) -> list[str]:
    """Makes the system tables in `database.new`, which is renamed when complete.

    It does not wait for the disk: 0.5 s and not 0.7 s here, 1 s and not 4 s while others write too.
    """
    return [
        *("mariadb-install-db", *mariadb_options(site, "database.new")),
        "--loose-innodb-flush-method=nosync",
        *("--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"),
    ]


def mariadb_options(site: Site, folder: str = "database") -> list[str]:
    # A log of 8 MB and not of 96: a test's cluster is not to write 100 MB. flush_log_at_trx_commit=2: a killed daemon
    # loses nothing, a power cut a second. debug-no-sync: table definitions do not wait for the disk (the tables' data
    # do), 2.8 s and not 3.6 s for a new cluster while others write. native-aio=0: containers lack it. Its own
    # tmpdir: a MariaDB that starts removes all temporary tables that it finds in /tmp, those of another too (10.11).
    return [
        "--no-defaults",
        *(f"--datadir={site.base / folder}", f"--tmpdir={site.base / 'run'}"),
        *(["--user=root"] if site.user == "root" else []),  # else it refuses to run as root
        *("--innodb-log-file-size=8M", "--innodb-flush-log-at-trx-commit=2", "--innodb-use-native-aio=0"),
        *("--innodb-buffer-pool-size=64M", "--performance-schema=OFF", "--loose-debug-no-sync"),
    ]
