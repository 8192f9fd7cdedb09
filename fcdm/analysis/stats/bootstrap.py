"""How sure an equal-FID ratio is: whole trajectories (training seeds) resampled, for budgets of one run are correlated.

The interval is that of Student's t on the log ratio, with the standard error of a bootstrap over whole trajectories:
every resample draws seeds with replacement, for each model by itself, takes the mean curve and reads off the log
amounts at the target. A bootstrap of n means is too narrow by sqrt((n - 1) / n), which is put right, and t has Welch's
degrees of freedom. At five seeds a 95 % interval covers 95 % of the time, where the bootstrap's percentiles cover 88 %
(tests/analysis/test_bootstrap.py simulates both).

What it does not hold: the noise of the evaluation. All runs are sampled from the same starting noise and labels (the
evaluation's seed), so that part is common to all seeds and partly cancels in a ratio; it falls with more samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from fcdm.analysis.data.seed_curves import Trajectories
from fcdm.analysis.stats.step_efficiency import LEAST_RANGE, TARGETS, log_amounts

LEVEL = 0.95
RESAMPLES = 2000
BEYOND = 0.025
"""Where more than this share of resamples leaves what was measured, that side of the interval is open."""
ROUNDING = 1e-12
"""Standard errors of a log ratio below this are rounding, not spread."""
ONE_SEED = "one seed: no interval over training"
NO_SPREAD = "all seeds agree to the last digit: no interval over training"


def ratio_intervals(
    a: Trajectories,
    b: Trajectories,
    targets: ArrayLike,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """The ratio of b's amount over a's at each target, with its interval over training seeds.

    Columns: target, ratio (of the mean curves), low, high, log_se, df, note. NaN ends where a model has one seed, all
    seeds are the same or the ratio was not measured; 0 and inf where that side is open, because resamples often left
    what was measured.
    Pointwise: the level holds for each target by itself.
    """
    wanted = np.atleast_1d(np.asarray(targets, dtype=float))
    at_a, at_b = mean_log_amounts(a, wanted), mean_log_amounts(b, wanted)
    drawn_a, drawn_b = (resampled(one, wanted, resamples, seed + place) for place, one in enumerate((a, b)))
    rows = []
    for place, target in enumerate(wanted):
        log_ratio = _difference(at_b[place], at_a[place])
        row = {"target": target, "ratio": np.nan, "low": np.nan, "high": np.nan, "log_se": np.nan, "df": np.nan}
        if not np.isfinite(log_ratio):
            rows.append({**row, "note": "outside what was measured"})
        elif min(len(a), len(b)) < 2:
            rows.append({**row, "ratio": np.exp(log_ratio), "note": ONE_SEED})
        else:
            found = _interval(log_ratio, (drawn_a[:, place], len(a)), (drawn_b[:, place], len(b)), level)
            rows.append({**row, "ratio": np.exp(log_ratio), **found})
    return pd.DataFrame(rows, columns=["target", "ratio", "low", "high", "log_se", "df", "note"])


@dataclass(frozen=True)
class Trend:
    """How the ratio at a low FID stands to that at a high one: `factor` is the second over the first."""

    high_fid: float
    low_fid: float
    at_high: float
    at_low: float
    """The ratios there."""
    factor: float
    low: float
    high: float
    """Of the factor's interval; NaN: there is none, and `note` says why."""
    note: str = ""

    @property
    def direction(self) -> str | None:
        """`falls` or `rises`, towards lower FIDs; None: the interval does not exclude 1, or there is none."""
        return "falls" if self.high < 1 else "rises" if self.low > 1 else None


