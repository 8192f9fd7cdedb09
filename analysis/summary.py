"""What is printed after a study: the table, the measured ratios, what to do next."""

from __future__ import annotations

import shlex
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from analysis.comparison import comparisons, sentence
from fcdm.runs.reader import list_studies


def print_table(table: pd.DataFrame, console: Console) -> None:
    """One line per run (told by the end of its folder's name) and budget, in 80 columns."""
    shown = Table(title=f"judged by {table['protocol_id'].iloc[0]}", title_justify="left", box=box.SIMPLE_HEAD)
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
    console.print(shown)


def ratio_sentences(table: pd.DataFrame) -> list[str]:
    """One sentence for each FCDM that has a DiT of its size, or why there is none."""
    found = [sentence(one) for one in comparisons(table)]
    return found or ["No step ratio: no FCDM and DiT of the same size (such as N and dit/N-2) are in this table."]


def next_commands(runs: Path | str, study: str | None) -> list[str]:
    """What to type to go on, for a folder of runs."""
    if "://" in str(runs):
        return []
    where = "" if str(runs) == "runs" else f" runs_dir={shlex.quote(str(runs))}"
    commands = [f"make ui{where.replace('runs_dir', 'RUNS')}    # these runs in MLflow, on http://127.0.0.1:5000"]
    for found in list_studies(runs):
        if found.command and study in (None, found.name):
            commands.append(f"{shlex.join(found.command)}    # continues '{found.name}': only what is missing")
    if study == "digits":
        train = "python -m fcdm.train -m"
        commands += [
            f"{train} +sweeps=digits_long hydra/launcher=local{where}    # the same runs, 4 to 8 times as long",
            f"{train} +sweeps=digits hydra/launcher=submitit_slurm{where}    # on a SLURM cluster",
        ]
    return commands
