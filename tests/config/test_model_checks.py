"""Presets, and models that cannot be built or do not fit a resolution: one line says what to write instead."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fcdm.config.model_checks import check_model
from fcdm.config.presets import load_preset, preset_names
from fcdm.config.schema import DiTConfig, FCDMConfig, ModelConfig
from fcdm.errors import UserError
from fcdm.models import build_model
from tests.support.commands import composing

SMALL_FCDM = FCDMConfig(name="small", width=8, blocks=[1, 1, 2, 1, 1])
SMALL_DIT = DiTConfig(name="small", patch_size=2, depth=2, width=16, heads=2)


@pytest.mark.parametrize(
    ("config", "resolution", "downsample", "message"),
    [
        (SMALL_FCDM, 10, 1, "resolution=10: FCDM halves twice, .* multiple of 4.*; try 8 or 12"),
        (SMALL_FCDM, 250, 8, r"4\*downsample = 32; try 224 or 256"),
        (SMALL_FCDM, 260, 8, "try 256 or 288"),  # side 32 by rounding down, but no whole number of latents
        (SMALL_FCDM, 2, 1, "try 4 or 8"),
        (SMALL_DIT, 9, 1, r"model\.patch_size=2: .* try 8 or 10"),
        (replace(SMALL_FCDM, kernel_size=6), 8, 1, r"model\.kernel_size=6: .* write 5 or 7"),
        (replace(SMALL_FCDM, blocks=[1, 1, 1]), 8, 1, r"model\.blocks=\[1, 1, 1\]: needs 5"),
        (replace(SMALL_FCDM, blocks=[1, 1, 0, 1, 1]), 8, 1, r"model\.blocks"),
        (replace(SMALL_FCDM, width=7), 8, 1, r"model\.width=7: must be even, .* write 6 or 8"),
        (replace(SMALL_FCDM, width=0), 8, 1, r"model\.width=0"),
        (replace(SMALL_DIT, heads=3), 8, 1, r"model\.heads=3: .* try 2 or 4 heads"),
        (replace(SMALL_DIT, width=18), 8, 1, r"model\.width=18: .* try 16 or 20"),
        (replace(SMALL_DIT, depth=0), 8, 1, r"model\.depth=0"),
        (ModelConfig(family="unet", name="x"), 8, 1, r"model\.family='unet'"),
    ],
)
def test_misfits_say_what_to_write(config: ModelConfig, resolution: int, downsample: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check_model(config, resolution // downsample, resolution, downsample)
    assert "\n" not in str(caught.value)
    if downsample == 1:
        with pytest.raises(UserError):
            build_model(config, channels=1, side=resolution, classes=2, learn_sigma=False)


def test_presets_fit_their_own_setting() -> None:
    names = preset_names()
    assert names[:6] == ["N", "M", "S", "B", "L", "XL"]
    assert len(names) == len(set(names)) >= 20
    with composing() as composer:
        for name in names:
            config = composer.config([f"model={name}"])  # checked, so it fits
            assert config.model == load_preset(name)
            assert config.model.name == name
            assert config.model.family == ("dit" if name.startswith("dit/") else "fcdm")
            on_digits = name.rpartition("/")[2].partition("-")[0] in ("N", "M")
            assert (config.data.name, config.data.downsample) == (("digits", 1) if on_digits else ("imagenet", 8))


@pytest.mark.parametrize(("name", "near"), [("XL2", "XL"), ("dit/s-2", "dit/S-2"), ("../data/digits", "is not known")])
def test_unknown_preset_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UserError, match=near):
        load_preset(name)
