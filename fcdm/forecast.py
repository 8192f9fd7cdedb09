"""`python -m fcdm.forecast STUDY model=... steps=...`: what a run will come to, written down before it is there."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fcdm.analysis.law_options import OF_THE_FIT, add_law_options, law_settings
from fcdm.errors import OneLineParser, UserError
from fcdm.laws.verdict import LOSS
from fcdm.paths import place

if TYPE_CHECKING:
    from fcdm.forecasts.foretold import ForecastTeller

HELP = """Says what a run will come to, by the law of a study, and writes it down before the run is there.

python -m fcdm.forecast STUDY model=... steps=... [seed=...]
    the words are those of python -m fcdm.train -m (+sweeps=NAME too): the run that they name, and the protocol that it
    is evaluated by. Refused once anything of the budget exists
python -m fcdm.forecast STUDY
    writes the study's laws to runs/forecasts/STUDY.law.json, by which hydra/launcher=plan foretells; what it tells no
    law of any more has none there
python -m fcdm.forecast --score
    every forecast beside what was measured; entries that are not measured yet, or withdrawn, are counted
python -m fcdm.forecast --withdraw 3 --why TEXT
    takes forecast 3 back, before anything of its budget is known, with an entry of its own

Entries are chained by hash and never changed."""
METRICS = ("fid", LOSS)
"""What is foretold unasked, where the study's law tells it."""
HOLD_OUTS = ("size", "budget", "both")
USES = {
    "forecast": ("metric", "hold_out", "force", "dry_run", "config_dir", *OF_THE_FIT),
    "laws": ("metric", "dry_run", *OF_THE_FIT),
    "score": ("json", "measured"),
    "withdraw": ("why",),
    "publish": (),
}
"""Which options have an effect on what."""
PUBLISHED = "analysis/results/forecasts"


def main(arguments: list[str] | None = None, teller: ForecastTeller | None = None) -> int:
    """Exit code 0; 1 after one line for what cannot be. teller: what fits and foretells; None: the joint law."""
    try:
        options = _options(sys.argv[1:] if arguments is None else arguments)
        if options.score:
            _score(options)
        elif options.withdraw is not None:
            _withdraw(options)
        elif options.publish is not None:
            _publish(options)
        elif len(options.words) == 1:
            _write_laws(options, _teller(options, teller))
        else:
            _write(options, _teller(options, teller))
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
    parser.add_argument("--config-dir", metavar="DIR", help="where a model or sweep file of your own is")
    parser.add_argument("--ledger", metavar="FOLDER", help="folder of the entries (default: forecasts in the runs')")
    parser.add_argument(
        "--metric", action="append", metavar="KEY", help=f"of the evaluation (default: {' and '.join(METRICS)})"
    )
    parser.add_argument(
        "--hold-out", choices=HOLD_OUTS, help="of a budget that was measured, from the runs below its size or budget"
    )
    add_law_options(parser)
    parser.add_argument("--force", action="store_true", help="what would be refused, marked as forced")
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    parser.add_argument("--score", action="store_true", help="the scored ledger")
    parser.add_argument("--measured", metavar="CSV", help="score by a tidy table instead of the runs' folders")
    parser.add_argument("--json", action="store_true", help="the scored ledger as JSON")
    parser.add_argument("--withdraw", type=int, metavar="ENTRY", help="take a forecast back")
    parser.add_argument("--why", metavar="TEXT", help="why it is withdrawn")
    parser.add_argument(
        "--publish", nargs="?", const=PUBLISHED, metavar="FOLDER", help=f"copy the entries (default: {PUBLISHED})"
    )
    options = parser.parse_intermixed_args(list(arguments))
    said = [word.removeprefix("runs_dir=") for word in options.words if word.startswith("runs_dir=")]
    options.words = [word for word in options.words if not word.startswith("runs_dir=")]
    folders = {place(folder) for folder in (*said, *([options.runs] if options.runs else []))} or {place("runs")}
    if len(folders) > 1:
        raise UserError(f"{' and '.join(sorted(map(str, folders)))}: one folder of runs at a time")
    (options.runs_dir,) = folders
    _refuse_idle(options)
    from fcdm.forecasts.chain import ledger_folder

    options.folder = place(options.ledger) if options.ledger else ledger_folder(options.runs_dir)
    return options


def _refuse_idle(options: argparse.Namespace) -> None:
    """Raise UserError for words and options that do not go together."""
    said = {name for name, value in vars(options).items() if value is not None and value is not False}
    modes = [mode for mode in ("score", "withdraw", "publish") if mode in said]
    if len(modes) > 1:
        raise UserError(f"--{modes[0]} and --{modes[1]}: one at a time")
    if options.words and modes:
        raise UserError(f"{options.words[0]}: --{modes[0]} is of the whole ledger, and takes no study")
    if not options.words and not modes:
        raise UserError("say which study, and which run: python -m fcdm.forecast STUDY model=... steps=...")
    if options.words and "=" in options.words[0]:
        raise UserError(f"{options.words[0]}: the study comes first, then the run: STUDY model=... steps=...")
    mode = modes[0] if modes else "laws" if len(options.words) == 1 else "forecast"
    for name in sorted(said & {name for some in USES.values() for name in some} - {*USES[mode]}):
        raise UserError(f"--{name.replace('_', '-')} has no effect here: leave it away; --help says what it is for")
    if mode == "withdraw" and not options.why:
        raise UserError(f"--withdraw {options.withdraw} needs --why TEXT: it stays in the ledger for good")


