"""The curves of a table, means over seeds, and what they leave out: told by name, once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fcdm.analysis.data.curves import NOT_ABOVE_0, has_log, is_distance
from fcdm.analysis.data.diverged_runs import diverged_lines
from fcdm.analysis.data.labels import config_of, cooldowns, display_name, distance_of


@dataclass(frozen=True)
class Trajectories:
    """The curves of one model: `amount` and `fid` of shape (seeds, budgets), budgets in order."""

    amount: np.ndarray
    fid: np.ndarray
    seeds: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.fid)


@dataclass(frozen=True)
class SeedCurve:
    """One curve: a model at one setting, the mean over its seeds at the steps that every one of them has."""

    label: str
    name: str
    """Without the setting: `FCDM-N`."""
    model: str
    family: str
    lr: float
    seeds: int
    points: pd.DataFrame
    """In order of steps: steps, images, epochs, train_flops, device_seconds, forward_gmacs, fid; of seeds fid_min and
    fid_max."""
    runs: pd.DataFrame
    """The rows of the table that `points` are the means of: every seed at each of its steps."""
    without: tuple[str, ...] = ()
    """Seeds that are not in the mean, each with what it lacks: `seed 1 (no FID at 400 (nan))`."""

    @property
    def resolution(self) -> int:
        return int(self.runs["resolution"].iloc[0])

    @property
    def cooldown(self) -> float:
        """The share of the steps in which the rate falls to 0; 0 where it goes on."""
        return float(cooldowns(self.runs).iloc[0])

    @property
    def distance(self) -> str:
        """What its FIDs are, by name: `FID`, `FD-DINOv2`, `KDD`."""
        return distance_of(self.runs)

    @property
    def devices(self) -> list[str]:
        """What its runs were trained on: device-seconds are comparable where this is one name for both models."""
        return sorted(set(self.runs["device"]))

    @property
    def batch_size(self) -> int | None:
        """None: the table does not tell."""
        known = self.runs["batch_size"] if "batch_size" in self.runs else pd.Series(dtype=float)
        return int(known.iloc[0]) if known.notna().any() else None

    @property
    def noise(self) -> float:
        """Of training: the relative standard deviation of FID over seeds, pooled over budgets; NaN with one seed."""
        by_step = self.runs.groupby("steps")["fid"]
        means = by_step.mean()
        relative = (by_step.std(ddof=1) / means)[has_log(means)].to_numpy()
        return float(np.sqrt(np.mean(relative**2))) if self.seeds > 1 and len(relative) else float("nan")

    def for_log_axes(self) -> tuple[SeedCurve, list[str]]:
        """The curve without the distances that a log axis has no place for, and a line for each of these."""
        fits = has_log(self.points["fid"])
        lines = [
            f"left out: {self.label} at {row.steps:,} steps: {row.fid:g} is {NOT_ABOVE_0}"
            for row in self.points[~fits].itertuples()
        ]
        return replace(self, points=self.points[fits]), lines

    @property
    def settings(self) -> dict[str, str]:
        """All that is known of how it was trained, by the configuration's keys: all of it, or what a CSV says."""
        first = self.runs.iloc[0]
        if config := config_of(str(first["variant"])):
            return config
        columns = {"batch_size": "batch_size", "optimiser.lr": "lr"}
        told = {key: first[column] for key, column in columns.items() if column in first}
        known = {key: f"{value:g}" for key, value in told.items() if pd.notna(value)}
        words = [word.split("=", 1) for word in self.label.split() if "=" in word]
        apart = config_of(str(first.get("settings", "")))
        return known | (apart or {key: value for key, value in words if key != "lr"})

    @property
    def is_fully_known(self) -> bool:
        """Whether `settings` is the whole configuration."""
        return bool(config_of(str(self.runs["variant"].iloc[0])))

    @property
    def tells_differences(self) -> bool:
        """Whether `settings` holds all that may differ from other curves of its table."""
        return self.is_fully_known or bool(config_of(str(self.runs.iloc[0].get("settings", ""))))

    def trajectories(self, axis: str = "steps") -> Trajectories:
        """Every seed's curve over `axis`, seeds in order."""
        by_seed = self.runs.assign(amount=self.runs[axis]).groupby(["seed", "steps"])[["amount", "fid"]].mean()
        amount, fid = by_seed["amount"].unstack(), by_seed["fid"].unstack()
        return Trajectories(amount.to_numpy(), fid.to_numpy(), tuple(int(seed) for seed in fid.index))


