"""FID against size at one budget, in tables that others published: what forms fit, and what they say of sizes held out.

All models of such a table were trained on equally many images, so no joint law of size and data can be tested on it.
What can is FID over size: a power law of MACs for each line of sizes (one patch size of one family), and of DiT's table
(arXiv 2212.09748, Table 4), which crosses four sizes with three patch sizes, forms of parameters and tokens. Every form
is fitted by least squares of log FID, each model weighing the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from fcdm.analysis.data.labels import size_line
from fcdm.analysis.published import PUBLISHED, published
from fcdm.analysis.stats.bootstrap import LEVEL, student_quantile
from fcdm.analysis.stats.power_law import NO_OFFSET
from fcdm.errors import UserError

BUDGET, RESOLUTION = 400_000, 256
"""Steps of 256 images, and pixels: where most papers report."""
LATENT = 8
"""Pixels that a latent of these papers has along a side: a model at patch p sees (RESOLUTION / LATENT / p)^2 tokens."""
LEAST_SIZES = 3
"""A line of sizes has one more than the two that a straight line takes, to be held out."""
ONE_DATA_SIZE = (
    "All models here saw equally many images, one D, so no joint law of size and data can be tested on them: B·D^-beta "
    "is a constant that cannot be told from E."
)

Values = tuple[np.ndarray, np.ndarray]
"""log FID (n,), and how it moves with each fitted number (n, k)."""


@dataclass(frozen=True)
class SizeLaw:
    """A form fitted to the models of one table."""

    numbers: dict[str, float]
    """What was fitted, by name."""
    values: Callable[[pd.DataFrame], Values]
    """Of any points with the columns of `sizes_at_one_budget`."""
    fitted: pd.DataFrame
    freedom: int
    """Points that are left to contradict the numbers; 0: the form goes through all of them."""
    scatter: float
    """Of log FID about the law: root of the residuals' squares over `freedom`; NaN without any."""

    def halves(self, level: float = LEVEL) -> dict[str, float]:
        """Half widths of the intervals of the fitted numbers, linearised, Student's t with `freedom`.

        Empty without freedom, and where a number was not fitted but held (E at 0).
        """
        tangent = self.values(self.fitted)[1]
        if not self.freedom or tangent.shape[1] < len(self.numbers):
            return {}
        errors = self.scatter * np.sqrt((np.linalg.pinv(tangent) ** 2).sum(axis=1))
        return dict(zip(self.numbers, student_quantile((1 + level) / 2, self.freedom) * errors, strict=True))

    def forecast(self, points: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
        """Columns fid, low, high, a row for each point: what the law says, and the interval of one new model.

        Student's t with `freedom`, from the scatter and, linearised, the errors of the fitted numbers. NaN without
        freedom.
        """
        logs, tangent = self.values(points)
        reach = np.full(len(points), np.nan)
        if self.freedom:
            _, at_fitted = self.values(self.fitted)
            moves = tangent @ np.linalg.pinv(at_fitted)  # of the law here, for each measured log FID
            errors = self.scatter * np.sqrt(1 + (moves**2).sum(axis=1))
            reach = student_quantile((1 + level) / 2, self.freedom) * errors
        low, high = np.exp(logs - reach), np.exp(logs + reach)
        return pd.DataFrame({"fid": np.exp(logs), "low": low, "high": high}, index=points.index)


def sizes_at_one_budget(points: pd.DataFrame | None = None) -> pd.DataFrame:
    """Published FIDs without guidance at BUDGET and RESOLUTION, of every line of at least LEAST_SIZES sizes.

    A row per model, smaller ones first: family, line, model, size (`XL`), rank (0 for the line's largest), parameters,
    tokens (NaN of models without patches), forward_gmacs, fid, series. `points`: of `published`, which is taken else.
    """
    table = published() if points is None else points
    kept = table[(table["steps"] == BUDGET) & (table["resolution"] == RESOLUTION) & (table["origin"] == PUBLISHED)]
    kept = kept[(kept["guidance_scale"] == 1) & (kept["series"] != "") & kept["forward_gmacs"].notna()]
    kept = kept.assign(line=kept["model"].map(size_line))
    kept = kept.sort_values(["family", "line", "forward_gmacs"], key=_dit_first, ignore_index=True)
    kept["size"] = kept["model"].str.extract(r"-([^/]+)", expand=False)
    kept["tokens"] = (RESOLUTION / LATENT / kept["model"].str.extract(r"/(\d+)$", expand=False).astype(float)) ** 2
    kept["rank"] = kept.groupby("line").cumcount(ascending=False)
    kept = kept[kept.groupby("line")["model"].transform("size") >= LEAST_SIZES]
    columns = ["family", "line", "model", "size", "rank", "parameters", "tokens", "forward_gmacs", "fid", "series"]
    return kept[columns].reset_index(drop=True)


def _dit_first(column: pd.Series) -> pd.Series:
    return column.map(lambda value: ("" if value == "dit" else value) if isinstance(value, str) else value)


def a_line_each(points: pd.DataFrame) -> SizeLaw:
    """log FID = log A - alpha log MACs, A and alpha of every line of sizes. Two numbers a line."""
    return _linear(points, partial(_of_lines, tuple(dict.fromkeys(points["line"])), True))


def through_last_two(points: pd.DataFrame) -> SizeLaw:
    """A baseline: the straight line through the two largest sizes of each line, in log-log."""
    return a_line_each(points.groupby("line").tail(2))


def last_value(points: pd.DataFrame) -> SizeLaw:
    """A baseline: the FID of the largest size of each line."""
    lines = tuple(dict.fromkeys(points["line"]))
    return _linear(points.groupby("line").tail(1), partial(_of_lines, lines, False))


def on_macs_alone(points: pd.DataFrame) -> SizeLaw:
    """log FID = log A - alpha log MACs for all patch sizes together. Two numbers."""
    return _linear(points, lambda at: {"log A": np.ones(len(at)), "alpha": -np.log(at["forward_gmacs"].to_numpy())})


def product(points: pd.DataFrame) -> SizeLaw:
    """log FID = c - a log parameters - b log tokens: at every patch size the same exponent. Three numbers."""

    def columns(at: pd.DataFrame) -> dict[str, np.ndarray]:
        sizes, tokens = (-np.log(at[name].to_numpy()) for name in ("parameters", "tokens"))
        return {"c": np.ones(len(at)), "a": sizes, "b": tokens}

    return _linear(points, columns)


def sum_of_powers(points: pd.DataFrame) -> SizeLaw:
    """FID = E + A parameters^-a + B tokens^-b: few tokens are a floor that no number of parameters removes.

    Five numbers, four where E is fitted as 0 or there are two sizes only, which cannot tell it from A. Parameters in
    hundreds of millions, tokens in hundreds.
    """
    logs = np.log(points["fid"].to_numpy())
    lowest = float(points["fid"].min())
    most = lowest if points["size"].nunique() > 2 else NO_OFFSET * lowest / 2
    ends = np.array([[0, most], [1e-3, 1e6], [0.01, 12], [1e-3, 1e6], [0.01, 12]]).T
    how = {"jac": lambda theta: _powers(theta, points)[1], "bounds": ends, "x_scale": [9, 9, 1, 9, 1]}
    found = [
        least_squares(lambda theta: _powers(theta, points)[0] - logs, start, **how)
        for start in ([most / 2, lowest, a, lowest, b] for a in (0.2, 0.6, 1.8) for b in (0.2, 0.6, 1.8))
    ]
    theta = np.array(min(found, key=lambda one: float(one.cost)).x)
    theta[0] = theta[0] if theta[0] > NO_OFFSET * lowest else 0.0
    names = ("E", "A", "a", "B", "b")

    def values(at: pd.DataFrame) -> Values:
        log_fid, tangent = _powers(theta, at)
        return log_fid, tangent if theta[0] else tangent[:, 1:]

    return _measured(dict(zip(names, map(float, theta), strict=True)), values, points)


def _powers(theta: np.ndarray, at: pd.DataFrame) -> Values:
    """log FID and its derivatives by E, A, a, B, b."""
    offset, scale_a, a, scale_b, b = theta
    sizes, tokens = at["parameters"].to_numpy() / 1e8, at["tokens"].to_numpy() / 100
    of_size, of_tokens = sizes**-a, tokens**-b
    fid = offset + scale_a * of_size + scale_b * of_tokens
    slopes = [np.ones(len(at)), of_size, -scale_a * of_size * np.log(sizes)]
    slopes += [of_tokens, -scale_b * of_tokens * np.log(tokens)]
    return np.log(fid), np.stack(slopes, axis=1) / fid[:, None]


def _of_lines(lines: tuple[str, ...], sloped: bool, at: pd.DataFrame) -> dict[str, np.ndarray]:
    """Columns of a level, and a slope over log MACs, of each line."""
    logs = -np.log(at["forward_gmacs"].to_numpy())
    found = {}
    for line in lines:
        here = (at["line"] == line).to_numpy(dtype=float)
        found[f"log A, {line}"] = here
        if sloped:
            found[f"alpha, {line}"] = here * logs
    return found


def _linear(points: pd.DataFrame, columns: Callable[[pd.DataFrame], dict[str, np.ndarray]]) -> SizeLaw:
    """Least squares of log FID on named columns."""
    design = columns(points)
    numbers, *_ = np.linalg.lstsq(np.stack([*design.values()], axis=1), np.log(points["fid"].to_numpy()), rcond=None)

    def values(at: pd.DataFrame) -> Values:
        there = np.stack([*columns(at).values()], axis=1)
        return there @ numbers, there

    return _measured(dict(zip(design, map(float, numbers), strict=True)), values, points)


def _measured(numbers: dict[str, float], values: Callable[[pd.DataFrame], Values], points: pd.DataFrame) -> SizeLaw:
    """The law with what its residuals say."""
    logs, tangent = values(points)
    freedom = len(points) - tangent.shape[1]
    if freedom < 0:
        raise UserError(f"{len(points)} models cannot tell {tangent.shape[1]} numbers: hold out fewer, or fit less")
    squares = float(((logs - np.log(points["fid"].to_numpy())) ** 2).sum())
    return SizeLaw(numbers, values, points, freedom, float(np.sqrt(squares / freedom)) if freedom else float("nan"))


OF_LINES: dict[str, Callable[[pd.DataFrame], SizeLaw]] = {
    "a line each": a_line_each,
    "last two": through_last_two,
    "last value": last_value,
}
OF_TWO_FACTORS: dict[str, Callable[[pd.DataFrame], SizeLaw]] = {
    "sum of powers": sum_of_powers,
    "product": product,
    "MACs alone": on_macs_alone,
}
"""Of families with several lines."""
BASELINES = ("last two", "last value")


def fitted_without(table: pd.DataFrame, largest: int) -> pd.DataFrame:
    """Every form fitted without the `largest` sizes of each line, and what it says of all sizes.

    Columns: largest, family, line, model, forward_gmacs, held_out, form, fitted (models), freedom, measured, fid, low,
    high, error (signed, fid / measured - 1), further (GMACs over those of the largest size that was fitted). Lines that
    would keep fewer than two sizes are left out. Each family is fitted by itself, with one scatter for its lines.
    """
    lengths = table.groupby("line")["model"].transform("size")
    rows = []
    for _, family in table[lengths >= largest + 2].groupby("family", sort=False):
        kept = family[family["rank"] >= largest]
        last = family["line"].map(kept.groupby("line")["forward_gmacs"].max())
        known = family[["family", "line", "model", "forward_gmacs"]].assign(
            held_out=family["rank"] < largest, measured=family["fid"], further=family["forward_gmacs"] / last
        )
        for name, fit in {**OF_LINES, **(OF_TWO_FACTORS if family["line"].nunique() > 1 else {})}.items():
            law = fit(kept)
            said = law.forecast(family).assign(form=name, fitted=len(law.fitted), freedom=law.freedom)
            rows.append(pd.concat([known, said], axis=1))
    found = pd.concat(rows, ignore_index=True)
    return found.assign(error=found["fid"] / found["measured"] - 1, largest=largest)


def hold_outs(table: pd.DataFrame, largest: int) -> pd.DataFrame:
    """`fitted_without`, of the sizes that were not fitted alone."""
    found = fitted_without(table, largest)
    return found[found["held_out"]].reset_index(drop=True)


def measured_again(points: pd.DataFrame | None = None) -> dict[str, list[float]]:
    """Models of BUDGET and RESOLUTION that were measured several times -> their FIDs, the highest first."""
    table = published() if points is None else points
    same = table[(table["steps"] == BUDGET) & (table["resolution"] == RESOLUTION) & (table["guidance_scale"] == 1)]
    found = {str(model): sorted(rows["fid"], reverse=True) for model, rows in same.groupby("model")}
    return {model: fids for model, fids in found.items() if len(fids) > 1}
