"""Time a training step (forward, backward, AdamW) of FCDM-S: plain against ours, in one run.

    python benchmarks/model_step.py                                2 CPU threads, batch 8
    python benchmarks/model_step.py --device cuda --batch-size 64

The variants take turns, round after round, so that a busy machine slows all of them; medians count. `cpu` is
the median of the process's CPU seconds per step, which other jobs on the machine move less than the clock does.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
parser.add_argument("--device", default="cpu")
parser.add_argument("--batch-size", type=int, default=8)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--rounds", type=int, default=7)
parser.add_argument("--bf16", choices=("auto", "on", "off"), default="auto", help="auto: where the CPU computes in it")
arguments = parser.parse_args()
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


def training_step(net: nn.Module, batch: tuple[Tensor, ...], bf16: bool) -> Callable[[], None]:
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=0.0)
    x, t, labels, target = batch

    def step() -> None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            out = net(x, t, labels)
        loss = (out.float() - target).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def main() -> None:
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = load_preset("S")
    assert isinstance(config, FCDMConfig)
    ours = FCDM(config, channels=4, classes=1000, learn_sigma=True).to(device)
    with torch.no_grad():  # no zero weights: nothing may be skipped
        for parameter in ours.parameters():
            parameter.normal_(std=0.03)
    size = arguments.batch_size
    batch = (
        torch.randn(size, 4, 32, 32, device=device),
        torch.randint(0, 1000, (size,), device=device),
        torch.randint(0, 1000, (size,), device=device),
        torch.randn(size, 8, 32, 32, device=device),
    )

    def plain(checkpointing: bool) -> nn.Module:
        net = PlainFCDM(config.width, list(config.blocks), 4, 1000, checkpointing).to(device)
        net.load_state_dict(to_official(ours))
        return net

    has_bf16 = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    steps = {
        "plain, checkpointed, fp32": training_step(plain(True), batch, False),
        "plain, fp32": training_step(plain(False), batch, False),
        "ours, fp32": training_step(ours, batch, False),
    }
    if arguments.bf16 == "on" or (arguments.bf16 == "auto" and has_bf16):
        ours_bf16 = FCDM(config, channels=4, classes=1000, learn_sigma=True).to(device)
        ours_bf16.load_state_dict(ours.state_dict())
        steps["ours, bf16"] = training_step(ours_bf16, batch, True)

    seconds: dict[str, list[float]] = {name: [] for name in steps}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(WARM_UP_ROUNDS + arguments.rounds):
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - wall)
            cpu_seconds[name].append(time.process_time() - cpu)

    table = Table(title=f"FCDM-S training step, batch {size}, 4x32x32")
    for heading in ("", "images/s", "best", "x plain, checkpointed", "x plain", "cpu s/step", "x by cpu"):
        table.add_column(heading, justify="right" if heading else "left")
    wall_medians = {name: statistics.median(times[WARM_UP_ROUNDS:]) for name, times in seconds.items()}
    cpu_medians = {name: statistics.median(times[WARM_UP_ROUNDS:]) for name, times in cpu_seconds.items()}
    first, second = list(steps)[:2]
    for name, median in wall_medians.items():
        table.add_row(
            name,
            f"{size / median:.2f}",
            f"{size / min(seconds[name][WARM_UP_ROUNDS:]):.2f}",
            f"{wall_medians[first] / median:.2f}",
            f"{wall_medians[second] / median:.2f}",
            f"{cpu_medians[name]:.2f}",
            f"{cpu_medians[first] / cpu_medians[name]:.2f}",
        )
    console = Console(width=120)
    console.print(table)
    if not has_bf16:
        print(f"This CPU has no bfloat16 instructions: torch emulates them; --bf16 {arguments.bf16}")
    where = torch.cuda.get_device_name() if device.type == "cuda" else cpu_name()
    load = "/".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"torch {torch.__version__} | {where} | {torch.backends.cpu.get_cpu_capability()} | "
        f"{arguments.threads} threads | {arguments.rounds} rounds | load average at the end {load}"
    )


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
