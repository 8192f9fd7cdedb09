"""How long a plan of many runs takes, and composing them quickly against Hydra's own way, one by one.

    OMP_NUM_THREADS=1 python benchmarks/plan.py [runs=1000] [hydra=20]

`runs` are four models x seeds x learning rates, three budgets each. First the command as a user types it, in a
process of its own. Then composing alone, in this process: all runs the quick way, and `hydra` of them, spread evenly,
by Hydra's `load_sweep_config`; its time for all is scaled up from these. The configs must be the same.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time

from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from fcdm.config.check import checked
from fcdm.sweep.compose import Composer
from fcdm.sweep.expand import expand
from fcdm.sweep.hydra_schema import register_schema

MODELS = ("N", "M", "dit/N-2", "dit/M-2")
RATES = 10


def main(runs: int = 1000, hydra: int = 20) -> None:
    seeds = max(1, runs // (len(MODELS) * RATES))
    rates = ",".join(f"{number}e-3" for number in range(1, RATES + 1))
    arguments = [f"model={','.join(MODELS)}", f"seed=range(0,{seeds})", f"optimiser.lr={rates}", "steps=100,200,400"]
    command = [sys.executable, "-m", "fcdm.train", "-m", *arguments, "hydra/launcher=plan"]
    with tempfile.TemporaryDirectory() as folder:
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        took = time.perf_counter() - began
        cpu = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    register_schema()
    choices = expand(arguments, [])
    with initialize_config_module("fcdm.conf", version_base="1.3"):
        instance = GlobalHydra.instance().hydra
        assert instance is not None
        master = instance.compose_config("train", [], run_mode=RunMode.MULTIRUN)
        loader = instance.config_loader
        began = time.perf_counter()
        composer = Composer(loader, master)
        quick = [composer.config(choice) for choice in choices]
        quickly = time.perf_counter() - began
        some = range(0, len(choices), max(1, len(choices) // hydra))
        began = time.perf_counter()
        slow = {at: checked(loader.load_sweep_config(master, choices[at])) for at in some}
        slowly = (time.perf_counter() - began) / len(some) * len(choices)
    assert all(quick[at] == config for at, config in slow.items())
    print(
        f"a plan of {len(choices)} runs, as typed:  {took:6.1f} s ({cpu:.1f} s of CPU); load {os.getloadavg()[0]:.1f}"
    )
    print(f"composing and checking them:     {quickly:6.1f} s")
    print(f"by Hydra one by one:             {slowly:6.1f} s, scaled up from {len(some)}")
    print(f"ratio:                           {slowly / quickly:6.1f}")


if __name__ == "__main__":
    main(**{key: int(value) for key, value in (argument.split("=") for argument in sys.argv[1:])})
