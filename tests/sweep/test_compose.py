"""Composing quickly gives what Hydra composes: the same values, and for what is refused the same line."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fcdm.config.check import config_from
from fcdm.config.fast_config import NotExact, exactly
from fcdm.config.schema import Config
from fcdm.sweep.compose import Composer, configured
from fcdm.sweep.expand import expand
from fcdm.sweep.hydra_errors import one_line
from tests.support.commands import composing


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    """As the sweeper has it: a master config, composed with a launcher."""
    with composing("hydra/launcher=local") as found:
        yield found


def plainly(composer: Composer, choice: list[str]) -> dict[str, Any]:
    """What Hydra composes, unresolved."""
    composed = composer.loader.load_sweep_config(composer.master, choice)
    ours = OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])
    found = OmegaConf.to_container(ours)
    assert isinstance(found, dict)
    return found


def as_hydra_does(composer: Composer, choice: list[str]) -> Config:
    return configured(composer.loader.load_sweep_config(composer.master, choice), composer.said(choice))


def outcome(compose: Callable[[list[str]], Any], choice: list[str]) -> Any:
    """A config, or the line that a user sees instead."""
    try:
        return compose(choice)
    except Exception as error:
        return one_line(error)


CHOICES = [
    ["model=N"],
    ["model=S", "resolution=512"],  # data.path follows: data/imagenet-${resolution}
    ["resolution=512", "model=dit/S-2", "seed=7"],
    ["model=S", "data.path=null", "study=a"],
    ["model=N", "study=${model.name}-${seed}", "seed=3"],
    ["model=N", "steps=[100,200]", "optimiser.lr=1e-3"],
    ["model=N", "steps=100", "optimiser.betas=[0.9,0.95]"],
    ["model=N", "steps=7e5", "evaluation.samples=100"],
    ["model=N", "optimiser={lr: 1e-3, weight_decay: 0.1}"],
    ["model=N", "optimiser.lr=1", "optimiser={weight_decay: 0.1}", "optimiser.lr=2"],
    [
        "model=N",
        "evaluation={samples: 50, where: job, resources: {hours: 2}}",
    ],  # a mapping for a group's key is a value
    ["model=N", "evaluation=job", "evaluation.samples=50", "evaluation.resources.gpus=2"],
    ["evaluation.samples=50", "model=N", "evaluation=job"],
    ["model=N", "resources=gpu4", "resources.hours=2"],
    ["model=N", "model.width=24", "model.blocks=[1,1,1,1,1]"],
    ["model.blocks=[1,1,1,1,1]", "model=N", "recipe=paper"],
    ["model=N", "ema.rampup=null", "micro_batch=null", "threads=2"],
    ["model=N", "compile=yes", "activation_checkpointing=TRUE", "model.grn=false"],
    ["model=N", "study='it\\'s [odd], {really}: \"so\"'", "runs_dir=/tmp/a b"],
    ["model=N", "study=1", "runs_dir=2.50"],
    ["model=N", "seed=1", "seed=2"],
    ["model=N", "evaluation.samples=5", "++evaluation.samples=6"],
    ["model=N", "++evaluation.samples=6", "evaluation.samples=5"],
    ["model=N", "~evaluation.clip_denoised"],
    ["model=N", "seed=1", "~ema", "ema.decay=0.5"],
    ["+sweeps=digits", "model=N", "steps=[5]"],
    ["model=N", "steps=${seed}", "seed=9"],
    ["model=N", "data@other=digits"],
    ["model=N", "grids=[{model: N}, {model: M, steps: [1, 2]}]"],
    ["model=N", "mlflow_uri=http://localhost:5000/a?b=c"],
    ["model=N", "checkpoint.every_minutes=0.5", "checkpoint.every_steps=10", "checkpoint.keep=1"],
    ["model=S", "data.flip=none", "data.classes=10", "precision=fp32"],
]

REFUSED = [
    ["model=Q"],
    ["model=dit/N-3"],
    ["model=N", "stepz=3"],
    ["model=N", "+stepz=3"],
    ["model=N", "++optimiser.beta=3"],
    ["model=N", "optimiser.lrr=3"],
    ["model=N", "model.widht=3"],
    ["model=N", "model.depth=3"],
    ["model=N", "batch_size=none"],
    ["model=N", "optimiser.lr=oops"],
    ["model=N", "optimiser=null"],
    ["model=N", "optimiser=3"],
    ["model=N", "optimiser={lrr: 3}"],
    ["model=N", "seed=[1,2]"],
    ["model=N", "seed.x=1"],
    ["model=N", "model.blocks=4"],
    ["model=N", "model.blocks=[a]"],
    ["model=N", "resolution=null"],
    ["model=N", "compile=maybe"],
    ["model=N", "steps=0"],
    ["model=N", "steps=${nowhere}"],
    ["model=N", "data.path=${oc.env:NO_SUCH_VARIABLE}"],
    ["model=N", "study=${study}"],
    ["model=N", "evaluation=nowhere"],
    ["model=N", "optimiser/lr=3"],
    ["model=N", "seed@x=3"],
    ["model=N", "~seedd"],
    ["model=N", "optimiser.lr=???"],
    ["model=N", "runs_dir="],
    ["model=N", "hydra.nothing=3"],
    ["model=N", "threads=1.5"],
    ["model=N,M"],
]


@pytest.mark.parametrize("choice", [*CHOICES, *REFUSED], ids=" ".join)
def test_the_quick_way_is_hydras(composer: Composer, choice: list[str]) -> None:
    """Twice, after others of the same keys: copies are used again."""
    wanted = outcome(lambda choice: as_hydra_does(composer, choice), choice)
    for _ in range(2):
        assert outcome(composer.config, choice) == wanted
    if choice in REFUSED:
        assert isinstance(wanted, str)
        assert "\n" not in wanted


@pytest.mark.parametrize("choice", CHOICES, ids=" ".join)
def test_unresolved_values_are_the_same_too(composer: Composer, choice: list[str]) -> None:
    def ours(choice: list[str]) -> dict[str, Any]:
        composed = OmegaConf.to_container(composer.composed(choice))
        assert isinstance(composed, dict)
        return {str(key): value for key, value in composed.items() if key != "hydra"}

    assert outcome(ours, choice) == outcome(lambda choice: plainly(composer, choice), choice)


VALUES = {
    "seed": st.one_of(st.integers(0, 99).map(str), st.sampled_from(["1.5", "null", "x", "[1]"])),
    "optimiser.lr": st.one_of(st.floats(1e-6, 1).map(repr), st.sampled_from(["1", "null", "x", "${ema.decay}"])),
    "optimiser.betas": st.sampled_from(["[0.9,0.99]", "[0,1]", "3", "[x]", "[]"]),
    "optimiser": st.sampled_from(["{lr: 1e-3}", "{weight_decay: 1}", "{x: 1}", "null"]),
    "ema.rampup": st.sampled_from(["null", "0.1", "1", "true"]),
    "steps": st.sampled_from(["5", "[5,6]", "[]", "x", "1e3", "${seed}", "{a: 1}"]),
    "study": st.sampled_from(["a", "1", "true", "null", "'a b'", "${seed}", "'${seed}'", "[a]", "'???'"]),
    "evaluation.samples": st.sampled_from(["5", "2", "0", "many"]),
    "evaluation": st.sampled_from(["job", "inline", "{samples: 5}", "nowhere"]),
    "model": st.sampled_from(["N", "dit/N-2", "{width: 8}"]),
    "model.width": st.sampled_from(["8", "12", "x"]),
    "+checkpoint.new": st.just("1"),
    "++checkpoint.keep": st.sampled_from(["1", "2"]),
    "checkpoint.keep": st.sampled_from(["1", "3"]),
}


@settings(max_examples=40)
@given(st.lists(st.sampled_from(sorted(VALUES)).flatmap(lambda k: VALUES[k].map(lambda v: f"{k}={v}")), max_size=5))
def test_any_order_of_any_values(composer: Composer, choice: list[str]) -> None:
    whole = ["model=N", *choice]
    wanted = outcome(lambda choice: as_hydra_does(composer, choice), whole)
    assert outcome(composer.config, whole) == wanted


def test_groups_are_composed_once_and_values_not_at_all(composer: Composer, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = Composer(composer.loader, composer.master)
    calls = []
    original = fresh.loader.load_sweep_config
    monkeypatch.setattr(
        fresh.loader, "load_sweep_config", lambda master, choice: (calls.append(choice), original(master, choice))[1]
    )
    choices = expand(["model=N,M", "seed=range(0,10)", "optimiser.lr=1e-3,2e-3", "steps=4,8"], [])
    configs = [fresh.config(choice) for choice in choices]
    assert calls == [["model=N"], ["model=M"]]
    assert len({(config.model.name, config.seed, config.optimiser.lr) for config in configs}) == 40
    assert all(config.steps == [4, 8] for config in configs)


# --- typed without OmegaConf -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def values(composer: Composer) -> dict[str, Any]:
    return dataclasses.asdict(composer.config(["model=N", "grids=[{model: N, steps: [1, 2]}]"]))


def test_a_composed_config_needs_no_conversion(values: dict[str, Any]) -> None:
    assert exactly(Config, values) == config_from(values)


def _paths(nested: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in nested.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from _paths(value, (*prefix, key))


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(allow_nan=False),
    st.sampled_from(["", "a", "1", "1.5", "true", "null", "???", "${seed}", "a${seed}", "dit"]),
    st.lists(st.one_of(st.integers(0, 3), st.floats(0, 1), st.sampled_from(["a", "${seed}"]), st.none()), max_size=3),
    st.dictionaries(st.sampled_from(["a", "lr", "gpus"]), st.integers(0, 3), max_size=2),
    st.just(object()),
)


@settings(max_examples=300)
@given(data=st.data(), remove=st.booleans())
def test_exact_or_left_to_omegaconf(values: dict[str, Any], data: st.DataObject, remove: bool) -> None:
    """Whatever is accepted quickly is what OmegaConf makes of it."""
    changed = copy.deepcopy(values)
    path = data.draw(st.sampled_from(sorted(_paths(values))))
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    if remove:
        del parent[path[-1]]
    else:
        parent[path[-1]] = data.draw(ODD)
    try:
        quick = exactly(Config, changed)
    except NotExact:
        return
    typed = OmegaConf.structured(Config)
    from fcdm.config.schema import FAMILIES

    typed.model = OmegaConf.structured(FAMILIES[changed["model"]["family"]])
    slow = OmegaConf.to_object(OmegaConf.merge(typed, changed))
    assert quick == slow
    assert repr(quick) == repr(slow)  # 1 is not 1.0, and True is not 1
