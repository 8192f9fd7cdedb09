"""Precision and recall in blocks against all distances in one matrix, time and memory, in one run.

    OMP_NUM_THREADS=1 python benchmarks/precision_recall.py [--full] [--device cuda]

By default at a size that the full matrix fits, then ours at twice that with what it says of 10,000 x 50,000 x
2,048. `--full` measures that instead of extrapolating (3 minutes on one core; the naive way is out of reach).
Each measurement is a process of its own; memory is its peak above the features themselves, the GPU's with
`--device cuda`.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time

import torch

from fcdm.metrics.precision_recall import BLOCK, K, PrecisionRecall, precision_recall

DIM = 2048
FULL = (10_000, 50_000)


def naive(reference: torch.Tensor, samples: torch.Tensor) -> PrecisionRecall:
    """Kynkäänniemi et al. 2019, equations 1 to 3, in float32, each set of distances as one matrix."""

    def distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T

    def radii(x: torch.Tensor) -> torch.Tensor:
        return distances(x, x).topk(K + 1, dim=1, largest=False).values[:, K]

    between, radii_r, radii_s = distances(reference, samples), radii(reference), radii(samples)
    precision = (between <= radii_r[:, None]).any(dim=0).double().mean()
    return PrecisionRecall(float(precision), float((between <= radii_s).any(dim=1).double().mean()))


def features(count: int, seed: int, scale: float, device: str) -> torch.Tensor:
    """(count, 2048), not negative, with 64 directions that matter, as Inception's have."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(64, DIM, generator=torch.Generator().manual_seed(0)) / 8
    rows = torch.empty(count, DIM)
    for part in rows.split(1000):  # in parts: no second array of this size at the peak
        codes = scale * torch.randn(len(part), 64, generator=generator)
        part.copy_(torch.relu(codes @ basis + 0.3 * torch.randn(part.shape, generator=generator)))
    return rows.to(device)


def measure(method: str, reference_count: int, sample_count: int, block: int, device: str) -> dict[str, float]:
    """Seconds, peak MB above the features, and the two shares."""
    reference, samples = features(reference_count, 1, 1.0, device), features(sample_count, 2, 0.95, device)
    before = peak(device)
    start = time.perf_counter()
    if method == "naive":
        result = naive(reference, samples)
    else:
        result = precision_recall(reference, samples, block=block, device=device)
    seconds = time.perf_counter() - start
    return {
        "s": seconds,
        "mb": peak(device) - before,
        "precision": result.precision,
        "recall": result.recall,
    }


def peak(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def in_a_process(*arguments: object) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", *map(str, arguments)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def products(n: int, m: int) -> float:
    """Multiply-accumulates of the distances needed: both triangles and the rectangle. (Naive takes whole squares.)"""
    return (n * n / 2 + m * m / 2 + n * m) * DIM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="10,000 x 50,000")
    parser.add_argument("--sizes", type=int, nargs=2, default=[2000, 8000], metavar=("REFERENCE", "SAMPLES"))
    parser.add_argument("--block", type=int, default=BLOCK)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        method, n, m, block, device = arguments.one
        print(json.dumps(measure(method, int(n), int(m), int(block), device)))
        return
    device = arguments.device
    where = (
        torch.cuda.get_device_name() if device != "cpu" else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    print(f"torch {torch.__version__}, {where}; {DIM} features, float32, blocks of {arguments.block}")
    print(f"{'':>7} {'reference x samples':>20} {'s':>7} {'GMAC/s':>7} {'extra MB':>9} {'precision':>9} {'recall':>7}")

    def row(method: str, n: int, m: int) -> dict[str, float]:
        found = in_a_process(method, n, m, arguments.block, device)
        rate = products(n, m) / found["s"] / 1e9
        shares = f"{found['precision']:9.4f} {found['recall']:7.4f}"
        print(f"{method:>7} {f'{n} x {m}':>20} {found['s']:7.1f} {rate:7.1f} {found['mb']:9.0f} {shares}", flush=True)
        return found

    n, m = arguments.sizes
    theirs, ours = row("naive", n, m), row("blocks", n, m)
    print(f"naive/blocks: time {theirs['s'] / ours['s']:.2f}, memory {theirs['mb'] / ours['mb']:.1f}")
    if arguments.full:
        row("blocks", *FULL)
        return
    twice = row("blocks", 2 * n, 2 * m)
    ratio = products(*FULL) / products(2 * n, 2 * m)
    matrices = FULL[1] ** 2 * 4 / 1e9 * theirs["mb"] / (m * m * 4 / 1e6)
    print(
        f"{FULL[0]} x {FULL[1]}, extrapolated and not measured: about {twice['s'] * ratio:.0f} s, by the products to\n"
        f"compute (x {ratio:.1f}); beside {sum(FULL) * DIM * 4 / 1e6:.0f} MB of features {twice['mb']:.0f} MB more "
        f"(naive: {matrices:.0f} GB)"
    )


if __name__ == "__main__":
    main()
