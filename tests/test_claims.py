"""The claims table: from the papers' points, from runs, with half of it missing, and never across protocols."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import claims as module
from analysis.claims import Claim, claims, claims_frame
from analysis.pairs import efficiency_curve, equal_fid, pairs_of, published_pair
from analysis.published import published
from analysis.step_efficiency import fid_curve, reach
from analysis.table import tidy_table
from tests.fake_runs import PROTOCOL, make_run, make_study

SEEDS = (10, 11, 12, 13, 14)
BUDGETS = (50, 100, 200, 400, 800)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seeds of each family, and one budget that one seed never got to."""
    folder = tmp_path_factory.mktemp("runs")
    made = [
        make_run(folder, model, seed=seed, budgets=BUDGETS, grids=False) for model in ("N", "dit/N-2") for seed in SEEDS
    ]
    make_study(folder, made, budgets=(*BUDGETS, 1600))
    return folder


@pytest.fixture(scope="module")
def table(runs: Path) -> pd.DataFrame:
    return tidy_table(runs, "demo")


@pytest.fixture(scope="module")
def found(table: pd.DataFrame) -> list[Claim]:
    return claims(table, published())


def named(found: list[Claim], key: str) -> Claim:
    (one,) = (claim for claim in found if claim.key == key)
    return one


def test_the_papers_claims_without_any_runs() -> None:
    found = claims(None, published())
    values = {one.key: one.published.value for one in found}
    assert values["budget_256"] == 7.0
    assert values["budget_512"] == 7.5
    assert values["budget_512_follows"] == 3.0
    assert round(values["equal_fid_9.62_steps"], 1) == 12.2
    assert round(values["equal_fid_10.67_steps"], 1) == 5.8
    assert (round(values["macs_256"], 3), round(values["macs_512"], 3)) == (0.544, 0.491)
    assert (round(values["compute_256"], 1), round(values["compute_512"], 1)) == (12.9, 15.3)
    assert values["equal_fid_9.62_flops"] == pytest.approx(values["equal_fid_9.62_steps"] / values["macs_256"])
    assert "claimed, not recomputable: no FID of FCDM-XL at 400K" in named(found, "budget_512").published.text
    assert "at least 7.0x" in named(found, "budget_256").published.text
    assert "one run of each: no interval" in named(found, "equal_fid_9.62_steps").published.text
    assert "12.03 at 3M" in named(found, "budget_512").published.rests_on  # the other decoder's
    assert {one.runs.text.split(":")[0] for one in found} == {"missing"}
    assert named(found, "same_budget_S").published.text == "no published FIDs of FCDM-S and DiT-S/2"


def test_a_half_of_the_published_points_is_missing_too() -> None:
    others = published()
    found = claims(None, others[others["model"] != "FCDM-XL"])
    assert named(found, "budget_256").published.text == "no published FIDs of FCDM-XL and DiT-XL/2"
    assert np.isnan(named(found, "macs_256").published.value)


def test_own_runs_speak_in_their_own_rows(found: list[Claim]) -> None:
    stem = "FCDM-N|DiT-N/2|8|fid|"
    steps, flops, hours = (named(found, stem + axis).runs for axis in ("steps", "train_pflops", "device_seconds"))
    assert steps.low < steps.value < steps.high
    assert "95 % interval over 5 and 5 training seeds" in steps.text
    assert flops.value / steps.value == pytest.approx(7.6 / 4.1, rel=0.15)  # DiT's steps cost that much more
    assert hours.value == pytest.approx(steps.value, rel=1e-6)  # both make 25 steps a second here
    assert "1,000 samples (ddim 25)" in steps.rests_on
    assert "the evaluation's noise and labels are common to all seeds" in steps.rests_on
    assert "no published curves" in named(found, stem + "steps").published.text
    pixels = named(found, "FCDM-N|DiT-N/2|8|fid_pixels|steps").runs
    assert np.isfinite(pixels.value)
    assert "floor 0.4" in pixels.rests_on
    assert "floor 5" in named(found, "FCDM-N|DiT-N/2|8|fid_heldout|steps").runs.rests_on
    share = named(found, stem + "macs").runs
    assert share.value == pytest.approx(4.1 / 7.6)


def test_the_smallest_budget_that_is_as_good_as_the_largest(table: pd.DataFrame, found: list[Claim]) -> None:
    side = named(found, "FCDM-N|DiT-N/2|8|fid|budgets").runs
    means = table.groupby(["family", "steps"])["fid"].mean()
    best = means["dit"].min()
    first = min(steps for steps, fid in means["fcdm"].items() if fid <= best)
    assert side.value == 800 / first
    assert "at least" in side.text


