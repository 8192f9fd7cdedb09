"""`python -m fcdm.forecast STUDY model=... steps=...`: what a run will come to, written down before it is there."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcdm.errors import OneLineParser, UserError
from fcdm.paths import place

if TYPE_CHECKING:
    import pandas as pd

    from fcdm.jobs.job import Job
    from fcdm.ledger.entries import ForecastEntry
    from fcdm.ledger.foretold import ForecastTarget, ForecastTeller
    from fcdm.runs.protocol import Part

HELP = """Says what a run will come to, by the law of a study, and writes it down before the run is there.

python -m fcdm.forecast STUDY model=... steps=... [seed=...]
    the words are those of python -m fcdm.train -m (+sweeps=NAME too): the run that they name, and the protocol that it
    is evaluated by. Refused once anything of the budget exists
python -m fcdm.forecast STUDY
    writes the study's laws to runs/forecasts/STUDY.law.json, by which hydra/launcher=plan foretells
python -m fcdm.forecast --score
    every forecast beside what was measured; entries that are not measured yet, or withdrawn, are counted
python -m fcdm.forecast --withdraw 3 --why TEXT
    takes forecast 3 back, before it is measured, with an entry of its own

Entries are chained by hash and never changed."""
METRICS = ("fid", "heldout_loss")
"""What is foretold unasked, where the study's law tells it."""
HOLD_OUTS = ("size", "budget", "both")
PUBLISHED = "analysis/results/forecasts"


