"""Jobs that can start in any folder: every path that they name is absolute."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fcdm.config.schema import Config
from fcdm.jobs.job import Job
from fcdm.runs.protocol import Part


def from_anywhere(job: Job, runs_dir: Path) -> Job:
    """The job with absolute paths: it starts in another folder."""
    parts = tuple(Part(_absolute(part.config, runs_dir)) for part in job.parts)
    folder = runs_dir / job.folder.relative_to(job.config.runs_dir)
    return dataclasses.replace(job, folder=folder, parts=parts)


def _absolute(config: Config, runs_dir: Path) -> Config:
    path, uri = config.data.path, config.mlflow_uri
    data = dataclasses.replace(config.data, path=str(Path(path).absolute())) if path else config.data
    if uri and uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        uri = f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    reference, decoder = config.evaluation.reference, config.evaluation.decoder
    evaluated = dataclasses.replace(
        config.evaluation,
        reference=str(Path(reference).absolute()) if reference else None,
        decoder=str(Path(decoder).absolute()) if decoder and Path(decoder).exists() else decoder,
    )
    return dataclasses.replace(config, runs_dir=str(runs_dir), data=data, evaluation=evaluated, mlflow_uri=uri)
