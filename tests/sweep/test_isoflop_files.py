"""The sweeps of equal compute: equal FLOPs, matched sizes, and comments that say so."""

from __future__ import annotations

import pytest

from fcdm.runs.run_cost import run_cost, train_flops
from tests.support.sweep_files import SWEEPS, jobs_of


def test_iso_flop_curves_are_of_equal_compute_and_matched_sizes() -> None:
    """Each budget within 1 % for each model, five sizes and more of each family; those of a pair 5 % apart at most."""
    for name, sizes in (("isoflop", 5), ("isoflop_digits", 5)):
        found = {
            family: [job.config for job in jobs_of(name) if job.config.model.family == family]
            for family in ("fcdm", "dit")
        }
        macs = {family: sorted(run_cost(config).forward_macs for config in some) for family, some in found.items()}
        assert macs["dit"] == pytest.approx(macs["fcdm"], rel=0.05)
        for some in found.values():
            spent = [round(train_flops(config, step) / 1e10) for config in some for step in config.steps]
            budgets = {float(f"{flops:.1g}") for flops in spent}
            assert len(budgets) in (3, 4)
            for budget in budgets:
                assert sum(abs(flops / budget - 1) < 0.01 for flops in spent) >= sizes
        assert min(step for some in found.values() for config in some for step in config.steps) >= 99


@pytest.mark.parametrize("name", ["isoflop", "isoflop_digits"])
def test_the_table_of_a_comment_is_what_is_asked(name: str) -> None:
    text = (SWEEPS / f"{name}.yaml").read_text()
    for config in (job.config for job in jobs_of(name)):
        macs = run_cost(config).forward_macs / 1e9
        told = f" {macs:.2f} " if name == "isoflop" else f" {config.model.width} "  # type: ignore[attr-defined]
        assert told in text or f"{macs:.4g}" in text, config.model.name


def test_the_two_sizes_and_budgets_of_the_rates_are_crossed() -> None:
    """The large rung's second budget is about as many steps as the small one's first, in each family."""
    steps = {job.config.model.name: job.budgets for job in jobs_of("digits_lr_by_size")}
    assert steps["fcdm/w32"][1] == pytest.approx(steps["fcdm/w16"][0], rel=0.05)
    assert steps["dit/w80"][1] == pytest.approx(steps["dit/w40"][0], rel=0.05)