def main(arguments: list[str] | None = None, teller: ForecastTeller | None = None) -> int:
    """Exit code 0; 1 after one line for what cannot be. teller: what fits and foretells."""
    try:
        options = _options(sys.argv[1:] if arguments is None else arguments)
        if options.score:
            _score(options)
        elif options.withdraw is not None:
            _withdraw(options)
        elif options.publish is not None:
            _publish(options)
        elif len(options.words) == 1:
            _write_laws(options, _teller(teller))
        else:
            _write(options, _teller(teller))
    except UserError as error:
        print(f"fcdm.forecast: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    """Raises UserError for options that do not go together."""
    parser = OneLineParser(
        prog="python -m fcdm.forecast", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="STUDY key=value", help="the study, then the run")
    parser.add_argument("--runs", metavar="FOLDER", help="folder of the runs (default: runs); runs_dir= says the same")
    parser.add_argument("--ledger", metavar="FOLDER", help="folder of the entries (default: forecasts in the runs')")
    parser.add_argument(
        "--metric", action="append", metavar="KEY", help=f"of the evaluation (default: {' and '.join(METRICS)})"
    )
    parser.add_argument(
        "--hold-out", choices=HOLD_OUTS, help="of a budget that was measured, from the runs below its size or budget"
    )
    parser.add_argument("--force", action="store_true", help="what would be refused, marked as forced")
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    parser.add_argument("--score", action="store_true", help="the scored ledger")
    parser.add_argument("--json", action="store_true", help="the scored ledger as JSON")
    parser.add_argument("--withdraw", type=int, metavar="ENTRY", help="take a forecast back")
    parser.add_argument("--why", metavar="TEXT", help="why it is withdrawn")
    parser.add_argument(
        "--publish", nargs="?", const=PUBLISHED, metavar="FOLDER", help=f"copy the entries (default: {PUBLISHED})"
    )
    options = parser.parse_intermixed_args(list(arguments))
    said = [word.removeprefix("runs_dir=") for word in options.words if word.startswith("runs_dir=")]
    options.words = [word for word in options.words if not word.startswith("runs_dir=")]
    options.runs_dir = place((said or [options.runs or "runs"])[-1])
    options.folder = place(options.ledger) if options.ledger else options.runs_dir / "forecasts"
    if options.withdraw is not None and not options.why:
        raise UserError(f"--withdraw {options.withdraw} needs --why TEXT: it stays in the ledger for good")
    whole = options.score or options.withdraw is not None or options.publish is not None
    if options.words and whole:
        raise UserError(f"{options.words[0]}: --score, --withdraw and --publish are of the whole ledger: no study")
    if not options.words and not whole:
        raise UserError("say which study, and which run: python -m fcdm.forecast STUDY model=... steps=...")
    if options.words and "=" in options.words[0]:
        raise UserError(f"{options.words[0]}: the study comes first, then the run: STUDY model=... steps=...")
    return options


def _score(options: argparse.Namespace) -> None:
    from fcdm.atomic import plain
    from fcdm.ledger.entries import read_ledger
    from fcdm.ledger.ledger_table import score_lines
    from fcdm.ledger.score_forecasts import as_json, measured_in_runs, score_ledger

    ledger = read_ledger(options.folder)
    scored = score_ledger(ledger, measured_in_runs(options.runs_dir, ledger.forecasts))
    if options.json:
        print(json.dumps(plain(as_json(scored)), indent=1, allow_nan=False))
        return
    for line in score_lines(scored):
        print(line)


def _withdraw(options: argparse.Namespace) -> None:
    from fcdm.ledger.entries import ForecastWithdrawal, append, read_ledger
    from fcdm.ledger.score_forecasts import measured_in_runs

    ledger = read_ledger(options.folder)
    entry = ledger.forecast(options.withdraw)
    if entry.number in ledger.withdrawn:
        raise UserError(f"entry {entry.number} is withdrawn already: {ledger.withdrawn[entry.number].why}")
    if measured_in_runs(options.runs_dir, [entry]):
        raise UserError(f"entry {entry.number} is measured already, so it is scored: a withdrawal comes before that")
    written = append(options.folder, ForecastWithdrawal(entry.number, options.why))
    print(f"entry {written.number}: forecast {entry.number} is withdrawn; it stays in the ledger and is counted")


def _publish(options: argparse.Namespace) -> None:
    from fcdm.formatting import plural
    from fcdm.ledger.entries import publish

    to = place(options.publish)
    count = publish(options.folder, to)
    print(f"{plural(count, 'new entry', 'new entries')} in {to}")


@dataclass(frozen=True)
class _Asked:
    """One budget of one run by one metric."""

    job: Job
    part: Part
    steps: int
    metric: str

    @property
    def target(self) -> ForecastTarget:
        from fcdm.ledger.foretold import ForecastTarget
        from fcdm.runs.identity import flatten, science
        from fcdm.runs.run_cost import run_cost

        config = self.job.config
        cost = run_cost(config)
        return ForecastTarget(
            model=config.model.name,
            family=config.model.kind,
            parameters=cost.parameters,
            forward_macs=cost.forward_macs,
            batch_size=config.batch_size,
            resolution=config.resolution,
            seed=config.seed,
            steps=self.steps,
            science=flatten(science(config)),
        )


def _write(options: argparse.Namespace, teller: ForecastTeller) -> None:
    """Raises UserError, with the last refusal, where something that was asked for by name is refused, or all is."""
    from fcdm.ledger.entries import append, read_ledger
    from fcdm.ledger.ledger_table import forecast_lines
    from fcdm.runs.reader import read_study
    from fcdm.sweep.jobs_asked import jobs_asked

    study, *words = options.words
    read_study(options.runs_dir, study)
    jobs = jobs_asked([*words, f"study={study}", f"runs_dir={options.runs_dir}"])
    asked = [
        _Asked(job, part, steps, metric)
        for job in jobs
        for part in [part for part in job.parts if part.evaluates][:1]  # what others branch from is only trained
        for steps in part.budgets
        for metric in options.metric or METRICS
    ]
    refused: list[str] = []
    written = 0
    for one in asked:
        try:
            entry = _entry(one, study, options, teller)
        except UserError as error:
            refused.append(str(error))
            continue
        same = [other for other in read_ledger(options.folder).forecasts if other.says == entry.says]
        if not same and not options.dry_run:
            entry = append(options.folder, entry)
        first, *rest = forecast_lines(entry)
        number = f"entry {same[0].number}, there already" if same else f"entry {entry.number}"
        print(f"{'not written' if options.dry_run and not same else number}: {first}", *rest, sep="\n")
        written += 1
    lines = list(dict.fromkeys(refused))
    for line in lines[:-1]:
        print(f"fcdm.forecast: {line}", file=sys.stderr)
    if lines and (options.metric or not written):
        raise UserError(lines[-1])
    for line in lines[-1:]:
        print(f"fcdm.forecast: {line}", file=sys.stderr)


def _entry(one: _Asked, study: str, options: argparse.Namespace, teller: ForecastTeller) -> ForecastEntry:
    """Raises UserError for what is known already, is no run of the study's, or cannot be told."""
    from fcdm.ledger.entries import HOLD_OUT, entry_of
    from fcdm.ledger.known_budget import kind_of, what_is_known
    from fcdm.runs.folder import Run, find_run
    from fcdm.runs.revision import code_revision

    run, target, part = one.job.run, one.target, one.part
    parent = None
    if one.job.parent_id is not None and (folder := find_run(options.runs_dir, one.job.parent_id)):
        parent = Run(folder, one.job.parent_id)
    if options.hold_out is None:
        kind_of(run, one.steps, parent=parent)
    elif not what_is_known(run, one.steps):
        raise UserError(
            f"--hold-out={options.hold_out} is for a budget that was measured, and {run.name} has nothing at step "
            f"{one.steps}: leave it away"
        )
    table = _table(options.runs_dir, study, part.protocol_id, one.metric)
    if options.hold_out is not None:
        table = _below(table, target, options.hold_out)
    off = _off_study(table, options.runs_dir, one.job)
    if off and not options.force:
        raise UserError(f"{run.name} is not as the runs of study '{study}' are: {off}: say what they have, or --force")
    forecast = teller.forecast_of(table, one.metric, target, force=options.force)
    if off:
        forecast = replace(forecast, forced=(*forecast.forced, f"not as the study's runs: {off}"))
    return entry_of(
        forecast,
        target,
        study=study,
        run_id=one.job.id,
        run_name=one.job.name,
        parent_id=one.job.parent_id,
        data=one.job.config.data.name,
        data_checksum=str(one.job.config.data.checksum),
        metric=one.metric,
        protocol=part.protocol,
        protocol_id=part.protocol_id,
        kind=HOLD_OUT if options.hold_out else kind_of(run, one.steps, parent=parent, inside=forecast.inside),
        code=code_revision(),
    )


def _table(runs_dir: Path, study: str, protocol_id: str, metric: str) -> pd.DataFrame:
    """The study's measured points by one protocol. Raises UserError where there is none of the metric."""
    from fcdm.analysis.data.tidy_table import tidy_table

    table = tidy_table(runs_dir, study, protocol_id)
    if metric not in table or table[metric].isna().all():
        raise UserError(f"study '{study}' has no {metric} by protocol {protocol_id}: nothing to fit")
    return table


def _below(table: pd.DataFrame, target: ForecastTarget, held_out: str) -> pd.DataFrame:
    """The points that are left where the target's size, its budget or both are held out. Raises UserError: none is."""
    smaller = table["forward_gmacs"] * 1e9 < target.forward_macs * (1 - 1e-9)
    earlier = table["images"] < target.images
    kept = {"size": smaller, "budget": earlier, "both": smaller & earlier}[held_out]
    if not kept.any():
        raise UserError(f"--hold-out={held_out} leaves no point: the study has nothing below this run")
    return table[kept].copy()


def _off_study(table: pd.DataFrame, runs_dir: Path, job: Job) -> str:
    """In what the run is not as all the study's runs of its family are; "": in nothing that counts."""
    from fcdm.ledger.common_settings import common_settings, off_common, settings_of
    from fcdm.runs.identity import science

    family = job.config.model.kind
    common = common_settings(_settings(runs_dir, table.loc[table["family"] == family, "run"]))
    if not common:
        raise UserError(f"the study has no run of family {family}")
    return ", ".join(off_common(settings_of(science(job.config)), common))


def _settings(runs_dir: Path, names: Any) -> list[dict[str, Any]]:
    from fcdm.ledger.common_settings import settings_of
    from fcdm.runs.reader import RunView

    return [settings_of(RunView(runs_dir / name).config) for name in dict.fromkeys(names)]


def _write_laws(options: argparse.Namespace, teller: ForecastTeller) -> None:
    from fcdm.ledger.common_settings import common_settings
    from fcdm.ledger.law_file import write_laws
    from fcdm.runs.reader import read_study

    study = read_study(options.runs_dir, options.words[0])
    found, refused = [], []
    for metric in options.metric or METRICS:
        try:
            table = _table(options.runs_dir, study.name, study.protocol_id, metric)
            laws = teller.laws_of(table, metric)
        except UserError as error:
            refused.append(f"{metric}: {error}")
            continue
        found += [replace(law, common=common_settings(_settings(options.runs_dir, runs))) for law, runs in laws]
    if not found:
        raise UserError("; ".join(refused))
    if not options.dry_run:
        print(write_laws(options.folder, study.name, found))
    for law in found:
        low, high = law.reach["train_flops"]
        form = f"{law.e:.4g} + {law.a:.4g} N^-{law.alpha:.3g} + {law.b:.4g} D^-{law.beta:.3g}"
        whose = law.common.get("model.family", "all families")
        print(f"{law.metric} of {whose} = {form}, from {low:.3g} to {high:.3g} FLOPs of training")
    for line in refused:
        print(f"note: {line}", file=sys.stderr)


def _teller(given: ForecastTeller | None) -> ForecastTeller:
    if given is None:
        raise UserError("the laws of fcdm.analysis are not joined here yet")
    return given


if __name__ == "__main__":
    sys.exit(main())
