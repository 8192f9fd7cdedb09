"""A study's laws as plain JSON, `runs/forecasts/<study>.law.json`: what `hydra/launcher=plan` foretells without numpy.

A law is of one metric by one protocol: value = E + A N^-alpha + B D^-beta, N in forward MACs or parameters, D in
images; or that is of the held-out loss, and the metric is read off it. `common` is what all runs that were fitted have
in common; a law says nothing of a run that differs in that, nor outside its `reach`, which ends where it has been
validated to.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fcdm.atomic import read_json, write_json
from fcdm.errors import UserError
from fcdm.laws.plain import N_UNITS, LossMapNumbers
from fcdm.laws.predictive import LEVELS, Predictive

ENDING = ".law.json"


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
    fitted_flops: float
    """FLOPs of training of the largest budget that was fitted."""
    offsets: tuple[tuple[float, tuple[float, ...]], ...]
    """(gap: FLOPs over `fitted_flops`, 1 where not beyond; what is added to ln of the law for a new run's quantiles at
    LEVELS), by rising gap; between them linear in ln of the gap."""
    freedom: float
    """Degrees of freedom of Student's t between the quantiles."""
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
        added = _between(self.offsets, max(1.0, train_flops / self.fitted_flops))
        return Predictive(tuple(math.exp(middle + offset) for offset in added), self.freedom)


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
    write_json(path, {"schema": 1, "study": study, "levels": LEVELS, "laws": told})
    return path


def read_laws(folder: Path) -> list[ReachingLaw]:
    """The laws of all studies, by the files' names; [] without any. Raises UserError for a damaged file."""
    return [law for path in sorted(folder.glob(f"[!.]*{ENDING}")) for law in _laws_of(path)]


def _laws_of(path: Path) -> list[ReachingLaw]:
    content = read_json(path)
    try:
        if tuple(content["levels"]) != LEVELS:
            raise ValueError("levels")
        return [_law(study=str(content["study"]), **law) for law in content["laws"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} lacks or garbles {error}: python -m fcdm.forecast {path.name.removesuffix(ENDING)} makes it anew"
        ) from None


def _law(**content: Any) -> ReachingLaw:
    numbers = {name: float(content[name]) for name in ("e", "a", "alpha", "b", "beta", "fitted_flops", "freedom")}
    reach = tuple({name: (float(low), float(high)) for name, (low, high) in box.items()} for box in content["reach"])
    offsets = tuple((float(gap), tuple(map(float, added))) for gap, added in content["offsets"])
    through = content["through"]
    if through is not None:
        slopes = tuple(map(float, through["slopes"]))
        through = LossMapNumbers(float(through["level"]), float(through["centre"]), slopes)
    if content["n_unit"] not in N_UNITS or not offsets or any(len(added) != len(LEVELS) for _, added in offsets):
        raise ValueError("n_unit or offsets")
    return ReachingLaw(**{**content, **numbers, "reach": reach, "offsets": offsets, "through": through})


def _between(offsets: Sequence[tuple[float, tuple[float, ...]]], gap: float) -> tuple[float, ...]:
    """The offsets at a gap; those of the ends outside them."""
    before = max((one for one in offsets if one[0] <= gap), default=offsets[0])
    after = min((one for one in offsets if one[0] >= gap), default=offsets[-1])
    if before[0] >= after[0]:
        return before[1]
    share = math.log(gap / before[0]) / math.log(after[0] / before[0])
    return tuple((1 - share) * low + share * high for low, high in zip(before[1], after[1], strict=True))
