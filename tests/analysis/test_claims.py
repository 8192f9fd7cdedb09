"""The claims table: from the papers' points, from runs, with half of it missing, and never across protocols."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fcdm.analysis import claims as module
from fcdm.analysis.data.tidy_table import tidy_table
from fcdm.analysis.published import published
from fcdm.analysis.stats.claim_sides import pairs_of, published_pair
from fcdm.analysis.stats.paper_claims import ClaimRow, claims, claims_frame
from fcdm.analysis.stats.step_efficiency import fid_curve, reach
from fcdm.analysis.stats.step_ratios import budgets, efficiency_curve, equal_fid
from tests.support.fake_runs import PROTOCOL, make_run, make_study

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
def found(table: pd.DataFrame) -> list[ClaimRow]:
    return claims(table, published())


def named(found: list[ClaimRow], key: str) -> ClaimRow:
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
    assert named(found, "same_budget_S").published.text == "no published FIDs of FCDM-S; DiT-S/2: 68.40 at 400K"
    assert named(found, "same_budget_B").published.text == "no published FIDs of FCDM-B; DiT-B/2: 43.47 at 400K"


def test_a_half_of_the_published_points_is_missing_too() -> None:
    others = published()
    found = claims(None, others[others["model"] != "FCDM-XL"])
    assert named(found, "budget_256").published.text.startswith("no published FIDs of FCDM-XL; DiT-XL/2: 19.47 at")
    found = claims(None, others[~others["model"].isin(["FCDM-XL", "DiT-XL/2"])])
    assert named(found, "budget_256").published.text == "no published FIDs of FCDM-XL and DiT-XL/2 at 256 px"
    assert np.isnan(named(found, "macs_256").published.value)


def test_own_runs_speak_in_their_own_rows(found: list[ClaimRow]) -> None:
    stem = "FCDM-N|DiT-N/2|8|fid|"
    steps, flops, hours = (named(found, stem + axis).runs for axis in ("steps", "train_flops", "device_seconds"))
    assert steps.low < steps.value < steps.high
    assert "95 % interval over 5 and 5 training seeds" in steps.text
    assert flops.value / steps.value == pytest.approx(7.6 / 4.1, rel=0.15)  # DiT's steps cost that much more
    assert hours.value == pytest.approx(steps.value, rel=1e-6)  # both make 25 steps a second here
    assert "1,000 samples (ddim 25)" in steps.rests_on
    assert "the evaluation's noise and labels are common to all seeds" in steps.rests_on
    assert "no published FIDs of FCDM-N and DiT-N/2" in named(found, stem + "steps").published.text
    pixels = named(found, "FCDM-N|DiT-N/2|8|fid_pixels|steps").runs
    assert np.isfinite(pixels.value)
    assert "floor 0.4" in pixels.rests_on
    assert "floor 5" in named(found, "FCDM-N|DiT-N/2|8|fid_heldout|steps").runs.rests_on
    share = named(found, stem + "macs").runs
    assert share.value == pytest.approx(4.1 / 7.6)


def test_the_smallest_budget_that_is_as_good_as_the_largest(table: pd.DataFrame, found: list[ClaimRow]) -> None:
    side = named(found, "FCDM-N|DiT-N/2|8|fid|budgets").runs
    means = table.groupby(["family", "steps"])["fid"].mean()
    best = means["dit"].min()
    first = min(steps for steps, fid in means["fcdm"].items() if fid <= best)
    assert side.value == 800 / first
    assert "at least" in side.text


def changed(runs: Path, model: str, fids: dict[int, float | str], seed: int = 0, lr: float = 4e-3) -> Path:
    """A run evaluated at these steps, with these FIDs."""
    folder = make_run(runs, model, budgets=tuple(fids), seed=seed, lr=lr, grids=False)
    for path in (folder / "evaluations").glob("*.json"):
        content = json.loads(path.read_text())
        content["metrics"]["fid"] = fids[content["step"]]
        path.write_text(json.dumps(content | {"floor": {"fid": 0.5, "fid_sd": 0.1}}))
    return folder


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert module.main(["--runs", *arguments]) == 0
    return capsys.readouterr().out


def test_no_bound_from_a_fid_that_rose_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """b is at its best, 5.5, at 200 steps: a's 5 at 100 is at least twice as early, not eight times."""
    changed(tmp_path, "N", {50: 20.0, 100: 5.0, 200: 4.9})
    changed(tmp_path, "dit/N-2", {50: 30.0, 100: 10.0, 200: 5.5, 400: 6.0, 800: 6.5})
    said = told(capsys, str(tmp_path))
    assert "2.0x: 200 steps over 100; FID 5 against 5.5, so at 5.5 at least 2.0x" in said
    assert "8.0x" not in said
    assert "DiT-N/2: FID rose to 6 at 400: the 5.5 reached before counts on" in said
    (pair,) = pairs_of(tidy_table(tmp_path))
    late = budgets(pair, 100, 800).text
    assert "FID 5 against 6.5: says nothing of equal FID, for DiT-N/2 had 5.5 before" in late
    assert "at least" not in late
    near = budgets(dataclasses.replace(pair, floor=3.0), 100, 200).text
    assert "below 2 times the floor of 3, where noise decides: says nothing of equal FID" in near


