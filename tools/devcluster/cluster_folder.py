"""The folder of a development cluster: what is chosen once and kept, and the files that its daemons read."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

from tools.devcluster import conf
from tools.devcluster.conf import Settings, Site
from tools.devcluster.system import FOLDER, INSTALLER, ROLE, ClusterError, ask, free_ports, is_free

LONGEST = 64  # characters of a folder: run/node10/node10_1234567.4294967291 in it, a socket, may have 107 in all


@dataclass(frozen=True)
class State:
    """What an `up` leaves for the next: settings, ports by role, and the short path where one is needed."""

    settings: Settings
    ports: dict[str, int]
    link: str | None


class Folder:
    """A cluster's folder, which need not exist."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()
        # Of the path and not by chance: so processes are found even where the folder was removed from under them.
        self.name = "dev" + sha256(os.fsencode(self.path)).hexdigest()[:8]
        self.conf = self.path / "etc" / "slurm.conf"

    def is_ours(self) -> bool:
        """Whether it is there and holds a cluster, or nothing yet."""
        try:
            names = {path.name for path in self.path.iterdir()}
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise ClusterError(f"{self.path}: {error.strerror}") from None
        return "state.json" in names or names <= {"lock"}

    def claim(self) -> None:
        """Make it, or see that it may be used."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ClusterError(f"{self.path} cannot be made: {error.strerror}") from None
        if not self.is_ours():
            raise ClusterError(f"{self.path} has other files in it: take another folder")
        if self.path.stat().st_uid != os.geteuid():
            raise ClusterError(f"{self.path} belongs to another user: take another folder")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One command at a time changes a cluster; the lock goes with the process that holds it."""
        path = self.path / "lock"
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                file = path.open("w")
            except OSError as error:
                raise ClusterError(f"{path}: {error.strerror}") from None
            with file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    time.sleep(0.1)
                    continue
                with suppress(FileNotFoundError):
                    if path.stat().st_ino == os.fstat(file.fileno()).st_ino:  # and not purged meanwhile
                        yield
                        return
        raise ClusterError(f"another command has been at work on {self.path} for a minute: try again")

    def state(self) -> State | None:
        """What the last `up` left; None where there was none."""
        path = self.path / "state.json"
        try:
            kept = json.loads(path.read_text())
            if kept["folder"] != str(self.path):
                raise ClusterError(f"{self.path} was copied or moved from {kept['folder']}: `down --purge` removes it")
            return State(Settings(**kept["settings"]), dict(kept["ports"]), kept["link"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError):
            raise ClusterError(f"{path} is damaged: `down --purge` removes the cluster") from None
        except OSError as error:
            raise ClusterError(f"{path}: {error.strerror}") from None

    def keep(self, state: State) -> None:
        _write(self.path / "state.json", json.dumps({"folder": str(self.path), **asdict(state)}, indent=1))

    def prepare(self, settings: Settings, alive: Collection[str]) -> Site:
        """Choose what is not chosen yet and write all that the daemons read; `alive` are the roles that run."""
        kept = self.state()
        ports = dict(kept.ports) if kept else {}
        for role in settings.port_roles():
            if role in ports and role not in alive and not is_free(ports[role]):
                if alive:
                    taken = f"the port of {role}, {ports[role]}, was taken by another program"
                    raise ClusterError(f"{taken}: `down`, then `up` takes others")
                del ports[role]
        new = [role for role in settings.port_roles() if role not in ports]
        ports |= dict(zip(new, free_ports(len(new), avoid=ports.values()), strict=True))
        link = self._link(kept.link if kept else None)
        host, user = socket.gethostname().partition(".")[0], _user()
        site = Site(Path(link) if link else self.path, self.name, host, user, ports)
        self.keep(State(settings, ports, link))
        for name in ("etc", "log", "state", "dev", "run", *(f"run/{node}" for node in settings.node_names())):
            (self.path / name).mkdir(exist_ok=True)
        _write(self.path / ".gitignore", "*\n")
        (self.path / "run").chmod(0o700)  # the database in it asks for no password
        for number in range(settings.gpus):
            with suppress(FileExistsError):
                (self.path / "dev" / f"gpu{number}").symlink_to("/dev/null")
        _write(self.conf, conf.slurm_conf(site, settings))
        _write(self.path / "etc" / "gres.conf", conf.gres_conf(site, settings))
        _write(self.path / "etc" / "cgroup.conf", conf.cgroup_conf(ask(["slurmd", "-V"])))
        _write(self.path / "etc" / "slurmdbd.conf", conf.slurmdbd_conf(site))
        if not (key := self.path / "etc" / "munge.key").exists():
            _write(key, os.urandom(128))
        if not (self.path / "database").exists():
            shutil.rmtree(self.path / "database.new", ignore_errors=True)
            ask(conf.mariadb_install_command(site), **{FOLDER: str(self.path), ROLE: INSTALLER})
            (self.path / "database.new").rename(self.path / "database")
        return site

    def _link(self, link: str | None) -> str | None:
        """A short and plain path to the folder, where its own is not: see LONGEST; slurm.conf knows no quotes."""
        if len(str(self.path)) <= LONGEST and re.fullmatch(r"[A-Za-z0-9_./+-]+", str(self.path)):
            return None
        if link is None:
            link = str(Path(tempfile.mkdtemp(prefix="fcdm-", dir="/tmp")) / "cluster")
        parent = Path(link).parent
        parent.mkdir(mode=0o700, exist_ok=True)  # a machine that starts anew empties /tmp
        found = parent.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise ClusterError(f"{parent} is not private any more: `down`, then `up` takes another")
        with suppress(FileExistsError):
            Path(link).symlink_to(self.path)
        return link

    def unlink(self) -> None:
        """Remove the short path; nothing may run any more."""
        kept = self.state()
        if kept and kept.link:
            with suppress(OSError):
                Path(kept.link).unlink()
                Path(kept.link).parent.rmdir()
            self.keep(replace(kept, link=None))


def _user() -> str:
    """Not by the environment, in which `setpriv` and others leave another user's name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise ClusterError(f"slurm wants a user with a name, and uid {os.geteuid()} has none in /etc/passwd") from None


def _write(path: Path, content: str | bytes) -> None:
    """Whole or not at all, readable by this user alone (keys), and untouched where nothing changes."""
    data = content.encode() if isinstance(content, str) else content
    if path.exists() and path.read_bytes() == data:
        return
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_bytes(data)
    new.replace(path)
