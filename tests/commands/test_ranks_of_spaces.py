"""Two ranks evaluate a store of pixels in two spaces: as one does, and together also where one cannot."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from fcdm.data.pixel_store import PixelStore
from fcdm.engine.distributed import Ranks
from fcdm.engine.make_classifier import make_classifier
from fcdm.engine.worker import Worker
from tests.support.commands import ROOT, TINY, evaluations, only_run, python_in, told_by_ranks
from tests.support.shape_store import tiny_pixels
from tests.support.silent import Silent

UNABLE = """
import sys
from fcdm.engine.stop import end_process
from fcdm.errors import UserError
from fcdm.features import space
from fcdm.runs.peers import peers
from fcdm.train import main

opening = space.open_extractor


def opened(name, *more):
    if name == "classifier" and peers().rank == 1:
        raise UserError("no such file here")
    return opening(name, *more)


space.open_extractor = opened
end_process(main)
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its classifier, and a run on it that one process has trained and evaluated."""
    import torch

    folder = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcdm.features.train_classifier.STEPS", 25)
        make_classifier(PixelStore(tiny_pixels(folder / "store")), Worker(Ranks(0, 1, torch.device("cpu")), Silent()))
    python_in(folder, "-m", "fcdm.train", *words(folder, "runs"))
    return folder


def words(folder: Path, runs: str) -> tuple[str, ...]:
    spaces = "evaluation.features=[classifier,pixels]"
    asked = ("model=N", "model.width=8", f"data.path={folder / 'store'}", "steps=2", spaces, "device=cpu", *TINY)
    return (*asked, f"runs_dir={folder / runs}", f"hydra.run.dir={folder / 'hydra'}")


def trained_alone(lab: Path, name: str) -> dict[str, Any]:
    """A copy of the run that is trained and not evaluated. Returns what one process found."""
    shutil.copytree(lab / "runs", lab / name)
    run = only_run(lab / name)
    found: dict[str, Any] = evaluations(run)
    shutil.rmtree(run / "evaluations")
    for made in (lab / "store/features").glob("*.npz"):
        made.unlink()
    return found


@pytest.mark.slow
def test_two_ranks_find_in_both_spaces_what_one_does(lab: Path) -> None:
    wanted = trained_alone(lab, "two")
    told = told_by_ranks(2, "-m", "fcdm.train", *words(lab, "two"), timeout=300, PYTHONPATH=str(ROOT))
    assert [text.strip() for text in told[1]] == ["", ""]
    found: dict[str, Any] = evaluations(only_run(lab / "two"))
    assert found.keys() == wanted.keys()
    assert len(found) == 2
    for name, one in wanted.items():
        assert found[name]["protocol"] == one["protocol"]
        for part in ("metrics", "floor"):
            assert found[name][part] == pytest.approx(one[part], rel=1e-4, abs=1e-6), (name, part)


@pytest.mark.slow
def test_a_space_that_one_rank_cannot_open_is_refused_by_all_and_the_other_is_evaluated(lab: Path) -> None:
    trained_alone(lab, "unable")
    told = told_by_ranks(2, "-c", UNABLE, *words(lab, "unable"), timeout=300, refused=True, PYTHONPATH=str(ROOT))
    assert "process 1 of 2: no such file here: these budgets cannot be evaluated" in told[0][1].splitlines()[-1]
    assert [text.strip() for text in told[1]] == ["", ""]
    (one,) = evaluations(only_run(lab / "unable")).values()
    assert one["protocol"]["features"] == "pixels-8x8"  # type: ignore[index]
