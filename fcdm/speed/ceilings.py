"""What the device can do at best, measured: large matrix products and a copy. Everything else is a share of these."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fcdm.config.schema import PRECISIONS
from fcdm.engine.environment import matmul_precision
from fcdm.speed.stopwatch import seconds_per_call

SIDES = {"cuda": 8192, "cpu": 2048}
"""Of the square matrices: large enough for all of a device's units."""
COPIED_BYTES = {"cuda": 2 << 30, "cpu": 256 << 20}
"""Several times any cache."""


@dataclass(frozen=True)
class Ceilings:
    """Peaks of one device."""

    flops_per_s: dict[str, float]
    """By precision, as `Config.precision`: bf16 with both factors in bf16, else float32 with TF32 allowed or not."""
    bytes_per_s: float
    """Read and written by a copy."""


def measure_ceilings(device: torch.device, limit_s: float, side: int | None = None) -> Ceilings:
    """On random numbers: products of zeros draw less power and run faster (on an H200 894 against 788 TFLOP/s)."""
    side = side or SIDES[device.type]
    flops: dict[str, float] = {}
    for precision in PRECISIONS:
        if precision == "tf32" and device.type == "cpu":
            flops[precision] = flops["fp32"]  # a CPU has no TF32
            continue
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        with matmul_precision(precision):
            seconds = seconds_per_call(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device, limit_s / 4)  # type: ignore[misc]
        flops[precision] = 2.0 * side**3 / seconds
    count = min(COPIED_BYTES[device.type], 64 * side**2) // 4
    source = torch.randn(count, device=device)
    target = torch.empty_like(source)
    seconds = seconds_per_call(lambda: target.copy_(source), device, limit_s / 4)
    return Ceilings(flops, 8.0 * count / seconds)
