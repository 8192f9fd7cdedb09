"""Which setting of each model a tuning study found best, and whether the models were tuned alike.

A comparison is fair where both models were tuned over the same grid, with as many trials, on seeds that the claim does
not use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fcdm.analysis.data.budgets import budget_rows, budget_text
from fcdm.analysis.data.curves import is_distance
from fcdm.analysis.data.labels import cooldowns, cooled_text, display_name, trajectories
from fcdm.analysis.data.seed_curves import seed_curves
from fcdm.errors import UserError
from fcdm.formatting import plural

ALIKE = 0.02
"""Learning rates that differ by less, relative, are one: grids are of factors of 1.4 and more."""


@dataclass(frozen=True)
class Trial:
    """One setting of a model, at one budget: its distance by seed; NaN where a run diverged."""

    values: dict[str, str]
    """What sets it apart from the model's other settings, by the config's keys."""
    fid: dict[int, float]
    lr: float = float("nan")
    """Its learning rate, whether that was varied or follows a rule."""

    @property
    def mean(self) -> float:
        """Over seeds; infinite where one has no FID (`is_distance`): such a setting is never chosen."""
        values = list(self.fid.values())
        return float(np.mean(values)) if is_distance(values).all() else np.inf

    @property
    def text(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.values.items()) or "the only setting"


@dataclass(frozen=True)
class Tuned:
    """One model's trials, best first; those that lack a seed come last and are not chosen."""

    name: str
    model: str
    steps: int
    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]
    data: str
    resolution: int
    finished: bool = True
    """Nothing that the study asks for is missing: the choice stands."""
    family: str = ""
    gmacs: float = float("nan")
    """Of its forward pass."""
    at: float = float("nan")
    """The budget as models have it in common: its steps, or its training FLOPs where these are what was asked for."""
    budget: str = ""
    """The same for a reader: `800 steps (71.2 epochs)`, `1e+15 FLOPs (1,234 steps, 3.4 epochs)`."""
    cooldown: float = 0.0
    """The share of the steps in which the rate of all its trials falls to 0; 0 where it goes on."""

    @property
    def complete(self) -> list[Trial]:
        return [trial for trial in self.trials if set(trial.fid) == set(self.seeds)]

    @property
    def best(self) -> Trial | None:
        """The lowest mean over seeds, of the settings that every seed was evaluated at."""
        finite = [trial for trial in self.complete if np.isfinite(trial.mean)]
        return min(finite, key=lambda trial: trial.mean) if finite else None

    @property
    def grid(self) -> set[tuple[tuple[str, str], ...]]:
        return {tuple(sorted(trial.values.items())) for trial in self.trials}

    def tried(self, key: str) -> list[float]:
        """The numbers of a key that were tried, in order."""
        return sorted({number for trial in self.trials if (number := _number(trial.values.get(key))) is not None})

    def edge(self, key: str) -> str:
        """`lowest` or `highest` where the best setting's number is that of those tried, else ""."""
        tried, number = self.tried(key), _number(self.best.values.get(key) if self.best else None)
        if len(tried) < 2 or number not in (tried[0], tried[-1]):
            return ""
        return "lowest" if number == tried[0] else "highest"

    def rates(self) -> list[float]:
        """The learning rates that were tried, in order."""
        return sorted({trial.lr for trial in self.trials})

    @property
    def at_edge_of_rates(self) -> bool:
        """Whether the best learning rate is the lowest or the highest of several."""
        rates = self.rates()
        return self.best is not None and len(rates) > 1 and self.best.lr in (rates[0], rates[-1])

    def rows_of(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of a table that are of this model, with its cooldown."""
        same = (table["model"] == self.model) & (table["data"] == self.data) & (table["resolution"] == self.resolution)
        return table[same & (cooldowns(table) == self.cooldown)]

    @property
    def best_rate(self) -> float:
        return self.best.lr if self.best else float("nan")

    def is_best_rate(self, rate: float) -> bool:
        """Whether it is the best learning rate but for rounding, such as that of a rule of widths."""
        return bool(np.isclose(rate, self.best_rate, rtol=ALIKE))

    def as_good_as_best(self, rate: float) -> bool:
        """Whether it is the best learning rate, or one that was tried and that seeds do not tell from it: its trials
        reach as low as those of the best go up."""
        if self.best is None:
            return False
        if self.is_best_rate(rate):
            return True
        tried = [trial for trial in self.complete if np.isclose(rate, trial.lr, rtol=ALIKE)]
        return any(min(trial.fid.values()) <= max(self.best.fid.values()) for trial in tried)

    def edges(self) -> list[str]:
        """Numbers of the best setting that are the lowest or highest tried: a better one may lie outside."""
        return [
            f"{self.name}: best {key}={value} is the {end} of the {len(self.tried(key))} tried"
            for key, value in (self.best.values if self.best else {}).items()
            if (end := self.edge(key))
        ]


def decides(table: pd.DataFrame) -> str:
    """The column that settings are chosen by unless another is named: `fid`; of losses alone `heldout_loss`."""
    return "fid" if table["fid"].notna().any() or table["heldout_loss"].isna().all() else "heldout_loss"


def tune(table: pd.DataFrame, metric: str | None = None, steps: int | None = None) -> list[Tuned]:
    """Each model's trials at `steps` (None: the largest budget of the table), evaluated by the mean of `metric` (None:
    what `decides`).

    `table`: `tidy_table`'s. Raises UserError where no run was evaluated at that budget.
    """
    metric = metric or decides(table)
    if steps is None:
        _, rows = budget_rows(table)[-1]
        return tune_rows(rows, table, metric)
    rows = table[table["steps"] == steps]
    if rows.empty:
        raise UserError(
            f"no run was evaluated at {steps:,} steps; there: {', '.join(map(str, sorted(set(table['steps']))))}"
        )
    return tune_rows(rows.assign(at=float(steps)), table, metric)


def tune_rows(rows: pd.DataFrame, table: pd.DataFrame, metric: str) -> list[Tuned]:
    """Each model's trials among the rows of one budget of a table, as of `budget_rows`.

    A model on other data, at another resolution or cooled down is another model: its FIDs are of another scale.
    """
    settings = table.attrs.get("settings", {})
    tuned = []
    scales = rows[["data", "resolution"]].drop_duplicates()
    by = ["model", "data", "resolution", "share"]
    for (model, data, resolution, share), of_model in rows.assign(share=cooldowns(rows)).groupby(by, sort=True):
        trials = []
        for label, evaluated in of_model.groupby("label", sort=True):
            fid = {int(seed): float(value) for seed, value in zip(evaluated["seed"], evaluated[metric], strict=True)}
            trials.append(Trial(settings.get(label, {}), fid, float(evaluated["lr"].iloc[0])))
        seeds = tuple(sorted({seed for trial in trials for seed in trial.fid}))
        trials.sort(key=lambda trial: (set(trial.fid) != set(seeds), trial.mean))
        name = display_name(str(model), str(of_model["family"].iloc[0]))
        name += cooled_text(float(str(share)))
        name += f" on {data} at {resolution} px" if len(scales) > 1 else ""
        finished = not table.attrs.get("missing")
        tuned.append(
            Tuned(
                name, str(model), int(of_model["steps"].max()), seeds, tuple(trials), str(data), int(str(resolution)),
                finished, str(of_model["family"].iloc[0]), float(of_model["forward_gmacs"].iloc[0]),
                float(of_model["at"].iloc[0]), budget_text(of_model), float(str(share)),
            )
        )  # fmt: skip
    return sorted(
        tuned, key=lambda one: (one.data, one.resolution, one.cooldown, one.family == "dit", one.gmacs, one.model)
    )


def chosen_lines(
    tuned: Sequence[Tuned], distance: str = "FID", number: Callable[[float], str] = "{:.3g}".format
) -> list[str]:
    """`FCDM-N: lr=0.008, the lowest mean FID of 10 settings at 800 steps over seeds 100, 101: 2.21; next ...`."""
    lines = []
    for one in tuned:
        if one.best is not None:
            others = [trial for trial in one.complete if trial is not one.best]
            next_best = f"; next {others[0].text}, {number(others[0].mean)}" if others else ""
            lines.append(
                f"{one.name}: {one.best.text}, the lowest mean {distance} of {len(one.complete)} settings at "
                f"{one.steps:,} steps over seeds {listed(one.seeds)}: {number(one.best.mean)}{next_best}."
            )
    return lines


def unfair(tuned: list[Tuned], distance: str = "FID") -> list[str]:
    """Where the models were not tuned alike, and what makes a choice less sure: lines; none where all is well."""
    lines: list[str] = []
    scales = dict.fromkeys((one.data, one.resolution, one.cooldown) for one in tuned)
    if len(scales) > 1:
        return [
            line
            for scale in scales
            for line in unfair([one for one in tuned if (one.data, one.resolution, one.cooldown) == scale], distance)
        ]
    first, *others = tuned
    if not others:
        lines.append(f"only {first.name} has been evaluated: nothing to compare it with")
    for other in others:
        for one, rest in ((first, other), (other, first)):
            lacking = sorted(" ".join(f"{k}={v}" for k, v in setting) for setting in one.grid - rest.grid)
            if lacking:
                lines.append(f"grids differ: {rest.name} has no {'; '.join(lacking)}, which {one.name} has")
        if len(first.trials) != len(other.trials):
            lines.append(f"trials differ: {first.name} {len(first.trials)}, {other.name} {len(other.trials)}")
        if first.seeds != other.seeds:
            lines.append(f"seeds differ: {first.name} {listed(first.seeds)}, {other.name} {listed(other.seeds)}")
    for one in tuned:
        for trial in one.trials:
            absent = sorted(set(one.seeds) - set(trial.fid))
            if absent:
                lines.append(f"not chosen from: {one.name} {trial.text}, which lacks seed {listed(absent)}")
            broken = [seed for seed, value in trial.fid.items() if not is_distance(value)]
            if broken:
                found_there = listed(f"{trial.fid[seed]:g}" for seed in broken)
                lines.append(f"diverged: {one.name} {trial.text}, seed {listed(broken)} ({distance} {found_there})")
        lines += one.edges()
        if one.best is None:
            lines.append(f"{one.name}: no setting has a {distance} for every seed, so none is chosen")
    return lines


def tuned_as(table: pd.DataFrame, tuned: list[Tuned]) -> list[str]:
    """Whether the runs of a claim use the chosen settings, on other seeds than those that chose them: lines."""
    lines = []
    for one in tuned:
        rows = one.rows_of(table)
        if rows.empty or one.best is None:
            continue
        best = "the best" if one.finished else "the best so far (the tuning is not finished)"
        text = f"{one.name}: {one.best.text}, {best} of {plural(len(one.complete), 'setting')} on {_seeds(one.seeds)}"
        as_chosen = [_as_chosen(line.settings, line.is_fully_known, one.best.values) for line in seed_curves(rows)]
        lacking = sorted({key for found in as_chosen for key in found or ()})
        if None in as_chosen:
            lines.append(f"not as tuned: {text}; some of these runs use another setting")
        elif shared := sorted(set(one.seeds) & set(rows["seed"])):
            lines.append(
                f"tuned on the claim's own seeds: {text}; seed {listed(shared)} is among both, "
                "and no interval holds that choice"
            )
        else:
            known = f" (as far as this table says, which lacks {listed(lacking)})" if lacking else ""
            seeds = listed(sorted(set(rows["seed"])))
            lines.append(f"tuned: {text}; these runs use it{known} on other seeds ({seeds})")
    return lines


def untuned(table: pd.DataFrame, tuned: list[Tuned]) -> list[str]:
    """The models of a claim that a tuning study has no trials of: a line each."""
    known = {(one.model, one.data, one.resolution, one.cooldown) for one in tuned}
    models = table.assign(share=cooldowns(table))[["model", "family", "data", "resolution", "share"]].drop_duplicates()
    lacking = [row for row in models.itertuples() if (row.model, row.data, row.resolution, row.share) not in known]
    names = [display_name(str(row.model), str(row.family)) + cooled_text(float(str(row.share))) for row in lacking]
    return [f"not tuned: {name} has no trials there" for name in names]


def _as_chosen(settings: dict[str, str], is_whole: bool, chosen: dict[str, str]) -> tuple[str, ...] | None:
    """The keys of a choice that cannot be checked, of what is known of a run; None: it is at another setting."""
    lacking = []
    for key, value in chosen.items():
        there = {theirs for name, theirs in settings.items() if name == key or name.endswith(f".{key}")}
        if not there and not is_whole:
            lacking.append(key)
        elif not any(theirs == value or _number(theirs) == _number(value) is not None for theirs in there):
            return None
    return tuple(lacking)


def tuning_cost(trials: pd.DataFrame, table: pd.DataFrame, tuned: list[Tuned]) -> list[str]:
    """How many runs each model's tuning took and their device-hours, and those of a claim's own runs with it: lines.

    `trials`: the tuning study's table, `table`: that of the claim's runs.
    """
    lines = []
    for one in tuned:
        searched, claimed = one.rows_of(trials), one.rows_of(table)
        if claimed.empty:
            continue
        runs, hours, own = searched["run"].nunique(), _hours(searched), _hours(claimed)
        text = f"tuning of {one.name}: {plural(len(one.trials), 'setting')}, {plural(runs, 'run')}"
        if not np.isfinite(hours):
            lines.append(f"{text}, device-hours not recorded")
            continue
        with_own = f", {hours + own:.3g} with {plural(claimed['run'].nunique(), 'run')} of the claim" if own > 0 else ""
        lines.append(f"{text}, {hours:.3g} device-hours{with_own}")
    return lines


def _hours(rows: pd.DataFrame) -> float:
    """Device-hours of training the runs of these rows to their last budgets; NaN where one is not known.

    Of branches their parent counts once: to where its last branch left it, by their steps.
    """
    last = rows.assign(trajectory=trajectories(rows)).groupby(["trajectory", "run"])["device_seconds"].max()
    share = cooldowns(rows).groupby(rows["run"]).first().reindex(last.index.get_level_values("run")).to_numpy()
    own, before = last * np.where(share > 0, share, 1.0), last * np.where(share > 0, 1 - share, 0.0)
    if not len(last) or last.isna().any():
        return float("nan")
    return float(own.sum() + before.groupby("trajectory").max().sum()) / 3600


def _seeds(seeds: tuple[int, ...]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {listed(seeds)}"


def listed(numbers: Iterable[object]) -> str:
    return ", ".join(map(str, numbers))


def _number(text: str | None) -> float | None:
    try:
        return float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
