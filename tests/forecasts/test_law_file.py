"""A study's laws as plain JSON: what was written is foretold, within its reach and of such runs alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fcdm.errors import UserError
from fcdm.forecasts.common_settings import common_settings, off_common, settings_of
from fcdm.forecasts.law_file import OffsetGrid, ReachingLaw, read_laws, write_laws
from fcdm.laws.predictive import LEVELS, Predictive

NEAR, FAR = Predictive.log_t(1.0, 0.05, 6.0), Predictive.log_t(1.01, 0.2, 6.0)
LAW = ReachingLaw(
    metric="fid",
    protocol_id="ddim25-1000-12345678",
    n_unit="forward_macs",
    e=2.0,
    a=300.0,
    alpha=0.3,
    b=4000.0,
    beta=0.6,
    reach=(
        {"n": (1e6, 1e8), "images": (1e4, 1e6), "train_flops": (1e10, 4e15)},
        {"n": (1e6, 2e6), "images": (1e4, 1e7), "train_flops": (1e10, 1e15)},
    ),
    offsets=OffsetGrid(
        (1e6, 1e7), (1e4, 1e5, 1e7), ((NEAR.logs, NEAR.logs, FAR.logs), (NEAR.logs, FAR.logs, FAR.logs))
    ),
    freedom=math.inf,
    common={"model.family": "fcdm", "optimiser.lr": 1e-3, "init_from": None},
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write_laws(tmp_path / "forecasts", "demo", ["fid"], [LAW])
    assert path == tmp_path / "forecasts" / "demo.law.json"
    assert read_laws(path.parent) == [replace(LAW, study="demo")]
    assert read_laws(tmp_path) == []


def test_what_is_told_anew_takes_the_place_of_its_own_metric_alone(tmp_path: Path) -> None:
    fid, loss, later = (replace(LAW, study="demo", **so) for so in ({}, {"metric": "heldout_loss"}, {"e": 3.0}))
    assert write_laws(tmp_path, "demo", ["fid"], []) is None
    assert not list(tmp_path.iterdir()), "no law, and no file that says so"
    for metrics, laws, left in (
        (["fid", "heldout_loss"], [fid, loss], [fid, loss]),
        (["fid"], [later], [loss, later]),
        (["heldout_loss"], [], [later]),
        (["fid"], [], []),
    ):
        assert write_laws(tmp_path, "demo", metrics, laws) is not None
        assert read_laws(tmp_path) == left
    (tmp_path / "demo.law.json").write_text("{")
    write_laws(tmp_path, "demo", ["fid"], [fid])
    assert read_laws(tmp_path) == [fid], "a damaged file is made anew"


@pytest.mark.parametrize(
    ("n", "images", "share"),
    [(1e6, 1e4, 0), (1e6, 1e5, 0), (1e6, 1e6, 0.5), (1e6, 1e7, 1), (10**6.5, 1e5, 0.5), (10**6.5, 10**4.5, 0.25),
     (1e7, 1e5, 1), (1e8, 1e5, 1), (1e8, 1e4, 0)],
)  # fmt: skip
def test_a_new_run_lies_about_the_law_as_its_grid_of_sizes_and_images_says(
    n: float, images: float, share: float
) -> None:
    """Whatever its compute, which many sizes and numbers of images share."""
    middle = 2 + 300 * n**-0.3 + 4000 * images**-0.6
    for flops in (1e12, 1e15):
        found = LAW.new_run(n, images, flops)
        assert found is not None
        between = [math.exp((1 - share) * near + share * far) for near, far in zip(NEAR.logs, FAR.logs, strict=True)]
        assert found.quantiles == pytest.approx([middle * one for one in between])


@pytest.mark.parametrize(("n", "images", "flops"), [(1e5, 1e5, 1e12), (1e7, 2e6, 1e12), (1e7, 1e5, 5e15)])
def test_out_of_reach_it_says_nothing(n: float, images: float, flops: float) -> None:
    assert LAW.new_run(n, images, flops) is None


def test_it_reaches_what_any_gap_reaches() -> None:
    assert LAW.new_run(1.5e6, 5e6, 9e14) is not None
    assert LAW.new_run(1.5e6, 5e6, 2e15) is None


def test_it_speaks_of_runs_as_those_it_was_fitted_to() -> None:
    such = {"model.family": "fcdm", "model.width": 24, "optimiser.lr": 1e-3, "init_from": None}
    assert LAW.foretells(such, LAW.protocol_id)
    assert not LAW.foretells(such, "ddim10-1000-12345678")
    assert not LAW.foretells({**such, "optimiser.lr": 2e-3}, LAW.protocol_id)
    assert not LAW.foretells({**such, "init_from": "x@100"}, LAW.protocol_id)
    assert not LAW.foretells({"model.family": "fcdm"}, LAW.protocol_id)


def test_what_runs_have_in_common_leaves_out_sizes_names_and_seeds() -> None:
    runs = [
        {
            "model": {"name": name, "family": "fcdm", "width": width},
            "seed": seed,
            "optimiser": {"lr": lr, "betas": [0.9]},
        }
        for name, width, seed, lr in (("N", 16, 0, 1e-3), ("M", 16, 0, 2e-3))
    ]
    common = common_settings(map(settings_of, runs))
    assert {key: common[key] for key in common if key.startswith(("model.fa", "model.w", "optimiser.b"))} == {
        "model.family": "fcdm",
        "optimiser.betas": [0.9],
    }
    assert common["init_from"] is None, "what runs of an earlier version do not say"
    assert not {"seed", "optimiser.lr", "model.name"} & set(common)
    other = {**runs[0], "optimiser": {"lr": 9.0, "betas": [0.8]}, "init_from": "x@1"}
    assert off_common(settings_of(other), common) == [
        "init_from=x@1 (theirs null)",
        "optimiser.betas=[0.8] (theirs [0.9])",
    ]
    assert common_settings([]) == {}


def test_branches_have_their_share_of_cooling_in_common_and_not_their_steps() -> None:
    def cooled(steps: list[int] | None, share: float | None) -> dict[str, Any]:
        return settings_of({"optimiser": {"cooldown": steps, "cooldown_share": share}})

    common = common_settings([cooled([90, 100], 0.1), cooled([180, 200], None)])
    assert off_common(cooled([360, 400], 0.1), common) == []
    assert off_common(cooled([320, 400], 0.2), common) == ["optimiser.cooldown_share=0.2 (theirs 0.1)"]
    assert off_common(cooled(None, None), common) == ["optimiser.cooldown_share=null (theirs 0.1)"]


def test_a_file_of_an_earlier_version_is_one_line(tmp_path: Path) -> None:
    path = write_laws(tmp_path, "demo", ["fid"], [LAW])
    assert path is not None
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 1'))
    with pytest.raises(UserError, match=r"another version of fcdm: python -m fcdm.forecast demo makes it anew"):
        read_laws(tmp_path)


@pytest.mark.parametrize("key", ["levels", "laws", "offsets", "reach", "freedom", "n_unit"])
def test_a_damaged_file_is_one_line(tmp_path: Path, key: str) -> None:
    path = write_laws(tmp_path, "demo", ["fid"], [LAW])
    assert path is not None
    content = json.loads(path.read_text())
    (content if key in content else content["laws"][0])[key] = "x"
    path.write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"demo.law.json lacks or garbles .*: python -m fcdm.forecast demo makes it anew"
    ):
        read_laws(tmp_path)
    assert len(LEVELS) == 11
