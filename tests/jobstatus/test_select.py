"""Which rows the words of a command line choose, for the table and for all that is done to rows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from fcdm import status
from fcdm.config.schema import FCDMConfig
from fcdm.jobs.job import EVALUATE
from fcdm.jobstatus.actions import cancel, retry_failed
from fcdm.jobstatus.collect import Looker
from fcdm.jobstatus.rows import StatusRow
from fcdm.jobstatus.select import select
from fcdm.runs.identity import science
from tests.support.status_world import OTHER, PROTOCOL, World, config

A, B, C = "N-digits-8px-0000000a", "N-digits-8px-0000000b", "dit-N-2-digits-8px-0000000c"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two runs of N, of two seeds, and one of dit/N-2; the study `s` asks for all, `t` for one of them."""
    world = World(tmp_path)
    for name, model, seed in ((A, "N", 0), (B, "N", 1), (C, "dit/N-2", 0)):
        folder = world.run(name, step=50)
        asked = config(seed=seed)
        asked.model = FCDMConfig(name=model, width=16, blocks=[1, 1, 2, 1, 1])
        asked.optimiser.lr = 1e-4 if seed else 0.003
        (folder / "config.yaml").write_text(yaml.safe_dump(science(asked)))
    world.study("s", dict.fromkeys((A, B, C), (100, 200)))
    world.study("t", {B: (200, 400)})
    return world


def rows(world: World, *words: str) -> list[StatusRow]:
    selection = select(world.runs, words)
    return selection.rows(world.looker.look(selection.asked, world.now).rows)


def chosen(world: World, *words: str) -> list[tuple[str, int]]:
    return [(row.run[-1], row.budget) for row in rows(world, *words)]


ALL = [("a", 100), ("a", 200), ("b", 100), ("b", 200), ("b", 400), ("c", 100), ("c", 200)]

CHOICES: dict[str, Sequence[tuple[str, int]]] = {
    "": ALL,
    "t": [("b", 200), ("b", 400)],
    "s t": ALL,
    "study=*": ALL,
    A: ALL[:2],
    "0000000b": ALL[2:5],
    "N-digits-8px": ALL[:5],
    "N-*": ALL[:5],
    "*c run=*a": [*ALL[:2], *ALL[5:]],
    "t N-*": [("b", 200), ("b", 400)],
    "model=N": ALL[:5],
    "model=N,dit/N-2": ALL,
    "model=dit/*": ALL[5:],
    "seed=1": ALL[2:5],
    "seed=0 model=N": ALL[:2],
    "seed=0 seed=1 model=N steps=200": [("a", 200), ("b", 200)],
    "steps=100,400 seed=1": [("b", 100), ("b", 400)],
    "steps=[100,400] seed=1": [("b", 100), ("b", 400)],
    "protocol=ddim25-* steps=400": [("b", 400)],
    "optimiser.lr=1e-4": ALL[2:5],
    "optimiser.lr=0.00010": ALL[2:5],
    "model.blocks=[1,1,2,1,1] model.grn=True seed=1": ALL[2:5],
    "init_from=null steps=400": [("b", 400)],
    "data=digits objective=ddpm steps=400": [("b", 400)],
}


@pytest.mark.parametrize("words", CHOICES)
def test_words_choose(world: World, words: str) -> None:
    assert chosen(world, *words.split()) == CHOICES[words]


def test_a_run_by_its_path_as_a_shell_completes_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(world, f"{world.runs}/{A}/") == ALL[:2]
    monkeypatch.chdir(world.runs.parent)
    assert chosen(world, f"runs/{A}/") == ALL[:2]


def test_states_and_jobs_narrow_what_is_named(world: World) -> None:
    a, b, c = world.launch(A, B, C)
    world.scheduler.fail(a)
    world.scheduler.start(b)
    assert chosen(world, "failed") == ALL[:2]
    assert chosen(world, "failed", "state=running") == [*ALL[:2], ("b", 100), ("b", 200)]
    assert chosen(world, "not-submitted") == [("b", 400)], "the job was not asked for it"
    assert chosen(world, "not submitted") == [("b", 400)]
    assert chosen(world, "failed", "seed=1") == []
    assert chosen(world, b) == [("b", 100), ("b", 200)]
    assert chosen(world, a, c) == [*ALL[:2], *ALL[5:]]
    assert chosen(world, a.partition("_")[0], "waiting") == ALL[5:], "a whole array"
    world.evaluate(B, 100)
    world.evaluate(B, 200)
    assert chosen(world, b, "done") == [("b", 100), ("b", 200)], "a job whose work is done"


