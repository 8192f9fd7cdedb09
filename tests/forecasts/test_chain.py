"""The ledger's chain on disk: written whole or not at all, and what a hand has done to it is told."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fcdm.errors import UserError
from fcdm.forecasts.chain import append, entry_path, publish, read_ledger
from fcdm.forecasts.entries import ForecastWithdrawal
from fcdm.laws.predictive import Predictive
from fcdm.runs.checkpoints import digest
from tests.support.commands import environment
from tests.support.forecast_entries import an_entry

WRITER = """
import sys
from pathlib import Path
from fcdm.forecasts import chain
from tests.support.forecast_entries import an_entry
exec(sys.argv[4])
for number in range(int(sys.argv[2])):
    chain.append(Path(sys.argv[1]), an_entry(run=sys.argv[3]))
    print(number, flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three forecasts, the second of which is withdrawn."""
    for run in "abc":
        append(tmp_path / "forecasts", an_entry(run=run))
    append(tmp_path / "forecasts", ForecastWithdrawal(2, "its data were wrong"))
    return tmp_path / "forecasts"


def writer(folder: Path, count: int, run: str, first: str = "") -> subprocess.Popen[str]:
    """first: what it does before."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", WRITER, str(folder), str(count), run, first]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)


def test_what_is_read_is_what_was_written(folder: Path) -> None:
    ledger = read_ledger(folder)
    assert [entry.number for entry in ledger.entries] == [1, 2, 3, 4]
    first = ledger.forecast(1)
    assert replace(first, number=0, time=0.0, hash="") == an_entry(run="a")
    assert first.says == an_entry(run="a").says != an_entry(11.0, run="a").says
    assert ledger.withdrawn[2].why == "its data were wrong"
    normal = append(folder, an_entry(new_run=Predictive.log_t(9.0, 0.1)))
    assert math.isinf(read_ledger(folder).forecast(5).new_run.freedom)
    assert "Infinity" in entry_path(folder, normal.number).read_text(), "JSON that every parser reads"
    ledger = read_ledger(folder)
    with pytest.raises(UserError, match=r"entry 4 is no forecast of this ledger; forecasts: 1, 2, 3, 5"):
        ledger.forecast(4)
    assert read_ledger(folder / "elsewhere").entries == ()


def edited(folder: Path) -> None:
    path = entry_path(folder, 2)
    path.write_text(path.read_text().replace('"steps": 800', '"steps": 900'))


def edited_with_its_hash(folder: Path) -> None:
    content = json.loads(entry_path(folder, 2).read_text())
    del content["hash"]
    content["steps"] = 900
    entry_path(folder, 2).write_text(json.dumps({**content, "hash": digest(content)}))


def inserted(folder: Path) -> None:
    content = json.loads(entry_path(folder, 1).read_text())
    entry_path(folder, 5).write_text(json.dumps(content))


def of_no_kind(folder: Path) -> None:
    content = json.loads(entry_path(folder, 4).read_text())
    content |= {"number": 5, "previous": content.pop("hash"), "what": "guess"}
    entry_path(folder, 5).write_text(json.dumps({**content, "hash": digest(content)}))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (edited, "000002.json was changed since it was written"),
        (edited_with_its_hash, "000003.json does not follow the entry before it"),
        (inserted, "000005.json does not follow the entry before it"),
        (of_no_kind, "000005.json lacks or garbles 'guess'"),
        (lambda folder: entry_path(folder, 2).unlink(), "000002.json is missing, and 000003.json follows it"),
        (lambda folder: entry_path(folder, 4).unlink(), r"000004.json is missing: .*head.json counts 4 entries"),
        (lambda folder: entry_path(folder, 3).write_text("{"), "000003.json is damaged: it holds no JSON object"),
        (lambda folder: (folder / "head.json").unlink(), "head.json is missing, and entries are there"),
        (lambda folder: (folder / "head.json").write_text("{}"), "head.json lacks or garbles 'entries'"),
        (lambda folder: shutil.copy(entry_path(folder, 1), entry_path(folder, 2)), "000002.json does not follow"),
    ],
)
def test_what_a_hand_has_done_is_one_line_and_nothing_more_is_written(
    folder: Path, harm: Callable[[Path], object], said: str
) -> None:
    harm(folder)
    before = sorted(path.name for path in folder.iterdir())
    for act in (read_ledger, lambda folder: append(folder, an_entry())):
        with pytest.raises(UserError, match=said) as caught:
            act(folder)
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_whole_chain_made_anew_is_met_by_the_head_and_by_what_was_published(folder: Path, tmp_path: Path) -> None:
    public = tmp_path / "results" / "forecasts"
    assert publish(folder, public) == 4
    assert [entry.hash for entry in read_ledger(public).entries] == [
        entry.hash for entry in read_ledger(folder).entries
    ]
    append(folder, an_entry(run="d"))
    assert (publish(folder, public), publish(folder, public)) == (1, 0)
    for path in folder.glob("*.json"):
        path.unlink()
    for run in "xyzuvw":
        append(folder, an_entry(run=run))
    with pytest.raises(UserError, match=r"000001.json is another entry than .*: one of the two was made anew"):
        publish(folder, public)
    assert len(read_ledger(public).entries) == 5
    with pytest.raises(UserError, match=r"has 5 entries and .* 0: the chain goes on there; .* brings them here"):
        publish(tmp_path / "none", public)


@pytest.mark.parametrize("locks", ["", "import contextlib\nchain.locked = contextlib.nullcontext"])
def test_processes_that_write_at_once_make_one_chain(tmp_path: Path, locks: str) -> None:
    """Also on a file system whose locks do not hold."""
    writers = [writer(tmp_path, 12, run, locks) for run in "ab"]
    assert [one.wait(60) for one in writers] == [0, 0]
    runs = [entry.run.id[0] for entry in read_ledger(tmp_path).forecasts]
    assert (len(runs), runs.count("a")) == (24, 12)
    for one in writers:
        assert one.stdout is not None
        one.stdout.close()


def test_a_writer_that_is_killed_leaves_whole_entries_and_the_chain_goes_on(tmp_path: Path) -> None:
    one = writer(tmp_path, 1_000_000, "a")
    assert one.stdout is not None
    for _ in range(8):
        one.stdout.readline()
    one.kill()
    one.wait(60)
    one.stdout.close()
    (tmp_path / ".tmp-000009.json-1-00").write_text('{"half": ')  # as a death between the two calls leaves it
    count = len(read_ledger(tmp_path).entries)
    assert count >= 8
    assert append(tmp_path, an_entry(run="b")).number == count + 1
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_death_between_an_entry_and_the_head_costs_nothing(folder: Path) -> None:
    head = (folder / "head.json").read_text()
    append(folder, an_entry(run="d"))
    (folder / "head.json").write_text(head)
    assert append(folder, an_entry(run="e")).number == 6
    assert len(read_ledger(folder).entries) == 6


def test_reading_and_writing_need_nothing_heavy() -> None:
    heavy = ("torch", "mlflow", "pandas", "hydra", "numpy", "scipy")
    code = (
        f"import sys, fcdm.forecasts.ledger_table, fcdm.forecasts.law_file; assert not {{*{heavy}}} & {{*sys.modules}}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_time_is_that_of_writing(folder: Path) -> None:
    times = [entry.time for entry in read_ledger(folder).entries]
    assert times == sorted(times)
    assert abs(times[-1] - time.time()) < 60
