"""What is printed after a study: the table, the measured ratios, what to do next."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from fcdm.analysis.stats.model_pairs import comparisons, dropped, sentence
from fcdm.runs.reader import list_studies

UNBOUNDED = 10_000
"""Columns that no table needs."""


def print_table(table: pd.DataFrame, console: Console) -> None:
    """One line per run (told by the end of its folder's name) and budget; a pipe gets whole lines."""
    shown = Table(title=f"evaluated by {table['protocol_id'].iloc[0]}", title_justify="left", box=box.SIMPLE_HEAD)
    several_seeds = table["seed"].nunique() > 1
    shown.add_column("model")
    shown.add_column("run", style="dim")
    if several_seeds:
        shown.add_column("seed", justify="right")
    for column in ("steps", "FID", "FID\npixels", "forward\nGMACs", "training\nPFLOPs", "images/s"):
        shown.add_column(column, justify="right", no_wrap=True)
    last = None
    for row in table.itertuples():
        if last not in (None, row.run):
            shown.add_section()
        first = row.run != last
        last = row.run
        cells = [str(row.label) if first else "", str(row.run).rsplit("-", 1)[-1] if first else ""]
        if several_seeds:
            cells.append(str(row.seed) if first else "")
        cells += [f"{row.steps:,}", f"{row.fid:.2f}", f"{row.fid_pixels:.2f}"]
        cells += [f"{row.forward_gmacs:.4g}", f"{row.train_pflops:.3g}", f"{row.images_per_s:,.0f}"]
        shown.add_row(*cells)
    if not console.is_terminal:  # a pipe has no width, and half a number helps nobody
        whole = Measurement.get(console, console.options.update(width=UNBOUNDED), shown).maximum
        console.width = max(console.width, 120, whole)
    console.print(shown)


def ratio_sentences(table: pd.DataFrame) -> list[str]:
    """One sentence for each FCDM that has a DiT of its size, or why there is none; then what was left out, by name."""
    found = [sentence(one) for one in comparisons(table)]
    found = found or ["No step ratio: no FCDM and DiT of the same size (such as N and dit/N-2) are in this table."]
    return [*found, *dropped(table), *table.attrs.get("missing", [])]


def next_commands(runs: Path | str, study: str | None) -> list[str]:
    """What to type to go on, for a folder of runs."""
    if "://" in str(runs):
        return []
    where = "" if str(runs) == "runs" else f" runs_dir={shlex.quote(str(runs))}"
    commands = [f"make ui{where.replace('runs_dir', 'RUNS')}    # these runs in MLflow, on http://127.0.0.1:5000"]
    python = _python()
    for found in list_studies(runs):
        if found.command and study == found.name:
            words = [python if word == "python" else word for word in found.command[:1]] + list(found.command[1:])
            commands.append(f"{shlex.join(words)}    # continues '{found.name}': only what is missing")
    if study == "digits":
        train = f"{python} -m fcdm.train -m"
        commands += [
            f"{train} +sweeps=digits_long hydra/launcher=local{where}    # the same runs, carried on",
            f"{train} +sweeps=digits hydra/launcher=submitit_slurm{where}    # on a SLURM cluster",
        ]
    return commands


def _python() -> str:
    """How a person here calls this Python: `.venv/bin/python` where that is it and a bare `python` is not."""
    programs = Path(sys.prefix) / "bin"
    on_path = any(Path(folder or ".").resolve() == programs.resolve() for folder in os.get_exec_path())
    ours = Path(sys.prefix).resolve() == Path(".venv").resolve()
    return ".venv/bin/python" if ours and not on_path else "python"
