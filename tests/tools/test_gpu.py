"""`make gpu`, all of it, small, on a CPU; and what it says where it cannot run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.support.commands import ROOT, environment
from tools.gpu import Piece, collect, counts_of, missing, run, summary


def make(*words: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "-s", "gpu", f"PYTHON={sys.executable}", *words]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=900)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_of_it_runs_small_on_a_cpu(tmp_path: Path) -> None:
    done = make("TINY=1", "MINUTES=14", f"OUT={tmp_path}")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    content = json.loads((tmp_path / "cpu" / "gpu.json").read_text())
    assert {piece["name"]: piece["state"] for piece in content["pieces"]} == dict.fromkeys(
        ("depthwise", "tests", "XL", "plain", "512px"), "done"
    )
    assert content["tests"]["failed"] == []
    assert content["tests"]["passed"] >= 10, "the tests marked gpu run on a CPU too"
    (device,) = content["benchmarks"]
    assert {entry["name"] for entry in device["models"].values()} == {"N 8px", "dit/N-2 8px", "N 16px"}
    assert {row["layout"] for row in content["depthwise"]["rows"]} == {"NHWC", "NCHW"}
    assert set(content["plain"]["images_per_s"]) >= {"plain, fp32", "plain, compiled, fp32", "ours, compiled, fp32"}
    assert "| N 8px | 4 | eager |" in done.stdout
    assert "gpu tests:" in done.stdout


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = make(f"OUT={tmp_path}")
    assert done.returncode != 0
    assert "sees no GPU here: make gpu TINY=1" in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_the_machine_lacks_is_named_with_the_way_to_get_it() -> None:
    said = missing({"lacks": ["hydra", "omegaconf"]}, False)
    assert said is not None
    assert "lacks hydra, omegaconf: make gpu-wheels" in said
    said = missing({"lacks": ["torch", "hydra"]}, False)
    assert said is not None
    assert "lacks torch: install them, or say PYTHON=" in said


def test_a_piece_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    note = tmp_path / "child"
    child = f"import os, pathlib, time; pathlib.Path({str(note)!r}).write_text(str(os.getpid())); time.sleep(600)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    # Long enough for the child to have begun, whatever else the machine does.
    done = run(Piece("slow", 1.0, (sys.executable, "-c", code)), 10.0, time.monotonic() + 60, tmp_path, environment())
    assert done["state"] == "cut off"
    give_up = time.monotonic() + 60
    while lives(note.read_text()):  # it was told to end, which the kernel does when it comes to it
        assert time.monotonic() < give_up
        time.sleep(0.1)


def lives(pid: str) -> bool:
    """A zombie, which nobody has waited for yet, is none."""
    try:
        return (Path("/proc") / pid / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_plans_memory_is_judged_by_what_was_measured(tmp_path: Path) -> None:
    def way(planned: float) -> dict[str, object]:
        return {
            "images": 64,
            "compiled": False,
            "activation_checkpointing": False,
            "images_per_s": 100.0,
            "flops_per_s": 1e14,
            "peak_bytes": 10_000_000_000,
            "estimated_bytes": planned * 1e10,
        }

    ceilings = {"flops_per_s": {"bf16": 8e14}, "bytes_per_s": 3e12}
    entry = {
        "name": "XL 256px",
        "precision": "bf16",
        "ceilings": ceilings,
        "training": [way(1.1), way(0.8)],
        "limit": "bandwidth",
    }
    folder = tmp_path / "runs" / "benchmarks"
    folder.mkdir(parents=True)
    (folder / "h100.json").write_text(json.dumps({"device": "NVIDIA H100", "models": {"XL": entry}}))
    (tmp_path / "tests.xml").write_text(
        "<testsuites><testsuite><testcase classname='a' name='b'/>"
        "<testcase classname='a' name='c'><failure/></testcase>"
        "<testcase classname='a' name='d'><skipped/></testcase></testsuite></testsuites>"
    )
    content = {"gpu": "NVIDIA H100", "torch": "2.11", "cuda": "13.0", "python": "3.12", "pieces": []}
    collect(content, tmp_path)
    assert counts_of(tmp_path / "tests.xml") == {"passed": 1, "skipped": 1, "failed": ["a::c"]}
    text = "\n".join(summary(content))
    assert "planned memory within 15%: 1 of 2; at most 20% off" in text
    assert "| XL 256px | 64 | eager | 100.0 | 0.125 | 10.0 GB | 11.0 GB | bandwidth |" in text
    assert "1 passed, 1 skipped, 1 failed: a::c" in text
