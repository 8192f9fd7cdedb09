"""Cooldown branches as configurations: which runs they are, from where to where they cool down, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcdm.config.schema import NEVER, Config, OptimiserConfig
from fcdm.engine.train_step import rate_share
from fcdm.errors import UserError
from fcdm.jobs.make_jobs import make_jobs
from fcdm.runs.branches import one_branch
from fcdm.runs.identity import parent_id, run_id, science
from fcdm.sweep.points import configs_of
from tests.support.commands import composed, composing


def asked(*words: str) -> list[Config]:
    with composing() as composer:
        return configs_of(composer, [["model=N", *words]])


def test_each_budget_is_a_run_that_leaves_one_trajectory() -> None:
    parent, *branches = asked("steps=[100,205]", "cooldown=0.1")
    assert (parent.steps, parent.evaluation.where, parent.optimiser.cooldown) == ([90, 185], NEVER, None)
    # round(20.5) is 20: of two equally near numbers the even one.
    assert [(one.steps, one.optimiser.cooldown, one.evaluation.weights) for one in branches] == [
        ([100], [90, 100], "ema"),
        ([100], [90, 100], "raw"),
        ([205], [185, 205], "ema"),
        ([205], [185, 205], "raw"),
    ]
    assert {one.cooldown for one in (parent, *branches)} == {None}


def test_the_parents_id_is_that_of_the_run_whose_rate_goes_on() -> None:
    """Known before anything is trained, and the same whoever asks for it: the constant-rate study's run."""
    (constant,) = asked("steps=100")
    parent, branch, _ = asked("steps=100", "cooldown=0.1")
    for config in (constant, parent, branch):
        config.data.checksum = "0"
    assert run_id(science(parent)) == run_id(science(constant)) == parent_id(science(branch))
    assert run_id(science(branch)) != run_id(science(parent))
    assert parent_id(science(constant)) is None


def test_the_share_that_was_asked_for_is_kept_and_is_not_the_run() -> None:
    (_, first, _), (_, second, _) = asked("steps=20", "cooldown=0.1"), asked("steps=20", "cooldown=0.11")
    assert (first.optimiser.cooldown, first.optimiser.cooldown_share) == ([18, 20], 0.1)
    first.data.checksum = second.data.checksum = "0"
    assert run_id(science(first)) == run_id(science(second))


def test_jobs_are_one_for_each_run_and_the_parents_come_first() -> None:
    with composing() as composer:
        words = ["model=N", "steps=[100,200]"]
        jobs = make_jobs(configs_of(composer, [[*words, "cooldown=0.1"], words]))
    assert [job.parent_id is None for job in jobs] == [True, False, False]
    assert [(part.evaluates, part.budgets) for part in jobs[0].parts] == [(True, [100, 200]), (False, [90, 180])]
    assert all(part.config.keep_steps == [90, 100, 180, 200] for part in jobs[0].parts)
    assert {job.parent_id for job in jobs[1:]} == {jobs[0].id}
    assert [part.config.evaluation.weights for part in jobs[1].parts] == ["ema", "raw"]
    assert jobs[1].name.startswith("N-digits-8px-cooldown-90-100-")


@pytest.mark.parametrize(
    ("words", "weights"),
    [
        (["evaluation.weights=raw"], ["raw"]),
        (["evaluation.weights=ema"], ["ema"]),
        (["ema.decay=0"], ["ema"]),
    ],
)
def test_weights_that_were_asked_for_are_all_that_is_evaluated(words: Sequence[str], weights: list[str]) -> None:
    _, *branches = asked("steps=100", "cooldown=0.1", *words)
    assert [one.evaluation.weights for one in branches] == weights


def test_the_averages_of_a_run_are_tracked_by_the_parent_alone() -> None:
    parent, branch, _ = asked("steps=100", "cooldown=0.1", "power_ema.sigma_rel=[0.05,0.1]")
    assert parent.power_ema.sigma_rel == [0.05, 0.1]
    assert branch.power_ema.sigma_rel == []


def test_budgets_in_flops_have_branches_too() -> None:
    parent, *branches = asked("flops=[1e12,2e12]", "cooldown=0.25", "evaluation.weights=ema")
    assert [one.steps for one in branches] == [[719], [1439]]
    assert parent.steps == [719 - 180, 1439 - 360]  # 179.75 and 359.75


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cooldown=1"], "cooldown=1 is longer than the run: it is a share of each budget, such as cooldown=0.1"),
        (["cooldown=200"], "cooldown=200 is longer than the run"),
        (["cooldown=0"], "cooldown=0 is no share of a run: say cooldown=0.1"),
        (["cooldown=-0.1"], "cooldown=-0.1 is no share of a run"),
        (["cooldown=nan"], "cooldown=nan is no share of a run"),
        (["cooldown=true"], "cooldown=True is no share of a run"),
        (["cooldown=long"], "cooldown=long is no share of a run"),
        (["cooldown=[0.1,0.2]"], "say cooldown=0.1, or cooldown=0.1,0.2 for both"),
        (["cooldown=0.001"], "cooldown=0.001 of steps=100 leaves no step to cool down in"),
        (["cooldown=0.999"], "cooldown=0.999 of steps=100 leaves no step before it"),
        (["cooldown=0.5", "optimiser.warmup_steps=60"], "begins at step 50, before the warm-up is over"),
        (["cooldown=0.1", "evaluation.weights=power:0.1"], "is made of snapshots along a whole run"),
        (["evaluation.where=never"], "evaluation.where=never is not known: say one of inline, job"),
        (
            ["optimiser.cooldown=[90,100]"],
            "optimiser.cooldown=[90,100] has no effect on a command line: cooldown=0.1 sets it, of each",
        ),
    ],
)
def test_what_cannot_be_is_one_line(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as refused:
        asked("steps=100", *words)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_one_run_has_one_end() -> None:
    with pytest.raises(UserError, match=r"cooldown=0\.1 of steps=\[100,200\] is 2 runs, each with its own end: say -m"):
        one_branch(composed("model=N", "steps=[100,200]", "cooldown=0.1"), [])
    with pytest.raises(UserError, match=r"power_ema\.sigma_rel has no effect on one branch"):
        one_branch(composed("model=N", "steps=100", "cooldown=0.1", "power_ema.sigma_rel=[0.1]"), [])
    branch, raw = one_branch(composed("model=N", "steps=100", "cooldown=0.1"), [])
    assert (branch.optimiser.cooldown, raw.evaluation.weights) == ([90, 100], "raw")


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 20), st.booleans())
def test_the_rate_is_the_parents_and_then_falls_in_equal_parts_to_nothing(
    before: int, length: int, warmup: int, falling: bool
) -> None:
    start, end = warmup + before, warmup + before + length
    going_on = OptimiserConfig(lr=1.0, warmup_steps=warmup)
    if falling:
        going_on = dataclasses.replace(going_on, schedule="inverse_sqrt", decay_from=max(1, warmup))
    cooled = dataclasses.replace(going_on, cooldown=[start, end])
    for step in range(end):
        expected = rate_share(going_on, step) * min(1.0, (end - step) / length)
        assert rate_share(cooled, step) == pytest.approx(expected, rel=1e-12)
    assert rate_share(cooled, start - 1) == rate_share(going_on, start - 1)
    assert rate_share(cooled, end - 1) == pytest.approx(rate_share(going_on, end - 1) / length)
