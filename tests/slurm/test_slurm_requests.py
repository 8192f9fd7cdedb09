"""Requests of a study on a real SLURM: none is left where it was refused, and what nobody wants is withdrawn."""

from __future__ import annotations

import json

import pytest

from tests.support.slurm_lab import SMALL, Lab

pytestmark = pytest.mark.slow


def test_refused_waiting_cancelled_withdrawn(here: Lab) -> None:
    refused = here.sweep("model=N", "steps=400", *SMALL, "hydra.launcher.constraint=h100", ok=False)
    assert "SLURM refuses" in refused.stderr
    assert not list(here.runs.glob("studies/*.json")), "a study that SLURM refused"

    hold = "+hydra.launcher.additional_parameters.hold=true"
    here.sweep("model=N", "steps=200,400", *SMALL, hold)
    passed = here.sweep("model=N", "steps=300", *SMALL, ok=False)
    assert "steps=300 could not be evaluated: job" in passed.stderr
    (study,) = here.runs.glob("studies/*.json")
    assert [one["budgets"] for one in json.loads(study.read_text())["requests"]] == [[200, 400]]
    assert len(here.ids()) == 1

    waits = here.status("--withdraw", "--yes")
    assert waits.returncode == 1
    assert "cancel it first" in waits.stderr
    assert here.status("--cancel", "--yes").returncode == 0
    withdrawn = here.status("--withdraw", "--yes")
    assert withdrawn.returncode == 0, withdrawn.stderr
    assert "has no request left" in withdrawn.stdout
    assert not study.exists()
