"""A table before it is HTML or LaTeX: cells are texts or measured values with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fcdm.analysis.stats.bootstrap import LEVEL, student_quantile

MISSING = "–"


def number(value: float) -> str:
    """Four significant digits, `12,345` for larger ones, `1.234e+09` for what is too large or too small to read."""
    if not np.isfinite(value):
        return "not finite"
    size = abs(value)
    if 1e4 <= size < 1e7:
        return f"{value:,.0f}"
    return f"{value:.4g}"


@dataclass(frozen=True)
class Value:
    """A mean and the half width of its interval; `half` is None where there is none to tell (one seed)."""

    mean: float
    half: float | None = None

    def parts(self) -> tuple[str, str]:
        """(mean, half width) as texts, "" without one: two digits of the half width, else four of the mean."""
        if not np.isfinite(self.mean):
            return ("not finite", "")
        if self.half is None or not np.isfinite(self.half) or self.half <= 0:
            return (number(self.mean), "")
        decimals = max(0, 1 - int(np.floor(np.log10(self.half))))
        if decimals > 6:
            return (f"{self.mean:.6g}", f"{self.half:.1g}")
        return (f"{self.mean:,.{decimals}f}", f"{self.half:,.{decimals}f}")

    def __str__(self) -> str:
        mean, half = self.parts()
        return f"{mean} ± {half}" if half else mean


Cell = str | Value


@dataclass(frozen=True)
class CellTable:
    """Columns, rows of as many cells, and what a reader must know beside them."""

    name: str
    """Of its LaTeX file."""
    caption: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    notes: tuple[str, ...] = ()
    texts: frozenset[int] = field(default=frozenset({0}))
    """Columns of words, which stand left; numbers stand right."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.name}: {len(row)} cells for {len(self.columns)} columns")


def over_seeds(values: Sequence[float], level: float = LEVEL) -> Value:
    """Mean of independent seeds with Student's interval, `mean ± t s / sqrt(n)`; one seed: no interval."""
    numbers = np.asarray(values, dtype=float)
    mean = float(numbers.mean()) if len(numbers) else float("nan")
    if len(numbers) < 2 or not np.isfinite(numbers).all():
        return Value(mean)
    spread = float(numbers.std(ddof=1)) / np.sqrt(len(numbers))
    return Value(mean, student_quantile((1 + level) / 2, len(numbers) - 1) * spread)
