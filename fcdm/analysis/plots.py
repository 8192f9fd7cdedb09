"""The figures of a study: `python -m analysis.plots [--runs runs] [--study NAME] [--out figures] [--published]`.

Draws FID against steps and training FLOPs, FID and throughput against a model's forward GMACs, the compute frontier,
and, where the runs have them, the guidance trade-off, the ablations and the samples along the budgets. Writes each as
PNG, PDF and the CSV of its numbers, and prints the table, what no figure shows, and the measured step ratios.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl

from fcdm.analysis.figures.styles import STYLE

mpl.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from rich.console import Console

from fcdm.analysis.data.guidance_table import guidance_table
from fcdm.analysis.data.tidy_table import INTERNAL, read_curves, table_of
from fcdm.analysis.figures.ablation import ablation_figure
from fcdm.analysis.figures.axes import Drawn, with_left_out
from fcdm.analysis.figures.draw_frontier import frontier_figure
from fcdm.analysis.figures.fid_curves import fid_against
from fcdm.analysis.figures.guidance_tradeoff import guidance_figure
from fcdm.analysis.figures.model_size import fid_against_gmacs
from fcdm.analysis.figures.published_points import published_beside
from fcdm.analysis.figures.sample_grid import sample_grid
from fcdm.analysis.stats.model_pairs import dropped
from fcdm.analysis.summary import next_commands, print_table, ratio_sentences
from fcdm.atomic import write_atomic
from fcdm.errors import UserError

SUFFIXES = (".png", ".pdf")


def recipes(
    table: pd.DataFrame, guidance: pd.DataFrame | None = None, published: pd.DataFrame | None = None
) -> dict[str, tuple[Callable[[], Drawn | None], str | None]]:
    """Name -> (what draws it, why there would be none; None: a figure of its own kind of study, not missed)."""
    return {
        "fid_vs_steps": (lambda: fid_against(table, "steps", published), "no run has a finite FID"),
        "fid_vs_training_flops": (
            lambda: fid_against(table, "train_pflops", published),
            "no run with a finite FID says what it costs",
        ),
        "fid_vs_forward_gmacs": (
            lambda: fid_against_gmacs(table, published),
            "no run with a finite FID says what it costs",
        ),
        "frontier": (lambda: frontier_figure(table), "no run with a finite FID says what it costs"),
        "guidance": (lambda: None if guidance is None else guidance_figure(guidance, published), None),
        "ablation": (lambda: ablation_figure(table, published), None),
        "samples": (lambda: sample_grid(table), "no pictures of samples beside the evaluations"),
    }


def draw(
    table: pd.DataFrame, out: Path, guidance: pd.DataFrame | None = None, published: pd.DataFrame | None = None
) -> tuple[list[Path], list[str]]:
    """Draw every figure of `table` into the folder `out`: the files, and what no figure shows, a line each.

    Raises UserError if it cannot write.
    """
    written: list[Path] = []
    told: dict[str, list[str]] = {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / "table.csv", table.drop(columns=list(INTERNAL)).to_csv(index=False))
        written.append(out / "table.csv")
        with plt.style.context(STYLE):
            for name, (make, reason) in recipes(table, guidance, published).items():
                made = make()
                if made is None:
                    if reason:
                        print(f"no {name}: {reason}", file=sys.stderr)
                    continue
                figure, numbers = made
                for suffix in SUFFIXES:
                    figure.savefig(out / f"{name}{suffix}")
                    written.append(out / f"{name}{suffix}")
                plt.close(figure)
                write_atomic(out / f"{name}.csv", with_left_out(numbers).to_csv(index=False))
                written.append(out / f"{name}.csv")
                for line in numbers.attrs["left_out"]:
                    told.setdefault(line, []).append(name)
    except OSError as error:
        raise UserError(f"cannot write figures to {out} ({error.strerror or error}): choose another --out") from None
    common = set(dropped(table))  # said with the ratios, whatever figure it concerns
    return written, [f"{' and '.join(names)}: {line}" for line, names in told.items() if line not in common]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.plots", description="The figures of a study.")
    parser.add_argument("--runs", default="runs", help="folder of the runs (default: runs)")
    parser.add_argument("--uri", help="read this MLflow store instead of a folder: sqlite:///... or http://...")
    parser.add_argument("--study", help="only this study's runs and budgets")
    parser.add_argument("--protocol", metavar="ID", help="the protocol, where runs were evaluated by several")
    parser.add_argument("--out", default="figures", type=Path, help="folder of the figures (default: figures)")
    parser.add_argument("--published", action="store_true", help="the papers' points too, hollow")
    options = parser.parse_args(arguments)
    source = options.uri or options.runs
    console = Console(soft_wrap=False)
    try:
        curves = read_curves(source, options.study)
        table = table_of(curves, source, options.study, options.protocol)
        published, told = published_beside(table) if options.published else (None, [])
        print_table(table, console)
        for line in table.attrs["left_out"]:
            print(line, flush=True)
        written, left_out = draw(table, options.out, guidance_table(curves, options.study), published)
        pictures = [path for path in written if path.suffix == ".png"]
        print("\nFigures (with .pdf and .csv beside each):")
        for path in pictures:
            print(f"  {path}")
        for line in [*told, *left_out]:
            print(line)
        print()
        for sentence in ratio_sentences(table):
            print(sentence)
        commands = next_commands(source, options.study)
        if commands:
            print("\nTo go on:")
        for command in commands:
            print(f"  {command}")
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # `| head`: the figures stand, nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
