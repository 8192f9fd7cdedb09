"""One E of several families, or one each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fcdm.errors import UserError
from fcdm.laws.joint_fit import fit_joint
from fcdm.laws.shared_offset import share_offset
from tests.support.known_surface import LOSS, measured

OTHER = replace(LOSS, n0=300.0, d0=90.0)


def test_families_of_one_e_share_it() -> None:
    fits = {
        name: fit_joint(measured(surface, draw=draw, of_seed=0.001, of_evaluation=0.0005), draws=80)
        for draw, (name, surface) in enumerate({"FCDM": LOSS, "DiT/2": OTHER}.items())
    }
    shared = share_offset(fits)
    assert shared.agrees
    assert shared.offset == pytest.approx(LOSS.offset, rel=0.05)
    for name, law in shared.laws.items():
        assert law.offset == pytest.approx(shared.offset, rel=1e-6)
        assert float(law(8e6, 6e4)) == pytest.approx(float(fits[name].law(8e6, 6e4)), rel=0.01)
    assert shared.freedom[0] == 1


def test_an_e_at_the_end_of_the_search_is_none() -> None:
    """Losses below a law of powers alone: no E above 0 meets them better, and no number near 0 is told."""
    fits = {}
    for name, surface in {"FCDM": LOSS, "DiT/2": OTHER}.items():
        points = measured(replace(surface, offset=0.0), of_seed=0.001, of_evaluation=0.0005)
        fits[name] = fit_joint(replace(points, y=points.y - 0.005), draws=20)
    shared = share_offset(fits)
    assert shared.offset == 0
    assert {law.offset for law in shared.laws.values()} == {0}


def test_families_of_two_es_do_not() -> None:
    surfaces = {"FCDM": LOSS, "DiT/2": replace(OTHER, offset=0.056)}
    fits = {
        name: fit_joint(measured(surface, of_seed=0.001, of_evaluation=0.0005), draws=80)
        for name, surface in surfaces.items()
    }
    shared = share_offset(fits)
    assert not shared.agrees
    assert shared.p < 0.01


def test_one_family_shares_with_nobody() -> None:
    with pytest.raises(UserError, match="takes two of them, here is FCDM"):
        share_offset({"FCDM": fit_joint(measured(), draws=10)})
