"""`python -m fcdm.evaluate` as a user meets it: runs, files, anybody's samples, calibration, wrong words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fcdm.data.dataset import data_checksum
from fcdm.engine.distributed import Ranks
from fcdm.engine.streamed_metrics import ReferenceMeasure, open_measure
from fcdm.engine.worker import Worker
from fcdm.evaluate import main
from fcdm.features import open_extractor
from fcdm.features.calibration import PUBLISHED, compare
from fcdm.features.reference import read_reference
from fcdm.metrics.inception_score import shuffled
from fcdm.models.official_weights import to_official
from fcdm.runs.identity import run_id, science
from fcdm.runs.protocol import protocol_of
from tests.support.commands import TINY, composing, environment
from tests.support.sample_metrics import evaluate_samples, write_reference_of
from tests.support.silent import Silent
from tests.support.tiny_images import picture
from tests.support.tiny_runs import tiny_run

QUICK = ("samples=20", "sampling_steps=2", "batch_size=10", "mlflow_uri=off")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run, and 8 samples and a reference of 6 images of 32x32 for an Inception of random weights."""
    from fcdm.features.inception import Inception

    folder = tmp_path_factory.mktemp("evaluate")
    run, _, state = tiny_run(folder / "runs")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(Inception().state_dict(), folder / "inception.pth")
    images = np.stack([picture(number, 32, 32) for number in range(14)])
    np.savez(folder / "mine.npz", arr=images[:8])
    reference = torch.from_numpy(images[8:]).permute(0, 3, 1, 2)
    extractor = open_extractor("inception", weights=folder / "inception.pth")
    write_reference_of(folder / "reference.npz", [reference], extractor)
    return folder, run, state, extractor


@pytest.fixture(autouse=True)
def here(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lab[0])
    monkeypatch.setenv("FCDM_INCEPTION", str(lab[0] / "inception.pth"))


def content(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text())
    return {key: value for key, value in found.items() if key not in ("time", "seconds")}


def refused(words: list[str], capsys: Any) -> str:
    capsys.readouterr()
    assert main(words) == 1
    said: str = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1, said
    return said


def test_a_run_at_all_its_checkpoints_or_one_and_its_file_alike(lab: Any, capsys: Any) -> None:
    folder, run, state, _ = lab
    assert main([run.name, *QUICK]) == 0
    said = capsys.readouterr().out
    files = sorted(run.evaluations.glob("*.json"))
    assert [content(path)["step"] for path in files] == [2, 4]
    assert all(f"{path.relative_to(folder)}:\n  fid" in said for path in files)
    before = [path.stat().st_mtime_ns for path in files]
    assert main([f"{run.id[:5]}@4", *QUICK]) == 0, "shown again, and not made again"
    assert [path.stat().st_mtime_ns for path in sorted(run.evaluations.glob("*.json"))] == before
    assert main([f"{run.id[:5]}@4", *QUICK, "seed=1"]) == 0
    assert len(list(run.evaluations.glob("*.json"))) == 3, "another protocol is another evaluation"

    # The same weights as anybody's file, under the public code's names.
    torch.save({"ema": {name: t.clone() for name, t in to_official(state.ema).items()}}, folder / "public.pt")
    words = ["public.pt", "model=N", "model.width=8", "resolution=8", *QUICK]
    assert main(words) == 0
    (result,) = (folder / "results").glob("weights-*.json")
    assert result.with_suffix(".png").exists()
    evaluated = content(files[1])
    found = content(result)
    assert found["metrics"] == evaluated["metrics"]
    assert found["protocol"] == evaluated["protocol"]
    made = result.stat().st_mtime_ns
    assert main(words) == 0
    assert result.stat().st_mtime_ns == made
    assert "out= is for files" in refused([run.name, "out=x"], capsys)


def test_what_is_said_of_a_file_makes_the_result_and_its_name_does_not(lab: Any) -> None:
    folder, _, state, _ = lab
    torch.save({"ema": dict(state.ema.state_dict())}, folder / "one.pt")
    words = ["model=N", "model.width=8", "resolution=8", *QUICK, "out=said"]
    assert main(["one.pt", *words]) == 0
    assert main(["one.pt", *words, "diffusion.beta_end=0.03"]) == 0
    made = {path: content(path) for path in (folder / "said").glob("*.json")}
    assert len({found["metrics"]["fid"] for found in made.values()}) == 2
    assert sorted(found["judged"]["diffusion.beta_end"] for found in made.values()) == [0.02, 0.03]
    times = {path: path.stat().st_mtime_ns for path in made}
    (folder / "one.pt").rename(folder / "two.pt")
    assert main(["two.pt", *words, "model.name=mine"]) == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "said").glob("*.json")} == times


