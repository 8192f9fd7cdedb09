"""Who is a peer on a real SLURM: the tasks of a step that run one command, and nobody else."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.support.commands import TINY, only_run
from tests.support.slurm_lab import PATIENCE, Lab
from tests.support.tiny_images import make_folder, save_vae

pytestmark = pytest.mark.slow

TRAIN = ("model=N", "steps=4", *TINY)


def batch(here: Lab, tasks: int, *lines: str) -> str:
    """Submits a batch script of these lines, as a user would by hand; the job's id. Its output is `output(here)`."""
    script = here.folder / "script.sh"
    script.write_text("\n".join(["#!/bin/bash", *lines, ""]))
    words = ("-n", str(tasks), "--mem-per-cpu=1000", "-o", str(here.folder / "out.txt"))
    return here.slurm("sbatch", "--parsable", *words, str(script))


def output(here: Lab) -> str:
    path = here.folder / "out.txt"
    return path.read_text() if path.exists() else ""


def said(here: Lab, text: str) -> None:
    here.wait(lambda: text in output(here), f"{text!r} in the output")


def command(here: Lab, module: str, *words: str) -> str:
    return " ".join(here.command(*words, module=module))


def world_sizes(runs: Path) -> set[int]:
    lines = [json.loads(line) for line in (only_run(runs) / "records.jsonl").read_text().splitlines()]
    return {line["world_size"] for line in lines if line.get("segment") == "start"}


def test_a_batch_script_is_one_process_whatever_tasks_its_job_has(here: Lab, tmp_path: Path) -> None:
    """Also where it was submitted within a step of several tasks, whose variables it inherits."""
    make_folder(tmp_path / "images", images=4, odd=False)
    save_vae(tmp_path / "vae")
    small = ("resolution=32", "batch=4", "device=cpu", "workers=1", "--yes")
    script = tmp_path / "inner.sh"
    lines = [
        "#!/bin/bash",
        "set -e",
        "echo tasks $SLURM_NTASKS, of a step $SLURM_STEP_NUM_TASKS, process $SLURM_PROCID",
        command(here, "fcdm.train", *TRAIN),
        command(here, "fcdm.sample", "runs/N-*", "samples=4", "batch_size=4", "out=samples"),
        command(here, "fcdm.prepare", "latents", "images=images", "vae=vae", "out=store", *small),
        "echo all done",
    ]
    script.write_text("\n".join([*lines, ""]))
    submit = f"sbatch -n 4 --mem-per-cpu=500 -o {tmp_path}/inner.txt {script}"
    job = batch(here, 2, f"srun -n 2 bash -c '[ $SLURM_PROCID = 1 ] || {submit}'")
    inner = tmp_path / "inner.txt"
    here.wait_state(job, "COMPLETED")
    here.wait(lambda: not here.slurm("squeue", "-h", "-o", "%i"), "its job")
    text = inner.read_text()
    assert "tasks 4, of a step 2, process 0" in text
    assert text.strip().endswith("all done"), text
    assert "waits for" not in text
    assert world_sizes(here.runs) == {1}
    assert json.loads((tmp_path / "samples" / "samples.json").read_text())["processes"] == 1
    assert (tmp_path / "store" / "manifest.json").exists()


def test_the_tasks_of_a_step_are_peers(here: Lab) -> None:
    """Of a step on the second node alone of two; two commands at once in it."""
    first, second = (command(here, "fcdm.train", *TRAIN, f"runs_dir={name}") for name in ("a", "b"))
    step = here.folder / "step.sh"
    step.write_text(f"{first} & {second} || exit 1; wait -n\n")
    job = batch(here, 4, "#SBATCH --ntasks-per-node=2", f"srun -N 1 -n 2 -w node2 --mem=0 bash {step}")
    here.wait_state(job, "COMPLETED", "FAILED")
    assert here.state(job) == "COMPLETED", output(here)
    assert [world_sizes(here.folder / name) for name in ("a", "b")] == [{2}, {2}]


def test_shells_are_one_process(here: Lab) -> None:
    """Of salloc, of its interactive step, and what is typed in a step of two tasks, of which one has the terminal."""
    code = "from fcdm.runs.peers import peers; print('count', peers().count)"
    ask = [*here.command(module="")[:2], "-c", code]
    assert here.run("srun", "-n", "2", *ask).stdout.split() == ["count", "2"] * 2
    assert here.slurm("salloc", "-n", "2", *ask) == "count 1"
    interactive = ("srun", "--interactive", "--preserve-env", "--pty")
    assert here.slurm("salloc", "-n", "2", *interactive, *ask) == "count 1"
    terminal, end = pty.openpty()
    shell = subprocess.Popen(
        ["srun", "-n", "2", "--pty", "bash"], cwd=here.folder, env=here.environment, stdin=end, stdout=end, stderr=end
    )
    os.close(end)
    script = here.folder / "typed.sh"
    inner = f"timeout 240 {shlex.join(ask)}; true"  # another process group than its task's
    script.write_text(f"{shlex.join(ask)}\nsrun -n2 --overlap --mem=0 bash -c {shlex.quote(inner)} </dev/null\n")
    os.write(terminal, f"sh {script}\nexit\n".encode())
    text = ""
    with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
        while seen := os.read(terminal, 4096):
            text += seen.decode(errors="replace")
    os.close(terminal)
    assert shell.wait(PATIENCE) == 0, text
    assert re.findall(r"count \d", text) == ["count 1", "count 2", "count 2"], text


def test_a_peer_that_never_comes(here: Lab) -> None:
    """Bounded, and ended by scancel; both say whom they wait for, and what to do."""
    train = command(here, "fcdm.train", *TRAIN)
    alone = f"srun -n 2 --overlap bash -c '[ $SLURM_PROCID = 1 ] || exec {train}'"
    job = batch(here, 2, f"FCDM_RENDEZVOUS_SECONDS=1 {alone}", 'echo "ended with $?"', f"exec {alone}")
    said(here, "ended with 1")
    first = output(here)
    assert re.search(r" waits for (1 other \(rank 1\)|rank 0) at 127\.0\.0\.1:", first), "fast, or slow"
    assert "for 1 s (FCDM_RENDEZVOUS_SECONDS" in first
    assert "all tasks of a step must run the same command" in first
    here.wait(lambda: "waits for 1 other" in output(here)[len(first) :], "the second")
    here.slurm("scancel", job)
    here.wait_state(job, "CANCELLED")