def ratio_trend(
    a: Trajectories,
    b: Trajectories,
    worst: float,
    best: float,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Trend:
    """The ratio of ratios between the ends of a range of FIDs, `worst` > `best`, with its interval over seeds.

    Of both models whole trajectories are drawn anew, and both ends are read off the same resample: what a seed's luck
    does to both drops out. The ends are moved inwards as far as at most `BEYOND` of the resamples leave what was
    measured.
    """
    targets = np.geomspace(worst, best, TARGETS)
    logs = mean_log_amounts(b, targets) - mean_log_amounts(a, targets)
    if min(len(a), len(b)) < 2:
        return _trend(targets[[0, -1]], logs[[0, -1]], note=ONE_SEED)
    drawn = [resampled(one, targets, resamples, seed + place) for place, one in enumerate((a, b))]
    inside = [np.isfinite(of_one).mean(0) >= 1 - BEYOND for of_one in drawn]
    usable = np.flatnonzero(inside[0] & inside[1] & np.isfinite(logs))
    if len(usable) < 2 or targets[usable[0]] < LEAST_RANGE * targets[usable[-1]]:
        return _trend(targets[[0, -1]], logs[[0, -1]], note="the seeds have too narrow a range of distances in common")
    ends = usable[[0, -1]]
    slopes = [(of_one[:, ends[1]] - of_one[:, ends[0]], len(one)) for of_one, one in zip(drawn, (a, b), strict=True)]
    kept = [(np.where(np.isfinite(slope), slope, np.nan), count) for slope, count in slopes]
    found = _interval(float(logs[ends[1]] - logs[ends[0]]), kept[0], kept[1], level)
    return _trend(targets[ends], logs[ends], float(found["low"]), float(found["high"]), str(found["note"]))


def _trend(fids: np.ndarray, logs: np.ndarray, low: float = np.nan, high: float = np.nan, note: str = "") -> Trend:
    at_high, at_low = map(float, np.exp(logs))
    return Trend(float(fids[0]), float(fids[1]), at_high, at_low, at_low / at_high, low, high, note)


def mean_log_amounts(one: Trajectories, targets: np.ndarray) -> np.ndarray:
    """Log amounts at which the mean curve over seeds reaches the targets (m,); ∓inf outside what was measured."""
    return log_amounts(np.log(one.amount.mean(0)), one.fid.mean(0), targets)


def resampled(one: Trajectories, targets: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """`mean_log_amounts` of resamples of whole trajectories, shape (resamples, m)."""
    random = np.random.Generator(np.random.Philox(seed))
    chosen = random.integers(0, len(one), (resamples, len(one)))
    counts = np.zeros((resamples, len(one)))
    np.add.at(counts, (np.arange(resamples)[:, None], chosen), 1.0 / len(one))
    return log_amounts(np.log(counts @ one.amount), counts @ one.fid, targets)


def student_quantile(share: float, df: float) -> float:
    """Quantile of Student's t with `df` degrees of freedom."""
    return float(stdtrit(df, share)) if np.isfinite(df) else NormalDist().inv_cdf(share)


def _interval(
    log_ratio: float, a: tuple[np.ndarray, int], b: tuple[np.ndarray, int], level: float
) -> dict[str, float | str]:
    """Ends, standard error, degrees of freedom and a note, from each model's (resampled log amounts, seeds)."""
    variances, dfs = [], []
    for drawn, count in (a, b):
        inside = drawn[np.isfinite(drawn)]
        variances.append(float(np.var(inside)) * count / (count - 1) if len(inside) > 1 else np.inf)
        dfs.append(count - 1)
    total = sum(variances)
    if total < ROUNDING**2:
        return {"low": np.nan, "high": np.nan, "log_se": 0.0, "df": np.nan, "note": NO_SPREAD}
    df = total**2 / sum(v**2 / d for v, d in zip(variances, dfs, strict=True)) if np.isfinite(total) else 1.0
    reach = student_quantile((1 + level) / 2, df) * np.sqrt(total)
    low, high = np.exp(log_ratio - reach), np.exp(log_ratio + reach)
    # b never or a too early: the ratio is higher than what can be measured; the other way round: lower.
    above = float(np.mean((b[0] == np.inf) | (a[0] == -np.inf)))
    below = float(np.mean((b[0] == -np.inf) | (a[0] == np.inf)))
    notes = []
    for share, side in ((below, "lower"), (above, "upper")):
        if share > BEYOND:
            notes.append(f"no {side} end: {share:.0%} of the resamples leave what was measured")
    return {
        "low": 0.0 if below > BEYOND else float(low),
        "high": np.inf if above > BEYOND else float(high),
        "log_se": float(np.sqrt(total)),
        "df": float(df),
        "note": "; ".join(notes),
    }


def _difference(b: float, a: float) -> float:
    """b - a, NaN where neither is finite."""
    return float(b - a) if np.isfinite(a) and np.isfinite(b) else np.nan