def test_digits_that_name_a_run_are_no_step_and_a_number_of_samples_no_file(lab: Any, tmp_path: Path) -> None:
    with composing(*TINY) as composer:
        config = composer.config(["model=N", "model.width=8", "steps=[4]"])
    config.data.checksum = data_checksum(config.data, config.resolution)
    while not run_id(science(config))[:4].isdigit():
        config.seed += 1
    run, _, _ = tiny_run(tmp_path / "runs", f"seed={config.seed}")
    (lab[0] / "1000").touch()
    assert main([run.id[:4], f"runs_dir={tmp_path / 'runs'}", *QUICK, "samples=2_0"]) == 0
    assert [content(path)["step"] for path in sorted(run.evaluations.glob("*.json"))] == [2, 4]


def test_the_digits_recipe_is_for_pixels_only(tmp_path: Path) -> None:
    """Latents under a name of their own, and a model whose preset is the digits'."""
    from fcdm.runs.folder import open_run
    from fcdm.sweep.sampling_config import run_config

    (tmp_path / "reference.npz").touch()
    with composing() as composer:
        words = ["model=N", "data=imagenet", "data.name=mine", "resolution=32", f"runs_dir={tmp_path}"]
        config = composer.config([*words, f"evaluation.reference={tmp_path / 'reference.npz'}"])
    config.data.checksum = "0" * 64
    asked = run_config(open_run(config), []).evaluation
    assert (asked.features, asked.sampler, asked.decoder, asked.samples) == ("inception", "ddpm", "ft-ema", 50_000)


def test_balanced_labels_are_shuffled_before_the_splits(lab: Any) -> None:
    """Sample i is of class i modulo their number, so in order a split would hold what no draw of labels gives."""
    with composing(*TINY) as composer:
        config = composer.config(["model=N", "evaluation.samples=40", "evaluation.seed=3"])
    config.resolution = 32
    config.evaluation.features, config.evaluation.reference = "inception", str(lab[0] / "reference.npz")
    for labels, wanted in (("balanced", shuffled(40, 3).tolist()), ("uniform", None)):
        config.evaluation.labels = labels
        measure = open_measure(config, None, Worker(Ranks(0, 1, torch.device("cpu")), Silent()))
        assert isinstance(measure, ReferenceMeasure)
        places = measure.statistics.places
        assert (None if places is None else places.tolist()) == wanted
        assert protocol_of(config).get("splits") == ("shuffled" if wanted else None)


@pytest.mark.parametrize(
    ("word", "said"), [("batch_size=0", "at least 1"), ("threads=0", "at least 1"), ("shuffle=-1", "at least 0")]
)
def test_a_zero_is_not_read_as_nothing_said(word: str, said: str, capsys: Any) -> None:
    assert said in refused(["samples=mine.npz", "reference=reference.npz", word], capsys)


def test_anybody_s_samples_give_the_five_metrics(lab: Any, capsys: Any) -> None:
    folder, _, _, extractor = lab
    assert main(["samples=mine.npz", "reference=reference.npz", "batch_size=3"]) == 0
    (path,) = (folder / "results").glob("samples-*.json")
    found = content(path)
    with np.load(folder / "mine.npz") as arrays:
        images = torch.from_numpy(arrays["arr"]).permute(0, 3, 1, 2)
    wanted = evaluate_samples([images], read_reference(folder / "reference.npz"), extractor)
    assert found["metrics"].keys() == wanted.keys()
    assert {"fid", "sfid", "inception_score", "precision", "recall"} <= wanted.keys()
    for key, value in wanted.items():
        assert found["metrics"][key] == pytest.approx(value, rel=1e-3, abs=1e-6), key
    assert "rank-deficient" in found["warnings"][0]
    assert "rank-deficient" in capsys.readouterr().err
    assert found["protocol"]["samples"] == 8


