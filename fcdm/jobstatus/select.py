"""What of the runs a command line of `fcdm.status` is about: studies, runs, states, values and SLURM jobs, as words.

Words of one kind are alternatives, and kinds narrow each other: `digits failed stopped model=N` is what failed or was
stopped of the runs of N in the study digits.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from fcdm.atomic import read_json_if_whole
from fcdm.config.check import near
from fcdm.errors import UserError
from fcdm.jobstatus.collect import Asked, what_is_asked
from fcdm.jobstatus.rows import STATES, StatusRow
from fcdm.jobstatus.run_values import OF_ROWS, AskedWith, alternatives, is_same
from fcdm.runs.reader import list_studies, read_study
from fcdm.slurm.ledger import list_tasks

KINDS = ("study", "run", "state", "job")
"""What a plain word may name, looked up in this order; `state=failed` where a study is called failed."""
_SHOWN = 12


@dataclass(frozen=True)
class Selection:
    """The rows that words choose. `asked` is what to look at, `rows` what to show and act on of it."""

    words: tuple[str, ...]
    """As they were typed."""
    asked: Asked
    """The budgets that the words choose, whatever became of them."""
    states: frozenset[str] = frozenset()
    """Empty: all."""
    jobs: tuple[str, ...] = ()
    """SLURM jobs, or whole arrays; empty: all."""
    of_job: frozenset[tuple[str, int]] = field(default=frozenset(), repr=False)
    """(run, budget) that these jobs were given."""
    known_jobs: frozenset[str] = field(default=frozenset(), repr=False)

    def takes(self, row: StatusRow) -> bool:
        """Whether the words choose this row of `asked`."""
        of_job = (row.run, row.budget) in self.of_job or any(self._is_asked(job) for _, job in row.cancel)
        return (not self.states or row.state in self.states) and (not self.jobs or of_job)

    def rows(self, rows: Iterable[StatusRow]) -> list[StatusRow]:
        """Those of these rows that the words choose; of SLURM jobs they name, --cancel ends these alone.

        Raises UserError for a job that is none of these runs'.
        """
        rows = list(rows)
        queued = {job for row in rows for _, job in row.cancel}
        for word in self.jobs:
            if not any(_is_job(job, word) for job in self.known_jobs | queued):
                known = sorted(self.known_jobs | queued, key=_by_number)[-_SHOWN:]
                raise UserError(
                    f"no SLURM job {word} of these runs: {near(word, known, _SHOWN) if known else 'none was submitted'}"
                )
        taken = [row for row in rows if self.takes(row)]
        if not self.jobs:
            return taken
        return [
            replace(row, local=None, cancel=tuple(name for name in row.cancel if self._is_asked(name[1])))
            for row in taken
        ]

    def _is_asked(self, job: str) -> bool:
        return any(_is_job(job, word) for word in self.jobs)


def select(runs_dir: Path, words: Sequence[str] = ()) -> Selection:
    """What the words choose: see the module; everything without words. Takes names of runs with or without their hash,
    paths and patterns (`N-*`); `key=value` as `fcdm.train` does, several values with commas between them.

    Raises UserError for a word that means nothing here, with the nearest that does.
    """
    chosen: dict[str, list[str]] = {}
    plain = []
    for word in words:
        key, said, value = word.partition("=")
        if said:
            value = value.strip("[]") if key == "steps" else value  # a run's budgets are rows of their own
            chosen.setdefault(key, []).extend(alternatives(value))
        elif _is_study(runs_dir, word):
            chosen.setdefault("study", []).append(word)
        else:
            plain.append(word)
    asked = _of_studies(runs_dir, chosen.pop("study", []))
    for word in plain:
        chosen.setdefault(_kind(word, runs_dir, asked.runs), []).append(word)

    runs, states, jobs = (chosen.pop(kind, []) for kind in KINDS[1:])
    if runs:
        asked.narrowed = True
        names = [name for word in runs for name in _runs(word, runs_dir, asked.runs)]
        asked.runs = {name: keys for name, keys in asked.runs.items() if name in names}
    for word in states:
        _state(word)
    if chosen:
        asked.everything, asked.narrowed = False, True
        _narrow(asked, chosen, runs_dir)
    if not jobs:
        return Selection(tuple(words), asked, frozenset(map(_state, states)))
    tasks = [task for task in list_tasks(runs_dir) if task.run.name in asked.runs]
    given = [task for task in tasks if any(_is_job(job, word) for word in jobs for job in task.ids)]
    return Selection(
        tuple(words),
        asked,
        frozenset(map(_state, states)),
        tuple(jobs),
        frozenset((task.run.name, step) for task in given for step in _budgets(task.job_file)),
        frozenset(job for task in tasks for job in task.ids),
    )


# ------------------------------------------------------------------------------------------------- names and states


def _kind(word: str, runs_dir: Path, runs: Collection[str]) -> str:
    """Of a word that is no study. Raises UserError where it is nothing else either."""
    if _matching(word, runs_dir, runs):
        return "run"
    if word.replace("-", " ") in STATES:
        return "state"
    if re.fullmatch(r"\d+(_\d+)?", word):
        return "job"
    if any(name.startswith(f"{word}-") for name in runs):
        meant = f"did you mean '{word}-*' or model={word}?"
    else:
        studies = [study.name for study in list_studies(runs_dir)]
        meant = near(word, {*studies, *STATES, *runs, *map(_readable, runs)}, _SHOWN)
    raise UserError(f"'{word}' is no study, run, state, key=value or SLURM job in {runs_dir}: {meant}")


def _state(word: str) -> str:
    name = word.replace("-", " ")
    if name not in STATES:
        raise UserError(f"state={word} is not known: {near(name, STATES)}")
    return name


def _is_study(runs_dir: Path, word: str) -> bool:
    try:
        return bool(read_study(runs_dir, word))
    except UserError:  # one that is damaged is told of where all are read
        return False


def _of_studies(runs_dir: Path, wanted: Sequence[str]) -> Asked:
    """What these studies ask for, or all of them and what is in none."""
    if not wanted:
        return what_is_asked(runs_dir)
    known = [study.name for study in list_studies(runs_dir)] if any("*" in word for word in wanted) else []
    names = [name for word in wanted for name in ([n for n in known if fnmatchcase(n, word)] or [word])]
    each = [what_is_asked(runs_dir, name) for name in dict.fromkeys(names)]
    asked = Asked(studies=tuple(study for one in each for study in one.studies))
    for run in dict.fromkeys(run for one in each for run in one.runs):
        keys = {key for one in each for key in one.runs.get(run, [])}
        asked.runs[run] = sorted(keys, key=lambda key: (key[1], key[0]))
    return asked


def _runs(word: str, runs_dir: Path, runs: Collection[str]) -> list[str]:
    found = _matching(word, runs_dir, runs)
    if not found:
        raise UserError(f"run={word} is none of these: {near(word, runs, _SHOWN)}")
    return found


def _matching(word: str, runs_dir: Path, runs: Collection[str]) -> list[str]:
    """Runs by folder name, pattern, path, hash, or by name without the hash, which may be several."""
    path = Path(word)
    name = path.name if path.parent.absolute() == runs_dir.absolute() else word
    if name in runs:
        return [name]
    return [run for run in runs if fnmatchcase(run, name) or name in (_readable(run), run.rpartition("-")[2])]


def _readable(run: str) -> str:
    """A run's name without its hash."""
    return re.sub(r"-[0-9a-f]{8}$", "", run)


