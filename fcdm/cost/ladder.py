"""Sizes between the presets: `model=fcdm/64M`, `model=dit/2GMACs`, `model=fcdm/w96`, by one rule for each family.

A ladder's rungs are widths, multiples of 8; all else of a rung follows from its width, along the presets' own.

- FCDM: blocks = k x [1, 2, 4, 2, 1], rounded, one at least. k is 0.5 to width 24 (N, M) and 2 from 128 (S, B, L), and
  grows between as a power of the width. From width 512 on it grows to 3 first, by quarters (XL), and then the width.
- DiT: depth and the width of a head lie on straight lines between the presets N, S, B, L and XL; below N they are N's,
  beyond XL the depth keeps its share of the width. Of the divisors of a width the nearest to that is a head's, by
  ratio, and widths that have none within half of it are no rungs. M is deeper than its width, and no rung.

So N, M, S, B, L and XL of FCDM, and N, S, B, L and XL of DiT, are rungs. A size in parameters or MACs is the rung
nearest to it, on the run's own data and resolution; one that no rung comes near is refused.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import Any

from fcdm.config.check import check_values
from fcdm.config.model_checks import check_model
from fcdm.config.presets import OF_A_RUNG
from fcdm.config.said import Said
from fcdm.config.schema import Config, DiTConfig, FCDMConfig
from fcdm.config.shape import shape_of
from fcdm.cost.model_cost import ModelCost, model_cost
from fcdm.errors import UserError

STEP = 8
"""Widths are multiples of it: others are slow on tensor cores."""
WIDEST = 8192
MOST_OFF = 0.2
"""How far the nearest rung may be from the size that is asked for."""
SIZE = re.compile(
    r"(?:w(?P<width>\d+)|(?P<number>\d+(?:\.\d+)?)(?P<prefix>[kMGT]?)(?P<macs>MACs)?)(?:-(?P<patch>[1-9]\d*))?"
)
"""`w96`, `64M` (parameters), `2GMACs`; of DiT with `-4` for its patch."""
PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
FORMS = "64M (parameters), 2GMACs or w96 (a width, a multiple of 8)"

SMALL_K, LARGE_K, DEEPEST_K = 0.5, 2.0, 3.0
SMALL_WIDTH, LARGE_WIDTH, DEEP_WIDTH = 24, 128, 512
"""FCDM: up to which width blocks are few, from which they are many, and where depth grows before the width does."""
SHAPE = (1, 2, 4, 2, 1)
DIT = ((64, 6, 16), (384, 12, 64), (768, 12, 64), (1024, 24, 64), (1152, 28, 72))
"""(width, depth, width of a head) of N, S, B, L and XL."""
HEAD_OFF = 1.5

Model = FCDMConfig | DiTConfig


@dataclass(frozen=True)
class LadderSize:
    """A size that is asked for."""

    text: str
    amount: float
    of: str
    """`width`, `parameters` or `MACs`."""
    patch: int | None = None

    @classmethod
    def of_text(cls, text: str) -> LadderSize | None:
        """None: this names no size."""
        found = SIZE.fullmatch(text)
        if found is None or (found["width"] is None and not found["prefix"] and not found["macs"]):
            return None
        patch = None if found["patch"] is None else int(found["patch"])
        if found["width"] is not None:
            amount, of = float(found["width"]), "width"
        else:
            amount = float(found["number"]) * PREFIXES[found["prefix"]]
            of = "MACs" if found["macs"] else "parameters"
        return cls(text, amount, of, patch) if amount else None


def fcdm_rungs(model: FCDMConfig) -> Iterator[FCDMConfig]:
    """The rungs of FCDM from small to large, with all else of the model as it is."""
    for width in range(STEP, WIDEST + 1, STEP):
        if width <= DEEP_WIDTH:
            place = math.log(width / SMALL_WIDTH) / math.log(LARGE_WIDTH / SMALL_WIDTH)
            times = [SMALL_K * (LARGE_K / SMALL_K) ** min(1.0, max(0.0, place))]
        else:
            times = [DEEPEST_K]
        if width == DEEP_WIDTH:
            times = [LARGE_K, 2.25, 2.5, 2.75, DEEPEST_K]
        for k in times:
            yield replace(model, width=width, blocks=[max(1, math.floor(k * share + 0.5)) for share in SHAPE])


def dit_rungs(model: DiTConfig) -> Iterator[DiTConfig]:
    """The rungs of DiT from small to large, with all else of the model as it is."""
    for width, depth, heads in _dit_builds():
        yield replace(model, width=width, depth=depth, heads=heads)


@cache
def _dit_builds() -> tuple[tuple[int, int, int], ...]:
    """(width, depth, heads) of each rung: the same for every choice of a sweep, and not quickly found."""
    builds = []
    for width in range(STEP, WIDEST + 1, STEP):
        depth, head = _between(width)
        heads = [width // size for size in range(4, width + 1, 4) if width % size == 0]
        best = min(heads, key=lambda count: abs(math.log(width / count / head)))
        if width < DIT[0][0] or 1 / HEAD_OFF <= width / best / head <= HEAD_OFF:
            builds.append((width, depth, best))
    return tuple(builds)


def _between(width: int) -> tuple[int, float]:
    """Depth, and the width of a head, on the lines through DIT."""
    (first, depth, head), (last, deepest, widest) = DIT[0], DIT[-1]
    if width <= first:
        return depth, float(head)
    if width >= last:
        return math.floor(deepest * width / last + 0.5), float(widest)
    for (low, depth, head), (high, deeper, wider) in pairwise(DIT):
        if low <= width <= high:
            share = (width - low) / (high - low)
            return math.floor(depth + share * (deeper - depth) + 0.5), head + share * (wider - head)
    raise AssertionError(width)


def rungs(model: Model) -> Iterator[Model]:
    """The rungs of the model's family from small to large."""
    return fcdm_rungs(model) if isinstance(model, FCDMConfig) else dit_rungs(model)


