"""docs/laws.md: its ten lines of scipy, run as they stand, give the law that the package fits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcdm.analysis.stats.study_surface import surface_of
from fcdm.laws.joint_fit import fit_joint
from fcdm.laws.joint_law import JointLaw
from tests.support.commands import ROOT
from tests.support.known_surface import study

PAGE = (ROOT / "docs" / "laws.md").read_text()


def test_ten_lines_of_scipy_reproduce_the_law_from_a_csv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "least_squares" in block)
    lines = code.strip().splitlines()
    assert len([line for line in lines if line and "import" not in line]) == 10
    table = study(2, sizes=np.geomspace(2e7, 3.2e8, 5).tolist(), budgets=(500, 1_000, 2_000, 4_000), of_seed=0.01)
    table = table.assign(heldout_loss=table["fid"] / 100)
    table.to_csv(tmp_path / "table.csv", index=False)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/laws.md", "exec"), names)
    printed = capsys.readouterr().out
    found = re.fullmatch(r"L = (\S+) \+ (\S+) N\^-(\S+) \+ (\S+) D\^-(\S+)\n", printed)
    assert found, printed
    e, a, alpha, b, beta = map(float, found.groups())
    points = surface_of(table[table["family"] == "fcdm"]).points
    fit = fit_joint(points, draws=5)
    assert names["delta"] == pytest.approx(fit.delta, rel=1e-9)
    theirs = JointLaw(e, a, alpha, b, beta)
    assert theirs(points.n, points.d) == pytest.approx(fit.law(points.n, points.d), rel=2e-4)
    assert (alpha, beta) == pytest.approx((fit.law.size_exponent, fit.law.data_exponent), rel=0.01)
    assert min(one.cost for one in names["fits"]) == pytest.approx(fit.objective, rel=1e-4)
