"""From the records of many runs to all figures of the study, against the bare parsing of the same bytes.

    OMP_NUM_THREADS=1 python benchmarks/plots.py [runs=1000]

Four models x seeds with made-up curves: four budgets and about 105 records a run. Reading into the tidy table, and
drawing every figure as PNG and PDF, in this process; imports are not counted. CPU seconds. The reference is json.loads
of every line of every file: what no reader can do without.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

from fcdm.analysis.data.tidy_table import read_curves, table_of
from fcdm.analysis.plots import draw

MODELS = ("N", "M", "dit/N-2", "dit/M-2")


def main(runs: int = 1000) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = make_runs(Path(folder) / "runs", runs)
        marks = [time.process_time()]
        for path in [*made.glob("*/*.json*"), *made.glob("*/evaluations/*.json")]:
            for line in path.read_bytes().splitlines() if path.suffix == ".jsonl" else [path.read_bytes()]:
                json.loads(line)
        marks.append(time.process_time())
        curves = read_curves(made)
        marks.append(time.process_time())
        table = table_of(curves, made)
        marks.append(time.process_time())
        files, _ = draw(table, Path(folder) / "figures")
        marks.append(time.process_time())
    parsing, reading, tidy, drawing = (after - before for before, after in itertools.pairwise(marks))
    figures = sum(path.suffix == ".png" for path in files)
    print(f"{runs:,} runs, {len(table):,} evaluated budgets, {figures} figures")
    print(f"parsing alone    {parsing:5.2f} s")
    print(f"reading          {reading:5.2f} s   {reading / parsing:.1f} x parsing alone")
    print(f"table            {tidy:5.2f} s")
    print(f"figures          {drawing:5.2f} s")
    print(f"all of it        {reading + tidy + drawing:5.2f} s")


def make_runs(folder: Path, runs: int) -> Path:
    """One made-up run per model, copied under other seeds."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from tests.support.fake_runs import make_run

    for model in MODELS:
        first = make_run(folder, model, every=8, grids=False)
        content = {path.relative_to(first): path.read_bytes() for path in first.rglob("*.*") if path.is_file()}
        described = json.loads(content[Path("run.json")])
        for seed in range(1, runs // len(MODELS)):
            copy = folder / f"{first.name[:-8]}{seed:08x}"
            (copy / "evaluations").mkdir(parents=True)
            for path, data in content.items():
                (copy / path).write_bytes(data.replace(b"seed: 0", f"seed: {seed}".encode()))
            identity = f"{seed:08x}{MODELS.index(model):056x}"
            (copy / "run.json").write_text(json.dumps({**described, "id": identity, "seed": seed}))
    return folder


if __name__ == "__main__":
    main(**{key: int(value) for key, value in (argument.split("=") for argument in sys.argv[1:])})
