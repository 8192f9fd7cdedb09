"""The figures of a study: `python -m analysis.plots [--runs runs] [--study NAME] [--out figures]`.

Draws FID against steps, against training FLOPs and against a model's forward GMACs, and the samples along the
budgets; writes each as PNG, PDF and the CSV of its numbers, and prints the table and the measured step ratios.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from rich.console import Console

from analysis.figures import fid_against, fid_against_gmacs
from analysis.samples import sample_grid
from analysis.summary import next_commands, print_table, ratio_sentences
from analysis.table import INTERNAL, tidy_table
from fcdm.errors import UserError

REASONS = {
    "fid_vs_steps": "no run has a finite FID",
    "fid_vs_training_flops": "no run with a finite FID says what it costs",
    "fid_vs_forward_gmacs": "no run with a finite FID says what it costs",
    "samples": "no pictures of samples beside the evaluations",
}
STYLE = Path(__file__).with_name("fcdm.mplstyle")


def draw(table: pd.DataFrame, out: Path) -> list[Path]:
    """Draw every figure of `table` into the folder `out`; returns the files. Raises UserError if it cannot write."""
    written = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        table.drop(columns=list(INTERNAL)).to_csv(out / "table.csv", index=False)
        written.append(out / "table.csv")
        with plt.style.context(STYLE):
            for name, made in (
                ("fid_vs_steps", fid_against(table, "steps")),
                ("fid_vs_training_flops", fid_against(table, "train_pflops")),
                ("fid_vs_forward_gmacs", fid_against_gmacs(table)),
                ("samples", sample_grid(table)),
            ):
                if made is None:
                    print(f"no {name}: {REASONS[name]}", file=sys.stderr)
                    continue
                figure, numbers = made
                for suffix in (".png", ".pdf"):
                    figure.savefig(out / f"{name}{suffix}")
                    written.append(out / f"{name}{suffix}")
                plt.close(figure)
                numbers.to_csv(out / f"{name}.csv", index=False)
                written.append(out / f"{name}.csv")
    except OSError as error:
        raise UserError(f"cannot write figures to {out} ({error.strerror or error}): choose another --out") from None
    return written


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.plots", description="The figures of a study.")
    parser.add_argument("--runs", default="runs", help="folder of the runs (default: runs)")
    parser.add_argument("--uri", help="read this MLflow store instead of a folder: sqlite:///... or http://...")
    parser.add_argument("--study", help="only this study's runs and budgets")
    parser.add_argument("--protocol", metavar="ID", help="the protocol, where runs were judged by several")
    parser.add_argument("--out", default="figures", type=Path, help="folder of the figures (default: figures)")
    options = parser.parse_args(arguments)
    source = options.uri or options.runs
    console = Console(soft_wrap=False)
    try:
        table = tidy_table(source, options.study, options.protocol)
        print_table(table, console)
        for line in table.attrs["left_out"]:
            print(line, flush=True)
        written = draw(table, options.out)
        pictures = [path for path in written if path.suffix == ".png"]
        print("\nFigures (with .pdf and .csv beside each):")
        for path in pictures:
            print(f"  {path}")
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


if __name__ == "__main__":
    sys.exit(main())
