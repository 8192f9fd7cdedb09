"""Ladders of sizes: the presets stand on them, each size is a rung, and both families can be matched in MACs."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcdm.config.presets import load_preset
from fcdm.config.schema import DiTConfig, FCDMConfig
from fcdm.cost.ladder import MOST_OFF, STEP, LadderSize, rung_of, rungs
from fcdm.cost.model_cost import model_cost
from fcdm.errors import UserError
from fcdm.runs.identity import run_id, science
from fcdm.runs.run_cost import run_cost
from tests.support.commands import TINY, Command, composed

LATENTS: dict[str, Any] = {"channels": 4, "side": 32, "classes": 1000}
DIGITS: dict[str, Any] = {"channels": 1, "side": 8, "classes": 10}
OF_FAMILY = {"fcdm": FCDMConfig(name="fcdm/size"), "dit": DiTConfig(name="dit/size", patch_size=2)}


def build(model: Any) -> tuple[Any, ...]:
    return (model.width, model.blocks) if isinstance(model, FCDMConfig) else (model.width, model.depth, model.heads)


@pytest.mark.parametrize("family", ["fcdm", "dit"])
def test_the_presets_are_rungs(family: str) -> None:
    names = (
        ["N", "M", "S", "B", "L", "XL"]
        if family == "fcdm"
        else [f"dit/{size}-2" for size in ("N", "S", "B", "L", "XL")]
    )
    on = {json.dumps(build(one)) for one in rungs(OF_FAMILY[family])}  # type: ignore[arg-type]
    for name in names:
        assert json.dumps(build(load_preset(name))) in on, name


@pytest.mark.parametrize("family", ["fcdm", "dit"])
@pytest.mark.parametrize("shape", [LATENTS, DIGITS])
def test_a_ladder_only_goes_up(family: str, shape: dict[str, Any]) -> None:
    costs = [model_cost(one, **shape) for one in rungs(OF_FAMILY[family])]  # type: ignore[arg-type]
    for low, high in pairwise(costs):
        assert low.parameters < high.parameters
        assert low.forward_macs < high.forward_macs
    assert all(one.width % STEP == 0 for one in rungs(OF_FAMILY[family]))  # type: ignore[arg-type]


@given(st.sampled_from(["fcdm", "dit"]), st.sampled_from(["parameters", "MACs"]), st.floats(6e6, 2e9))
@settings(deadline=None, max_examples=60)
def test_a_size_is_the_nearest_rung(family: str, of: str, amount: float) -> None:
    """Against all rungs, one by one."""
    model: Any = OF_FAMILY[family]
    amount = amount * 100 if of == "MACs" else amount
    found = rung_of(LadderSize("", amount, of), model, lambda one: model_cost(one, **LATENTS))
    costs = [model_cost(one, **LATENTS) for one in rungs(model)]
    amounts = [cost.parameters if of == "parameters" else cost.forward_macs for cost in costs]
    assert max(found.amount / amount, amount / found.amount) == pytest.approx(
        min(max(one / amount, amount / one) for one in amounts)
    )
    assert abs(found.off) <= MOST_OFF


@pytest.mark.parametrize(
    ("name", "width", "rest"),
    [
        ("fcdm/64M", 184, [2, 4, 8, 4, 2]),
        ("fcdm/2GMACs", 104, [2, 3, 7, 3, 2]),
        ("fcdm/w512", 512, [2, 4, 8, 4, 2]),  # L; XL is as wide and deeper
        ("fcdm/700M", 512, [3, 6, 12, 6, 3]),
        ("dit/64M", 544, (12, 8, 2)),
        ("dit/2GMACs-4", 456, (12, 6, 4)),
    ],
)
def test_sizes_at_256_pixels(name: str, width: int, rest: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model: Any = composed(f"model={name}").model
    assert model.width == width
    assert rest == (model.blocks if isinstance(model, FCDMConfig) else (model.depth, model.heads, model.patch_size))
    assert (model.name, model.size) == (name, None)
    assert f"note: model={name}: width {width}, " in capsys.readouterr().err


def test_a_size_is_of_the_data_and_brings_what_the_nearest_preset_does() -> None:
    digits, latents = composed("model=fcdm/0.25M"), composed("model=fcdm/40M")
    assert (digits.data.name, digits.resolution, digits.resources.gpus) == ("digits", 8, 0)
    assert (latents.data.name, latents.resolution, latents.resources.gpus) == ("imagenet", 256, 1)
    assert composed("model=fcdm/2GMACs", "resolution=512").model.width < composed("model=fcdm/2GMACs").model.width  # type: ignore[attr-defined]


def test_a_rung_is_the_run_of_its_preset() -> None:
    rung, preset = composed("model=fcdm/w16"), composed("model=N")
    rung.data.checksum = preset.data.checksum = "0"
    assert run_id(science(rung)) == run_id(science(preset))


@pytest.mark.parametrize(
    ("width", "other"), [(24, "dit/w64"), (32, "dit/w80"), (40, "dit/w80"), (64, "fcdm/w64 model.expansion=2")]
)
def test_both_families_matched_in_macs_also_a_variant_of_a_block(width: int, other: str) -> None:
    ours = composed(f"model=fcdm/w{width}", "data=digits")
    theirs = composed(*f"model={other}".split(), "data=digits", f"model.match_macs=fcdm/w{width}")
    assert run_cost(theirs).forward_macs == pytest.approx(run_cost(ours).forward_macs, rel=0.05)
    assert theirs.model.width != ours.model.width  # type: ignore[attr-defined]


def test_a_name_says_the_width_that_was_found() -> None:
    """`w80` of a model that is 76 wide would be a lie; a size in parameters or MACs says no width."""
    matched = composed("model=dit/w80", "data=digits", "model.match_macs=fcdm/w32").model
    assert (matched.name, matched.width) == ("dit/w76", 76)  # type: ignore[attr-defined]
    assert composed("model=dit/0.75M", "data=digits", "model.match_macs=fcdm/w32").model.name == "dit/0.75M"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=fcdm/0.4M"], "no rung of the ladder comes within 20% of 0.4 M parameters, nearest are w16 with"),
        (["model=fcdm/10kMACs"], "nearest is w8 with"),
        (["model=fcdm/w12"], "12 is no width of the ladder (multiples of 8): write w8 or w16"),
        (["model=dit/w424"], "424 is no width of the ladder (multiples of 8, which heads divide): write w"),
        (
            ["model=fcdm/64M", "model.width=64"],
            "finds width, blocks, depth, heads by the ladder's rule, and model.width",
        ),
        (["model=N", "model.size=0M"], "model.size=0M is no size of fcdm"),
        (["model=N", "model.size=many"], "model.size=many is no size of fcdm: write 64M (parameters), 2GMACs or w96"),
    ],
)
def test_what_cannot_be_is_one_line(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as refused:
        composed(*words)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "name", ["fcdm/foo", "fcdm/64", "fcdm/64M-2", "unet/64M", "dit/M", "fcdm/0M", "dit/w0", "dit/2GMACs-0"]
)
def test_no_such_option(fcdm: Command, name: str) -> None:
    done = fcdm(f"model={name}", "--cfg", "job")
    assert done.returncode != 0
    assert f"model={name} is not known" in done.stderr
    assert "a size of a ladder: fcdm/64M (parameters), 2GMACs or w96" in done.stderr


@pytest.mark.parametrize(
    ("name", "meant"), [("fcdm/64m", "fcdm/64M"), ("dit/2gmacs", "dit/2GMACs"), ("fcdm/W96", "fcdm/w96")]
)
def test_a_size_in_other_letters(fcdm: Command, name: str, meant: str) -> None:
    done = fcdm(f"model={name}", "--cfg", "job")
    assert done.stderr.strip() == f"fcdm.train: model={name} is not known: did you mean {meant}?"


def test_a_ladder_trains_samples_and_is_drawn_by_its_names(fcdm: Command, tmp_path: Path) -> None:
    done = fcdm("-m", "model=fcdm/w8,dit/w24", "steps=2", *TINY, "hydra/launcher=local")
    assert done.returncode == 0, done.stderr
    names = sorted(path.name.rpartition("-")[0] for path in (tmp_path / "runs").glob("*-digits-*"))
    assert names == ["dit-w24-digits-8px", "fcdm-w8-digits-8px"]
    again = fcdm("-m", "model=fcdm/w8,dit/w24", "steps=2", *TINY, "hydra/launcher=local")
    assert "is trained and evaluated" in again.stdout or "are trained and evaluated" in again.stdout
