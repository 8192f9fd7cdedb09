"""The laws of a study: `python -m analysis.scaling [--runs runs] [--study NAME] [--against flops] [--of fid]`.

For each model FID = E + A x^-alpha, with intervals where there are enough seeds, for each family the law of its
frontier, the envelope of the interpolated curves; where the points tell no law, why. And the best model of each family
at the largest x that all families have reached. Then the joint laws of size and data, of held-out loss and of --of.
"""

from __future__ import annotations

import argparse

from fcdm.analysis.data.diverged_runs import diverged_lines
from fcdm.analysis.data.labels import metric_name
from fcdm.analysis.data.other_protocols import losses_beside
from fcdm.analysis.data.tidy_table import read_curves, table_of
from fcdm.analysis.law_options import add_law_options, law_settings
from fcdm.analysis.stats.fresh_data import seen_often
from fcdm.analysis.stats.frontier_fit import Frontier
from fcdm.analysis.stats.metric_laws import laws_by_metric, through_loss_lines
from fcdm.analysis.stats.power_law_fit import Fit
from fcdm.analysis.stats.study_laws import (
    family_frontier,
    fits_of,
    fits_table,
    frontiers_of,
    iso_lines,
    law_sentences,
)
from fcdm.atomic import write_atomic
from fcdm.credentials import of_command_line
from fcdm.errors import in_one_line
from fcdm.laws.verdict import LOSS
from fcdm.paths import place

AGAINST = {"steps": ("steps", "training steps"), "flops": ("train_flops", "training FLOPs")}
OF = ("fid", "heldout_loss", "loss", "fid_heldout", "fid_pixels", "fid_pixels_heldout")


@in_one_line()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.scaling", description="The scaling laws of a study.")
    parser.add_argument(
        "--runs", type=of_command_line, default="runs", help="folder of the runs, or MLflow URI (default: runs)"
    )
    parser.add_argument("--study", help="only this study's runs and budgets")
    parser.add_argument("--protocol", metavar="ID", help="the protocol, where runs were evaluated by several")
    parser.add_argument("--against", default="flops", choices=sorted(AGAINST), help="default: flops")
    parser.add_argument("--of", default="fid", choices=OF, help="default: fid")
    add_law_options(parser)
    parser.add_argument("--csv", type=place, help="write the numbers to this file too")
    options = parser.parse_args(arguments)
    x, x_text = AGAINST[options.against]
    curves = read_curves(options.runs, options.study)
    table = table_of(curves, options.runs, options.study, options.protocol)
    for line in [*table.attrs["instead"], *table.attrs["left_out"]]:
        print(line)
    name = metric_name(table, options.of)
    fits = fits_of(table, x, options.of)
    frontiers = {family_frontier(family): made for family, made in frontiers_of(table, x, options.of).items()}
    print(f"{name} = E + A x^-alpha, x in {x_text}; robust fit of means; intervals hold seeds and misfit:")
    laws: dict[str, Fit | str | Frontier] = {**fits, **frontiers}
    for line in law_sentences(laws, x, name):
        print(f"  {line}")
    for line in [*seen_often(table, x, options.of), *diverged_lines(table)]:
        print(f"  {line}.")
    same = iso_lines(table, x, options.of)
    if same:
        print(f"At the same {x_text} (means over seeds, interpolated between measured points):")
    for line in same:
        print(f"  {line}.")
    losses = losses_beside(curves, table, options.study)
    joint = laws_by_metric(table, losses, law_settings(options, options.runs), (LOSS, options.of))
    said = [line for one in joint for line in (*one.lines(), *one.reasons)]
    if said:
        print("Joint laws of size and data, E + A N^-alpha + B D^-beta:")
    for line in [*said, *through_loss_lines(joint)]:
        print(f"  {line}.")
    if options.csv:
        write_atomic(options.csv, fits_table(laws).to_csv(index=False))