# ------------------------------------------------------------------------------------------------- SLURM jobs


def _is_job(job: str, word: str) -> bool:
    """Whether the word names this job, or the array that it is a task of."""
    return job == word or job.startswith(f"{word}_")


def _by_number(job: str) -> tuple[int, ...]:
    return tuple(int(part) for part in job.split("_") if part.isdigit())


def _budgets(job_file: Path) -> list[int]:
    try:
        return [int(step) for part in read_json_if_whole(job_file)["parts"] for step in part["steps"]]
    except (KeyError, TypeError, ValueError):
        return []


# ------------------------------------------------------------------------------------------------- key=value


def _narrow(asked: Asked, chosen: dict[str, list[str]], runs_dir: Path) -> None:
    """Leave what has one of the values of each key. Raises UserError for a key or a value that nothing has."""
    configs = {run: AskedWith(runs_dir / run) for run in asked.runs}
    keys = [(run, key) for run, keys in asked.runs.items() for key in keys]
    for name, wanted in chosen.items():
        had = {at: configs[at[0]].value(name, at[1]) for at in keys}
        texts = sorted({text for text in had.values() if text is not None})
        if not texts:
            known = {key for config in configs.values() for key in config.keys}
            raise UserError(f"no run here says {name}: {near(name, known | {*KINDS, *OF_ROWS}, _SHOWN)}")
        for value in wanted:
            if not any(is_same(text, value) for text in texts):
                raise UserError(f"no run here has {name}={value}: {near(value, texts, _SHOWN)}")
        keys = [at for at in keys if any(is_same(had[at], value) for value in wanted)]
    left = set(keys)
    asked.runs = {run: mine for run, keys in asked.runs.items() if (mine := [k for k in keys if (run, k) in left])}