@pytest.mark.slow
def test_two_ranks_evaluate_samples_alike(lab: Any) -> None:
    folder = lab[0]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fcdm.evaluate"]
    done = subprocess.run(
        [sys.executable, *launch, "samples=mine.npz", "reference=reference.npz", "batch_size=3", "out=ranks"],
        cwd=folder,
        env=environment(FCDM_INCEPTION=os.environ["FCDM_INCEPTION"]),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert main(["samples=mine.npz", "reference=reference.npz", "batch_size=3", "out=alone"]) == 0
    (both,), (alone,) = ((folder / name).glob("*.json") for name in ("ranks", "alone"))
    assert both.name == alone.name
    for key, value in content(alone)["metrics"].items():
        assert content(both)["metrics"][key] == pytest.approx(value, rel=1e-6), key


@pytest.mark.parametrize(
    ("samples", "line"),
    [
        (
            {"arr_0": np.full((3, 32, 32, 3), np.nan, np.float32)},
            "floats do not say what is black and what is white: say range=0..1 or range=-1..1",
        ),
        ({"arr_0": np.array([{"run": "me"}], dtype=object)}, "holds Python objects, which could run code"),
        ({"arr_0": np.zeros((3, 32, 32, 4), np.uint8)}, "save the first three of its four channels"),
        ({"arr_0": np.zeros((3, 3, 32, 3), np.uint8)}, "say layout=NHWC or layout=NCHW"),
        ({"arr_0": np.zeros((3, 32, 32, 3), np.uint8), "arr_1": np.zeros(4, int)}, "3 images in `arr_0`, but 4 labels"),
        ({"arr_0": np.zeros((3, 16, 16, 3), np.uint8)}, "a reference of 32x32 pixels, but the samples are 16x16"),
        (
            {"images": np.zeros((3, 8, 8, 3), np.uint8), "classes": np.zeros(3)},
            "no images in it: an array `arr_0` or `arr`",
        ),
    ],
)
def test_wrong_samples_are_one_line(lab: Any, capsys: Any, samples: dict[str, Any], line: str) -> None:
    np.savez(lab[0] / "bad.npz", **samples)
    assert line in refused(["samples=bad.npz", "reference=reference.npz"], capsys)


def test_wrong_words_are_one_line(lab: Any, capsys: Any) -> None:
    (lab[0] / "text.npz").write_text("not found")
    for words, line in (
        (["samples=text.npz", "reference=reference.npz"], "not a readable .npz"),
        (["samples=mine.npz"], "say reference=<statistics in ADM's format"),
        (["samples=gone.npz", "reference=reference.npz"], "gone.npz: there is no such file"),
        (
            ["samples=mine.npz", "reference=reference.npz", "features=digits-cnn"],
            "say one of dinov2, dinov2-pil, inception",
        ),
        (
            ["samples=mine.npz", "reference=reference.npz", "guidance_scale=2"],
            "guidance_scale has no effect on samples",
        ),
        (["samples=5"], "say what to evaluate"),
        (["samples=mine.npz", "reference=reference.npz", "model=N"], "model has no effect on samples"),
        (["samples=mine.npz", "reference=reference.npz", "mlflow_uri=http://x"], "mlflow_uri has no effect"),
        (["calibrate", "samples=mine.npz", "sampling_steps=3"], "sampling_steps has no effect on samples"),
        ([lab[1].name, "evaluation.where=job"], "evaluation.where has no effect on an evaluation by itself"),
        ([lab[1].name, "reference=reference.npz"], "evaluation.reference=reference.npz has no effect"),
        (
            [lab[1].name, "data.path=store"],
            "data.name=digits is the bundled digits' name",
        ),
        (["calibrate"], "openai/guided-diffusion"),
        (["calibrate", "samples=gone.npz", "reference=reference.npz"], "samples=gone.npz: there is no such file"),
    ):
        assert line in refused(words, capsys)


def test_calibration_compares_all_and_says_with_its_exit_code(lab: Any, capsys: Any) -> None:
    folder = lab[0]
    words = ["calibrate", "samples=mine.npz", "reference=reference.npz"]
    assert "is not the reference of the published values" in refused(words, capsys)
    assert "evaluate samples" not in capsys.readouterr().out, "nothing was measured for that"
    (folder / "values.json").write_text(json.dumps(PUBLISHED))
    assert main([*words, "published=values.json"]) == 1
    said = capsys.readouterr().out
    assert all(f"{key} " in said for key in PUBLISHED)
    assert "OFF" in said
    (path,) = (folder / "results").glob("samples-*.json")
    metrics = {key: float(value) for key, value in content(path)["metrics"].items() if key in PUBLISHED}
    (folder / "values.json").write_text(json.dumps(metrics))
    assert main([*words, "published=values.json"]) == 0
    (folder / "values.json").write_text(json.dumps({**metrics, "fid": metrics["fid"] * 1.03}))
    assert main([*words, "published=values.json"]) == 1
    assert capsys.readouterr().out.count("OFF") == 1


def test_published_values_agree_with_themselves_and_a_missing_one_never_does() -> None:
    assert all(line.agrees for line in compare(dict(PUBLISHED), PUBLISHED))
    off = {**PUBLISHED, "recall": PUBLISHED["recall"] + 0.02}
    assert [line.metric for line in compare(off, PUBLISHED) if not line.agrees] == ["recall"]
    assert not any(line.agrees for line in compare({}, PUBLISHED))
