"""`python -m fcdm.evaluate` in several spaces of features: of anybody's samples, of a run and of a file of weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fcdm.engine.sampler import Sampler
from fcdm.evaluate import main
from fcdm.images.image_stream import Images
from fcdm.models.official_weights import to_official
from tests.support.tiny_dinov2 import save_dinov2
from tests.support.tiny_images import picture
from tests.support.tiny_runs import tiny_run

QUICK = ("samples=20", "sampling_steps=2", "batch_size=10", "mlflow_uri=off")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """What was found, by the space."""
    found = (json.loads(path.read_text()) for path in folder.glob("*.json"))
    return {content["protocol"]["features"].partition("-")[0]: content for content in found}


def refused(words: list[str], capsys: Any) -> str:
    capsys.readouterr()
    assert main(words) == 1
    said: str = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1, said
    return said


def test_samples_are_read_once_for_all_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    images = np.stack([picture(number, 32, 32) for number in range(14)])
    np.savez("mine.npz", arr=images[:8])
    np.savez("reference.npz", arr=images[8:])
    np.savez("statistics.npz", mu=np.zeros(4), sigma=np.eye(4))
    dinov2 = save_dinov2(tmp_path / "tiny")
    words = ["samples=mine.npz", "reference=reference.npz", "batch_size=4", f"dinov2={dinov2}"]
    assert main([*words, "features=dinov2", "out=alone"]) == 0
    read: list[tuple[int, int]] = []
    reading = Images.read

    def counted(self: Images, first: int, last: int) -> torch.Tensor:
        if self.path.name == "mine.npz":
            read.append((first, last))
        return reading(self, first, last)

    monkeypatch.setattr(Images, "read", counted)
    both = [*words, "features=[dinov2,pixels]"]
    assert main(both) == 0
    assert read == [(0, 4), (4, 8)]
    found, alone = results(tmp_path / "results"), results(tmp_path / "alone")
    assert found.keys() == {"dinov2", "pixels"}
    assert found["dinov2"]["metrics"] == pytest.approx(alone["dinov2"]["metrics"], rel=1e-5)
    assert found["dinov2"]["protocol"] == alone["dinov2"]["protocol"]
    assert "kid" in found["pixels"]["metrics"]
    assert main(both) == 0
    assert len(read) == 2, "what is there is not measured again"
    for path in (tmp_path / "results").glob("*.json"):
        if json.loads(path.read_text())["protocol"]["features"].startswith("pixels"):
            path.unlink()
    assert main(both) == 0
    assert len(read) == 4
    assert results(tmp_path / "results")["pixels"]["metrics"] == pytest.approx(found["pixels"]["metrics"])
    for value, line in (
        ("[dinov2,dinov2]", "says dinov2 twice"),
        ("[]", "asks for nothing"),
        ("dinov2,pixels", "say 'features=[dinov2,pixels]'"),
        ("digits-cnn", "features=digits-cnn does not fit samples that are drawn already"),
        ("pixels", "has no effect: say features=dinov2 too"),
    ):
        assert line in refused([*words, f"features={value}"], capsys)
    for more, line in (
        (["dinov2=nowhere/at/all"], "fcdm.evaluate: dinov2=nowhere/at/all: no such folder"),
        (["reference=statistics.npz"], "and not of features=dinov2: say reference=<"),
    ):
        said = refused([*words, "features=dinov2", *more], capsys)
        assert line in said
        assert "evaluation.dinov2" not in said
        assert "evaluation.reference" not in said
    line = "shuffle=1 has no effect: it is before the Inception Score's splits, and inception is not among the features"
    assert line in refused([*words, "features=dinov2", "shuffle=1"], capsys)


def test_a_run_and_a_file_of_weights_draw_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    run, _, state = tiny_run(tmp_path / "runs", steps=(4,))
    torch.save({"ema": {name: t.clone() for name, t in to_official(state.ema).items()}}, "public.pt")
    drawn: list[int] = []
    images = Sampler.images

    def counted(self: Sampler, indices: torch.Tensor) -> torch.Tensor:
        drawn.append(len(indices))
        return images(self, indices)

    monkeypatch.setattr(Sampler, "images", counted)
    both = "features=[digits-cnn,pixels]"
    assert main([run.name, *QUICK, both]) == 0
    assert drawn == [10, 10]
    of_run = results(run.evaluations)
    words = ["public.pt", "model=N", "model.width=8", "resolution=8", *QUICK]
    assert main([*words, both]) == 0
    assert drawn == [10] * 4
    of_file = results(tmp_path / "results")
    assert of_run.keys() == of_file.keys() == {"digits", "pixels"}
    for space, content in of_run.items():
        assert of_file[space]["metrics"] == content["metrics"]
    assert main([*words, both]) == 0
    assert main([*words, "features=pixels"]) == 0
    assert drawn == [10] * 4, "shown again"
    assert "say 'evaluation.features=[pixels,digits-cnn]'" in refused([run.name, "features=pixels,digits-cnn"], capsys)
    assert "says pixels twice" in refused([run.name, "features=[pixels,pixels]"], capsys)


def test_the_help_names_what_says_which_extractor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "features_options.NAME, dinov2," in said
    assert "dinov2=MODEL" in said
