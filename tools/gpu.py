"""`make gpu`: all that a GPU has to tell about this project, within some minutes, on a machine that can fetch nothing.

    python tools/gpu.py --minutes 8                 a machine with a GPU, torch, and the wheels of `make gpu-wheels`
    python tools/gpu.py --minutes 3 --tiny          the same, small, on a CPU: what the tests run

Most telling first, so that being cut off loses the least: the depthwise convolutions on their own, the tests marked
gpu, the benchmark of FCDM-XL and DiT-XL/2, the plain reference, 512 px, the other sizes. Everything is also JSON,
written after each piece, in `<out>/<device>/gpu.json`; what a piece printed is in `<piece>.log` beside it. Standard
library only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
WHEELS = ROOT / ".whl"
SITE = ROOT / ".gpu-site"
"""Where the wheels are unpacked: an ignored folder, so that nothing of the machine is changed."""
PLANNED_WITHIN = 0.15
"""A plan's memory may be off by so much."""

CARRIED = ("hydra", "omegaconf", "submitit")
"""What the wheels of `make gpu-wheels` bring."""

MODELS = ("S", "B", "L")
"""Sizes besides XL, of both families."""
TINY_S = "3"
"""Seconds for each measurement where all is small: the rest of the time is patience with a busy machine."""


@dataclass(frozen=True)
class Piece:
    """One process to run: what it is called, its share of the time, its command."""

    name: str
    share: float
    """Of the minutes; what is left over goes to those that follow."""
    command: tuple[str, ...]
    count: int = 1
    """Things in it that share its time: `{seconds}` in the command is for one of them."""


