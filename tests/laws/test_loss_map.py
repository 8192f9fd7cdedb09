"""From a loss to a distance: only where equal losses have been shown to be equal distances, whatever the size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fcdm.errors import UserError
from fcdm.laws.loss_map import LossMap, map_loss
from fcdm.laws.predictive import Predictive
from tests.support.known_surface import FEW_SIZES, LOSS, measured


def mapped(of_size: float = 0.0, noise: float = 0.01, curved: float = 0.0, sizes: int = 5) -> LossMap:
    """FID = 8 (loss / 0.1)^5, times N^of_size, with `noise` of a run's own."""
    points = measured(sizes=FEW_SIZES[:sizes] if sizes > 3 else FEW_SIZES, of_seed=0.005, of_evaluation=0.002)
    random = np.random.default_rng(1)
    logs = np.log(points.y / 0.1)
    off = of_size * np.log(points.n / FEW_SIZES[0]) + random.normal(0, noise, len(logs))
    fid = 8 * np.exp(5 * logs + curved * logs**2 + off)
    kept = points.sizes < sizes
    return map_loss(*(part[kept] for part in (points.n, points.d / 128, points.y, fid)), list(points.runs[kept]))


def test_where_sizes_do_not_matter_a_distance_goes_through_the_loss() -> None:
    made = mapped()
    assert made.unshown == ""
    assert [one.sizes for one in made.at] == [5] * 5
    assert float(made.of(0.08)) == pytest.approx(8 * 0.8**5, rel=0.03)
    loss = Predictive.log_t(0.08, 0.01, 8)
    found, mean = made.through(loss, single=True), made.through(loss, single=False)
    assert found.median == pytest.approx(8 * 0.8**5, rel=0.03)
    low, high = found.interval(0.95)
    given = np.log(loss.interval(0.95)[1] / loss.interval(0.95)[0])
    assert np.log(high / low) > 5 * given  # the loss's own, as steep as the map, and the map's
    ends = mean.interval(0.95)
    assert low < ends[0] < ends[1] < high, "a mean over seeds has no scatter of single values"
    scattered = replace(made, scatter=10 * made.scatter)
    assert scattered.through(loss, single=False) == mean
    assert scattered.through(loss, single=True).interval(0.95)[1] > high


def test_where_they_do_or_may_it_is_refused_with_how_much() -> None:
    moved = mapped(of_size=0.1)
    assert "so it depends on size" in moved.unshown
    assert moved.at[0].low < 0.1 * np.log(16) < moved.at[0].high
    with pytest.raises(
        UserError, match=r"no forecast through the loss: at .* steps the distance at equal loss moves by"
    ):
        moved.through(Predictive.log_t(0.08, 0.01), single=True)
    unsure = mapped(noise=0.3)
    assert "which may be more than 15%" in unsure.unshown


def test_a_bend_is_part_of_the_map() -> None:
    made = mapped(curved=4.0)
    assert made.slopes[1] == pytest.approx(4.0, abs=1.0)
    assert made.unshown == ""


def test_too_few_sizes_make_no_map() -> None:
    with pytest.raises(UserError, match="needs 4 sizes with two budgets each at least, here 3 sizes"):
        mapped(sizes=3)


def test_a_map_that_falls_is_refused() -> None:
    points = measured(of_seed=0.005, of_evaluation=0.002)
    made = map_loss(points.n, points.d, points.y, 1 / points.y, list(points.runs))
    with pytest.raises(UserError, match="the map falls"):
        made.through(Predictive.log_t(float(LOSS(3e7, 2e5)), 0.01), single=True)
