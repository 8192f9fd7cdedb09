"""The figures of a study: `python -m analysis.plots [--runs runs] [--study NAME] [--out figures] [--published]`.

Draws FID against steps and training FLOPs, FID and throughput against a model's forward GMACs, the compute frontier,
and, where the runs have them, the guidance trade-off, the ablations, the samples along the budgets, the joint laws of
size and data, and the ledger's forecasts. Writes each as PNG, PDF and the CSV of its numbers, and prints the table,
what no figure shows, and the measured step ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

from fcdm.analysis.figures.styles import STYLE

mpl.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from fcdm.analysis.data.epochs import epochs_text
from fcdm.analysis.data.guidance_table import guidance_table
from fcdm.analysis.data.labels import distance_of
from fcdm.analysis.data.other_protocols import losses_beside, other_tables, spaces_beside
from fcdm.analysis.data.seed_curves import curve_notes
from fcdm.analysis.data.tidy_table import INTERNAL, by_key, read_curves, table_of
from fcdm.analysis.figures.axes import Drawn, as_saved, file_name
from fcdm.analysis.figures.published_points import published_beside
from fcdm.analysis.figures.recipes import law_recipes, recipes
from fcdm.analysis.law_options import add_law_options, law_settings
from fcdm.analysis.stats.metric_laws import laws_by_metric
from fcdm.analysis.stats.model_pairs import Comparison, comparisons, sentence
from fcdm.analysis.stats.pair_patterns import PairOfPatterns, add_pairs
from fcdm.atomic import write_atomic
from fcdm.credentials import of_command_line
from fcdm.errors import UserError, in_one_line
from fcdm.features.distance_names import value_text
from fcdm.forecasts.study_scores import study_scores
from fcdm.paths import place
from fcdm.runs.reader import list_studies
from fcdm.runs.study_description import for_folder

SUFFIXES = (".png", ".pdf")
UNBOUNDED = 10_000
"""Columns that no table needs."""


def draw(
    table: pd.DataFrame,
    out: Path,
    guidance: pd.DataFrame | None = None,
    published: pd.DataFrame | None = None,
    pairs: Sequence[Comparison] | None = None,
    beside: Mapping[str, pd.DataFrame] | None = None,
    of_laws: Mapping[str, Callable[[], Drawn | None]] | None = None,
) -> tuple[list[Path], list[str]]:
    """Draw every figure of `table` into the folder `out`: the files, and what no figure shows, a line each.

    `pairs`: the comparisons that figures show; None: each FCDM with the DiT of its size. `beside`: tables of the same
    samples in other spaces of features. `of_laws`: more figures, as of `law_recipes`.
    Raises UserError if it cannot write.
    """
    written: list[Path] = []
    left_out: dict[str, list[str]] = {}
    not_drawn: dict[str, list[str]] = {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / "table.csv", by_key(table).drop(columns=list(INTERNAL)).to_csv(index=False))
        written.append(out / "table.csv")
        with plt.style.context(STYLE):
            known = recipes(table, guidance, published, pairs, beside)
            known |= {name: (make, None) for name, make in (of_laws or {}).items()}
            for figure_of, (make, reason) in known.items():
                made, name = make(), file_name(figure_of, distance_of(table))
                if made is None:
                    if reason:
                        not_drawn.setdefault(reason, []).append(name)
                    continue
                figure, numbers = made
                for suffix in SUFFIXES:
                    figure.savefig(out / f"{name}{suffix}")
                    written.append(out / f"{name}{suffix}")
                plt.close(figure)
                write_atomic(out / f"{name}.csv", as_saved(numbers, distance_of(table)).to_csv(index=False))
                written.append(out / f"{name}.csv")
                for line in numbers.attrs["left_out"]:
                    left_out.setdefault(line, []).append(name)
    except OSError as error:
        raise UserError(f"cannot write figures to {out} ({error.strerror or error}): choose another --out") from None
    for reason, names in not_drawn.items():
        print(f"no {', '.join(names)}: {reason}", file=sys.stderr)
    common = set(curve_notes(table))  # said with the ratios, whatever figure it concerns
    return written, [f"{' and '.join(names)}: {line}" for line, names in left_out.items() if line not in common]


def print_table(table: pd.DataFrame, console: Console) -> None:
    """One line per run (told by the end of its folder's name) and budget, the branches of one parent together; a pipe
    gets whole lines."""
    shown = Table(title=f"evaluated by {table['protocol_id'].iloc[0]}", title_justify="left", box=box.SIMPLE_HEAD)
    shown.padding = (0, 1, 0, 0)  # 80 letters hold all columns
    several_seeds = table["seed"].nunique() > 1
    shown.add_column("model")
    shown.add_column("run", style="dim")
    if several_seeds:
        shown.add_column("seed", justify="right")
    distance, on_pixels = distance_of(table), table["fid_pixels"].notna().any()
    measured = (distance, *(("FID\npixels",) if on_pixels else ()))
    in_epochs = table["epochs"].notna().any()
    for column in (
        "steps",
        *(("epochs",) if in_epochs else ()),
        *measured,
        "forward\nGMACs",
        "training\nFLOPs",
        "images/s",
    ):
        shown.add_column(column, justify="right", no_wrap=True)
    last = ""
    trajectory = ""
    for row in table.itertuples():
        run = str(row.run)
        first = row.trajectory != trajectory
        if trajectory and first:
            shown.add_section()
        cells = [str(row.label) if first else "", run.rsplit("-", 1)[-1] if run != last else ""]
        last, trajectory = run, str(row.trajectory)
        if several_seeds:
            cells.append(str(row.seed) if first else "")
        cells += [f"{row.steps:,}", *([epochs_text(float(str(row.epochs)))] if in_epochs else [])]
        cells += [value_text(distance, float(str(row.fid)))]
        cells += [f"{row.fid_pixels:.2f}"] if on_pixels else []
        cells += [f"{row.forward_gmacs:.4g}", f"{row.train_flops:.3g}", f"{row.images_per_s:,.0f}"]
        shown.add_row(*cells)
    if not console.is_terminal:  # a pipe has no width, and half a number helps nobody
        whole = Measurement.get(console, console.options.update(width=UNBOUNDED), shown).maximum
        console.width = max(console.width, 120, whole)
    console.print(shown)


def ratio_sentences(table: pd.DataFrame, pairs: Sequence[Comparison] | None = None) -> list[str]:
    """One sentence for each comparison, or why there is none; then what was left out, by name.

    `pairs`: None: each FCDM with the DiT of its size.
    """
    sentences = [sentence(one) for one in (comparisons(table) if pairs is None else pairs)]
    sentences = sentences or [
        "No step ratio: no FCDM and DiT of the same size (such as N and dit/N-2) are in this table."
    ]
    return [*sentences, *curve_notes(table), *table.attrs.get("missing", [])]


def elsewhere(beside: Mapping[str, pd.DataFrame], pairs: Sequence[PairOfPatterns] | None) -> list[str]:
    """The same ratios in the other spaces of features, each with its space: `in FD-DINOv2: ...`."""
    told = []
    for where, other in beside.items():
        with contextlib.suppress(UserError):  # a pair that is not evaluated there
            told += [f"{where}: {sentence(one)}" for one in comparisons(other, pairs)]
    return told


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
            again = for_folder(shlex.join(words), runs)
            commands.append(f"{again}    # continues '{found.name}': only what is missing")
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


@in_one_line()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.plots", description="The figures of a study.")
    parser.add_argument("--runs", type=of_command_line, default="runs", help="folder of the runs (default: runs)")
    parser.add_argument(
        "--uri", type=of_command_line, help="read this MLflow store instead of a folder: sqlite:///... or http://..."
    )
    parser.add_argument("--study", help="only this study's runs and budgets")
    parser.add_argument("--protocol", metavar="ID", help="the protocol, where runs were evaluated by several")
    parser.add_argument("--out", default="figures", type=place, help="folder of the figures (default: figures)")
    parser.add_argument("--published", action="store_true", help="the papers' points too, hollow")
    add_pairs(parser)
    add_law_options(parser)
    options = parser.parse_args(arguments)
    source = options.uri or options.runs
    console = Console(soft_wrap=False)
    curves = read_curves(source, options.study)
    table = table_of(curves, source, options.study, options.protocol)
    published, told = published_beside(table) if options.published else (None, [])
    pairs = comparisons(table, options.pair)
    print_table(table, console)
    for line in [*table.attrs["instead"], *table.attrs["left_out"]]:
        print(line, flush=True)
    asked = pairs if options.pair else None  # unasked, a figure shows the largest clear pair
    guided = guidance_table(curves, options.study)
    beside = spaces_beside(other_tables(curves, table, options.study))
    laws = laws_by_metric(table, losses_beside(curves, table, options.study), law_settings(options, source))
    foretold = [] if options.study is None or "://" in str(source) else study_scores(Path(source), options.study)
    of_laws = law_recipes(laws, foretold)
    written, left_out = draw(table, options.out, guided, published, asked, beside, of_laws)
    pictures = [path for path in written if path.suffix == ".png"]
    print("\nFigures (with .pdf and .csv beside each):")
    for path in pictures:
        print(f"  {path}")
    for line in [*told, *left_out]:
        print(line)
    print()
    for line in ratio_sentences(table, pairs):
        print(line)
    for line in elsewhere(beside, options.pair):
        print(line)
    commands = next_commands(source, options.study)
    if commands:
        print("\nTo go on:")
    for command in commands:
        print(f"  {command}")
