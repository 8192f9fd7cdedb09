"""How fast a store is read at random, against the same numbers in other forms: what two benchmarks share.

One thread. Rounds alternate between the forms; the figures are medians.

- warm: every file is in the page cache;
- cold: each file is dropped from the page cache before each round (posix_fadvise; names and inodes stay cached, which
  favours small files), and opened anew within the time.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcdm.data.manifest import HELDOUT, LABELS
from fcdm.data.shards import write_npy

Open = Callable[[], Callable[..., NDArray[Any]]]
"""Opens a form: what reads the items of a batch."""


def run(arguments: Sequence[str], sizes: dict[str, int], measure: Callable[..., int]) -> int:
    """`measure(folder, **sizes)` in a folder of its own, with the sizes that the arguments change; its exit code."""
    given = dict(argument.split("=", 1) for argument in arguments)
    parent = given.pop("folder", None)
    if unknown := set(given) - set(sizes):
        print(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(sizes)}, folder", file=sys.stderr)
        return 1
    folder = Path(tempfile.mkdtemp(prefix="fcdm-store-", dir=parent))
    try:
        return measure(folder, **sizes | {key: int(value) for key, value in given.items()})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_store(folder: Path, rows: NDArray[Any], shard: int) -> list[dict[str, Any]]:
    """The shards (as the manifest lists them), labels and split of a store of these rows (n, ...)."""
    (folder / "shards").mkdir(parents=True)
    shards = []
    for number, start in enumerate(range(0, len(rows), shard)):
        part, file = rows[start : start + shard], f"shards/{number:05d}.npy"
        shards.append({"file": file, "images": len(part), "sha256": write_npy(folder / file, part)})
    write_npy(folder / LABELS, np.zeros(len(rows), dtype=np.int32))
    write_npy(folder / HELDOUT, np.zeros(len(rows), dtype=np.bool_))
    return shards


def compare(folder: Path, forms: Mapping[str, Open], asked: Sequence[tuple[Any, ...]], rounds: int, unit: str) -> None:
    """Prints how many items a second each form reads, in its folder below `folder`; asked: of each batch, what to."""
    os.sync()
    speeds: dict[tuple[str, str], list[float]] = {}
    for cache in ("warm", "cold"):
        for _ in range(rounds):
            for name, open_it in forms.items():
                read = open_it()
                if cache == "cold":
                    del read  # a mapped page is not dropped
                    drop(folder / name)
                else:
                    for items in asked:
                        read(*items)
                began = time.perf_counter()
                if cache == "cold":
                    read = open_it()
                for items in asked:
                    read(*items)
                count = sum(len(items[0]) for items in asked)
                speeds.setdefault((cache, name), []).append(count / (time.perf_counter() - began))
    median = {key: statistics.median(values) for key, values in speeds.items()}
    for cache in ("warm", "cold"):
        for name in forms:
            ratio = f"   the store is {median[cache, 'store'] / median[cache, name]:.1f} x as fast"
            print(f"{cache} {name:5}: {median[cache, name]:11,.0f} {unit}/s{ratio if name != 'store' else ''}")


def drop(folder: Path) -> None:
    """The files' pages out of the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