def test_hours_are_compared_on_one_named_device_only(table: pd.DataFrame) -> None:
    (pair,) = pairs_of(table.assign(device=table["family"].map({"dit": "NVIDIA H100", "fcdm": "cpu (1 thread)"})))
    side = equal_fid(pair, "device_seconds")
    assert "different devices (NVIDIA H100; cpu (1 thread)), whose hours cannot be compared" in side.text
    assert np.isnan(side.value)
    assert np.isfinite(equal_fid(pair, "steps").value)
    (pair,) = pairs_of(table.assign(device=""))
    assert "not recorded" in equal_fid(pair, "device_seconds").text


def as_xl(table: pd.DataFrame) -> pd.DataFrame:
    """The same curves under the names of the papers' models."""
    names = {"N": ("XL", "FCDM-XL", 64.5), "dit/N-2": ("dit/XL-2", "DiT-XL/2", 118.6)}
    chosen = table["model"].map(names)
    return table.assign(
        model=chosen.str[0],
        label=chosen.str[1],
        forward_gmacs=chosen.str[2],
        resolution=256,
        steps=table["steps"] * 10_000,
    )


def test_fids_of_another_protocol_are_not_held_against_published_ones(
    table: pd.DataFrame,
) -> None:
    table = as_xl(table)
    found = claims(table, published())
    refused = named(found, "equal_fid_9.62_steps").runs
    assert "refused: not judged as published (samples 1,000, published 50,000; sampler ddim" in refused.text
    assert np.isnan(refused.value)
    assert named(found, "budget_256").runs.text == "missing: DiT-XL/2 at 7,000,000 steps"
    assert np.isfinite(named(found, "equal_fid_256_steps").runs.value)  # at their own FIDs they may be compared
    assert named(found, "macs_256").runs.value == pytest.approx(64.5 / 118.6)
    table.attrs["protocol"] = {
        **PROTOCOL, "samples": 50_000, "sampler": "ddpm", "sampling_steps": 250, "features": "inception@1234"
    }  # fmt: skip
    (pair,) = pairs_of(table)
    assert pair.differences == ()
    assert np.isfinite(equal_fid(pair, "steps", 25.0).value)


def test_two_resolutions_are_two_pairs(table: pd.DataFrame) -> None:
    larger = table.assign(resolution=16, fid=table["fid"] * 3, label=table["label"] + " resolution=16", variant="16")
    both = pd.concat([table, larger])
    assert sorted(pair.resolution for pair in pairs_of(both)) == [8, 16]


def test_the_frame_has_a_row_per_claim(found: list[Claim]) -> None:
    frame = claims_frame(found)
    assert frame["key"].is_unique
    assert len(frame) == len(found)
    assert {"published_value", "runs_low", "runs_high", "runs_rests_on", "kind"} <= set(frame.columns)
    assert set(frame["kind"]) == {"budgets", "equal FID", "same budget", "cost"}


def test_the_curve_over_all_targets_with_seeds_and_sensitivity(table: pd.DataFrame) -> None:
    (pair,) = pairs_of(table)
    curve = efficiency_curve(pair)
    assert (curve["low_seeds"] <= curve["ratio"]).all()
    assert (curve["ratio"] <= curve["high_seeds"]).all()
    assert curve["target"].min() >= 2 * pair.floor - 1e-9
    a, b = (fid_curve(points["steps"], points["fid"]) for points in (pair.a, pair.b))
    middle = curve.iloc[len(curve) // 2]
    assert middle["ratio"] == pytest.approx(reach(b, middle["target"]).amount / reach(a, middle["target"]).amount)
    papers = published_pair(published(), "FCDM-XL", "DiT-XL/2", 256)
    assert papers is not None
    assert efficiency_curve(papers)["low_seeds"].isna().all()


def test_the_command(runs: Path, found: list[Claim], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "claims.csv"
    assert module.main(["--runs", str(runs), "--study", "demo", "--csv", str(out)]) == 0
    said = capsys.readouterr().out
    for part in (
        "12.2x fewer steps at FID 9.62",
        "7.0x: 7M steps over 1M",
        "95 % interval over 5 and 5 training seeds",
    ):
        assert part in said
    assert "not judged yet: DiT-N/2, seed 10, at 1,600 (dit-N-2-digits-8px-" in said
    assert len(pd.read_csv(out)) == len(found)
    assert module.main(["--runs", str(runs), "--csv", str(tmp_path / "no" / "claims.csv")]) == 1
    assert str(tmp_path / "no") in capsys.readouterr().err
    assert module.main(["--study", "demo"]) == 1
    assert "--runs DIR" in capsys.readouterr().err
    assert module.main(["--runs", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_published_half_from_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "analysis.claims"], capture_output=True, text=True, check=True)
    assert "15.3x less compute" in done.stdout
    assert "49.1% of the forward MACs" in done.stdout
