"""Costs: against the papers' tables, against torch's own counting, and the command."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fcdm.config.presets import load_preset, preset_names
from fcdm.config.schema import DiTConfig, FCDMConfig, ModelConfig
from fcdm.cost.__main__ import cost_rows, main
from fcdm.cost.model_cost import TIMESTEP_FEATURES, ModelCost, model_cost
from fcdm.errors import UserError
from fcdm.models import build_model, embeddings
from tests.support.counted_macs import counted

# Parameters in millions; GMACs at 256 and 512 px (arXiv 2603.09408 and 2212.09748, measured on the public codes).
TABLE = {
    "S": (32.70, 3.07339, 12.26757),
    "B": (127.68, 12.13635, 48.44277),
    "L": (504.45, 48.23096, 192.51606),
    "XL": (698.75, 64.53002, 257.51886),
    "dit/S-2": (32.87, 6.05567, 31.43698),
    "dit/S-4": (32.92, 1.41258, 6.06983),
    "dit/S-8": (33.14, 0.35797, 1.42674),
    "dit/B-2": (130.32, 23.00510, 106.38262),
    "dit/B-4": (130.43, 5.56519, 23.03341),
    "dit/B-8": (130.87, 1.41754, 5.59350),
    "dit/L-2": (457.84, 80.69762, 360.98199),
    "dit/L-4": (457.99, 19.69567, 80.73537),
    "dit/L-8": (458.58, 5.01141, 19.73341),
    "dit/XL-2": (674.83, 118.62142, 524.53830),
    "dit/XL-4": (675.00, 29.04367, 118.66389),
    "dit/XL-8": (675.66, 7.39241, 29.08614),
}


@pytest.mark.parametrize("name", TABLE)
def test_presets_are_the_papers_tables(name: str) -> None:
    millions, *gmacs = TABLE[name]
    for side, expected in zip((32, 64), gmacs, strict=True):
        parameters, macs = counted(load_preset(name), 4, side, 1000)
        assert round(parameters / 1e6, 2) == millions
        assert macs / 1e9 == pytest.approx(expected, rel=1e-3)
        cost = model_cost(load_preset(name), channels=4, side=side, classes=1000)
        assert (cost.parameters, cost.forward_macs) == (parameters, macs)


def test_every_imagenet_preset_is_in_the_table() -> None:
    assert {name for name in preset_names() if not name.split("/")[-1].startswith(("N", "M"))} == set(TABLE)


fcdm_configs = st.builds(
    FCDMConfig,
    name=st.just("x"),
    width=st.sampled_from([2, 8, 12]),
    blocks=st.lists(st.integers(1, 3), min_size=5, max_size=5),
    kernel_size=st.sampled_from([1, 3, 7, 11]),
    expansion=st.integers(1, 4),
    grn=st.booleans(),
    channel_attention=st.booleans(),
    channel_attention_on=st.sampled_from(["hidden", "depthwise"]),
    feed_forward=st.booleans(),
)
dit_configs = st.builds(
    DiTConfig,
    name=st.just("x"),
    patch_size=st.sampled_from([1, 2, 4]),
    depth=st.integers(1, 3),
    width=st.sampled_from([8, 24]),
    heads=st.sampled_from([1, 2, 4]),
    mlp_ratio=st.integers(1, 4),
)


@settings(max_examples=40, deadline=None)
@given(
    config=st.one_of(fcdm_configs, dit_configs),
    channels=st.integers(1, 4),
    side=st.sampled_from([4, 8, 16]),
    classes=st.integers(1, 20),
    learn_sigma=st.booleans(),
)
def test_any_configuration_counts_as_torch_does(
    config: ModelConfig, channels: int, side: int, classes: int, learn_sigma: bool
) -> None:
    cost = model_cost(config, channels=channels, side=side, classes=classes, learn_sigma=learn_sigma)
    assert (cost.parameters, cost.forward_macs) == counted(config, channels, side, classes, learn_sigma)


def saved_bytes(model: nn.Module, batch: int, channels: int, side: int) -> int:
    """Bytes that autograd keeps after a forward: each storage once, without the parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # kept alive, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        labels = torch.zeros(batch, dtype=torch.int64)
        model(torch.randn(batch, channels, side, side), torch.zeros(batch), labels)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize(
    ("config", "channels", "side"),
    [
        (load_preset("N"), 1, 8),
        (load_preset("M"), 1, 8),
        (load_preset("dit/N-2"), 1, 8),
        (load_preset("dit/M-2"), 1, 8),
        (load_preset("S"), 4, 32),
        (load_preset("dit/S-2"), 4, 32),
        (FCDMConfig(name="x", width=16, blocks=[1, 2, 1, 2, 1], expansion=2, grn=False), 4, 16),
        (FCDMConfig(name="x", width=16, blocks=[1, 2, 1, 2, 1], grn=False, channel_attention=True), 4, 16),
        (
            FCDMConfig(
                name="x", width=16, blocks=[1, 2, 1, 2, 1], channel_attention=True, channel_attention_on="depthwise"
            ),
            *(4, 16),
        ),
        (FCDMConfig(name="x", width=16, blocks=[1, 2, 1, 2, 1], feed_forward=True), 4, 16),
        (DiTConfig(name="x", width=32, heads=2, depth=2, patch_size=4, mlp_ratio=2), 4, 16),
    ],
)
def test_activation_estimate_is_what_autograd_keeps(config: ModelConfig, channels: int, side: int) -> None:
    """Within 5 %: the estimate leaves out indices, constants and what kernels add for themselves."""
    model = build_model(config, channels=channels, side=side, classes=10, learn_sigma=True)
    per_image = (saved_bytes(model, 3, channels, side) - saved_bytes(model, 1, channels, side)) / 2
    estimate = model_cost(config, channels=channels, side=side, classes=10).activation_bytes_per_image
    assert estimate == pytest.approx(per_image, rel=0.05)


