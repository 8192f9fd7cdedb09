"""The paper's claims and one's own, each with what it rests on: `python -m analysis.claims [--runs DIR --study NAME]`.

A table "claim / from published points / from these runs"; `fcdm.analysis.stats.paper_claims` computes it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from fcdm.analysis.data.labels import distance_of, model_of
from fcdm.analysis.data.other_protocols import other_tables
from fcdm.analysis.data.seed_curves import curve_notes
from fcdm.analysis.data.tidy_table import read_curves, table_of, tidy_table
from fcdm.analysis.published import published
from fcdm.analysis.stats.model_pairs import NOT_TUNED
from fcdm.analysis.stats.pair_patterns import add_pairs
from fcdm.analysis.stats.paper_claims import ClaimRow, claims, claims_elsewhere, claims_frame
from fcdm.analysis.stats.tuning_trials import tune, tuned_as, tuning_cost, unfair, untuned
from fcdm.atomic import write_atomic
from fcdm.credentials import of_command_line
from fcdm.errors import UserError, in_one_line
from fcdm.formatting import plural
from fcdm.paths import place


def with_tuning(claim_rows: list[ClaimRow], lines: list[str]) -> list[ClaimRow]:
    """The claims of these runs with what a tuning study says of a pair in the place of "not tuned here".

    `lines`: of `tuned_as`, `tuned: FCDM-N: lr=0.004, ...`.
    """
    told = []
    for one in claim_rows:
        pair = one.key.split("|")[:2] if "|" in one.key else []
        of_pair = [line for line in lines if any(line.split(": ")[1] == model_of(name) for name in pair)]
        rests_on = one.runs.rests_on.replace(NOT_TUNED, " and ".join(of_pair)) if of_pair else one.runs.rests_on
        told.append(replace(one, runs=replace(one.runs, rests_on=rests_on)))
    return told


SAID_ONCE = ("evaluation's noise not ", "one seed: no interval")
NOT_OF_THE_PAPERS = ("a claim of these runs", "not a published distance")


def print_claims(claim_rows: list[ClaimRow], of_runs: bool) -> None:
    """Each claim with both halves; what they rest on, and what is not known, once for each pair and distance.

    `of_runs`: these runs' claims first, and those of the paper for which runs are missing in one line.
    """
    folded = [one for one in claim_rows if of_runs and one.runs.text.startswith("missing: runs of")]
    reverses = [one for one in claim_rows if of_runs and one.kind == "reverse"]
    shown = [one for one in claim_rows if one not in folded and one not in reverses]
    rested_on: list[str] = []
    known: set[tuple[str, ...]] = set()
    for one in sorted(shown, key=lambda one: of_runs and "|" not in one.key):
        print(f"\n{one.claim} [{one.kind}]")
        for name, side in (("published", one.published), ("these runs", one.runs)):
            if side.text in NOT_OF_THE_PAPERS:
                continue
            pair = (name, *one.key.split("|")[:4])
            kept = [part for part in side.text.split("; ") if one.kind == "trend" or (*pair, part) not in known]
            known |= {(*pair, part) for part in kept if part.startswith(SAID_ONCE)}
            print(f"  {name + ':':12s}{'; '.join(kept)}")
            if side.rests_on and side.rests_on not in rested_on:
                before = next((text for text in rested_on if side.rests_on.startswith(f"{text}; ")), "")
                more = f"and {side.rests_on[len(before) + 2 :]}" if before else f"rests on: {side.rests_on}"
                print(f"              {more}")
                rested_on.append(side.rests_on)
    if folded:
        models = dict.fromkeys(one.runs.text.removeprefix("missing: runs of ") for one in folded)
        print(
            f"\n{plural(len(folded), 'claim')} of the paper not told: runs are missing of {'; '.join(models)} "
            "(published halves: without --runs, or in --csv)"
        )
    if reverses:
        print(f"{plural(len(reverses), 'published number')} in which FCDM is behind: there too")


@in_one_line()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.claims", description="The paper's claims, from published points and from runs."
    )
    parser.add_argument(
        "--runs", type=of_command_line, help="folder of the runs, or MLflow URI; without it, published points only"
    )
    parser.add_argument("--study", help="only this study's runs and budgets")
    parser.add_argument("--protocol", metavar="ID", help="the protocol, where runs were evaluated by several")
    parser.add_argument("--tuning", metavar="STUDY", help="the study that chose the settings: says whether it did")
    add_pairs(parser)
    parser.add_argument("--csv", type=place, metavar="FILE", help="write the table there as well")
    options = parser.parse_args(arguments)
    if options.runs is None and (options.study or options.protocol or options.tuning or options.pair):
        raise UserError("--study, --protocol, --tuning and --pair choose among runs: say which with --runs DIR")
    trials = tidy_table(options.runs, options.tuning) if options.tuning else None  # a wrong name is said first
    tuned = tune(trials) if trials is not None else []
    curves = read_curves(options.runs, options.study) if options.runs else []
    table = table_of(curves, options.runs, options.study, options.protocol) if options.runs else None
    claim_rows, chosen = claims(table, published(), options.pair), []
    if table is not None:
        claim_rows += claims_elsewhere(other_tables(curves, table, options.study), options.pair)
        chosen = tuned_as(table, tuned)
        claim_rows = with_tuning(claim_rows, chosen)
    print_claims(claim_rows, table is not None)
    if table is not None:
        lines = [*table.attrs["instead"], *table.attrs["left_out"], *curve_notes(table), *table.attrs["missing"]]
        if trials is not None:
            lacking = [
                f"tuning '{options.tuning}': {line}" for key in ("left_out", "missing") for line in trials.attrs[key]
            ]
            lines = [*chosen, *tuning_cost(trials, table, tuned), *unfair(tuned, distance_of(trials)), *lacking, *lines]
            lines += untuned(table, tuned)
        print("\n" + "\n".join(lines) if lines else "")
    if options.csv:
        write_atomic(options.csv, claims_frame(claim_rows).to_csv(index=False))
        print(f"wrote {options.csv}")