def test_what_only_a_job_file_keeps(world: World) -> None:
    world.job_file(A, steps=10)
    path = world.job_file(A)
    content = json.loads(path.read_text())
    content["parts"][0]["resources"]["gpus"] = 7
    path.write_text(json.dumps(content))
    world.study("u", {A: (100,)}, protocols=(PROTOCOL, OTHER))
    assert chosen(world, "resources.gpus=7", "u") == [("a", 100), ("a", 100)]
    found = rows(world, "u", "evaluation.sampling_steps=10")
    assert [(row.run, row.protocol) for row in found] == [(A, OTHER)]


def test_a_word_may_be_told_what_it_is(world: World) -> None:
    world.study("failed", {A: (100,)})
    assert chosen(world, "failed") == [("a", 100)]
    assert chosen(world, "state=failed") == []
    assert chosen(world, "state=failed,not-submitted", "study=t") == [("b", 200), ("b", 400)]


SAID = {
    "faild": "'faild' is no study, run, state, key=value or SLURM job in .*: did you mean failed?",
    "N": "did you mean 'N-\\*' or model=N?",
    "state=faild": "state=faild is not known: did you mean failed?",
    "run=N-digits-8px-0000000f": "run=N-digits-8px-0000000f is none of these: did you mean N-digits-8px-0000000",
    "study=u": "no study 'u' in .*; there: s, t",
    "t 0000000a": "'0000000a' is no study, run",
    "model=M": "no run here has model=M: say one of N, dit/N-2",
    "optimizer.lr=1": "no run here says optimizer.lr: did you mean optimiser.lr?",
    "modell=N": "no run here says modell: did you mean model",
    "99_1": "no SLURM job 99_1 of these runs: did you mean 1_1",
    "job=x": "no SLURM job x of these runs",
}


@pytest.mark.parametrize("words", SAID)
def test_a_word_that_matches_nothing_is_one_line_with_the_nearest(
    world: World, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world.launch(A, B)
    assert world.runs.is_dir()
    world.looker = Looker(world.runs, lambda conf: world.scheduler)
    assert status.main([*words.split(), "--runs", str(world.runs)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert re.search(SAID[words], err), err


def test_cancel_and_retry_take_what_is_chosen_and_nothing_else(world: World) -> None:
    a, b, c = world.launch(A, B, C)
    world.scheduler.start(b)
    (evaluator,) = world.launch(B, work=EVALUATE, after=b)
    for job in (a, c):
        world.scheduler.fail(job)
    selection = select(world.runs, ["seed=0", "model=N"])
    done = retry_failed(world.looker, selection.asked, selection.rows)
    assert [line.split()[-1] for line in done.lines] == [A]
    selection = select(world.runs, [c])
    done = retry_failed(world.looker, selection.asked, selection.rows)
    assert [line.split()[-1] for line in done.lines] == [C]
    assert cancel(world.looker, rows(world, "waiting", C)).lines == [f"cancelled job {world.ids(C)[-1]} of {C}"]
    assert cancel(world.looker, rows(world, evaluator)).lines == [f"cancelled job {evaluator} of {B}"]
    assert world.scheduler.queue()[b].state == "RUNNING", "the training of the same rows"


def test_nothing_chosen_is_said_with_what_there_is(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(["failed", "--runs", str(world.runs), "model=N"]) == 0
    assert capsys.readouterr().out == "no row for failed model=N: there is 5 not submitted\n"
    assert status.main(["failed", f"runs_dir={world.runs}", "--json", "t"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_run_without_its_folder_is_chosen_by_name(world: World) -> None:
    world.study("gone", {"M-digits-8px-0000000d": (100,)})
    assert chosen(world, "M-*") == [("d", 100)]
    assert chosen(world, "gone", "M-digits-8px") == [("d", 100)]
    assert rows(world, "M-*")[0].state == "not submitted"
