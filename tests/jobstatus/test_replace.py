"""`fcdm.status --replace`: what waits or runs goes on with other code, or as it was."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from fcdm import status
from fcdm.config.schema import Config
from fcdm.jobs.job import EVALUATE
from fcdm.jobs.make_jobs import make_jobs
from fcdm.jobs.record_study import record_study
from fcdm.jobstatus import replace as replacing
from fcdm.jobstatus.collect import Looker
from fcdm.slurm import submit as submitting
from fcdm.slurm.options import SlurmOptions
from fcdm.slurm.submit import submit
from tests.support.commands import composed
from tests.support.fake_scheduler import FakeScheduler

OLD, NEW = "0123456789abcdef", "fedcba9876543210"
COMMAND = ["python", "-m", "fcdm.train", "-m", "study=s"]


class Bench:
    """Launches on a SLURM in memory, whose code is a name; `python -m fcdm.status` about them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs = folder / "a folder" / "runs"
        self.scheduler = FakeScheduler()
        self.code = OLD
        monkeypatch.setattr(submitting, "take_snapshot", lambda runs_dir, models: self.runs / "code" / self.code)
        monkeypatch.setattr(replacing, "take_snapshot", lambda runs_dir, models: self.runs / "code" / self.code)
        monkeypatch.setattr(status, "Looker", lambda runs_dir: Looker(runs_dir, lambda conf: self.scheduler))

    def config(self, seed: int = 0, where: str = "inline", steps: tuple[int, ...] = (10, 20)) -> Config:
        base = composed("model=N")
        evaluation = dataclasses.replace(base.evaluation, where=where)
        return dataclasses.replace(
            base, seed=seed, steps=list(steps), runs_dir=str(self.runs), evaluation=evaluation, study="s"
        )

    def send(self, *configs: Config, command: list[str] = COMMAND, **options: object) -> list[list[str]]:
        """The SLURM jobs of each run."""
        jobs = make_jobs(configs)
        record_study(jobs, command)
        return [row.ids for row in submit(jobs, SlurmOptions(**options), self.scheduler, command)]  # type: ignore[arg-type]

    def status(self, *words: str) -> int:
        return status.main([*words, "--runs", str(self.runs)])

    def launches(self) -> list[Path]:
        return sorted((self.runs / "launches").glob("2*"), key=lambda path: path.stat().st_ctime_ns)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_new_jobs_follow_the_old_ones_which_are_ended(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    (first,), (second,), (third,) = bench.send(*(bench.config(seed) for seed in range(3)), array_parallelism=2)
    bench.scheduler.start(first)
    bench.scheduler.fail(third)
    before = bench.scheduler.submissions[0].script.read_text()
    bench.code = NEW
    assert bench.status("--replace", "--yes") == 0
    told = capsys.readouterr().out.splitlines()
    new = bench.scheduler.submissions[1]
    assert (new.array, new.dependency) == ("0,1", f"afterany:{first}:{second}")
    assert [line.partition(": ")[0] for line in told] == [
        f"submitted {new.id}_0",
        f"submitted {new.id}_1",
        *(f"cancelled job {job} of {run}" for job, run in zip((first, second), runs_of(bench), strict=False)),
    ]
    assert told[0].endswith(f", after {first}"), "not after the other run's"
    assert bench.scheduler.active() == [f"{new.id}_0", f"{new.id}_1"]
    after = new.script.read_text()
    assert OLD not in after
    changed = [(a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert [b.split("=")[0] for _, b in changed if "jobs/" not in b] == [
        "#SBATCH --chdir", "#SBATCH --output", "export PYTHONPATH",
    ]  # fmt: skip
    assert new.script.stat().st_mode & 0o777 == 0o600
    assert bench.status() == 0
    rows = capsys.readouterr().out.splitlines()[2:]  # after the totals
    assert [line.split()[4:6] for line in rows[:6:2]] == [
        ["waiting", f"{new.id}_0"], ["waiting", f"{new.id}_1"], ["failed", third]
    ]  # fmt: skip
    facts = [json.loads((launch / "launch.json").read_text()) for launch in bench.launches()]
    assert facts[1]["replaces"] == bench.launches()[0].name
    assert Path(facts[1]["code"]).name == NEW
    assert facts[1]["parallel"] == 2
    # Once more, when the new one has failed: it is a job as any other.
    bench.scheduler.fail(f"{new.id}_1")
    assert bench.status("--retry-failed") == 0
    assert {call.script for call in bench.scheduler.submissions[2:]} == {
        new.script,
        bench.scheduler.submissions[0].script,
    }


def runs_of(bench: Bench) -> list[str]:
    content = json.loads((bench.launches()[0] / "launch.json").read_text())
    return [name.split("/")[0] for name in content["arrays"][0]["jobs"]]


def test_evaluations_of_their_own_follow_the_new_training(bench: Bench) -> None:
    ((train, evaluate),) = bench.send(bench.config(where="job"))
    bench.scheduler.start(train)
    bench.code = NEW
    assert bench.status(train, "--replace", "--yes") == 0, "a job's run goes as a whole"
    again, last = bench.scheduler.submissions[2:]
    assert again.dependency == f"afterany:{train}"
    assert last.dependency == f"afterany:{train}:{evaluate}:{again.id}_0"
    works = [array["work"] for array in json.loads((again.script.parent / "launch.json").read_text())["arrays"]]
    assert works == ["train", EVALUATE]
    assert bench.scheduler.active() == [f"{again.id}_0", f"{last.id}_0"]


def test_what_the_script_waits_for_besides_is_kept(bench: Bench) -> None:
    ((job,),) = bench.send(bench.config(), dependency="afterok:77")
    bench.code = NEW
    assert bench.status("--replace", "--yes") == 0
    assert bench.scheduler.submissions[1].dependency == f"afterok:77,afterany:{job}"


@pytest.mark.parametrize("accept", [2, 3])
def test_all_or_nothing(bench: Bench, capsys: pytest.CaptureFixture[str], accept: int) -> None:
    ((first, second),) = bench.send(bench.config(where="job"))
    bench.code = NEW
    bench.scheduler.accept = accept
    files = sorted(bench.runs.rglob("*.*"))
    assert bench.status("--replace", "--yes") == 1
    assert capsys.readouterr().err.startswith("fcdm.status: nothing is replaced, and the jobs go on: Batch job sub")
    assert bench.scheduler.active() == [first, second]
    assert sorted(bench.runs.rglob("*.*")) == files
    bench.scheduler.accept, bench.scheduler.refuse = None, "Invalid account"
    assert bench.status("--replace", "--yes") == 1
    assert bench.scheduler.active() == [first, second]
    assert sorted(bench.runs.rglob("*.*")) == files


def test_a_controller_that_goes_down_meanwhile_is_not_denied(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    ((job,),) = bench.send(bench.config())
    bench.code = NEW
    bench.scheduler.keeps = {job: "SLURM does not answer"}
    assert bench.status("--replace", "--yes") == 1
    told = capsys.readouterr()
    assert told.out.startswith("submitted ")
    assert told.err == (
        f"fcdm.status: not cancelled: {job} (SLURM does not answer): what replaces it waits for its end\n"
    )
    bench.scheduler.down = "SLURM does not answer"
    assert bench.status("--replace", "--yes") == 1
    assert capsys.readouterr().err == "fcdm.status: nothing is replaced: SLURM does not answer\n"


def test_what_replaces_nothing_says_so(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ((job,),) = bench.send(bench.config())
    assert bench.status("--replace") == 1
    assert "--replace would replace 1 SLURM job of 1 run with the code in" in capsys.readouterr().err
    assert bench.status("--replace", "--yes") == 0
    assert f"job {job} has this code already" in capsys.readouterr().out
    bench.code = NEW
    monkeypatch.setattr(replacing, "run_id", lambda content: "beefbeef" * 8)
    assert bench.status("--replace", "--yes") == 1
    assert "another run (beefbeef)" in capsys.readouterr().err
    monkeypatch.undo()
    assert bench.scheduler.active() == [job]
    bench_again = Bench.__new__(Bench)
    bench_again.__dict__ = bench.__dict__
    monkeypatch.setattr(status, "Looker", lambda runs_dir: Looker(runs_dir, lambda conf: bench.scheduler))
    shutil.rmtree(next(bench.runs.glob("N-*")))
    assert bench.status("--replace", "--yes") == 1
    assert "was deleted: --cancel its job" in capsys.readouterr().err
    bench.scheduler.cancel([job])
    assert bench.status("--replace", "--yes") == 0
    assert capsys.readouterr().out == "no SLURM job waits or runs\n"


# ------------------------------------------------------------------------------------------------- --not-in-study


def test_what_a_sweep_file_lost_can_be_cancelled(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    (kept,), (lost,) = bench.send(bench.config(0), bench.config(1))
    ((other,),) = bench.send(bench.config(2), command=[*COMMAND, "seed=2"])
    assert bench.status("s", "--not-in-study", "--cancel", "--yes") == 0
    assert capsys.readouterr().out == "nothing waits or runs\n"
    # Seed 1 is gone from the file; where its jobs run is said in another way.
    bench.send(bench.config(0), command=[*COMMAND, "hydra/launcher=submitit_slurm", "+slurm=mine"])
    assert bench.status("s", "--not-in-study") == 0
    assert [line.split()[5] for line in capsys.readouterr().out.splitlines()[2:4]] == [lost, lost]
    assert bench.status("s", "--not-in-study", "--cancel") == 1
    told = capsys.readouterr()
    assert all(lost in line for line in told.out.splitlines()), "it says which"
    assert "--cancel would end 1 SLURM job" in told.err
    assert bench.status("s", "--not-in-study", "--cancel", "--yes") == 0
    assert bench.scheduler.active() == [kept, other]


def test_a_job_that_another_study_asks_for_stays(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    (kept,), (shared,) = bench.send(bench.config(0), bench.config(1))
    also = dataclasses.replace(bench.config(1, steps=(10,)), study="t")
    bench.send(also, command=["python", "-m", "fcdm.train", "-m", "study=t"])
    bench.send(bench.config(0))
    assert bench.status("s", "--not-in-study", "--cancel", "--yes") == 0
    assert bench.scheduler.active() == [kept, shared]
    (bench.runs / "studies" / "t.json").unlink()
    assert bench.status("--not-in-study", "--cancel", "--yes") == 0
    assert bench.scheduler.active() == [kept]


def test_a_withdrawn_budget_and_a_study_that_is_gone(bench: Bench) -> None:
    ((job,),) = bench.send(bench.config())
    ((more,),) = bench.send(bench.config(steps=(10, 20, 40)))
    path = bench.runs / "studies" / "s.json"
    content = json.loads(path.read_text())
    content["requests"][0]["budgets"] = [10, 20]
    path.write_text(json.dumps(content))
    assert bench.status("s", "--not-in-study", "--cancel", "--yes") == 0
    assert bench.scheduler.active() == [job, more], "it does what is asked for, too"
    content["requests"] = []
    path.write_text(json.dumps(content))
    assert bench.status("s", "--not-in-study", "--cancel", "--yes") == 0
    assert bench.scheduler.active() == []


def test_a_study_of_a_version_that_noted_less(bench: Bench) -> None:
    """All that it asked for counts, until its commands have been given again."""
    (kept,), (lost,) = bench.send(bench.config(0), bench.config(1))
    bench.send(bench.config(2), command=[*COMMAND, "seed=2"])
    path = bench.runs / "studies" / "s.json"
    content = json.loads(path.read_text())
    del content["asked_by"]
    path.write_text(json.dumps(content))
    bench.send(bench.config(0))
    assert bench.status("s", "--not-in-study", "--cancel", "--yes") == 0
    assert lost in bench.scheduler.active()
    bench.send(bench.config(2), command=[*COMMAND, "seed=2"])
    assert bench.status("s", "--not-in-study", "--cancel", "--yes") == 0
    assert lost not in bench.scheduler.active()
    assert kept in bench.scheduler.active()