def _score(options: argparse.Namespace) -> None:
    from fcdm.atomic import plain
    from fcdm.forecasts.chain import read_ledger
    from fcdm.forecasts.ledger_table import score_lines
    from fcdm.forecasts.measured_budgets import measured_in_csv, measured_in_runs
    from fcdm.forecasts.score_forecasts import as_json, score_ledger

    ledger = read_ledger(options.folder)
    if options.measured:
        measured = measured_in_csv(place(options.measured), ledger.forecasts)
    else:
        measured = measured_in_runs(options.runs_dir, ledger.forecasts)
    scored = score_ledger(ledger, measured)
    if options.json:
        print(json.dumps(plain(as_json(scored)), indent=1, allow_nan=False))
        return
    for line in score_lines(scored):
        print(line)


def _withdraw(options: argparse.Namespace) -> None:
    from fcdm.forecasts.chain import append, read_ledger
    from fcdm.forecasts.entries import HOLD_OUT, ForecastWithdrawal
    from fcdm.forecasts.known_budget import what_is_known
    from fcdm.runs.folder import Run, find_run

    ledger = read_ledger(options.folder)
    entry = ledger.forecast(options.withdraw)
    if entry.number in ledger.withdrawn:
        raise UserError(f"entry {entry.number} is withdrawn already: {ledger.withdrawn[entry.number].why}")
    if entry.kind == HOLD_OUT:
        raise UserError(f"entry {entry.number} is a hold-out: what it is of was known before it, so it stays")
    folder = find_run(options.runs_dir, entry.run.id)
    if folder is not None and (known := what_is_known(Run(folder, entry.run.id), entry.steps)):
        raise UserError(f"entry {entry.number} stays: {known}, and a withdrawal comes before anything is known")
    written = append(options.folder, ForecastWithdrawal(entry.number, options.why))
    print(f"entry {written.number}: forecast {entry.number} is withdrawn; it stays in the ledger and is counted")


def _publish(options: argparse.Namespace) -> None:
    from fcdm.forecasts.chain import publish
    from fcdm.formatting import plural

    to = place(options.publish)
    count = publish(options.folder, to)
    print(f"{plural(count, 'new entry', 'new entries')} in {to}")


def _write(options: argparse.Namespace, teller: ForecastTeller) -> None:
    """Raises UserError, with the last refusal, where something that was asked for by name is refused, or all is."""
    from fcdm.analysis.forecast_entry import StudyTables, requests_of
    from fcdm.forecasts.chain import append, read_ledger
    from fcdm.forecasts.ledger_table import forecast_lines
    from fcdm.sweep.jobs_asked import jobs_asked

    study, *words = options.words
    tables = StudyTables.named(options.runs_dir, study)
    configs = [] if options.config_dir is None else ["--config-dir", options.config_dir]
    jobs = jobs_asked([*words, *configs, f"study={study}", f"runs_dir={options.runs_dir}"])
    metrics = options.metric or METRICS
    asked = [one for job in jobs for one in requests_of(job, tables, metrics, options.hold_out, options.force)]
    refused: list[str] = []
    written = 0
    for one in asked:
        try:
            entry = one.entry(teller)
        except UserError as error:
            refused.append(str(error))
            continue
        ledger = read_ledger(options.folder)
        there = [other for other in ledger.forecasts if other.number not in ledger.withdrawn]
        same = [other for other in there if other.says == entry.says]
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


def _write_laws(options: argparse.Namespace, teller: ForecastTeller) -> None:
    from fcdm.analysis.forecast_entry import StudyTables, law_line, laws_told
    from fcdm.forecasts.law_file import write_laws

    (study,) = options.words
    metrics = options.metric or METRICS
    laws, refused = laws_told(StudyTables.named(options.runs_dir, study), metrics, teller)
    path = None if options.dry_run else write_laws(options.folder, study, metrics, laws)
    if path is not None:
        print(path)
        refused = [f"{line} ({path.name} has no such law)" for line in refused]
    if not laws:
        raise UserError("; ".join(refused))
    print(*map(law_line, laws), sep="\n")
    for line in refused:
        print(f"fcdm.forecast: {line}", file=sys.stderr)


def _teller(options: argparse.Namespace, given: ForecastTeller | None) -> ForecastTeller:
    """What fits and foretells, as asked. Raises UserError for a tuning study that is not there."""
    if given is not None:
        return given
    from fcdm.analysis.stats.study_forecast import JointTeller

    settings = law_settings(options, options.runs_dir)
    return JointTeller(settings.cuts, settings.tuned, settings.draws)


if __name__ == "__main__":
    sys.exit(main())
