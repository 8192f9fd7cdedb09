"""Which setting of each model a tuning study found best: `python -m analysis.tuning --runs DIR --study NAME`.

Prints the whole table of trials, what was chosen, and where the models were not tuned alike. Of a study of several
budgets or sizes also what was best at each, and whether the best learning rate moved with size or with the budget.
"""

from __future__ import annotations

import argparse

from fcdm.analysis.data.labels import metric_name
from fcdm.analysis.data.tidy_table import tidy_table
from fcdm.analysis.stats.model_pairs import METRICS
from fcdm.analysis.stats.tuned_budgets import best_lines, moved_lines, tune_each
from fcdm.analysis.stats.tuning_trials import Tuned, decides, listed, tune, unfair
from fcdm.credentials import of_command_line
from fcdm.errors import in_one_line


def print_tuning(tuned: list[Tuned], distance: str) -> None:
    """The trials of each model, best first, and the overrides of what was chosen."""
    for one in tuned:
        print(f"\n{one.name}: {distance} at {one.steps:,} steps, {len(one.trials)} settings, seeds {listed(one.seeds)}")
        for trial in one.trials:
            by_seed = ", ".join(_text(trial.fid[seed]) if seed in trial.fid else "-" for seed in one.seeds)
            mark = "  <- chosen" if trial is one.best else ""
            mean = f"{_text(trial.mean):>8}" if trial in one.complete else " " * 8
            print(f"  {mean}  ({by_seed})  {trial.text}{mark}")
    print()
    for one in tuned:
        if one.best is not None:
            word = "chosen" if one.finished else "best so far, the study is not finished"
            values = {**one.best.values, **({"cooldown": f"{one.cooldown:g}"} if one.cooldown else {})}
            print(f"{word}: model={one.model} {' '.join(f'{k}={v}' for k, v in values.items())}".rstrip())


def print_moves(each: list[Tuned]) -> None:
    """What was best for each model at each budget, and whether that moved; nothing of a study of one of each family."""
    if len(each) == len({(one.family, one.cooldown) for one in each}):
        return
    print("\nBest at each budget:")
    for line in best_lines(each):
        print(f"  {line}")
    for line in moved_lines(each):
        print(f"{line}.")
    print()


def _text(value: float) -> str:
    """`12.345`; a kernel distance, which is small, as `0.00123`."""
    return f"{value:.3f}" if abs(value) >= 1 else f"{value:.3g}"


@in_one_line()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.tuning", description="Each model's best setting.")
    parser.add_argument(
        "--runs", type=of_command_line, default="runs", help="folder of the runs, or MLflow URI (default: runs)"
    )
    parser.add_argument("--study", required=True, help="the tuning study")
    parser.add_argument("--protocol", metavar="ID", help="the protocol, where runs were evaluated by several")
    choices = sorted({*METRICS, "heldout_loss"})
    parser.add_argument(
        "--metric", choices=choices, help="what decides (default: fid; where no sample was drawn, loss)"
    )
    parser.add_argument("--steps", type=int, help="the budget (default: the largest)")
    options = parser.parse_args(arguments)
    table = tidy_table(options.runs, options.study, options.protocol)
    metric = options.metric or decides(table)
    tuned = tune(table, metric, options.steps)
    name = metric_name(table, metric)
    print_tuning(tuned, name)
    print_moves(tune_each(table, metric, options.steps))
    for line in [*table.attrs["instead"], *unfair(tuned, name), *table.attrs["left_out"], *table.attrs["missing"]]:
        print(line)
