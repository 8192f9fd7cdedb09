"""A study's laws as plain JSON, `runs/forecasts/<study>.law.json`: what `hydra/launcher=plan` foretells without numpy.

A law is of one metric by one protocol: value = E + A N^-alpha + B D^-beta, N in forward MACs or parameters, D in
images; or that is of the held-out loss, and the metric is read off it. `common` is what all runs that were fitted have
in common; a law says nothing of a run that differs in that, nor outside its `reach`, which ends where it has been
validated to.
"""

from __future__ import annotations

import contextlib
import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from fcdm.atomic import read_json, write_json
from fcdm.errors import UserError
from fcdm.laws.plain import N_UNITS, LossMapNumbers
from fcdm.laws.predictive import LEVELS, Predictive

ENDING = ".law.json"
SCHEMA = 2
"""Of the file. 1 had its offsets by compute alone."""


@dataclass(frozen=True)
class OffsetGrid:
    """What is added to ln of the law for a new run's quantiles, over sizes and images."""

    n: tuple[float, ...]
    """Sizes, in the law's own unit, rising."""
    images: tuple[float, ...]
    """Rising."""
    added: tuple[tuple[tuple[float, ...], ...], ...]
    """At each of `n`, at each of `images`: at LEVELS."""

    def __call__(self, n: float, images: float) -> tuple[float, ...]:
        """At LEVELS: linear in both logarithms between places, and as at the ends beyond them."""
        shares = list(product(_shares(self.n, n), _shares(self.images, images)))
        corners = [(of_n * of_images, self.added[i][j]) for (i, of_n), (j, of_images) in shares]
        return tuple(sum(share * added[level] for share, added in corners) for level in range(len(LEVELS)))


@dataclass(frozen=True)
class ReachingLaw:
    """One law, and how far it reaches."""

    metric: str
    """A key of evaluations: `fid`, `heldout_loss`."""
    protocol_id: str
    n_unit: str
    """One of N_UNITS."""
    e: float
    a: float
    alpha: float
    b: float
    beta: float
    reach: tuple[Mapping[str, tuple[float, float]], ...]
    """Boxes of `n`, `images` and `train_flops`, ends included: what was fitted, and each gap that was validated. It
    reaches what lies in any of them."""
    offsets: OffsetGrid
    """So that plans say what a forecast in the ledger says."""
    freedom: float
    """Degrees of freedom of Student's t between the quantiles: the fewest over the grid."""
    common: Mapping[str, Any]
    """Dotted key -> value of the science config that all fitted runs share."""
    through: LossMapNumbers | None = None
    """Of a distance that is told through the held-out loss, which the five numbers are of: the map; None: they are of
    the metric itself."""
    study: str = ""

    def value(self, n: float, images: float) -> float:
        """The metric at a size, in the law's own unit, after so many images."""
        own = self.e + self.a * math.pow(n, -self.alpha) + self.b * math.pow(images, -self.beta)
        return own if self.through is None else self.through(own)

    def foretells(self, science: Mapping[str, Any], protocol_id: str) -> bool:
        """Whether it speaks of such runs, by dotted keys of their science config, evaluated so."""
        missing = object()
        return protocol_id == self.protocol_id and all(
            science.get(key, missing) == value for key, value in self.common.items()
        )

    def new_run(self, n: float, images: float, train_flops: float) -> Predictive | None:
        """What one new run is foretold; None: out of reach. `n` in the law's own unit."""
        amounts = {"n": n, "images": images, "train_flops": train_flops}
        boxes = (box.items() for box in self.reach)
        if not any(all(low <= amounts[name] <= high for name, (low, high) in box) for box in boxes):
            return None
        middle = math.log(self.value(n, images))
        return Predictive(tuple(math.exp(middle + added) for added in self.offsets(n, images)), self.freedom)


def write_laws(folder: Path, study: str, metrics: Iterable[str], laws: Sequence[ReachingLaw]) -> Path | None:
    """Put a study's laws of these metrics, or none, in the place of those in its file: a law is a fit of what there is,
    and no forecast. Those of other metrics stay, but for a damaged file's. None where there is no law and no file.
    Raises UserError."""
    path = folder / f"{study}{ENDING}"
    if not laws and not path.exists():
        return None
    folder.mkdir(parents=True, exist_ok=True)
    anew = {*metrics}
    kept: list[ReachingLaw] = []
    if path.exists():
        with contextlib.suppress(UserError):
            kept = [law for law in _laws_of(path) if law.metric not in anew]
    told = [{key: value for key, value in asdict(law).items() if key != "study"} for law in (*kept, *laws)]
    write_json(path, {"schema": SCHEMA, "study": study, "levels": LEVELS, "laws": told})
    return path


def read_laws(folder: Path) -> list[ReachingLaw]:
    """The laws of all studies, by the files' names; [] without any. Raises UserError for a damaged file."""
    return [law for path in sorted(folder.glob(f"[!.]*{ENDING}")) for law in _laws_of(path)]


def _laws_of(path: Path) -> list[ReachingLaw]:
    content = read_json(path)
    anew = f"python -m fcdm.forecast {path.name.removesuffix(ENDING)} makes it anew"
    try:
        if content["schema"] != SCHEMA:
            raise UserError(f"{path} was written by another version of fcdm: {anew}")
        if tuple(content["levels"]) != LEVELS:
            raise ValueError("levels")
        return [_law(study=str(content["study"]), **law) for law in content["laws"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} lacks or garbles {error}: {anew}") from None


def _law(**content: Any) -> ReachingLaw:
    numbers = {name: float(content[name]) for name in ("e", "a", "alpha", "b", "beta", "freedom")}
    reach = tuple({name: (float(low), float(high)) for name, (low, high) in box.items()} for box in content["reach"])
    n, images = (tuple(map(float, content["offsets"][name])) for name in ("n", "images"))
    added = tuple(tuple(tuple(map(float, one)) for one in row) for row in content["offsets"]["added"])
    through = content["through"]
    if through is not None:
        slopes = tuple(map(float, through["slopes"]))
        through = LossMapNumbers(float(through["level"]), float(through["centre"]), slopes)
    sizes = [(len(row), {len(one) for one in row}) for row in added]
    if content["n_unit"] not in N_UNITS or sizes != [(len(images), {len(LEVELS)})] * len(n) or not n:
        raise ValueError("n_unit or offsets")
    if any(not 0 < before < after for places in (n, images) for before, after in pairwise(places)):
        raise ValueError("offsets")
    offsets = OffsetGrid(n, images, added)
    return ReachingLaw(**{**content, **numbers, "reach": reach, "offsets": offsets, "through": through})


def _shares(places: Sequence[float], value: float) -> list[tuple[int, float]]:
    """(place, its share) of the one or two places that a value lies at or between."""
    after = bisect_left(places, value)
    if after in (0, len(places)) or places[after] == value:
        return [(min(after, len(places) - 1), 1.0)]
    share = math.log(value / places[after - 1]) / math.log(places[after] / places[after - 1])
    return [(after - 1, 1 - share), (after, share)]
