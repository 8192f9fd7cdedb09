"""Does a process live? Asked of this machine's process table, or of SLURM about a job elsewhere."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcdm.runs.peers import peers
from fcdm.runs.slurm_states import ENDED, RUNNING, WAITING, state_name

JobAlive = Callable[[str], bool | None]
"""SLURM job id -> True: it runs; False: it does not, or no more; None: nobody can say."""


def process_alive(pid: int, start: int) -> bool:
    """Whether the process `pid` that started `start` clock ticks after the boot lives, on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # somebody else's process: it exists
    status = _status(pid)
    if status is None:
        # It exists but /proc does not show it (mounted with hidepid): to call it dead would risk two writers.
        return True
    state, started = status
    return state not in "ZXx" and started == start


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since the boot; None if that cannot be seen."""
    status = _status(pid)
    return None if status is None else status[1]


@dataclass(frozen=True)
class CpuTime:
    """How long a process' first thread has been on a CPU, and whether it is on one, or in the queue for it."""

    nanoseconds: int
    runnable: bool


def cpu_time(pid: int) -> CpuTime | None:
    """None where that cannot be seen: grows as the process works, and stands still where it waits or is stopped."""
    status = _status(pid)
    try:
        used = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return None if status is None else CpuTime(used, status[0] == "R")


def _status(pid: int) -> tuple[str, int] | None:
    """(state letter, start time), fields 3 and 22 of proc(5)'s stat."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # Field 2 is the program's name in brackets, which may itself hold brackets and spaces.
    after_name = stat[stat.rindex(")") + 2 :].split()
    return after_name[0], int(after_name[19])


def boot_id() -> str:
    """The kernel's random id of this boot; empty where there is none (not Linux)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def boot_time() -> float:
    """Unix time of this machine's boot; 0 where it cannot be known."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) for line in lines if line.startswith("btime ")), 0.0)


def process_namespace() -> str:
    """The id of the process id namespace: process ids mean something only within it."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def ask_slurm(job: str) -> bool | None:
    """Whether the SLURM job (`123` or `123_4`) runs; False for one that the controller knows no more."""
    queue = _command(["squeue", "-h", "-t", "all", "-j", job, "-o", "%T"])
    if queue is None or (queue[0] != 0 and "Invalid job id" not in queue[2]):
        return None  # no squeue here, or no answer: the job may run
    states = _states(queue[1])
    if not states:
        # Forgotten by the controller, minutes after its end. Without accounting, nobody knows more.
        accounts = _command(["sacct", "-n", "-X", "-P", "-j", job, "-o", "State"])
        return False if accounts is None or _states(accounts[1]) <= ENDED else None
    if states & RUNNING:
        return True
    return False if states <= ENDED | WAITING else None


def _states(output: str) -> set[str]:
    """One state a line."""
    return {state_name(line) for line in output.splitlines() if line.strip()}


def _command(words: list[str]) -> tuple[int, str, str] | None:
    """(exit code, output, errors); None if the program is missing or does not answer within 20 s."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.returncode, done.stdout.strip(), done.stderr


@contextlib.contextmanager
def _signals_end() -> Iterator[None]:
    """Within it SIGTERM and SIGHUP raise SystemExit, so that what `finally` ends is ended: a child in a session of its
    own hears of no signal. One that is ignored (nohup) stays so."""

    def end(signum: int, frame: object) -> None:
        raise SystemExit(128 + signum)

    previous = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None):
                    previous[number] = handler
                    signal.signal(number, end)
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


PARENT = "FCDM_ENDS_WITH"
"""In the environment of a process of `own_session`: `<a pipe's end>:<signal>`."""


@contextlib.contextmanager
def own_session(
    command: list[str], ending: signal.Signals, env: Mapping[str, str] | None = None, **streams: Any
) -> Iterator[subprocess.Popen[str]]:
    """A process of text streams in a session of its own, so that what it started ends with it.

    ending: what its session is sent where it still runs at the block's end, also at Ctrl-C and other signals, of which
    such a session does not hear by itself. Of a SIGKILL to this process the other hears by `end_with_parent`.
    """
    reader, writer = os.pipe()  # this process writes nothing: its end closes at its own end, however that comes
    environment = {**(os.environ if env is None else env), PARENT: f"{reader}:{int(ending)}"}
    how: dict[str, Any] = {"text": True, "start_new_session": True, "pass_fds": (reader,), "env": environment}
    try:
        with _signals_end(), subprocess.Popen(command, **how, **streams) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, ending)
    finally:
        os.close(reader)
        os.close(writer)


def end_with_parent() -> None:
    """For the start of a process of `own_session`: its session is sent the `ending` once the other process is gone.

    Elsewhere nothing is done.
    """
    if not (said := os.environ.pop(PARENT, "")):  # not for what this one starts
        return
    reader, ending = map(int, said.split(":"))

    def wait() -> None:
        os.read(reader, 1)
        os.killpg(0, ending)

    threading.Thread(target=wait, daemon=True, name="parent").start()


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_first_process() -> bool:
    """Whether this process speaks for all of its command. Raises UserError (`fcdm.runs.peers`)."""
    return peers().rank == 0