def test_a_late_seed_is_left_out_by_name_and_costs_no_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curve = {100: 40.0, 200: 20.0, 400: 10.0, 800: 5.0}
    for seed in range(4):
        mine: dict[int, float | str] = {steps: fid + seed / 10 for steps, fid in curve.items()}
        changed(tmp_path, "dit/N-2", {steps: 2 * float(fid) for steps, fid in mine.items()}, seed)
        changed(
            tmp_path, "N", mine if seed < 2 else {100: 40.0} if seed == 2 else mine | {800: "NaN", 400: "NaN"}, seed
        )
    (pair,) = pairs_of(tidy_table(tmp_path))
    # Seed 2 alone has to go: with seed 3 there are three seeds, more than half, at 100 and 200.
    assert pair.a["steps"].tolist() == [100, 200]
    assert pair.b["steps"].tolist() == [100, 200, 400, 800]
    assert "FCDM-N without seed 2 (not evaluated at 200, 400, 800)" in equal_fid(pair, "steps").text
    said = told(capsys, str(tmp_path))
    lines = [line for line in said.splitlines() if line.startswith("left out")]
    assert [line.split(": ", 1)[1] for line in lines if "seed 2" in line] == [
        "FCDM-N, seed 2: not evaluated at 200, 400, 800 (" + lines[0].rsplit("(", 1)[1]
    ]
    assert [line.split(" (nan")[0] for line in lines[1:]] == [
        f"left out: FCDM-N at {steps} steps: seed 3 has no FID there" for steps in (400, 800)
    ]


def test_the_setting_is_chosen_at_a_late_budget_and_the_rest_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """lr 0.001 leads at 100 steps, the only budget that a lagging trial has; lr 0.004 at 800."""
    changed(tmp_path, "N", {100: 30.0, 800: 20.0}, lr=1e-3)
    changed(tmp_path, "N", {100: 40.0, 800: 10.0}, lr=4e-3)
    changed(tmp_path, "N", {100: 35.0}, lr=1e-2)
    changed(tmp_path, "dit/N-2", {100: 50.0, 800: 15.0}, lr=1e-3)
    (pair,) = pairs_of(tidy_table(tmp_path))
    assert pair.name_a == "FCDM-N lr=0.004"
    said = told(capsys, str(tmp_path))
    assert "the best of 2 and 1 settings, chosen at 800 steps" in said
    assert "not compared: FCDM-N lr=0.01 (no FID at 800)" in said


def test_an_interval_says_that_it_does_not_hold_the_choice(tmp_path: Path) -> None:
    for seed in range(3):
        for lr, worse in ((1e-3, 1.2), (4e-3, 1.0)):
            for model, times in (("N", 1.0), ("dit/N-2", 1.7)):
                fids = {steps: worse * times * (2000 / steps + 0.3 * seed) for steps in (100, 200, 400)}
                changed(tmp_path, model, dict(fids), seed, lr)
    table = tidy_table(tmp_path)
    (pair,) = pairs_of(table)
    assert "which does not hold the choice of the settings on these same seeds" in equal_fid(pair, "steps").text
    (pair,) = pairs_of(table[table["lr"] == 4e-3])
    assert "95 % interval" in equal_fid(pair, "steps").text
    assert "the choice of the settings" not in equal_fid(pair, "steps").text


def test_a_fid_of_0_is_left_out_and_named_like_one_that_is_no_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(tmp_path, "N", {100: 40.0, 200: 20.0, 400: 0.0})
    changed(tmp_path, "dit/N-2", {100: 50.0, 200: 30.0, 400: 15.0})
    said = told(capsys, str(tmp_path))
    assert said.count("left out: FCDM-N at 400 steps: seed 0 has no FID there (0;") == 1


def test_one_budget_is_told_as_the_same_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed(tmp_path, "N", {800: 10.0})
    changed(tmp_path, "dit/N-2", {800: 20.0})
    said = told(capsys, str(tmp_path))
    assert "the same budget: FID 10 against 20 at 800 steps" in said
    assert "1.0x" not in said


def test_the_sensitivity_is_of_the_scale_of_the_runs(table: pd.DataFrame) -> None:
    (pair,) = pairs_of(table)
    assert "; an error of 0.3 FID in one model makes it" in equal_fid(pair, "steps").text
    (pair,) = pairs_of(table.assign(floor_sd=np.nan))
    assert "an error of" not in equal_fid(pair, "steps").text
    assert efficiency_curve(pair)["low"].isna().all()


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
    assert "refused: not evaluated as published (samples 1,000, published 50,000; sampler ddim" in refused.text
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


def test_the_frame_has_a_row_per_claim(found: list[ClaimRow]) -> None:
    frame = claims_frame(found)
    assert frame["key"].is_unique
    assert len(frame) == len(found)
    assert {"published_value", "runs_low", "runs_high", "runs_rests_on", "kind"} <= set(frame.columns)
    status = frame.set_index("key")["status"]
    assert status["budget_256"] == "third-party"
    assert status["budget_512"] == "claimed, not recomputable"
    assert {status["equal_fid_9.62_steps"], status["macs_256"], status["compute_512"]} == {"derived"}
    assert status["same_budget_S"] == status["FCDM-N|DiT-N/2|8|fid|steps"] == ""
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


def test_the_command(runs: Path, found: list[ClaimRow], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "claims.csv"
    assert module.main(["--runs", str(runs), "--study", "demo", "--csv", str(out)]) == 0
    said = capsys.readouterr().out
    for part in (
        "12.2x fewer steps at FID 9.62",
        "7.0x: 7M steps over 1M",
        "95 % interval over 5 and 5 training seeds",
    ):
        assert part in said
    assert "not evaluated yet: DiT-N/2, seed 10, at 1,600 (dit-N-2-digits-8px-" in said
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
