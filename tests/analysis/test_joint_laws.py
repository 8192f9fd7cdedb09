"""From a study's table to its joint laws: what one law joins, what is cut and what is refused, each in a line."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fcdm.analysis.data.diverged_runs import diverged
from fcdm.analysis.reporting.forecast_tables import by_time_cells
from fcdm.analysis.stats.joint_laws import (
    JointStudy,
    hold_out_table,
    joint_laws,
    joint_lines,
    loss_map_of,
    shared_offset_line,
    shared_offset_of,
)
from fcdm.analysis.stats.laws_by_time import laws_by_time
from fcdm.analysis.stats.metric_laws import LawSettings
from fcdm.analysis.stats.study_surface import law_groups, surface_of
from fcdm.analysis.stats.tuning_trials import Trial, Tuned
from fcdm.errors import UserError
from fcdm.laws.cuts import Cuts
from fcdm.laws.joint_fit import JointFit, fit_joint
from fcdm.laws.loss_map import LossMap
from tests.support.commands import ROOT
from tests.support.known_surface import study

SIZES = tuple(np.geomspace(2e7, 3.2e8, 5))
BUDGETS = (1_000, 2_000, 4_000, 8_000)


def table(**how: object) -> pd.DataFrame:
    made = study(2, sizes=SIZES, budgets=BUDGETS, of_seed=0.01, of_evaluation=0.005, **how)  # type: ignore[arg-type]
    return made.assign(images=made["steps"] * made["batch_size"], epochs=made["steps"] / 1e5)


@cache
def laws() -> dict[str, JointStudy | str]:
    return joint_laws(table(), "fid", draws=40)


def of_fcdm(**columns: object) -> pd.DataFrame:
    rows = table(families=("fcdm",))
    return rows.assign(**{name: value(rows) if callable(value) else value for name, value in columns.items()})


def first_half(this: object, that: object) -> object:
    return lambda rows: np.where(np.arange(len(rows)) < len(rows) // 2, this, that)


MIXTURES = {
    "families": ({"family": first_half("fcdm", "dit")}, "it would join families: FCDM, DiT"),
    "patch sizes": (
        {"family": "dit", "model": first_half("dit/a-2", "dit/a-4")},
        "it would join patch sizes, which MACs alone do not make comparable: 2, 4",
    ),
    "data": ({"data": first_half("digits", "fashion")}, "it would join data sets: digits, fashion"),
    "resolutions": ({"resolution": first_half(16, 28)}, "it would join resolutions: 16, 28"),
    "cooled": (
        {"cooldown": first_half(np.nan, 0.2)},
        "it would join points of cooled and of constant rates: constant, cooled 20 %",
    ),
    "protocols": ({"protocol_id": first_half("a", "b")}, "it would join protocols: a, b"),
    "samples": (
        {"samples": first_half(2000, 10_000)},
        "it would join sample counts, which move a distance: 2000, 10000",
    ),
    "settings": (
        {"label": first_half("FCDM-01 lr=0.001", "FCDM-01 lr=0.002"), "model": "01"},
        r"FCDM-01 has 2 settings \(FCDM-01 lr=0.001, FCDM-01 lr=0.002\): tuned and untuned runs mixed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", MIXTURES)
def test_what_no_law_may_join_is_refused_in_a_line(what: str) -> None:
    columns, line = MIXTURES[what]
    with pytest.raises(UserError, match=f"no joint law: {line}") as refused:
        surface_of(of_fcdm(**columns), "fid")
    assert "\n" not in str(refused.value)


def test_a_loss_does_not_depend_on_how_many_samples_were_drawn() -> None:
    assert surface_of(of_fcdm(samples=first_half(2000, 10_000)), "heldout_loss").points.count == 5


def test_a_table_is_split_into_what_one_law_may_join() -> None:
    both = table()
    assert {label: len(rows) for label, rows in law_groups(both).items()} == {"FCDM": 40, "DiT/2": 40}
    mixed = pd.concat([both, both.assign(resolution=16), of_fcdm(cooldown=0.2)], ignore_index=True)
    assert set(law_groups(mixed)) == {
        *("DiT/2, 16 px", "DiT/2, 32 px", "FCDM, 16 px", "FCDM, 32 px"),
        "FCDM, 32 px, cooled 20 %",
    }
    assert set(law_groups(of_fcdm(family="dit", model="dit/64M"))) == {"DiT/2"}


def tuned(lr: float, tried: tuple[float, ...], model: str = "01") -> Tuned:
    trials = tuple(Trial({"lr": f"{rate:g}"}, {9: abs(rate - lr) + 1}, rate) for rate in tried)
    return Tuned(f"FCDM-{model}", model, 8000, (9,), trials, "known", 32, family="fcdm")


def test_a_rate_at_the_edge_of_its_grid_and_tuned_beside_untuned_are_refused() -> None:
    rows = of_fcdm()
    inside = tuned(1e-3, (5e-4, 1e-3, 2e-3))
    edge = tuned(1e-3, (2.5e-4, 5e-4, 1e-3))
    with pytest.raises(UserError, match=r"best learning rate of FCDM-01, 0.001, is at the edge of those tried"):
        surface_of(rows, "fid", tuned=[edge])
    other = tuned(2e-3, (1e-3, 2e-3, 4e-3), "03")
    for of_study in ([inside, other], [other]):
        with pytest.raises(UserError, match=r"not as tuned: FCDM-03 \(lr 0.001, tuned to 0.002\): train them as tuned"):
            surface_of(rows, "fid", tuned=of_study)
    notes = surface_of(rows, "fid", tuned=[inside]).notes
    assert "not tuned themselves: 02, 03, 04, 05" in notes


def test_a_rate_that_seeds_do_not_tell_from_the_best_is_as_tuned_and_said() -> None:
    rows = of_fcdm()
    losses = {5e-4: (1.4, 1.5), 1e-3: (1.02, 1.08), 2e-3: (1.0, 1.05), 4e-3: (1.3, 1.4)}
    trials = sorted((Trial({}, dict(enumerate(of)), rate) for rate, of in losses.items()), key=lambda one: one.mean)
    overlapping = Tuned("FCDM-03", "03", 8000, (0, 1), tuple(trials), "known", 32, family="fcdm")
    notes = surface_of(rows, "fid", tuned=[overlapping]).notes
    told = "at a rate whose trials are as good as the best, as far as seeds tell: FCDM-03 at 0.001 (tuned to 0.002)"
    assert told in notes
    rounded = surface_of(rows.assign(lr=1.99e-3), "fid", tuned=[overlapping]).notes
    assert not any("as good as the best" in note for note in rounded)
    with pytest.raises(UserError, match="not as tuned: FCDM-03"):
        surface_of(rows.assign(lr=5e-4), "fid", tuned=[overlapping])


def test_what_is_cut_is_counted_and_said() -> None:
    rows = of_fcdm()
    long = pd.concat([rows, rows[rows["steps"] == 8000].assign(steps=16_000)], ignore_index=True)
    made = surface_of(long, "fid")
    assert "left out: 10 points in the first 10 % of its run" in made.notes  # 1,000 of 16,000
    assert len(made.points.y) == 40
    warm = surface_of(rows.assign(warmup_steps=150.0), "fid").notes
    assert "left out: 10 points below 10 warm-ups" in warm
    assert "warm-ups are not told by this table, so none was cut" in made.notes
    assert "warm-ups are not told by this table, so none was cut" not in warm
    with pytest.raises(UserError, match=r"4 sizes with 3 budgets each .* \(left out: 30 points below 5,000 steps\)"):
        surface_of(rows, "fid", cuts=Cuts(least_steps=5_000))
    assert Cuts().text == "the first 10 % of a run, points below 1,000 steps or 10 warm-ups"


def test_values_that_are_not_there_are_counted_and_a_column_that_is_not_there_is_named() -> None:
    rows = of_fcdm()
    rows.loc[rows["steps"] == 1000, "fid"] = np.nan
    assert "left out: 10 points without a fid above 0" in surface_of(rows, "fid").notes
    with pytest.raises(UserError, match="the table has no column 'loss_bin_3'"):
        surface_of(rows, "loss_bin_3")


def test_each_family_has_its_law_and_the_lines_say_what_it_is() -> None:
    found = laws()
    assert all(isinstance(made, JointStudy) for made in found.values())
    lines = joint_lines("FCDM", found["FCDM"])
    text = "\n".join(lines)
    assert "by log-Huber, N in forward MACs, D in images" in lines[0]
    assert "by variable projection" in lines[0]
    assert "95 % intervals: alpha" in text
    assert "5 sizes, 10 runs, 40 points" in text
    assert sum("without the largest size, at" in line for line in lines) == 4
    assert "last value" in text
    assert "FCDM: as E + ((A N^-alpha)^(1/beta) + (B D^-beta)^(1/beta))^beta cells scatter by" in text
    made = found["FCDM"]
    assert isinstance(made, JointStudy)
    asked = max(made.validation.validated, key=lambda gap: gap.compute)
    n, d = asked.n * SIZES[-1], asked.d * 128 * BUDGETS[-1]
    away = np.expm1(made.validation.fit.away(n, d))
    assert f"; at N = {n:.3g}, D = {d:,.0f} it lies {away:+.1%} away" in text, "whatever compute that is"
    assert "FCDM: largest validated gap: " in text
    assert "warm-ups are not told by this table" in text
    held = hold_out_table(found)
    assert set(held["label"]) == {"FCDM", "DiT/2"}
    assert ((held["low"] < held["forecast"]) & (held["forecast"] < held["high"])).all()


def test_misfit_is_told_of_sizes_and_of_single_cells() -> None:
    made = laws()["FCDM"]
    assert isinstance(made, JointStudy)
    fit = replace(made.validation.fit, misfit=replace(made.validation.fit.misfit, level=0.0, shape=0.021))
    text = "\n".join(joint_lines("FCDM", replace(made, validation=replace(made.validation, fit=fit))))
    assert "; beyond that sizes differ by 0.0%, single cells by 2.1%)" in text


def test_both_families_of_one_e_are_said_to_share_it() -> None:
    shared = shared_offset_of(laws())
    assert not isinstance(shared, str)
    assert shared_offset_line(shared).startswith("DiT/2 and FCDM: one E, ")
    worse = replace(shared, p=0.001)
    assert "E belongs to the data, so this is misfit of a law" in shared_offset_line(worse)
    assert "takes two of them" in shared_offset_line(shared_offset_of({"FCDM": laws()["FCDM"], "DiT/2": "none"}))


def test_the_map_from_loss_is_of_one_family() -> None:
    made = loss_map_of(law_groups(table())["FCDM"])
    assert isinstance(made, LossMap)
    assert made.unshown == ""
    assert "no map from the loss: it would join families" in str(loss_map_of(table()))


def test_the_real_digits_of_two_models_have_no_joint_law_in_a_line() -> None:
    digits = pd.read_csv(Path(ROOT) / "analysis" / "results" / "digits.csv")
    lowered = Cuts(least_steps=100)
    for metric in ("heldout_loss", "fid"):
        assert joint_laws(digits, metric, cuts=lowered) == dict.fromkeys(
            ("DiT/2", "FCDM"),
            "a joint law needs 4 sizes with 3 budgets each at least, here is 1 (budgets of each size: 4)",
        )
    assert "20 points below 1,000 steps" in str(joint_laws(digits)["FCDM"])


def test_runs_that_diverge_are_left_out_and_said() -> None:
    """On Fashion-MNIST FCDM's larger widths fell to a loss of 1, that of predicting nothing, between two budgets."""
    rows = of_fcdm()
    largest = rows["forward_gmacs"] == rows["forward_gmacs"].max()
    lost = largest & (rows["seed"] == 0) & (rows["steps"] >= 4_000)
    dead = rows.assign(
        heldout_loss=np.where(lost, 1.0, rows["heldout_loss"]), fid=np.where(lost, 30 * rows["fid"], rows["fid"])
    )
    assert 0 < lost.sum() == diverged(dead).sum()
    assert not diverged(rows).any()
    for metric in ("heldout_loss", "fid"):
        surface = surface_of(dead, metric)
        assert len(surface.rows) == len(rows) - lost.sum()
        (note,) = [note for note in surface.notes if "diverged" in note]
        model = dead[lost]["model"].iloc[0]
        assert note.startswith(f"left out: {lost.sum()} points of 1 run that diverged ({model} by step 4,000)")
    recovered = dead.assign(heldout_loss=np.where(rows["steps"] > 4_000, rows["heldout_loss"], dead["heldout_loss"]))
    assert diverged(recovered).sum() == lost.sum(), "what comes after it is no training of that run either"


