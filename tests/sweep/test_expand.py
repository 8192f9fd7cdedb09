"""Expanding a command line and sweep files: products, lists of products, budgets joined, the command line first."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from fcdm.errors import UserError
from fcdm.sweep.expand import expand


def test_a_plain_product_with_steps_joined() -> None:
    assert expand(["model=N,M", "seed=0,1", "steps=100,200", "precision=bf16"], []) == [
        ["model=N", "seed=0", "precision=bf16", "steps=[100,200]"],
        ["model=N", "seed=1", "precision=bf16", "steps=[100,200]"],
        ["model=M", "seed=0", "precision=bf16", "steps=[100,200]"],
        ["model=M", "seed=1", "precision=bf16", "steps=[100,200]"],
    ]


@pytest.mark.parametrize("text", ["steps=100,200", "steps=[100,200]", "'steps=[100,200]'"])
def test_a_list_of_steps_and_a_choice_of_steps_mean_the_same(text: str) -> None:
    assert expand([text.strip("'")], []) == [["steps=[100,200]"]]


def test_grids_are_a_union_and_not_a_product() -> None:
    grids: list[dict[str, Any]] = [
        {"model": "XL", "steps": [400_000, 1_000_000]},
        {"model": ["dit/XL-2"], "steps": 7_000_000, "optimiser.lr": 1e-4},
    ]
    assert expand(["+sweeps=mine"], grids) == [
        ["model=XL", "+sweeps=mine", "steps=[400000,1000000]"],
        ["model=dit/XL-2", "optimiser.lr=0.0001", "+sweeps=mine", "steps=[7000000]"],
    ]


def test_the_command_line_replaces_what_the_grids_say() -> None:
    grids = [{"model": ["N", "M"], "steps": [100, 200]}, {"model": "dit/N-2", "steps": 400}]
    assert expand(["model=N", "steps=5", "seed=0,1"], grids) == [
        ["model=N", "seed=0", "steps=[5]"],
        ["model=N", "seed=1", "steps=[5]"],
    ]


def test_budgets_of_the_command_line_replace_those_of_grids_in_either_unit() -> None:
    grids: list[dict[str, Any]] = [{"model": "N", "steps": [100, 200]}, {"model": "M", "flops": [1e12, 3e12]}]
    assert expand([], grids) == [["model=N", "steps=[100,200]"], ["model=M", "flops=[1000000000000.0,3000000000000.0]"]]
    assert expand(["flops=1e15,1e16"], grids) == [
        ["model=N", "flops=[1000000000000000.0,1e+16]"],
        ["model=M", "flops=[1000000000000000.0,1e+16]"],
    ]
    assert expand(["steps=5"], grids) == [["model=N", "steps=[5]"], ["model=M", "steps=[5]"]]


def test_odd_values_survive() -> None:
    grids = [{"study": "it's", "ema.rampup": None, "compile": True, "optimiser.betas": [[0.9, 0.99]]}]
    assert expand([], grids) == [['study="it\'s"', "ema.rampup=null", "compile=true", "optimiser.betas=[0.9,0.99]"]]


TEXTS = ["1e3", "007", "true", "null", "1_000", "-1", ".5", "inf", "a", "a:b", "1:2", "x@4", "[a]", "{a: 1}", "a,b", ""]


@pytest.mark.parametrize("text", [*TEXTS, "a=b", "~/x", 'it\'s "so"', "${seed}", "Größe", "a b", "\\"])
@pytest.mark.parametrize("key", ["study", "data.path", "model.options.token"])
def test_a_text_in_a_grid_stays_that_text(key: str, text: str) -> None:
    """As an element of a list, too."""
    parser = OverridesParser.create()
    ((one,),) = expand([], [{key: text}])
    ((many,),) = expand([], [{key: [[text, "b"]]}])
    assert parser.parse_override(one).value() == text
    assert parser.parse_override(many).value() == [text, "b"]


def test_texts_of_other_fields_are_read_as_on_a_command_line() -> None:
    grid = {"seed": "7", "compile": "true", "ema.rampup": "null", "model": "dit/N-2", "steps": ["1e3"]}
    assert expand([], [grid]) == [["seed=7", "compile=true", "ema.rampup=null", "model=dit/N-2", "steps=[1e3]"]]


@pytest.mark.parametrize(
    ("key", "instead"),
    [("partition", "resources.partition"), ("timeout_min", "resources.hours"), ("wait", "give it there")],
)
def test_a_launchers_option_in_a_grid_is_refused(key: str, instead: str) -> None:
    """It was dropped: a launcher is the whole command's."""
    with pytest.raises(UserError, match=rf"hydra.launcher.{key} is for a whole command.*{instead}"):
        expand([], [{"model": "N", f"hydra.launcher.{key}": ["high"]}])


@pytest.mark.parametrize("grids", [["model"], [{"model": []}]])
def test_what_is_no_grid_is_refused(grids: list[Any]) -> None:
    with pytest.raises(UserError, match="grids"):
        expand([], grids)


@given(
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True),
    steps=st.lists(st.integers(1, 10**7), min_size=1, max_size=5, unique=True),
    rates=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=3, unique=True),
)
def test_the_number_of_choices_is_the_product_without_steps(
    seeds: list[int], steps: list[int], rates: list[float]
) -> None:
    choices = expand([], [{"seed": seeds, "steps": steps, "optimiser.lr": rates}])
    assert len(choices) == len(seeds) * len(rates)
    assert all(choice[-1] == f"steps=[{','.join(map(str, steps))}]" for choice in choices)
    assert {float(choice[1].partition("=")[2]) for choice in choices} == set(rates)