def test_derived_quantities() -> None:
    cost = ModelCost(parameters=10, forward_macs=7, saved_elements=3)
    assert cost.train_flops_per_image == 3 * 2 * 7
    assert cost.train_flops_per_step(256) == 42 * 256
    assert cost.train_flops(256, 400_000) == 42 * 256 * 400_000
    assert cost.state_bytes == 10 * 4 * (1 + 1 + 2 + 1)
    assert cost.checkpoint_bytes == 10 * 4 * (1 + 1 + 2)
    assert cost.activation_bytes_per_image == 12
    assert cost + cost * 2 == cost * 3
    assert TIMESTEP_FEATURES == embeddings.TIMESTEP_FEATURES
    with pytest.raises(UserError, match=r"model\.family='unet'"):
        model_cost(ModelConfig(family="unet", name="x"), channels=1, side=8, classes=10)


def test_the_papers_half_of_the_compute() -> None:
    """FCDM-XL over DiT-XL/2: the abstract's 50 %, 54.4 % at 256 px and 49.1 % at 512 px."""
    rows = {(row["model"], row["resolution"]): row["forward_macs"] for row in cost_rows(["model=XL,dit/XL-2"])}
    assert rows["XL", 256] / rows["dit/XL-2", 256] == pytest.approx(0.544, abs=5e-4)
    assert rows["XL", 512] / rows["dit/XL-2", 512] == pytest.approx(0.491, abs=5e-4)


# --- the command --------------------------------------------------------------------------------------------


def test_rows_of_every_preset_and_of_a_budget(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["model"] for row in rows} == set(preset_names())
    assert {row["resolution"] for row in rows if row["model"] == "XL"} == {256, 512}
    assert {row["resolution"] for row in rows if row["model"] in ("N", "dit/N-2")} == {8}

    assert main(["model=S,dit/S-2", "resolution=512", "--steps", "1_000", "batch_size=64", "--json"]) == 0
    fcdm_row, dit_row = json.loads(capsys.readouterr().out)
    assert fcdm_row == {
        "model": "S",
        "resolution": 512,
        "parameters": 32699912,
        "forward_macs": 12267569152,
        "train_flops_per_image": 6 * 12267569152,
        "train_flops_per_step": 6 * 12267569152 * 64,
        "train_flops": 6 * 12267569152 * 64 * 1000,
        "steps": 1000,
        "batch_size": 64,
        "state_bytes": 20 * 32699912,
        "activation_bytes_per_image": fcdm_row["activation_bytes_per_image"],
        "checkpoint_bytes": 16 * 32699912,
    }
    assert dit_row["model"] == "dit/S-2"


def test_table_shows_whole_numbers_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "XL,dit/XL-2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (first,) = [line for line in lines if line.split()[:2] == ["XL", "256"]]
    assert first.split()[2:6] == ["698.75", "M", "64.53", "387.2"]
    assert "39.6 EFLOPs" in first
    assert "11.2 GB" in first
    (second,) = [line for line in lines if line.split()[:2] == ["dit/XL-2", "256"]]
    assert second.index("M  ") == first.index("M  ")  # aligned


def test_amounts_round_into_the_next_unit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model=S", "resolution=256", "flops=1e18"]) == 0
    shown = capsys.readouterr().out
    assert " 1 EFLOPs " in shown
    assert "e+" not in shown


