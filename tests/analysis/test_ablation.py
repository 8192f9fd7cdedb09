"""Variants of a block at equal MACs: their widths differ too, and the preset is still the plain model."""

from __future__ import annotations

from pathlib import Path

from fcdm.analysis.data.tidy_table import read_curves, table_of
from fcdm.analysis.figures.ablation import ablation_figure
from tests.support.fake_runs import make_run, make_study


def test_the_plain_model_has_its_presets_width(tmp_path: Path) -> None:
    variants = [{"width": 512}, {"width": 396, "feed_forward": True}, {"width": 688, "expansion": 1}]
    plain = {"feed_forward": False, "expansion": 3, "blocks": [2, 4, 8, 4, 2]}
    folders = [make_run(tmp_path, "L", budgets=(200_000,), every=50_000, keys={**plain, **keys}) for keys in variants]
    make_study(tmp_path, folders, budgets=(200_000,))
    drawn = ablation_figure(table_of(read_curves(tmp_path, "demo"), tmp_path, "demo"))
    assert drawn is not None
    _, numbers = drawn
    assert numbers["change"].tolist()[0] == "plain (expansion 3, feed_forward False, width 512)"
    assert set(numbers["change"][1:]) == {"feed_forward True, width 396", "expansion 1, width 688"}
    assert numbers["baseline"].tolist() == [True, False, False]