def test_laws_by_diffusion_time_are_those_of_their_bins() -> None:
    """Every bin here is the loss times a number: its exponents are those of the loss, its E that number times E."""
    rows = of_fcdm()
    times = [5.0, 2.0, 1.0, 0.6, 0.4, *[0.2] * 5]
    bins = {f"heldout_loss_{at}": rows["heldout_loss"] * share for at, share in enumerate(times, start=1)}
    losses = rows.assign(**bins)
    whole = surface_of(rows).points
    law = fit_joint(whole, draws=20).law
    found = laws_by_time(losses, LawSettings(draws=20))
    assert list(found) == [*list(bins)[:5], "heldout_loss_2_to_10"]
    for column, share in zip(found, [*times[:5], sum(times[1:]) / 9], strict=True):
        made = found[column]["FCDM"]
        assert isinstance(made, JointFit)
        assert made.law.size_exponent == pytest.approx(law.size_exponent, rel=1e-2)
        assert made.law.offset == pytest.approx(share * law.offset, rel=1e-2)
    cells = by_time_cells(found, losses)
    assert [row[0] for row in cells.rows] == [
        "0 to 0.1",
        "0.1 to 0.2",
        "0.2 to 0.3",
        "0.3 to 0.4",
        "0.4 to 0.5",
        "0.1 to 1",
    ]
    assert [row[2] for row in cells.rows] == ["50%", "20%", "10%", "6%", "4%", "50%"]
    assert laws_by_time(rows, LawSettings()) == {}
    few = laws_by_time(losses[losses["steps"] <= 2000], LawSettings())
    assert all("a joint law needs" in str(made) for by_label in few.values() for made in by_label.values())
    assert len(by_time_cells(few, losses).rows) == 6
