"""Made-up runs, launches and claims for the tests of `fcdm.status`, with a SLURM in memory."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fcdm.config.schema import Config, DataConfig, EvaluationConfig, ModelConfig
from fcdm.jobs.progress import PROGRESS_FILE, FileProgress
from fcdm.jobstatus.actions import Done, retry_failed
from fcdm.jobstatus.collect import Looker, Overview, what_is_asked
from fcdm.jobstatus.rows import StatusRow
from fcdm.runs.lock_files import Claim, own_claim
from fcdm.runs.protocol import protocol_id, protocol_of
from fcdm.slurm.ledger import add_id, write_launch
from tests.support.fake_scheduler import FakeScheduler

SPEED = 640.0
BATCH = 64
EVALUATION_SECONDS = 30.0


def config(sampling_steps: int = 25, **values: Any) -> Config:
    """What a part of a frozen job says, as far as the status reads it."""
    return Config(
        model=ModelConfig("fcdm", "N"),
        data=DataConfig(name="digits", checksum="5678abcd", channels=1, classes=10, downsample=1, flip="none"),
        resolution=8,
        batch_size=BATCH,
        precision="fp32",
        evaluation=EvaluationConfig(sampler="ddim", sampling_steps=sampling_steps, samples=1000, features="digits-cnn"),
        **values,
    )


PROTOCOL = protocol_id(protocol_of(config()))
OTHER = protocol_id(protocol_of(config(10)))


class World:
    """`runs/` in a folder, and its cluster. One study, `s`, asks run `N` for budgets 100 and 200 unless told else."""

    def __init__(self, folder: Path) -> None:
        self.runs = folder / "runs"
        self.runs.mkdir()
        self.scheduler = FakeScheduler()
        self.now = time.time()
        self.looker = Looker(self.runs, lambda conf: self.scheduler)

    # --------------------------------------------------------------------------------------------- runs

    def run(
        self, name: str = "N", step: int = 0, evaluated: Sequence[int] = (), kept: Sequence[int] = (), age: float = 5.0
    ) -> Path:
        """A run that is trained to `step`, whose last record is `age` seconds old."""
        folder = self.runs / name
        for part in ("jobs", "evaluations", "checkpoints"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text(json.dumps({"id": name, "batch_size": BATCH}))
        lines: list[dict[str, Any]] = [{"step": 0, "time": self.now - age - 100, "segment": "start", "host": "h"}]
        lines += [
            {"step": at, "time": self.now - age - (step - at) * 0.1, "loss": 0.5, "images_per_s": SPEED}
            for at in range(10, step + 1, 10)
        ]
        if step:
            (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for budget in evaluated:
            self.evaluate(name, budget)
        for at in kept:
            (folder / "checkpoints" / f"step-{at:08d}").mkdir(exist_ok=True)
        return folder

    def evaluate(self, name: str, budget: int, protocol: str = PROTOCOL, fid: float = 12.345) -> None:
        content = {
            "step": budget,
            "time": self.now,
            "protocol_id": protocol,
            "protocol": {},
            "metrics": {"fid": fid},
            "seconds": EVALUATION_SECONDS,
        }
        (self.runs / name / "evaluations" / f"step-{budget:08d}-{protocol}.json").write_text(json.dumps(content))

    def segment_end(self, name: str, **facts: Any) -> None:
        line = {"step": 50, "time": self.now - 1, "segment": "end", **facts}
        with open(self.runs / name / "records.jsonl", "a") as records:
            records.write(json.dumps(line) + "\n")

    def progress(
        self, name: str, step: int, samples: int | None = None, file: str = PROGRESS_FILE, age: float = 0.0
    ) -> None:
        """A job that trains, or has drawn so many `samples` of 1000 to evaluate the checkpoint of `step`."""
        progress = FileProgress(self.runs / name, file)
        if samples is None:
            progress.training(step, 200, 0.5, SPEED)
        else:
            progress.sampling(step, samples, 1000)
        os.utime(progress.path, (self.now - age, self.now - age))

    def claim(
        self,
        name: str,
        job: str | None = None,
        *,
        here: bool = False,
        pid: int | None = None,
        age: float = 3.0,
        beat: float = 3.0,
        released: bool = False,
    ) -> Path:
        """Who holds the run: a SLURM job, a process of this machine (`here`), or one of another."""
        claim: Claim = own_claim()
        if not here:
            claim = dataclasses.replace(claim, host="elsewhere", boot="other", namespace="other", cluster=None)
        claim = dataclasses.replace(
            claim,
            pid=pid or claim.pid,
            job=job,
            claimed=self.now - age,
            released=self.now - 1 if released else None,
        )
        holders = self.runs / name / "holders"
        holders.mkdir(exist_ok=True)
        path = holders / f"{len(list(holders.iterdir())) + 1:06d}.json"
        path.write_text(json.dumps(dataclasses.asdict(claim)))
        os.utime(path, (self.now - beat, self.now - beat))
        return path

    # --------------------------------------------------------------------------------------------- studies, launches

    def study(
        self, name: str = "s", asked: dict[str, Sequence[int]] | None = None, protocols: Sequence[str] = ()
    ) -> None:
        (self.runs / "studies").mkdir(exist_ok=True)
        requests = [
            {"run": run, "id": run, "budgets": list(budgets), "protocol_id": protocol}
            for run, budgets in (asked or {"N": (100, 200)}).items()
            for protocol in protocols or (PROTOCOL,)
        ]
        content = {
            "name": name,
            "created": self.now,
            "revision": "abc",
            "command": ["python", "-m", "fcdm.train", "-m", f"study={name}"],
            "protocol_id": requests[0]["protocol_id"],
            "protocol": {},
            "requests": requests,
        }
        (self.runs / "studies" / f"{name}.json").write_text(json.dumps(content))

    def job_file(self, name: str, work: str = "all", budgets: Sequence[int] = (100, 200), steps: int = 25) -> Path:
        jobs = self.runs / name / "jobs"
        path = jobs / f"{len([p for p in jobs.iterdir() if p.stem.isdigit()]) + 1}.json"
        part = dataclasses.asdict(config(steps, steps=list(budgets)))
        path.write_text(json.dumps({"id": name, "work": work, "parts": [part]}))
        return path

    def launch(
        self,
        *runs: str,
        work: str = "all",
        budgets: Sequence[int] = (100, 200),
        steps: int = 25,
        after: str = "",
        submit: bool = True,
        noted: bool = True,
        conf: str | None = None,
        parallel: int = 256,
    ) -> list[str]:
        """One array with a task for each run; the SLURM ids. `noted=False`: its launcher was killed too early."""
        launches = self.runs.absolute() / "launches"
        folder = launches / f"20260101-{len(list(launches.glob('*'))):06d}-abc"
        folder.mkdir(parents=True)
        (folder / "0.sh").write_text("#!/bin/bash\n")
        files = [self.job_file(run, work, budgets, steps) for run in runs]
        names = [str(path.relative_to(self.runs)) for path in files]
        write_launch(folder, [{"script": "0.sh", "work": work, "jobs": names}], slurm_conf=conf, parallel=parallel)
        if not submit:
            return []
        dependency = f"afterany:{after}" if after else ""
        array = self.scheduler.submit(folder / "0.sh", array=f"0-{len(runs) - 1}", dependency=dependency)
        ids = [f"{array}_{index}" for index in range(len(runs))]
        for path, job in zip(files, ids, strict=True):
            if noted:
                add_id(path, job)
        return ids

    def note(self, name: str, kind: str, job: str | None, number: int = 1, **facts: Any) -> None:
        """`<n>.error.json` or `<n>.stopped.json`, as `fcdm.job` leaves it."""
        path = self.runs / name / "jobs" / f"{number}.{kind}.json"
        path.write_text(json.dumps({"time": time.time(), "job": job, **facts}))

    def slurm_log(self, job: str, text: str = "") -> None:
        """What SLURM printed: there once the job has started."""
        (folder,) = [path for path in (self.runs / "launches").iterdir() if path.is_dir()]
        (folder / f"{job}.log").write_text(text)

    # --------------------------------------------------------------------------------------------- what comes out

    def look(self, study: str | None = "s") -> Overview:
        return self.looker.look(what_is_asked(self.runs, study), self.now)

    def rows(self, study: str | None = "s") -> list[StatusRow]:
        return self.look(study).rows

    def states(self, study: str | None = "s") -> list[str]:
        return [row.state for row in self.rows(study)]

    def retry(self, study: str | None = "s") -> Done:
        return retry_failed(self.looker, what_is_asked(self.runs, study))

    def ids(self, name: str = "N", number: int = 1) -> list[str]:
        """The SLURM jobs that a job file was given."""
        return list(json.loads((self.runs / name / "jobs" / f"{number}.slurm.json").read_text())["ids"])


def dead_pid() -> int:
    """Of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid
