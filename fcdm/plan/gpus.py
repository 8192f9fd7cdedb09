"""What GPUs can do at best, from their makers' data sheets: for plans of runs that nobody has measured yet."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fcdm.config.check import near
from fcdm.errors import UserError


@dataclass(frozen=True)
class Device:
    """One kind of GPU. Peaks are dense (data sheets print twice that, "with sparsity"), in TFLOP/s."""

    name: str
    bf16: float
    """Tensor cores, products added up in float32."""
    tf32: float
    fp32: float
    """Without tensor cores: what `precision=fp32` computes with."""
    memory_gb: float
    """1 GB = 1e9 bytes. (The sheets' GB are often GiB: then a little more is there.)"""
    source: str

    def flops_per_s(self, precision: str) -> float:
        """Peak for `fp32`, `tf32` or `bf16`, in FLOP/s."""
        return 1e12 * {"fp32": self.fp32, "tf32": self.tf32, "bf16": self.bf16}[precision]

    @property
    def memory_bytes(self) -> float:
        return 1e9 * self.memory_gb


_HOPPER = "NVIDIA H100 Tensor Core GPU data sheet, and the H100 architecture whitepaper for the dense numbers"
_AMPERE = "NVIDIA A100 Tensor Core GPU data sheet"
_GA102 = "NVIDIA Ampere GA102 GPU architecture whitepaper V2"

DEVICES = {
    device.name: device
    for device in (
        Device("B200", 2250, 1100, 80, 180, "NVIDIA Blackwell architecture technical brief (HGX B200, 1000 W)"),
        Device("H200", 989.4, 494.7, 66.9, 141, "NVIDIA H200 Tensor Core GPU data sheet (SXM)"),
        Device("H100", 989.4, 494.7, 66.9, 80, f"{_HOPPER} (SXM)"),
        Device("H100-PCIe", 756, 378, 51, 80, f"{_HOPPER} (PCIe)"),
        Device("A100", 312, 156, 19.5, 80, _AMPERE),
        Device("A100-40GB", 312, 156, 19.5, 40, _AMPERE),
        Device("L40S", 362, 183, 91.6, 48, "NVIDIA L40S data sheet"),
        Device("A40", 149.7, 74.8, 37.4, 48, "NVIDIA A40 data sheet"),
        Device("RTX-4090", 165.2, 82.6, 82.6, 24, "NVIDIA Ada GPU architecture whitepaper"),
        Device("RTX-3090", 71, 35.6, 35.6, 24, _GA102),
    )
}

DEFAULT_GPU = "H100"

DEFAULT_MFU = 0.10
"""Model FLOPs utilisation assumed where nothing is measured: training FLOPs (recomputation not counted) per second
over the peak. What the two papers report of their own hardware lies around it: FCDM-XL at 256 px 0.13 (0.9 steps/s of
256 images on 4 RTX 4090), at 512 px 0.07 (0.7 steps/s on 4 H100), both over the bf16 peak with activation
checkpointing (arXiv 2603.09408); DiT-XL/2 0.07 (5.7 steps/s on a TPU v3-256 pod, arXiv 2212.09748, section 4)."""


def device_named(name: str) -> Device:
    """The device that a user or torch names: `h100`, `NVIDIA A100-SXM4-40GB`. Raises UserError for an unknown one."""
    device = known_device(name)
    if device is None:
        raise UserError(f"hydra.launcher.gpu={name} is not known: {near(name, tuple(DEVICES))}")
    return device


def known_device(name: str) -> Device | None:
    """As `device_named`, None for an unknown one."""
    by_key = {_key(key): device for key, device in DEVICES.items()}
    key = _key(name)
    if key in by_key:
        return by_key[key]
    # torch's names: `NVIDIA H100 80GB HBM3`, `NVIDIA H100 PCIe`, `NVIDIA A100-SXM4-40GB`, `NVIDIA GeForce RTX 4090`.
    for variant in ("H100-PCIe", "A100-40GB"):
        if all(_key(part) in key for part in variant.split("-")):
            return DEVICES[variant]
    words = re.split(r"[^a-z0-9]+", name.lower())
    plain = [device for wanted, device in by_key.items() if wanted in words or wanted == "".join(words[-2:])]
    return plain[0] if plain else None


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
