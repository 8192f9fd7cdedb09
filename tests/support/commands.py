"""The command line as a user meets it, and what the tests read of the folders that it leaves."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from fcdm.config.check import checked
from fcdm.config.schema import Config
from fcdm.runs.processes import process_alive, start_time
from fcdm.sweep.compose import Composer
from fcdm.sweep.hydra_schema import register_schema

ROOT = Path(__file__).resolve().parent.parent.parent
"""The checkout."""

# A run of seconds: everything real, only small.
TINY = (
    "batch_size=16",
    "evaluation.samples=20",
    "evaluation.sampling_steps=2",
    "evaluation.batch_size=10",
    "log_every=2",
    "mlflow_uri=off",
)

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(**more: str) -> dict[str, str]:
    """One thread per process: side by side on few cores anything else is ten times slower."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HYDRA_", "MLFLOW_"))}
    return {**kept, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "COLUMNS": "200", **more}


def free_port() -> int:
    """One that is free, and stays so until it is used: not of the range from which Linux gives any program one."""
    while True:
        with socket.socket() as found, suppress(OSError):
            found.bind(("", port := secrets.choice(range(12_000, 32_000))))
            return port


def python_in(folder: Path, *words: str, ok: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
    """`python WORDS` in the folder, which ends well or, with ok=False, does not. more: environment variables."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert (done.returncode == 0) is ok, done.stdout + done.stderr
    return done


def kill_and_await(command: subprocess.Popen[bytes], *others: int) -> None:
    """Kill -9 the command: its children and these others, whose process ids they are, end within a minute."""
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
    left = {pid: start_time(pid) for pid in (*map(int, children), *others)}
    assert children
    command.kill()
    until = time.monotonic() + 60
    for pid, started in left.items():
        assert started is not None
        while process_alive(pid, started):
            assert time.monotonic() < until, f"process {pid} goes on"
            time.sleep(0.02)


def told_by_ranks(count: int, *words: str, timeout: float, refused: bool = False, **more: str) -> list[tuple[str, str]]:
    """What so many processes of `python WORDS`, the ranks of one command, say (stdout, stderr).

    All end well; refused: but for the first, which alone has a refusal to say.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, *words],
            env=environment(**more, **rank),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ranks_of(count)
    ]
    try:
        told = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()  # where one waits for another for ever
    assert [process.returncode for process in processes] == [int(refused), *[0] * (count - 1)], told
    return told


def ranks_of(count: int) -> list[dict[str, str]]:
    """For each of so many processes the variables that torchrun gives it, with a port that is free."""
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [{"RANK": str(rank), "LOCAL_RANK": str(rank), **shared} for rank in range(count)]


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def values(folder: Path) -> dict[tuple[int, str], Any]:
    """Everything recorded but timings, by (step, key); fails where one was recorded twice."""
    found: dict[tuple[int, str], Any] = {}
    for line in records(folder):
        if "segment" in line:
            continue
        for key, value in line.items():
            if key in ("step", "time", "images_per_s", "data_wait_share", "protocol"):
                continue
            place = (line["step"], key)
            assert place not in found, f"{place} was recorded twice"
            found[place] = value
    return found


def weights(folder: Path, step: int) -> dict[str, str]:
    """Checksums of a checkpoint's files: equal means bit for bit."""
    manifest = json.loads((folder / "checkpoints" / f"step-{step:08d}" / "manifest.json").read_text())
    return {name: entry["sha256"] for name, entry in manifest["files"].items()}


def evaluations(run: Path) -> dict[str, object]:
    """What was evaluated, but for the times."""
    found = {}
    for path in sorted((run / "evaluations").glob("step-*.json")):
        content = json.loads(path.read_text())
        found[path.name] = {key: value for key, value in content.items() if key not in ("time", "seconds")}
    return found


def only_run(runs: Path) -> Path:
    (found,) = [path.parent for path in runs.glob("*/run.json")]
    return found


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra, initialised here; what was before (a command's of an earlier test) is back afterwards."""
    register_schema()
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("fcdm.conf", version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = before


@contextmanager
def composing(*overrides: str) -> Iterator[Composer]:
    """A Composer as the sweeper has it: on a master config composed with these overrides."""
    with _hydra():
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        master = hydra.compose_config("train", list(overrides), run_mode=RunMode.MULTIRUN)
        yield Composer(hydra.config_loader, master)


def composed(*overrides: str) -> Config:
    with _hydra():
        return Composer.here().config(overrides)


def composed_anyway(*overrides: str) -> Config:
    """Also with settings that have no effect: frozen configurations, and presets, may have such."""
    with _hydra():
        return checked(compose("train", list(overrides)))
