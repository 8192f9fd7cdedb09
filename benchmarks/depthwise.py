"""The depthwise convolutions of FCDM-XL, alone: layouts and algorithms, forward and backward, against a copy.

    python benchmarks/depthwise.py --device cuda        the first thing to look at on a new GPU
    python benchmarks/depthwise.py                      2 threads, float32, small batch

Each row is one level of the model; `copy` moves its input once (read, and written), the least that forward can take.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fcdm.config.presets import load_preset
from fcdm.config.schema import FCDMConfig
from fcdm.speed.stopwatch import Deadline, seconds_per_call

LEVELS = (0, 1, 2)


@contextlib.contextmanager
def algorithm(name: str) -> Iterator[None]:
    """`cudnn`: by its heuristics; `deterministic`: as training is; `tuned`: the fastest that is found by trying;
    `native`: PyTorch's own kernel."""
    flags = {"enabled": name != "native", "benchmark": name == "tuned", "deterministic": name == "deterministic"}
    with torch.backends.cudnn.flags(**flags):
        yield


def calls(x: Tensor, weight: Tensor) -> dict[str, Callable[[], Any]]:
    """Forward, and the gradients of input and weight, each on its own."""
    padding, groups = weight.shape[-1] // 2, weight.shape[0]
    grad = torch.randn_like(x)

    def backward(mask: list[bool]) -> Callable[[], Any]:
        sizes: tuple[Any, ...] = ([1, 1], [padding, padding], [1, 1], False, [0, 0], groups)
        return lambda: torch.ops.aten.convolution_backward(grad, x, weight, None, *sizes, mask)

    return {
        "forward": lambda: F.conv2d(x, weight, padding=padding, groups=groups),
        "input gradient": backward([True, False, False]),
        "weight gradient": backward([False, True, False]),
    }


def measure(device: torch.device, batch: int, side: int, width: int, dtype: torch.dtype, seconds: float) -> list[dict]:
    deadline = Deadline(seconds)
    algorithms = ("deterministic", "cudnn", "tuned", "native") if device.type == "cuda" else ("cpu",)
    layouts = {"NHWC": torch.channels_last, "NCHW": torch.contiguous_format}
    found: list[dict] = []
    ways = len(LEVELS) * len(layouts) * len(algorithms) * 3
    for level in LEVELS:
        channels, positions = width * 2**level, side // 2**level
        x = torch.randn(batch, channels, positions, positions, device=device).to(dtype)
        weight = torch.randn(channels, 1, 7, 7, device=device).to(dtype)
        target = torch.empty_like(x)
        copied = seconds_per_call(lambda target=target, x=x: target.copy_(x), device, seconds / ways)
        for layout, memory_format in layouts.items():
            x, weight = (tensor.contiguous(memory_format=memory_format) for tensor in (x, weight))
            for name in algorithms:
                row: dict = {"channels": channels, "side": positions, "layout": layout, "algorithm": name}
                with contextlib.ExitStack() as stack:
                    if device.type == "cuda":
                        stack.enter_context(algorithm(name))
                    for what, call in calls(x, weight).items():
                        try:
                            row[what] = seconds_per_call(call, device, min(seconds / ways, max(0.0, deadline.left)))
                        except RuntimeError as error:  # cuDNN has no such algorithm
                            row[what] = None
                            row["error"] = f"{what}: {' '.join(str(error).split())[:200]}"
                row["copy"] = copied
                found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, help="images (default: 64 on CUDA, 1 on a CPU)")
    parser.add_argument("--model", default="XL", help="an FCDM preset: its widths (default: XL)")
    parser.add_argument("--side", type=int, default=32, help="of the latents (default: 32, for 256 px)")
    parser.add_argument("--seconds", type=float, default=30.0, help="at most about so long (default: 30)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.batch_size is not None and arguments.batch_size < 1:
        parser.error("--batch-size: at least 1")
    device = torch.device(arguments.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    batch = arguments.batch_size or (64 if device.type == "cuda" else 1)
    config = load_preset(arguments.model)
    if not isinstance(config, FCDMConfig):
        parser.error(f"--model {arguments.model}: a preset of FCDM")
    rows = measure(device, batch, arguments.side, config.width, dtype, arguments.seconds)
    table = Table(title=f"depthwise 7x7, {arguments.model}, batch {batch}, {str(dtype).removeprefix('torch.')}, ms")
    for heading in ("channels", "side", "layout", "algorithm", "forward", "input gradient", "weight gradient", "copy"):
        table.add_column(heading)
    for row in rows:
        times = (
            "-" if row[what] is None else f"{1000 * row[what]:.3f}"
            for what in ("forward", "input gradient", "weight gradient", "copy")
        )
        table.add_row(str(row["channels"]), str(row["side"]), row["layout"], row["algorithm"], *times)
    Console(width=120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"batch": batch, "dtype": str(dtype), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
