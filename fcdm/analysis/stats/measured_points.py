"""Measured points that a law can meet: x and y above 0, and which run and which model each is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from fcdm.formatting import plural


@dataclass(frozen=True)
class Points:
    """Measured points: arrays of shape (n,), and which trajectory and which model each belongs to."""

    x: np.ndarray
    y: np.ndarray
    trajectories: np.ndarray
    models: np.ndarray
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def checked(
        cls,
        x: ArrayLike,
        y: ArrayLike,
        trajectories: Sequence[object] | None = None,
        models: Sequence[object] | None = None,
    ) -> Points:
        """Points that a power law can meet, in order of x; what is left out or looks odd is noted."""
        places, values = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        runs = np.array([str(run) for run in trajectories] if trajectories is not None else ["one"] * len(places))
        names = np.array([str(name) for name in models] if models is not None else [""] * len(places))
        fit = np.isfinite(places) & np.isfinite(values) & (places > 0) & (values > 0)
        notes = []
        if not fit.all():
            of = sorted(set(runs[~fit]))
            whose = f" ({_some(of)})" if trajectories is not None else ""
            notes.append(
                f"left out: {plural((~fit).sum(), 'point')} that {_be(~fit)} not a finite number above 0{whose}"
            )
        order = np.argsort(places, kind="stable")
        order = order[fit[order]]
        places, values, runs, names = places[order], values[order], runs[order], names[order]
        rising = [run for run in sorted(set(runs)) if (np.diff(values[runs == run]) > 0).any()]
        if rising:
            whose = f" ({_some(rising)})" if trajectories is not None else ""
            notes.append(
                f"not monotone: {plural(len(rising), 'trajectory rises', 'trajectories rise')} on the way{whose}; kept"
            )
        return cls(places, values, runs, names, tuple(notes))

    def fewest_runs(self) -> tuple[str, int]:
        """The model with the fewest runs, and how many it has."""
        runs = {str(name): len(set(self.trajectories[self.models == name])) for name in sorted(set(self.models))}
        name = min(runs, key=lambda one: runs[one])
        return name, runs[name]


def _be(which: np.ndarray) -> str:
    return "is" if which.sum() == 1 else "are"


def _some(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
