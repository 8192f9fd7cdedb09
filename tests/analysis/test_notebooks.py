"""The notebooks: a fresh run shows what is committed, cells only call functions, and committed results can be read."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fcdm.analysis import notebook
from fcdm.analysis.data.seed_curves import seed_curves
from fcdm.analysis.data.tidy_table import COLUMNS, INTERNAL, tidy_table
from fcdm.analysis.figures.draw_step_efficiency import pair_figure, ratio_figure, size_figure
from fcdm.analysis.notebook import Picture, Shown, load_results, own_runs
from fcdm.analysis.published import published
from fcdm.errors import UserError
from tests.support.commands import ROOT, environment
from tests.support.fake_runs import make_run, make_study

NOTEBOOKS = sorted((ROOT / "analysis").glob("*.ipynb"))


def cells(path: Path) -> list[dict[str, object]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def run(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=580
    )


@pytest.mark.slow
def test_a_fresh_run_shows_what_is_committed() -> None:
    done = run("tools/notebooks.py", "--check")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [word for path in NOTEBOOKS for word in (path.name, "...")]
    assert {path.stem for path in NOTEBOOKS} == {
        "digits",
        "forecast",
        "scaling",
        "step_efficiency_256",
        "step_efficiency_512",
    }


@pytest.mark.slow
def test_the_check_finds_what_is_stale_and_what_fails(tmp_path: Path) -> None:
    """On a copy of the checkout's parts that it needs: one output edited by hand, one cell that raises."""
    (tmp_path / "analysis").mkdir()
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "notebooks.py", tmp_path / "tools")
    cell = {
        "cell_type": "code",
        "execution_count": 1,
        "id": "a",
        "metadata": {},
        "source": "print(1 + 1)",
        "outputs": [],
    }
    output = {"name": "stdout", "output_type": "stream", "text": "3\n"}
    content = {"cells": [{**cell, "outputs": [output]}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "analysis" / "stale.ipynb").write_text(json.dumps(content))
    content["cells"] = [{**cell, "source": "raise ValueError('no such thing')"}]
    (tmp_path / "analysis" / "wrong.ipynb").write_text(json.dumps(content))
    before = (tmp_path / "analysis" / "stale.ipynb").read_text()
    done = run("tools/notebooks.py", "--check", cwd=tmp_path)
    assert done.returncode == 1
    assert "stale.ipynb: run `make notebooks`" in done.stderr
    assert "-[0] 3\n+[0] 2" in done.stderr
    assert "ValueError: no such thing" in done.stderr
    assert (tmp_path / "analysis" / "stale.ipynb").read_text() == before


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_only_calls_functions(path: Path) -> None:
    """No definitions and no arithmetic: what computes stands in analysis/, where tests are."""
    for cell in cells(path):
        for node in ast.walk(ast.parse("".join(cell["source"]))):  # type: ignore[arg-type]
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda | ast.BinOp | ast.While)
        assert cell["execution_count"] is not None
        assert not any(output["output_type"] == "error" for output in cell["outputs"])  # type: ignore[attr-defined]
    assert path.stat().st_size < 300_000


def test_committed_results_are_tidy_tables_with_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `python -m analysis.table > results/x.csv` writes comes back as it was, and draws the same curves."""
    make_study(tmp_path, [make_run(tmp_path, model, seed=seed) for model in ("N", "dit/N-2") for seed in (0, 1)])
    monkeypatch.setattr(notebook, "RESULTS", tmp_path)
    written = tidy_table(tmp_path, "demo")
    done = run("-m", "analysis.table", "--runs", str(tmp_path), "--study", "demo")
    (tmp_path / "mine.csv").write_text(done.stdout)
    read = load_results("mine")
    assert tuple(read.columns) == COLUMNS
    plain = list(set(COLUMNS) - set(INTERNAL))
    pd.testing.assert_frame_equal(read[plain], written[plain], check_dtype=False, check_like=True)
    for ours, theirs in zip(seed_curves(read), seed_curves(written), strict=True):
        assert (ours.label, ours.seeds) == (theirs.label, theirs.seeds)
        np.testing.assert_allclose(ours.points["fid"], theirs.points["fid"])
    assert read.attrs["protocol"] == {"sampler": "ddim", "sampling_steps": 25, "samples": 1000}


def test_results_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no results 'digit' in .*; there: digits"):
        load_results("digit")
    monkeypatch.setattr(notebook, "RESULTS", tmp_path)
    (tmp_path / "old.csv").write_text("run,model\na,b\n")
    with pytest.raises(UserError, match="lacks family, data"):
        load_results("old")


def test_ones_own_runs_stand_beside_the_published_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNS", raising=False)
    assert own_runs("digits", 8) is None
    make_study(tmp_path, [make_run(tmp_path, model) for model in ("N", "dit/N-2")])
    monkeypatch.setenv("RUNS", str(tmp_path))
    monkeypatch.setenv("STUDY", "demo")
    assert own_runs("imagenet", 256) is None
    runs = own_runs("digits", 8)
    assert runs is not None
    pairs = notebook.pairs_to_compare(published(), runs, "FCDM-XL", "DiT-XL/2", 256)
    assert [(pair.name_a, pair.origin) for pair in pairs] == [("FCDM-XL", "published"), ("FCDM-N", "these runs")]


def test_what_is_shown_has_words_too() -> None:
    shown = notebook.published_table(published(), 512, ["FCDM-XL"])
    assert isinstance(shown, Shown)
    assert "<table" in shown._repr_html_()
    assert repr(shown).splitlines()[0] == "Published FIDs without guidance at 512 px"
    assert "7.46" in repr(shown)
    pairs = notebook.pairs_to_compare(published(), None, "FCDM-XL", "DiT-XL/2", 256)
    picture = Picture(*pair_figure(pairs, [9.62]))
    assert picture._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "12.6 times at FID 9.62" in repr(picture)


def test_ratio_and_size_figures_say_what_they_leave_out() -> None:
    assert (
        "5.8 at FID 10.72 to 12.6 at 9.62"
        in ratio_figure(notebook.pairs_to_compare(published(), None, "FCDM-XL", "DiT-XL/2", 256))[1]
    )
    told = ratio_figure(notebook.pairs_to_compare(published(), None, "FCDM-XL", "DiT-XL/2", 512))[1]
    assert "no FID that both reach between two of their points" in told
    told = size_figure(notebook.unguided(published(), 256, 400_000), None)[1]
    assert "FCDM: FCDM-L 13.83, FCDM-XL 10.72" in told
