"""Time a training step (forward, backward, AdamW) of an FCDM: plain against ours, in one run.

    python benchmarks/model_step.py                                       S, 2 CPU threads, batch 8
    python benchmarks/model_step.py --device cuda --model XL --compile    batch 64, bf16

Plain is the model in the obvious style (`plain_fcdm.py`), with and without activation checkpointing, under PyTorch's
default AdamW; ours is the engine's, under its fused AdamW. On a CPU the variants take turns, round after round, so
that a busy machine slows all of them; medians count. `cpu` is the median of the process's CPU seconds per step, which
other jobs on the machine move less than the clock does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
parser.add_argument("--device", default="cpu")
parser.add_argument("--model", default="S", help="an FCDM preset (default: S)")
parser.add_argument("--batch-size", type=int, help="images (default: 64 on CUDA, 8 on a CPU)")
parser.add_argument("--side", type=int, default=32, help="of the latents (default: 32, for 256 px)")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--rounds", type=int, default=7)
parser.add_argument(
    "--precisions",
    help="fp32, bf16 or both by a comma (default: bf16 on CUDA; on a CPU fp32, and bf16 where it computes in it)",
)
parser.add_argument("--compile", action="store_true", help="both compiled, too")
parser.add_argument("--json", type=Path, metavar="FILE", help="write images/s of each variant")
arguments = parser.parse_args()
if arguments.batch_size is not None and arguments.batch_size < 1:
    parser.error("--batch-size: at least 1")
if wrong := {*(arguments.precisions or "fp32").split(",")} - {"fp32", "bf16"}:
    parser.error(f"--precisions {', '.join(wrong)}: fp32, bf16 or both")
if arguments.rounds < 1:
    parser.error("--rounds: at least 1")
os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # before torch is imported

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import Tensor, nn  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.plain_fcdm import PlainFCDM  # noqa: E402
from fcdm.config.presets import load_preset  # noqa: E402
from fcdm.config.schema import FCDMConfig  # noqa: E402
from fcdm.models import FCDM  # noqa: E402
from fcdm.models.official_weights import to_official  # noqa: E402

WARM_UP_ROUNDS = 2


Step = Callable[[], None]


def training_step(net: nn.Module, optimiser: torch.optim.Optimizer, batch: tuple[Tensor, ...], bf16: bool) -> Step:
    x, t, labels, target = batch

    def step() -> None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            out = net(x, t, labels)
        loss = (out.float() - target).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def variants(device: torch.device, size: int, precisions: list[str]) -> dict[str, Step]:
    """Name -> one training step; two networks in all, of the same weights at first."""
    config = load_preset(arguments.model)
    if not isinstance(config, FCDMConfig):
        parser.error(f"--model {arguments.model}: a preset of FCDM")
    ours = FCDM(config, channels=4, classes=1000, learn_sigma=True).to(device)
    with torch.no_grad():  # no zero weights: nothing may be skipped
        for parameter in ours.parameters():
            parameter.normal_(std=0.03)
    plain = PlainFCDM(config.width, list(config.blocks), 4, 1000, False).to(device)
    plain.load_state_dict(to_official(ours))
    side = arguments.side
    batch = (
        torch.randn(size, 4, side, side, device=device),
        torch.randint(0, 1000, (size,), device=device),
        torch.randint(0, 1000, (size,), device=device),
        torch.randn(size, 8, side, side, device=device),
    )
    usual = torch.optim.AdamW(plain.parameters(), lr=1e-4, weight_decay=0.0)
    fused = torch.optim.AdamW(ours.parameters(), lr=1e-4, weight_decay=0.0, fused=True)

    def checkpointed(on: bool, step: Step) -> Step:
        def set_and_step() -> None:
            plain.checkpointing = on
            step()

        return set_and_step

    found = {}
    for precision in precisions:
        plain_step = training_step(plain, usual, batch, precision == "bf16")
        found[f"plain, checkpointed, {precision}"] = checkpointed(True, plain_step)
        found[f"plain, {precision}"] = checkpointed(False, plain_step)
        found[f"ours, {precision}"] = training_step(ours, fused, batch, precision == "bf16")
        if arguments.compile:
            step = training_step(torch.compile(plain), usual, batch, precision == "bf16")
            found[f"plain, compiled, {precision}"] = checkpointed(False, step)
            found[f"ours, compiled, {precision}"] = training_step(
                torch.compile(ours), fused, batch, precision == "bf16"
            )
    return found


def main() -> None:
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    on_gpu = device.type == "cuda"
    size = arguments.batch_size or (64 if on_gpu else 8)
    has_bf16 = on_gpu or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    usual = "bf16" if on_gpu else "fp32,bf16" if has_bf16 else "fp32"
    steps = variants(device, size, (arguments.precisions or usual).split(","))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in steps}

    def timed(name: str) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        steps[name]()
        if on_gpu:
            torch.cuda.synchronize()
        seconds[name].append(time.perf_counter() - wall)
        cpu_seconds[name].append(time.process_time() - cpu)

    rounds = WARM_UP_ROUNDS + arguments.rounds
    turns = [name for _ in range(rounds) for name in steps] if not on_gpu else [n for n in steps for _ in range(rounds)]
    for name in turns:
        if name in seconds:
            try:
                timed(name)
            except torch.OutOfMemoryError:
                print(f"{name}: out of memory")
                del seconds[name]
                torch.cuda.empty_cache()

    table = Table(title=f"FCDM-{arguments.model} training step, batch {size}, 4x{arguments.side}x{arguments.side}")
    for heading in ("", "images/s", "best", "x plain, checkpointed", "x plain", "cpu s/step", "x by cpu"):
        table.add_column(heading, justify="right" if heading else "left")
    wall = {name: statistics.median(times[WARM_UP_ROUNDS:]) for name, times in seconds.items()}
    cpu = {name: statistics.median(cpu_seconds[name][WARM_UP_ROUNDS:]) for name in seconds}

    def ratio(of: dict[str, float], reference: str, name: str) -> str:
        return f"{of[reference] / of[name]:.2f}" if reference in of else "-"

    for name, median in wall.items():
        precision = name.rsplit(", ", 1)[1]
        first, second = f"plain, checkpointed, {precision}", f"plain, {precision}"
        table.add_row(
            name,
            f"{size / median:.2f}",
            f"{size / min(seconds[name][WARM_UP_ROUNDS:]):.2f}",
            ratio(wall, first, name),
            ratio(wall, second, name),
            f"{cpu[name]:.2f}",
            ratio(cpu, first, name),
        )
    console = Console(width=120)
    console.print(table)
    if not has_bf16:
        print("This CPU has no bfloat16 instructions: torch emulates them")
    where = torch.cuda.get_device_name() if on_gpu else cpu_name()
    load = "/".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"torch {torch.__version__} | {where} | {torch.backends.cpu.get_cpu_capability()} | "
        f"{arguments.threads} threads | {arguments.rounds} rounds | load average at the end {load}"
    )
    if arguments.json:
        content = {"model": arguments.model, "batch": size, "side": arguments.side}
        content["images_per_s"] = {name: size / median for name, median in wall.items()}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
