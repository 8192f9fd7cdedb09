"""Hundreds of runs on a screen: totals first, groups, and what needs a look."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from fcdm import status
from fcdm.jobstatus.collect import Looker
from fcdm.jobstatus.status_table import screen
from tests.support.status_world import World

MODELS = ("N", "M", "dit/N-2", "dit/M-2")


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """500 runs of four models at two resolutions: most are done, some wait, a few run or failed."""
    world = World(tmp_path)
    names = []
    for number in range(500):
        name = f"{MODELS[number % 4].replace('/', '-')}-digits-{8 * (1 + number % 2)}px-{number:08x}"
        names.append(name)
        folder = world.runs / name
        for part in ("jobs", "evaluations"):
            (folder / part).mkdir(parents=True)
        facts = {"id": name, "model": MODELS[number % 4], "data": "digits", "resolution": 8 * (1 + number % 2)}
        (folder / "run.json").write_text(json.dumps(facts))
        if number >= 60:
            world.evaluate(name, 100)
    world.study("s", dict.fromkeys(names, (100,)))
    jobs = world.launch(*names[:60])
    for job in jobs[:10]:
        world.scheduler.fail(job, "1:0")
    for name in names[:9]:
        (world.runs / name / "log.txt").write_text(f"RuntimeError: {'a long story ' * 5}\n")
    for job in jobs[10:20]:
        world.scheduler.start(job)
    monkeypatch.setattr(status, "Looker", lambda runs_dir: Looker(runs_dir, lambda conf: world.scheduler))
    monkeypatch.chdir(tmp_path)
    return world


TOTAL = "500 runs: 440 done, 10 running, 40 waiting, 10 failed"


def test_a_pipe_has_a_page_with_the_totals_first(many: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(["s"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert lines[0] == TOTAL
    assert lines[2].split() == ["model", "data", "state", "rows"]
    assert lines[3].split()[:5] == ["N", "digits", "8px", "failed", "3"]
    assert "RuntimeError: a long story" in lines[3]
    shown = [line for line in lines if " 100  failed" in line]
    assert len(shown) == 10, "all that failed, before anything else"
    assert all("log: runs/" in line for line in shown)
    assert any(line.startswith("... and 4") and line.endswith(" more rows: --all shows them") for line in lines)
    assert any("--retry-failed" in line for line in lines)


def test_all_rows_where_that_is_asked(many: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(["s", "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("-digits-" in line.split("  ")[0] for line in lines) == 500
    assert status.main(["s", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 500
    assert status.main(["s", "failed"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(" 100  failed" in line for line in lines) == 10, "a choice of few is shown as it is"


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 40), (200, 50), (60, 12)])
def test_a_screen_is_not_overrun(many: World, width: int, height: int) -> None:
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=True, color_system=None)
    console.print(screen(many.look(), many.runs, console, below=3))
    lines = out.getvalue().splitlines()
    assert len(lines) <= height - 3 or height < 15
    assert lines[0].startswith(TOTAL[: width - 1])
    assert max(map(len, lines)) <= width
    if height >= 24:
        assert any("failed" in line and "-digits-" in line for line in lines)


def test_the_command_in_a_terminal_fills_one_screen(
    many: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(
        status, "Console", lambda: Console(file=out, width=100, height=30, force_terminal=True, color_system=None)
    )
    assert status.main(["s"]) == 0
    lines = out.getvalue().splitlines()
    assert len(lines) <= 30
    assert lines[0] == TOTAL
    assert "logs: runs/<run>/log.txt" in [line.strip() for line in lines]