def seed_curves(table: pd.DataFrame) -> list[SeedCurve]:
    """The curves of a table: FCDM first, from small to large. What they leave out: `dropped`."""
    curves = []
    for (label, _), every in table.groupby(["label", "variant"], sort=True):
        seeds, budgets = _kept(every)
        rows = every[is_distance(every["fid"]) & every["seed"].isin(seeds) & every["steps"].isin(budgets)]
        if rows.empty:
            continue  # no FID at all, or no budget that every seed has reached yet
        rows = rows.assign(images=rows["steps"] * rows["batch_size"] if "batch_size" in rows else np.nan)
        rows = rows.assign(epochs=rows.get("epochs", np.nan))
        points = rows.groupby("steps", as_index=False).agg(
            images=("images", "first"),
            epochs=("epochs", "first"),
            train_flops=("train_flops", "first"),
            device_seconds=("device_seconds", "mean"),
            forward_gmacs=("forward_gmacs", "first"),
            fid=("fid", "mean"),
            fid_min=("fid", "min"),
            fid_max=("fid", "max"),
        )
        first = rows.iloc[0]
        name = display_name(first["model"], first["family"])
        without = tuple(f"seed {seed} ({why})" for seed, why in _seeds_without(every, seeds))
        curves.append(
            SeedCurve(str(label), name, first["model"], first["family"], first["lr"], len(seeds), points, rows, without)
        )
    return sorted(curves, key=lambda line: (line.family == "dit", line.points["forward_gmacs"].iloc[0], line.label))


def curve_notes(table: pd.DataFrame) -> list[str]:
    """What a reader of `seed_curves` must know, a line each: what they leave out, and runs that diverged and are in."""
    return [*dropped(table), *diverged_lines(table)]


def dropped(table: pd.DataFrame) -> list[str]:
    """What `seed_curves` leaves out, a line each with the reason: seeds, and budgets that a seed lacks."""
    lines = []
    asked = table[table["samples"] != 0] if "samples" in table else table  # of losses alone no distance is missed
    for (label, _), rows in asked.groupby(["label", "variant"]):
        seeds, budgets = _kept(rows)
        for seed, why in _seeds_without(rows, seeds):
            run = rows.loc[rows["seed"] == seed, "run"].iloc[0]
            lines.append(f"left out: {label}, seed {seed}: {why} ({run})")
        mine = rows[rows["seed"].isin(seeds)] if seeds else rows.iloc[:0]
        for steps, evaluated in mine.groupby("steps"):
            if steps in budgets:
                continue
            broken = evaluated[~is_distance(evaluated["fid"])]
            name = distance_of(rows)
            reasons = [f"seed {row.seed} has no {name} there ({row.fid:g}; {row.run})" for row in broken.itertuples()]
            absent = sorted(seeds - set(evaluated["seed"]))
            reasons += [f"seed {', '.join(map(str, absent))} not evaluated there"] if absent else []
            lines.append(f"left out: {label} at {steps:,} steps: {'; '.join(reasons)}")
    return lines


def _kept(rows: pd.DataFrame) -> tuple[set[int], set[int]]:
    """Of one setting: (seeds, the budgets that all of them have).

    One late or diverged seed must not cost the others their budgets: seeds are left out where more budgets stay so,
    as long as more than half of them, and two, remain. Those without any FID are always left out.
    """
    evaluated = rows[is_distance(rows["fid"])]
    of_seed = {int(str(seed)): set(map(int, steps)) for seed, steps in evaluated.groupby("seed")["steps"]}
    if not of_seed:
        return set(), set()
    everyone = frozenset(of_seed)
    enough = max(2, len(everyone) // 2 + 1)
    choices = [frozenset(seed for seed in everyone if of_seed[seed] >= steps) for steps in of_seed.values()]
    choices = [everyone, *(seeds for seeds in choices if len(seeds) >= enough)]

    def shared(seeds: frozenset[int]) -> set[int]:
        return set.intersection(*(of_seed[seed] for seed in seeds))

    seeds = max(choices, key=lambda seeds: (len(shared(seeds)), len(seeds)))
    return set(seeds), shared(seeds)


def _seeds_without(rows: pd.DataFrame, seeds: set[int]) -> list[tuple[int, str]]:
    """The seeds that are not among `seeds`, each with what it lacks of the budgets of this setting."""
    lacking = []
    for seed, mine in rows[~rows["seed"].isin(seeds)].groupby("seed"):
        broken = mine[~is_distance(mine["fid"])]
        at = ", ".join(f"{row.steps:,} ({row.fid:g})" for row in broken.itertuples())
        absent = sorted(set(rows["steps"]) - set(mine["steps"]))
        reasons = [f"no {distance_of(rows)} at {at}"] if at else []
        reasons += [f"not evaluated at {', '.join(f'{steps:,}' for steps in absent)}"] if absent else []
        lacking.append((int(str(seed)), " and ".join(reasons)))
    return lacking
