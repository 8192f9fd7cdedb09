"""Our models against what the public codes answered on stated weights and inputs (tests/data)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from fcdm.config.presets import load_preset
from fcdm.errors import UserError
from fcdm.models import FCDM, DiT, build_model
from fcdm.models.official_weights import official_names, to_official
from tests.support.golden import DATA, golden_inputs, golden_weights, load_official, names_shapes

PUBLIC = {
    "S": ("official_fcdm_s_state_dict.tsv", "golden_fcdm_s.npz"),
    "dit/S-2": ("official_dit_s2_state_dict.tsv", "golden_dit_s2.npz"),
}


def fresh(preset: str) -> FCDM | DiT:
    model = build_model(load_preset(preset), channels=4, side=32, classes=1000, learn_sigma=True)
    assert isinstance(model, FCDM | DiT)
    return model.eval()


def golden(preset: str) -> tuple[FCDM | DiT, dict[str, Tensor]]:
    tsv, npz = PUBLIC[preset]
    model = fresh(preset)
    load_official(model, golden_weights(names_shapes(tsv)))
    with np.load(DATA / npz) as arrays:
        return model, {key: torch.from_numpy(arrays[key]) for key in ("output", "cfg")}


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("preset", PUBLIC)
def test_outputs_are_the_public_codes(preset: str) -> None:
    model, expected = golden(preset)
    given = golden_inputs()
    with torch.no_grad():
        output = model(given.x, given.t, given.labels)
        halves = model(given.x[:1].repeat(2, 1, 1, 1), torch.tensor([417, 417]), torch.tensor([207, 1000]))
    assert relative(output, expected["output"]) < 1e-5
    # Guided forward: both halves of the batch carry the guided first 3 channels and their own others.
    conditional, unconditional = halves
    guided = halves.clone()
    guided[:, :3] = unconditional[:3] + 4 * (conditional[:3] - unconditional[:3])
    assert relative(guided[0], expected["cfg"][0]) < 1e-5
    assert relative(guided[:, :3], expected["cfg"][:, :3]) < 1e-5


@pytest.mark.parametrize("preset", PUBLIC)
def test_names_and_shapes_are_the_public_codes_in_order(preset: str) -> None:
    listed = names_shapes(PUBLIC[preset][0])
    model = fresh(preset)
    exported = to_official(model)
    assert [(name, tuple(tensor.shape)) for name, tensor in exported.items()] == listed
    ours = list(official_names(model.config).values())
    assert len(set(ours)) == len(ours)
    assert {name for name, _ in model.named_parameters()} <= set(ours)


@pytest.mark.parametrize("preset", PUBLIC)
def test_round_trip_keeps_every_bit(preset: str) -> None:
    model, _ = golden(preset)
    weights = golden_weights(names_shapes(PUBLIC[preset][0]))
    exported = to_official(model)
    for name, tensor in weights.items():
        if name == "pos_embed":
            torch.testing.assert_close(exported[name], tensor, atol=1e-6, rtol=0)
        else:
            assert torch.equal(exported[name], tensor), name
    other = fresh(preset)
    load_official(other, exported)
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def _without(weights: dict[str, Tensor]) -> None:
    del weights["t_embedder.mlp.0.weight"]


def _renamed(weights: dict[str, Tensor]) -> None:
    weights["module.extra"] = weights["t_embedder.mlp.0.bias"]


def _narrow(weights: dict[str, Tensor]) -> None:
    weights["final_layer.linear.weight"] = weights["final_layer.linear.weight"][:16]


def _learned_position(weights: dict[str, Tensor]) -> None:
    weights["pos_embed"] = weights["pos_embed"] + 0.01


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without, r"missing t_embedder\.mlp\.0\.weight"),
        (_renamed, r"unexpected module\.extra"),
        (_narrow, r"final_layer\.linear\.weight is 16x384, not 32x384"),
        (_learned_position, "pos_embed is not"),
    ],
)
def test_wrong_files_are_named_and_change_nothing(spoil: Callable[[dict[str, Tensor]], None], message: str) -> None:
    model = fresh("dit/S-2")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = golden_weights(names_shapes(PUBLIC["dit/S-2"][0]))
    spoil(weights)
    with pytest.raises(UserError, match=message):
        load_official(model, weights)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
