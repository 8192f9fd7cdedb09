"""A second space of features beside the first: one draw for both, against an evaluation of each by itself.

    python benchmarks/second_space.py [model=N spaces=digits-cnn,pixels samples=1000 steps=50 batch=250 rounds=3]

The digits, untrained weights (what is drawn takes as long), all that an evaluation does: sampling, features, distances
with their floors, held-out loss. One thread, whose processor time is counted: other processes do not move it. Ways
alternate in one process; the figures are medians.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from hydra import initialize_config_module

from fcdm.config.schema import Config
from fcdm.data.dataset import data_checksum, open_dataset
from fcdm.engine.distributed import Ranks
from fcdm.engine.evaluate import evaluate
from fcdm.engine.state import create_model
from fcdm.engine.worker import Worker
from fcdm.jobs.image_progress import BarProgress
from fcdm.sweep.compose import Composer
from fcdm.sweep.hydra_schema import register_schema


def main(arguments: list[str]) -> int:
    given = dict(argument.split("=", 1) for argument in arguments)
    names = {
        "model": "N",
        "spaces": "digits-cnn,pixels",
        "samples": "1000",
        "steps": "50",
        "batch": "250",
        "rounds": "3",
    }
    if unknown := set(given) - set(names):
        print(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(names)}", file=sys.stderr)
        return 1
    names |= given
    torch.set_num_threads(1)
    words = [f"model={names['model']}", "steps=1", f"evaluation.samples={names['samples']}"]
    words += [f"evaluation.sampling_steps={names['steps']}", f"evaluation.batch_size={names['batch']}"]
    configs = composed([*words, f"evaluation.features=[{names['spaces']}]"])
    with tempfile.TemporaryDirectory() as folder:
        measure(configs, Path(folder), int(names["rounds"]))
    return 0


def composed(words: list[str]) -> list[Config]:
    register_schema()
    with initialize_config_module("fcdm.conf", version_base="1.3"):
        composer = Composer.here()
        configs = [composer.config(one) for one in composer.each_space(words)]
    for config in configs:
        config.data.checksum = data_checksum(config.data, config.resolution)
    return configs


def measure(configs: Sequence[Config], folder: Path, rounds: int) -> None:
    device = torch.device("cpu")
    model = create_model(configs[0], device).eval()
    data = open_dataset(configs[0], device)
    spaces = [config.evaluation.features for config in configs]
    ways: dict[str, list[list[Config]]] = {
        f"{spaces[0]} alone": [[configs[0]]],
        "one draw for all": [list(configs)],
        "each by itself": [[config] for config in configs],
    }
    asked = configs[0].evaluation
    print(
        f"{configs[0].model.name}, {asked.samples} samples of {asked.sampling_steps} steps, in {' and '.join(spaces)}"
    )
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):  # the first is not counted
        for way, evaluations in ways.items():
            with BarProgress(1, quiet=True) as progress:
                began = time.process_time()
                for number, together in enumerate(evaluations):
                    files = {folder / f"{turn}-{way}-{number}-{at}.npz": one for at, one in enumerate(together)}
                    list(evaluate(model, files, data, 0, Worker(Ranks(0, 1, device), progress)))
                seconds[way] += [time.process_time() - began] if turn else []
    medians = {way: statistics.median(found) for way, found in seconds.items()}
    alone = next(iter(medians.values()))
    for way, found in medians.items():
        print(f"{way:22s} {found:8.2f} s   {found / alone:5.2f} x the first alone")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
