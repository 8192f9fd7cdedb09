"""`fcdm.status --withdraw`: what nobody wants any more leaves tables, counts and kept checkpoints, and nothing else."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from fcdm import status
from fcdm.errors import UserError
from fcdm.jobstatus.withdraw import withdraw, withdrawal_of
from fcdm.runs.folder import Run
from fcdm.runs.reader import budgets_asked_of, list_studies
from tests.support.status_world import OTHER, PROTOCOL, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def take_back(world: World, study: str | None = "s") -> list[str]:
    overview = world.look(study)
    return withdraw(world.looker, overview, withdrawal_of(overview))


def command(world: World, *words: str) -> int:
    return status.main([*words, "--runs", str(world.runs)])


def test_what_is_not_done_is_withdrawn_and_the_study_is_finished(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here a budget that training has passed without a checkpoint: lost for good."""
    world.run(step=300, evaluated=[200])
    world.study()
    assert world.states() == ["lost", "done"]
    assert command(world, "s", "--withdraw") == 1
    assert "--withdraw would take back 1 request of study s: say --yes as well" in capsys.readouterr().err
    assert world.states() == ["lost", "done"]
    assert command(world, "s", "--withdraw", "--yes") == 0
    assert capsys.readouterr().out.splitlines() == [
        "withdrawn from study s: 1 request, of N",
        "the same command asks for them again",
    ]
    assert world.states() == ["done"]
    (study,) = list_studies(world.runs)
    assert study.budgets("N") == (200,)
    assert command(world, "s") == 0
    assert "1 done" in capsys.readouterr().out
    assert command(world, "s", "--withdraw", "--yes") == 0
    assert "nothing to withdraw" in capsys.readouterr().out


def test_a_withdrawn_budgets_checkpoint_is_kept_no_longer(world: World) -> None:
    folder = world.run(step=300, kept=[100, 200])
    world.study()
    world.study("t", {"N": (200,)})
    assert budgets_asked_of(Run(folder, "N")) == {100, 200}
    take_back(world)
    assert budgets_asked_of(Run(folder, "N")) == {200}, "another study wants it"
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-00000100", "step-00000200"]


def test_a_study_without_requests_is_no_study(world: World) -> None:
    world.run()
    world.study()
    world.study("t")
    lines = take_back(world)
    assert "study s has no request left, and is a study no more; the runs' folders stay" in lines
    assert [study.name for study in list_studies(world.runs)] == ["t"]
    assert (world.runs / "N" / "run.json").exists()
    assert world.states("t") == ["not submitted"] * 2


def test_what_is_on_its_way_is_cancelled_first(world: World) -> None:
    """All or nothing; a run that another study waits for is not in the way."""
    world.run("N")
    world.run("M")
    world.study(asked={"N": (100, 200), "M": (100,)})
    (job,) = world.launch("N")
    before = (world.runs / "studies" / "s.json").read_bytes()
    with pytest.raises(UserError, match=rf"nothing is withdrawn: N, step 100, is waiting as {job}; and 1 more: cancel"):
        take_back(world)
    assert (world.runs / "studies" / "s.json").read_bytes() == before
    world.study("t", {"N": (100, 200)})
    assert "withdrawn from study s: 3 requests, of M, N" in take_back(world)
    with pytest.raises(UserError, match="cancel it first"):
        take_back(world, "t")
    world.scheduler.cancel([job])
    take_back(world, "t")
    assert list_studies(world.runs) == []


def test_where_the_queue_cannot_be_asked_nothing_is_withdrawn(world: World) -> None:
    world.run()
    world.study()
    world.launch("N")
    world.scheduler.down = "SLURM does not answer"
    with pytest.raises(UserError, match=r"cannot be told \(SLURM does not answer\)"):
        take_back(world)
    assert len(world.rows()) == 2


def test_one_protocol_of_a_run_and_rows_that_a_caller_selects(world: World) -> None:
    world.run(evaluated=[100])
    world.study(protocols=(PROTOCOL, OTHER))
    overview = world.look()
    rows = [row for row in overview.rows if row.protocol == PROTOCOL]
    asked = withdrawal_of(dataclasses.replace(overview, rows=rows))
    assert asked.count == 1, "what is done stays"
    withdraw(world.looker, overview, asked)
    requests = json.loads((world.runs / "studies" / "s.json").read_text())["requests"]
    assert [(one["protocol_id"], one["budgets"]) for one in requests] == [(PROTOCOL, [100]), (OTHER, [100, 200])]


def test_words_choose_what_is_withdrawn(world: World) -> None:
    world.run("N")
    world.run("M")
    world.study("s", {"N": (100, 200), "M": (100,)})
    assert command(world, "s", "N", "--withdraw", "--yes") == 0
    (study,) = list_studies(world.runs)
    assert {request.run for request in study.requests} == {"M"}


def test_without_a_study_it_is_all_of_them(world: World) -> None:
    world.run()
    world.study("s", {"N": (100,)})
    world.study("t", {"N": (100, 200)})
    lines = take_back(world, None)
    assert lines[0] == "withdrawn from study s: 1 request, of N"
    assert "withdrawn from study t: 2 requests, of N" in lines
    assert not list((world.runs / "studies").glob("*.json"))