@dataclass(frozen=True)
class Rung:
    """The rung that a size stands for."""

    size: LadderSize
    model: Model
    cost: ModelCost

    @property
    def amount(self) -> float:
        """Of what was asked for."""
        if self.size.of == "width":
            return float(self.model.width)
        return float(self.cost.parameters if self.size.of == "parameters" else self.cost.forward_macs)

    @property
    def off(self) -> float:
        return self.amount / self.size.amount - 1

    @property
    def build(self) -> str:
        """`width 96, blocks 2-3-6-3-2`."""
        if isinstance(self.model, FCDMConfig):
            return f"width {self.model.width}, blocks {'-'.join(map(str, self.model.blocks))}"
        return f"width {self.model.width}, depth {self.model.depth}, {self.model.heads} heads"

    def text(self, resolution: int) -> str:
        """What it is, for a person."""
        off = "" if self.size.of == "width" or not self.off else f" ({self.off:+.1%})"
        return (
            f"model={self.model.name}: {self.build}; {self.cost.parameters / 1e6:.4g} M parameters, "
            f"{self.cost.forward_macs / 1e9:.4g} GMACs at {resolution} px{off}"
        )


def rung_of(size: LadderSize, model: Model, cost_of: Callable[[Model], ModelCost]) -> Rung:
    """The rung nearest to a size; the smaller of two equally near ones. Raises UserError where none is near.

    model: what all but the size is taken from; cost_of: what one costs on the run's data.
    """
    if size.of == "width":
        found = [Rung(size, one, cost_of(one)) for one in rungs(model) if one.width == size.amount]
        if not found:
            widths = [one.width for one in rungs(model)]
            nearest = sorted(sorted(widths, key=lambda width: abs(width - size.amount))[:2])
            which = f"multiples of {STEP}{', which heads divide' if isinstance(model, DiTConfig) else ''}"
            raise UserError(
                f"model={model.name}: {size.amount:.0f} is no width of the ladder ({which}): write w{nearest[0]} or "
                f"w{nearest[1]}"
            )
        return found[0]
    below, above = _around(size, model, cost_of)
    best = min((rung for rung in (below, above) if rung), key=lambda rung: abs(math.log(rung.amount / size.amount)))
    if abs(best.off) > MOST_OFF:
        told = " and ".join(
            f"w{rung.model.width} with {_amount(rung.amount, size.of)}" for rung in (below, above) if rung is not None
        )
        raise UserError(
            f"model={model.name}: no rung of the ladder comes within {MOST_OFF:.0%} of "
            f"{_amount(size.amount, size.of)}, nearest {'are' if below and above else 'is'} {told}: write one of them, "
            "or model.match_macs= for widths between"
        )
    return best


def _around(size: LadderSize, model: Model, cost_of: Callable[[Model], ModelCost]) -> tuple[Rung | None, Rung | None]:
    """The last rung that is not larger, and the first that is."""
    all_rungs = list(rungs(model))
    rung = partial(_rung, size, cost_of)
    at = bisect_right(all_rungs, size.amount, key=lambda one: rung(one).amount)  # amounts grow along the ladder
    return rung(all_rungs[at - 1]) if at else None, rung(all_rungs[at]) if at < len(all_rungs) else None


def _rung(size: LadderSize, cost_of: Callable[[Model], ModelCost], model: Model) -> Rung:
    return Rung(size, model, cost_of(model))


def _amount(value: float, of: str) -> str:
    return f"{value / 1e6:.3g} M parameters" if of == "parameters" else f"{value / 1e9:.3g} GMACs"


def settle_size(config: Config, said: Said) -> str | None:
    """Gives the model what `model.size` stands for, in place; what that is, as a note; None where it asks for nothing.

    The key is null then, as `model.match_macs` is. Raises UserError.
    """
    model = config.model
    if not isinstance(model, FCDMConfig | DiTConfig) or model.size is None:
        return None
    if twice := [key for key in OF_A_RUNG if key in said.keys]:
        raise UserError(
            f"model={model.name} finds {', '.join(key.removeprefix('model.') for key in OF_A_RUNG)} by the ladder's "
            f"rule, and {twice[0]} says one of them: leave one of the two away"
        )
    size = _asked(model)
    check_values(config)
    shape = shape_of(config)
    first = next(iter(rungs(model)))
    check_model(first, shape["side"], config.resolution, config.data.downsample)
    found = rung_of(size, model, lambda one: model_cost(one, **shape))
    for key in OF_A_RUNG:
        if hasattr(model, name := key.removeprefix("model.")):
            setattr(model, name, getattr(found.model, name))
    model.size = None
    return found.text(config.resolution)


def _asked(model: Model) -> LadderSize:
    size = LadderSize.of_text(model.size or "")
    if size is None or (size.patch is not None and not isinstance(model, DiTConfig)):
        raise UserError(f"model.size={model.size} is no size of {model.family}: write {FORMS}")
    return size


def sized(text: str, shape: dict[str, Any]) -> Model | None:
    """The rung that `fcdm/64M` names for this shape; None: it names none. Raises UserError where none is near."""
    family, _, size_text = text.partition("/")
    size = LadderSize.of_text(size_text)
    if family not in ("fcdm", "dit") or size is None or (size.patch is not None and family != "dit"):
        return None
    model: Model = FCDMConfig(name=text) if family == "fcdm" else DiTConfig(name=text, patch_size=size.patch or 2)
    return rung_of(size, model, lambda one: model_cost(one, **shape)).model