def pieces(tiny: bool, out: Path) -> list[Piece]:
    """What is run, the most telling first."""
    python = sys.executable
    device, seconds = ("cpu", TINY_S) if tiny else ("cuda", "{seconds}")
    tests = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*_gpu.py"))

    def benchmark(name: str, share: float, models: Sequence[str], *words: str) -> Piece:
        common = (f"device={device}", f"runs_dir={out / 'runs'}", f"seconds={seconds}")
        command = (python, "-m", "fcdm.benchmark", "-m", f"model={','.join(models)}", *common, *words)
        return Piece(name, share, command, len(models))

    def twins(sizes: Sequence[str], patch: str) -> list[str]:
        return [name for size in sizes for name in (size, f"dit/{size}-{patch}")]

    junit = f"--junit-xml={out / 'tests.xml'}"
    small = ("--model", "N", "--side", "8", "--batch-size", "4") if tiny else ()
    plain = [
        *(small or ("--model", "XL")),
        "--compile",
        "--threads",
        "1" if tiny else "8",
        "--json",
        str(out / "plain.json"),
    ]
    plain += ["--rounds", "1", "--precisions", "fp32"] if tiny else []
    depthwise = [*small, "--seconds", seconds, "--json", str(out / "depthwise.json")]
    # What another torch or Triton warns of must not cost a result on the one day; small, they are errors as ever.
    lenient = () if tiny else ("-W", "default", "--timeout=120")
    first = [
        Piece("depthwise", 0.06, (python, "benchmarks/depthwise.py", "--device", device, *depthwise)),
        Piece(
            "tests", 0.2, (python, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-m", "gpu", junit, *lenient, *tests)
        ),
    ]
    reference = Piece("plain", 0.2, (python, "benchmarks/model_step.py", "--device", device, *plain))
    if tiny:
        return [
            *first,
            benchmark("XL", 0.3, twins(["N"], "2"), "micro_batch=4", "threads=1"),
            reference,
            benchmark("512px", 0.1, ["N"], "resolution=16", "micro_batch=2", "threads=1"),
        ]
    return [
        *first,
        benchmark("XL", 0.34, twins(["XL"], "2")),
        reference,
        benchmark("512px", 0.1, twins(["XL"], "2"), "resolution=512"),
        benchmark("others", 0.1, twins(MODELS, "2")),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: every piece ran to its end and no test failed; 1 otherwise; 2 for what cannot be."""
    parser = argparse.ArgumentParser(prog="tools/gpu.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="at most about so long (default: 8)")
    parser.add_argument("--tiny", action="store_true", help="small, on a CPU")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="default: benchmarks/results")
    asked = parser.parse_args(arguments)
    if not 0 < asked.minutes <= 600:
        print(f"make gpu: MINUTES={asked.minutes:g} cannot be: more than 0, at most 600", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the piece in hand is ended
    try:
        return gpu(asked)
    except KeyboardInterrupt:
        print("make gpu: interrupted; what was measured is in gpu.json", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"make gpu: {error}: choose another folder, OUT=...", file=sys.stderr)
        return 2


def gpu(asked: argparse.Namespace) -> int:
    """Run the pieces, and show the table; exit codes as of `main`."""
    end = time.monotonic() + 60 * asked.minutes
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    paths = [str(ROOT), *([str(SITE)] if unpacked() else [])]
    environment["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    if asked.tiny:
        environment |= {"FCDM_GPU_TESTS": "cpu", "OMP_NUM_THREADS": "1"}
    facts = facts_of(environment)
    if problem := missing(facts, asked.tiny):
        print(f"make gpu: {problem}", file=sys.stderr)
        return 2
    name = "cpu" if asked.tiny else facts["gpu"]
    out = asked.out.absolute() / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    out.mkdir(parents=True, exist_ok=True)
    for old in ("plain.json", "depthwise.json", "tests.xml", "gpu.json"):
        (out / old).unlink(missing_ok=True)
    shutil.rmtree(out / "runs", ignore_errors=True)
    content: dict[str, Any] = {**facts, "minutes": asked.minutes, "tiny": asked.tiny, "pieces": []}
    todo = pieces(asked.tiny, out)
    for number, piece in enumerate(todo):
        rest = sum(other.share for other in todo[number:])
        seconds = (end - time.monotonic()) * piece.share / rest
        content["pieces"].append(run(piece, seconds, end, out, environment))
        collect(content, out)
        (out / "gpu.json").write_text(json.dumps(content, indent=2) + "\n")
    for line in summary(content):
        print(line, flush=True)
    print(f"make gpu: {out / 'gpu.json'}")
    return 0 if all(done["state"] == "done" for done in content["pieces"]) else 1


def unpacked() -> bool:
    """Put the wheels of `make gpu-wheels` into SITE; whether there are any."""
    wheels = sorted(WHEELS.glob("*.whl"))
    if not wheels:
        return False
    command = [
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--upgrade",
        "--target",
        str(SITE),
    ]
    done = subprocess.run([sys.executable, *command, *map(str, wheels)], capture_output=True, text=True)
    if done.returncode:
        print(f"make gpu: the wheels in {WHEELS} cannot be unpacked: {done.stderr.strip()[-300:]}", file=sys.stderr)
    return done.returncode == 0


_FACTS = """
import json, platform
facts = {"python": platform.python_version(), "lacks": []}
for name in ("torch", "hydra", "omegaconf", "safetensors", "rich", "scipy", "sklearn", "pytest", "hypothesis"):
    try:
        __import__(name)
    except ImportError:
        facts["lacks"].append(name)
if "torch" not in facts["lacks"]:
    import torch
    facts |= {"torch": torch.__version__, "cuda": torch.version.cuda, "gpu": None}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        facts |= {"gpu": properties.name, "memory": properties.total_memory, "units": properties.multi_processor_count}
        facts |= {"cudnn": torch.backends.cudnn.version(), "nccl": ".".join(map(str, torch.cuda.nccl.version()))}
print(json.dumps(facts))
"""


def facts_of(environment: dict[str, str]) -> dict[str, Any]:
    """What stands in this machine's Python, as a process of its own finds it."""
    done = subprocess.run([sys.executable, "-c", _FACTS], env=environment, capture_output=True, text=True, cwd=ROOT)
    facts: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {"lacks": [done.stderr.strip()[-300:]]}
    return facts


def missing(facts: dict[str, Any], tiny: bool) -> str | None:
    """Why nothing can be run here."""
    lacks = facts["lacks"]
    if others := [name for name in lacks if name not in CARRIED]:
        return f"{sys.executable} lacks {', '.join(others)}: install them, or say PYTHON=<one that has them>"
    if lacks:
        return (
            f"{sys.executable} lacks {', '.join(lacks)}: make gpu-wheels, on a machine that can fetch them, puts them "
            f"into {WHEELS.name}/, which is to be copied with the rest"
        )
    if not tiny and facts["gpu"] is None:
        return f"torch {facts['torch']} sees no GPU here: make gpu TINY=1 runs everything small, on a CPU"
    return None


def run(piece: Piece, seconds: float, end: float, out: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Run one piece in about so many seconds; it is ended where it takes half as long again, or the time is up."""
    began = time.monotonic()
    limit = min(1.5 * seconds, end - began)
    if limit < 1:
        return {"name": piece.name, "state": "no time was left", "seconds": 0.0}
    command = [word.replace("{seconds}", f"{max(1.0, 0.8 * seconds / piece.count):.0f}") for word in piece.command]
    print(f"== {piece.name}: about {seconds:.0f} s: {' '.join(command)}", flush=True)
    log = out / f"{piece.name}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        state = "cut off"
        with _ended(process), contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(timeout=limit)
            state = "done" if code == 0 else f"failed (exit code {code})"
    print(log.read_text(errors="replace")[-6000:], flush=True)
    return {"name": piece.name, "state": state, "seconds": round(time.monotonic() - began, 1), "command": command}


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever happens, the process and its children are gone afterwards."""
    try:
        yield
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def collect(content: dict[str, Any], out: Path) -> None:
    """Take in what the pieces have written so far."""
    for name in ("depthwise", "plain"):
        with contextlib.suppress(OSError, ValueError):
            content[name] = json.loads((out / f"{name}.json").read_text())
    with contextlib.suppress(OSError, ElementTree.ParseError):
        content["tests"] = counts_of(out / "tests.xml")
    files = sorted((out / "runs" / "benchmarks").glob("[!.]*.json"))
    content["benchmarks"] = []
    for path in files:
        with contextlib.suppress(OSError, ValueError):
            content["benchmarks"].append(json.loads(path.read_text()))
    content["memory"] = [
        {"model": name, "measured": way["peak_bytes"], "planned": way["estimated_bytes"]}
        | {key: way[key] for key in ("images", "compiled", "activation_checkpointing")}
        for device in content["benchmarks"]
        for name, entry in device["models"].items()
        for way in entry["training"]
        if way["peak_bytes"]
    ]


def counts_of(path: Path) -> dict[str, Any]:
    """Counts, and the names of what failed."""
    cases = list(ElementTree.parse(path).getroot().iter("testcase"))
    failed = [f"{case.get('classname')}::{case.get('name')}" for case in cases if _has(case, "failure", "error")]
    skipped = sum(_has(case, "skipped") for case in cases)
    return {"passed": len(cases) - len(failed) - skipped, "skipped": skipped, "failed": failed}


def _has(case: ElementTree.Element, *tags: str) -> bool:
    return any(case.find(tag) is not None for tag in tags)


def summary(content: dict[str, Any]) -> list[str]:
    """The table at the end, as docs/performance.md takes it."""
    device = content["gpu"] or "CPU"
    lines = ["", f"## {device}, torch {content['torch']}, CUDA {content['cuda']}, Python {content['python']}", ""]
    lines += ["| piece | state | seconds |", "|---|---|---|"]
    lines += [f"| {done['name']} | {done['state']} | {done['seconds']:.0f} |" for done in content["pieces"]]
    if tests := content.get("tests"):
        failed = f", {len(tests['failed'])} failed: {', '.join(tests['failed'])}" if tests["failed"] else ""
        lines += ["", f"gpu tests: {tests['passed']} passed, {tests['skipped']} skipped{failed}"]
    for measured in content["benchmarks"]:
        lines += ["", *models_table(measured)]
    if memory := content["memory"]:
        off = [abs(row["planned"] / row["measured"] - 1) for row in memory]
        within = sum(share <= PLANNED_WITHIN for share in off)
        lines += [
            "",
            f"planned memory within {PLANNED_WITHIN:.0%}: {within} of {len(memory)}; at most {max(off):.0%} off",
        ]
    if plain := content.get("plain"):
        speeds = plain["images_per_s"]
        lines += ["", f"| FCDM-{plain['model']}, batch {plain['batch']} | images/s |", "|---|---|"]
        lines += [f"| {name} | {speed:,.1f} |" for name, speed in speeds.items()]
    return lines


def models_table(measured: dict[str, Any]) -> list[str]:
    """One device's models; the ceilings are those of the first."""
    entries = list(measured["models"].values())
    ceilings = entries[0]["ceilings"]
    peaks = ", ".join(f"{peak / 1e12:,.1f} TFLOP/s in {name}" for name, peak in ceilings["flops_per_s"].items())
    lines = [f"Ceilings of {measured['device']}: {peaks}; copies {ceilings['bytes_per_s'] / 1e12:.2f} TB/s.", ""]
    lines += [
        "| model | images | how | images/s | MFU | memory | planned | limit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in entries:
        peak = entry["ceilings"]["flops_per_s"][entry["precision"]]
        for way in entry["training"]:
            how = ("compiled" if way["compiled"] else "eager") + ", checkpointing" * way["activation_checkpointing"]
            used = f"{way['peak_bytes'] / 1e9:.1f} GB" if way["peak_bytes"] else "-"
            speed, mfu = f"{way['images_per_s']:,.1f}", f"{way['flops_per_s'] / peak:.3f}"
            planned = f"{way['estimated_bytes'] / 1e9:.1f} GB"
            cells = [entry["name"], way["images"], how, speed, mfu, used, planned, entry.get("limit", "-")]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
