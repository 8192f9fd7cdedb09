"""Which setting was best at each budget of a study, and whether the best learning rate moves with size and budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from fcdm.analysis.data.budgets import budget_rows
from fcdm.analysis.data.labels import cooled_text, family_name
from fcdm.analysis.stats.tuning_trials import Trial, Tuned, decides, tune, tune_rows

MOST_NAMED = 4
"""More of a kind than this are told as a number."""


def tune_each(table: pd.DataFrame, metric: str | None = None, steps: int | None = None) -> list[Tuned]:
    """Each model's trials at each budget, smaller budgets first; `steps`: at this one alone, as of `tune`.

    The last of a study's budgets is `tune`'s own.
    """
    if steps is not None:
        return tune(table, metric, steps)
    return [one for _, rows in budget_rows(table) for one in tune_rows(rows, table, metric or decides(table))]


def best_lines(tuned: Sequence[Tuned]) -> list[str]:
    """`FCDM-N at 400 steps (35.6 epochs): optimiser.lr=0.004, inside the 5 tried (0.001 to 0.016)`: a line each."""
    lines = []
    for one in tuned:
        if one.best is None:
            lines.append(f"{one.name} at {one.budget}: none, for no setting has a value for every seed")
            continue
        parts = [f"{key}={value}{_where(one, key)}" for key, value in one.best.values.items()]
        lines.append(f"{one.name} at {one.budget}: {'; '.join(parts) or one.best.text}")
    return lines


def _where(one: Tuned, key: str) -> str:
    """Where among the numbers that were tried the best one lies; "" of what is no number, or was not varied."""
    tried, place = one.tried(key), one.edge(key)
    if len(tried) < 2:
        return ""
    at = f", the {place} of the" if place else ", inside the"
    return f"{at} {len(tried)} tried ({tried[0]:g} to {tried[-1]:g})"


def moved_lines(tuned: Sequence[Tuned]) -> list[str]:
    """For each family a line on whether its best learning rate moved with size and with the budget; none of others.

    A rate did not move where the two differ by less than a step of their grids; the same rate of one grid did not.
    """
    lines = []
    groups: dict[tuple[str, str, int, float], list[Tuned]] = {}
    for one in tuned:
        groups.setdefault((one.family, one.data, one.resolution, one.cooldown), []).append(one)
    for (family, data, resolution, cooldown), group in groups.items():
        own = [one for one in group if one.best is not None]
        if not any(len(one.rates()) > 1 for one in own):
            continue
        budgets = [[one for one in own if one.at == at] for at in dict.fromkeys(one.at for one in own)]
        models = [[one for one in own if one.model == model] for model in dict.fromkeys(one.model for one in own)]
        by_size = [sorted(group, key=lambda one: one.gmacs) for group in budgets]
        parts = [
            *_moved("with size", by_size, lambda one: one.name, lambda one: f" at {_short(one)}"),
            *_moved("with the budget", models, _short, lambda one: f" of {one.name}"),
        ]
        several = len({(one.data, one.resolution) for one in tuned if one.family == family}) > 1
        where = f" on {data} at {resolution} px" if several else ""
        edges = [f"{one.name} at {_short(one)}" for one in own if one.at_edge_of_rates]
        unsure = f"; at an edge of its grid, so that a better one may lie outside: {_named(edges)}" if edges else ""
        if parts:
            cooled = cooled_text(cooldown)
            lines.append(f"{family_name(family)}{cooled}{where}: the best learning rate {', and '.join(parts)}{unsure}")
    return lines


def _moved(
    what: str, groups: Sequence[Sequence[Tuned]], place: Callable[[Tuned], str], whose: Callable[[Tuned], str]
) -> list[str]:
    """`did not move with size (0.004)`; `moved with size at 800 steps: 0.004 (FCDM-N) to 0.001 (FCDM-M), x 0.25`.

    `groups`: each of one budget over sizes, or of one size over budgets, in order. Nothing where none has two.
    """
    several = [group for group in groups if len(group) > 1]
    if not several:
        return []
    moves, rates = [], set()
    for group in several:
        first = group[0]
        last = max(group, key=lambda one: abs(np.log(_rate(one) / _rate(first))))
        rates |= {_rate(one) for one in group}
        if _moves(first, last):
            ends = f"{_rate(first):g} ({place(first)}) to {_rate(last):g} ({place(last)})"
            moves.append(f"{whose(first).strip()}: {ends}, x {_rate(last) / _rate(first):.3g}")
    if moves:
        still = (
            f", and in {len(several) - len(moves)} of {len(several)} cases did not" if len(moves) < len(several) else ""
        )
        return [f"moved {what} ({'; '.join(moves)}){still}"]
    if len(rates) == 1:
        return [f"did not move {what} ({min(rates):g})"]
    if any(len({_rate(one) for one in group}) > 1 for group in several):
        return [f"did not move {what} ({min(rates):g} to {max(rates):g}, within a step of the grids)"]
    each = _named([f"{_rate(group[0]):g}{whose(group[0])}" for group in several])
    return [f"did not move {what} ({each})"]


def _named(texts: Sequence[str]) -> str:
    """The first of them; of more than MOST_NAMED how many others there are."""
    more = f" and {len(texts) - MOST_NAMED} more" if len(texts) > MOST_NAMED else ""
    return ", ".join(texts[:MOST_NAMED]) + more


def _short(one: Tuned) -> str:
    """`800 steps`, `1e+15 FLOPs`."""
    return one.budget.partition(" (")[0]


def _moves(a: Tuned, b: Tuned) -> bool:
    """Whether two best rates differ by a step of their grids at least."""
    step = min(_step(a), _step(b))
    return abs(np.log(_rate(a) / _rate(b))) > np.log(step) * (1 - 1e-3) if np.isfinite(step) else _rate(a) != _rate(b)


def _rate(one: Tuned) -> float:
    return _best(one).lr


def _best(one: Tuned) -> Trial:
    assert one.best is not None
    return one.best


def _step(one: Tuned) -> float:
    """The smaller of the ratios of the best rate to its neighbours in the grid; infinite without any."""
    rates = one.rates()
    at = rates.index(_rate(one))
    around = [rates[i + 1] / rates[i] for i in (at - 1, at) if 0 <= i < len(rates) - 1]
    return min(around, default=float("inf"))
