"""A training that diverges without a NaN: said when it is evaluated, and in the status."""

from __future__ import annotations

from pathlib import Path

import pytest

from fcdm.runs.divergence import diverged_text
from tests.support.commands import python_in

HOT = ("model=N", "model.width=8", "optimiser.lr=3", "optimiser.warmup_steps=2000", "batch_size=4", "ema=share")
"""After 20 steps the rate is 0.03, after 80 it is 0.12."""


def test_a_run_that_diverges_says_so_and_so_does_its_status(tmp_path: Path) -> None:
    words = ["data=digits", "steps=[20,80]", "study=hot", "evaluation.samples=0", "mlflow_uri=off", "runs_dir=runs"]
    trained = python_in(tmp_path, "-m", "fcdm.train", *HOT, *words).stdout
    told = [line for line in trained.splitlines() if "diverged" in line]
    assert len(told) == 1
    assert "times that at step 20; a lower optimiser.lr may hold" in told[0]
    early, late = [line for line in python_in(tmp_path, "-m", "fcdm.status").stdout.splitlines() if " done " in line]
    assert "diverged" not in early
    assert "diverged: held-out loss " in late


@pytest.mark.parametrize(
    ("step", "losses", "told"),
    [
        (400, {100: 0.2, 200: 0.05, 400: 0.5}, "diverged: held-out loss 10 times that at step 200"),
        (200, {100: 0.2, 200: 0.05, 400: 0.5}, ""),  # what comes later is not known yet
        (400, {100: 0.2, 200: 0.05, 400: 0.09}, ""),
        (100, {100: 0.9}, ""),
        (400, {100: 0.2}, ""),
    ],
)
def test_by_the_lowest_loss_before(step: int, losses: dict[int, float], told: str) -> None:
    assert diverged_text(step, losses) == told
