"""One command to the figures, with nothing stubbed: a study of both families, its MLflow store, its figures."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pandas as pd
from PIL import Image

from tests.support.commands import TINY, Command, values

SMALL = tuple(argument for argument in TINY if not argument.startswith("mlflow_uri"))


def metrics_of(store: Path) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(run id, key) -> (step, value) of everything in an MLflow sqlite store."""
    with sqlite3.connect(store) as database:
        rows = database.execute(
            "select tags.value, metrics.key, metrics.step, metrics.value from metrics join tags"
            " on tags.run_uuid = metrics.run_uuid where tags.key = 'fcdm.run_id' order by metrics.step"
        ).fetchall()
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for identity, key, step, value in rows:
        found.setdefault((identity, key), []).append((step, value))
    return found


def test_from_one_command_to_mlflow_and_the_figures(fcdm: Command, tmp_path: Path) -> None:
    study = ("-m", "+sweeps=digits", "model=N,dit/N-2", "steps=4,8", "hydra/launcher=local")
    trained = fcdm(*study, *SMALL, timeout=400)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "(real images" in trained.stdout
    assert "MLflow is not up to date" not in trained.stdout
    forwarded = metrics_of(tmp_path / "runs" / "mlflow.db")
    runs = [path.parent for path in (tmp_path / "runs").glob("*/run.json")]
    assert len({identity for identity, _ in forwarded}) == len(runs) == 2
    for run in runs:
        (identity,) = {found for found, _ in forwarded if found.startswith(run.name.rsplit("-", 1)[-1])}
        recorded = values(run)
        for key in ("loss", "fid", "train_pflops"):
            expected = [(step, value) for (step, name), value in sorted(recorded.items()) if name == key]
            assert forwarded[identity, key] == expected, key

    drawn = fcdm("--study", "digits", module="analysis.plots")
    assert drawn.returncode == 0, drawn.stdout + drawn.stderr
    assert "FCDM-N" in drawn.stdout
    assert "make ui" in drawn.stdout
    figures = tmp_path / "figures"
    for name in ("fid_vs_steps", "fid_vs_training_flops", "fid_vs_forward_gmacs", "samples"):
        with Image.open(figures / f"{name}.png") as picture:
            assert picture.width > 500
        assert (figures / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    table = pd.read_csv(figures / "table.csv")
    assert sorted(zip(table["model"], table["steps"], strict=True)) == [
        ("N", 4),
        ("N", 8),
        ("dit/N-2", 4),
        ("dit/N-2", 8),
    ]
    assert (table["forward_gmacs"] > 0).all()

    again = fcdm("runs_dir=runs", module="fcdm.sync")
    assert again.returncode == 0
    assert ": 0 new points" in again.stdout


def test_training_does_not_wait_for_mlflow_or_die_of_it(fcdm: Command, tmp_path: Path) -> None:
    done = fcdm("model=N", "steps=4", "mlflow_uri=http://127.0.0.1:9", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "MLflow is not up to date" in done.stdout
    later = fcdm("runs_dir=runs", module="fcdm.sync")
    assert later.returncode == 0, later.stderr
    assert len({identity for identity, _ in metrics_of(tmp_path / "runs" / "mlflow.db")}) == 1