def rows_of(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert main([*words, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_keys_are_those_of_training(capsys: pytest.CaptureFixture[str]) -> None:
    """Each as the model would be built; several values are several rows, and a row says what tells it apart."""
    words = ["model=L", "model.kernel_size=3,5", "resolution=256", "objective=flow", "data.channels=16"]
    rows = rows_of(capsys, *words)
    assert [row["model"] for row in rows] == ["L model.kernel_size=3", "L model.kernel_size=5"]
    for row, size in zip(rows, (3, 5), strict=True):
        config = dataclasses.replace(load_preset("L"), kernel_size=size)
        cost = model_cost(config, channels=16, side=32, classes=1000, learn_sigma=False)
        assert (row["parameters"], row["forward_macs"]) == (cost.parameters, cost.forward_macs)
    budgets = rows_of(capsys, "model=N", "steps=100,200", "diffusion.learn_sigma=false")
    assert [row["steps"] for row in budgets] == [100, 200]
    assert budgets[0]["parameters"] < rows_of(capsys, "model=N")[0]["parameters"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("model=L model.feed_forward=true", ["L model.feed_forward=true"]),
        ("model=L model.feed_forward=true model.match_macs=L", ["L model.width=396 model.feed_forward=true"]),
        ("model=L,B model.feed_forward=true", ["L model.feed_forward=true", "B model.feed_forward=true"]),
        ("model=L model.match_macs=L", ["L"]),
        ("model=L model.blocks=[2,4,8,4,2]", ["L"]),
        ("model=L model.kernel_size=5,7", ["L model.kernel_size=5", "L"]),
        (
            "model=S model.kernel_size=5 objective=ddpm,flow",
            [f"S model.kernel_size=5 objective={each}" for each in ("ddpm", "flow")],
        ),
        ("model=S model.blocks=[1,1,1,1,1]", ["S model.blocks=[1,1,1,1,1]"]),
    ],
)
def test_a_row_says_where_a_model_is_not_its_preset_and_only_there(words: str, names: list[str]) -> None:
    assert [row["model"] for row in cost_rows([*words.split(), "resolution=256"])] == names


def test_a_preset_of_the_users_own_is_what_its_model_is_held_to(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "wide.yaml").write_text("defaults: [L, _self_]\nname: wide\nwidth: 640\n")
    own = ["model=wide", "resolution=256", f"--config-dir={tmp_path}"]
    assert [row["model"] for row in cost_rows(own)] == ["wide"]
    assert [row["model"] for row in cost_rows([*own, "model.grn=false"])] == ["wide model.grn=false"]


def test_without_a_model_those_that_have_the_key(capsys: pytest.CaptureFixture[str]) -> None:
    presets = ("N", "M", "S", "B", "L", "XL")
    found = {row["model"] for row in rows_of(capsys, "model.kernel_size=5")}
    assert found == {f"{preset} model.kernel_size=5" for preset in presets}
    assert {row["model"] for row in rows_of(capsys, "resolution=8")} == {"N", "M", "dit/N-2", "dit/M-2"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=XXL"], "model=XXL is not known: did you mean XL"),
        (["model=dit/XL2"], "dit/XL-2"),
        (["model=S", "resolution=250"], "resolution=250 is not a multiple of 8"),
        (["resolution=7"], "resolution=7: FCDM halves twice"),
        (["model=L", "seed=3"], "seed has no effect on a cost: leave seed=3 away"),
        (["model=L", "data.flip=none"], "data.flip has no effect on a cost"),
        (["model=N", "evaluation={samples: 3}"], "evaluation.samples has no effect on a cost"),
        (
            ["model=N", "data.path=img"],
            "data.path=img is not there to tell its channels and classes: say data.channels=",
        ),
        (["model=N", "model.depth=3"], "model.depth is an option of model.family=dit alone, and this model has none"),
        (["N"], "N is not known: say key=value"),
        (["resolution=abc"], "resolution: Value 'abc' of type 'str' could not be converted to Integer"),
        (["--steps", "0"], "steps=0 cannot be: a budget is at least 1 step"),
        (["modle=S"], "unknown key 'modle': did you mean model?"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_the_command_starts_without_torch() -> None:
    code = (
        "import sys, runpy\n"
        "sys.argv = ['fcdm.cost', 'model=S']\n"
        "try:\n"
        "    runpy.run_module('fcdm.cost', run_name='__main__')\n"
        "except SystemExit as done:\n"
        "    assert done.code == 0, done.code\n"
        "heavy = {'torch', 'numpy', 'mlflow', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "32.70 M" in done.stdout


def test_a_model_with_plus_signs_is_named_too() -> None:
    assert [row["model"] for row in cost_rows(["+model=S", "resolution=256"])] == ["S"]
    with pytest.raises(UserError, match=r"force-add of config groups is not supported: '\+\+model=S'"):
        cost_rows(["++model=S", "resolution=256"])
