"""`python -m fcdm.evaluate samples=... reference=...` with images in every form that people have them in.

A few features stand in Inception's place: what is tested is which images are read, as what, and what is said.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fcdm.engine.distributed import Ranks
from fcdm.engine.evaluate_run import Evaluator
from fcdm.engine.streamed_metrics import ReferenceMeasure, open_measure
from fcdm.engine.worker import Worker
from fcdm.evaluate import main
from fcdm.features import calibration
from fcdm.prepare import main as prepare
from fcdm.runs.folder import open_run
from fcdm.runs.protocol import Part, protocol_of
from fcdm.sample import main as sample
from tests.support.commands import ROOT, TINY, composing, told_by_ranks
from tests.support.silent import Silent
from tests.support.small_extractor import SMALL
from tests.support.tiny_images import encoded, picture
from tests.support.tiny_runs import tiny_run

SAMPLES = np.stack([picture(number, 16, 16) for number in range(12)])
REAL = np.stack([picture(number, 20, 16) for number in range(40, 60)])  # wider than high


def write_pictures(folder: Path, pixels: np.ndarray[Any, Any], nested: bool = False) -> Path:
    for number, image in enumerate(pixels):
        path = folder / (f"{number % 3}/{number}.png" if nested else f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(Image.fromarray(image), "PNG"))
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "inception.pth").touch()
    monkeypatch.setenv("FCDM_INCEPTION", str(tmp_path / "inception.pth"))
    monkeypatch.setattr("fcdm.features.space.open_extractor", lambda *_: SMALL)
    monkeypatch.setattr("fcdm.features.space.extractor_id", lambda *_: SMALL.id)  # of the network in Inception's place
    write_pictures(tmp_path / "real", REAL, nested=True)
    return tmp_path


def result(*words: str, out: str = "results") -> dict[str, Any]:
    before = set(Path(out).glob("*.json"))
    assert main([*words, f"out={out}", "batch_size=5", "device=cpu"]) == 0
    (path,) = set(Path(out).glob("*.json")) - before
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def refused(words: list[str], capsys: Any, command: Any = main) -> str:
    capsys.readouterr()
    assert command(words) == 1
    said: str = capsys.readouterr().err.strip()
    return said.splitlines()[-1]


def test_samples_in_every_form_are_the_same_samples(here: Path) -> None:
    assert prepare(["reference", "images=real", "resolution=16", "out=reference.npz", "device=cpu"]) == 0
    write_pictures(here / "flat", SAMPLES)
    np.savez(here / "s.npz", SAMPLES)
    np.savez_compressed(here / "packed.npz", mine=SAMPLES)
    np.save(here / "s.npy", SAMPLES)
    np.save(here / "first.npy", SAMPLES.transpose(0, 3, 1, 2).copy())
    np.save(here / "floats.npy", SAMPLES.astype(np.float32) / 127.5 - 1)
    forms = [["s.npz"], ["packed.npz"], ["s.npy"], ["first.npy"], ["floats.npy", "range=-1..1"], ["flat"]]
    found = [result(f"samples={name}", "reference=reference.npz", *more) for name, *more in forms]
    for form, other in zip(forms, found, strict=True):
        assert other["metrics"] == found[0]["metrics"], form
        assert other["protocol"].pop("read_as", None) == ("-1..1" if "floats" in form[0] else None)
        assert other["protocol"] == found[0]["protocol"]
    assert {"fid", "sfid", "inception_score", "precision", "recall"} <= found[0]["metrics"].keys()


def test_a_reference_of_real_images_is_that_of_prepare(here: Path, capsys: Any) -> None:
    np.savez(here / "s.npz", SAMPLES)
    np.savez(here / "real.npz", REAL)
    np.save(here / "real.npy", REAL)
    write_pictures(here / "ordered", REAL)
    assert prepare(["reference", "images=ordered", "resolution=16", "out=reference.npz", "device=cpu"]) == 0
    wanted = result("samples=s.npz", "reference=reference.npz")
    for name in ("ordered", "real.npz", "real.npy"):
        capsys.readouterr()
        found = result("samples=s.npz", f"reference={name}")
        assert found["metrics"] == wanted["metrics"], name
        assert re.fullmatch(r"16px@images-[0-9a-f]{8}", found["protocol"]["reference"])
        said = capsys.readouterr().err
        assert "20 images; their statistics, as ADM crops them to 16 pixels, are made once and kept in " in said
        (kept,) = [path for path in here.glob(f"{name}.16px-*.npz") if ".features-" not in path.name]
        assert str(kept) in said
        made = kept.stat().st_mtime_ns
        result("samples=s.npz", f"reference={name}", "shuffle=0")
        assert kept.stat().st_mtime_ns == made
        assert "are made once" not in capsys.readouterr().err


def test_a_folder_that_fcdm_sample_wrote(here: Path, capsys: Any) -> None:
    run, _, _ = tiny_run(here / "runs")
    for form in ("png", "npz"):
        words = [run.name, "samples=12", "sampling_steps=2", "batch_size=5", f"format={form}", f"out={form}"]
        assert sample([*words, "device=cpu"]) == 0
    write_pictures(here / "grey", np.stack([picture(number, 8, 8) for number in range(20)]))
    found = [result(f"samples={form}", "reference=grey") for form in ("png", "npz")]
    assert found[0]["metrics"]["fid"] == pytest.approx(found[1]["metrics"]["fid"], rel=1e-9)
    assert any("are grey, and the reference's are not" in warning for warning in found[0]["warnings"])
    assert any("are grey, and the reference's are not" in warning for warning in found[1]["warnings"])
    (here / "png" / "samples.json").unlink()
    assert "the same fcdm.sample command finishes it" in refused(["samples=png", "reference=grey"], capsys)


def test_where_people_go_wrong_is_told_and_kept_with_the_numbers(here: Path, capsys: Any) -> None:
    for name, pixels, told in (
        ("ones", (SAMPLES > 128).astype(np.uint8), "were they floats from 0 to 1 that were cut to bytes?"),
        ("same", np.repeat(SAMPLES[:1], 12, axis=0), "all 12 images are all the same"),
        ("few", SAMPLES[:5], "rank-deficient"),
    ):
        np.save(here / f"{name}.npy", pixels)
        found = result(f"samples={name}.npy", "reference=real")
        assert told in " ".join(found["warnings"])
        assert told in capsys.readouterr().err


def test_wrong_images_are_one_line_and_nothing_is_written(here: Path, capsys: Any) -> None:
    np.savez(here / "s.npz", SAMPLES)
    np.save(here / "floats.npy", SAMPLES / 255)
    np.savez(here / "labels.npz", SAMPLES, np.zeros(11))
    np.save(here / "wide.npy", REAL)
    np.save(here / "one.npy", REAL[0, 0, 0, 0])
    write_pictures(here / "sizes", SAMPLES)
    (here / "sizes" / "5.png").write_bytes(encoded(Image.fromarray(REAL[0]), "PNG"))
    (here / "empty").mkdir()
    for words, told in (
        (["samples=floats.npy", "reference=real"], "say range=0..1 or range=-1..1"),
        (["samples=one.npy", "reference=real"], "one.npy: what it holds is one number (uint8)"),
        (["samples=labels.npz", "reference=real"], "12 images in `arr_0`, but 11 labels in `arr_1`"),
        (["samples=sizes", "reference=real"], "0.png is 16x16 (height x width), 5.png is 16x20"),
        (["samples=empty", "reference=real"], "no images in this folder"),
        (["samples=wide.npy", "reference=real"], "a reference made of images is of squares"),
        (["samples=s.npz", "reference=floats.npy"], "what is white: `python -m fcdm.prepare reference"),
        (["samples=s.npz", "reference=gone"], "gone: there is no such file or folder"),
        (["samples=nowhere", "reference=real"], "samples=nowhere is no file or folder that is there"),
        (["samples=s.npz", "reference=real", "layout=NCHW"], "leave layout=NCHW away"),
        (["samples=s.npz", "reference=real", "sampling_steps=5"], "no effect on samples that are drawn already"),
    ):
        assert told in refused(words, capsys), words
    assert not list(here.glob("results/*.json"))


def test_the_advice_on_a_reference_of_floats_or_with_a_damaged_image_works(here: Path, capsys: Any) -> None:
    np.savez(here / "s.npz", SAMPLES)
    (here / "real" / "0" / "bad one.png").write_bytes(b"")
    said = refused(["samples=s.npz", "reference=real"], capsys)
    (advice,) = re.findall(r"`python -m fcdm\.prepare (reference .*?)`", said)
    assert prepare([*shlex.split(advice), "device=cpu"]) == 0
    assert result("samples=s.npz", "reference=real")["metrics"]["fid"] > 0, "the file that was made is taken"
    np.save(here / "floats.npy", REAL / 255)
    said = refused(["samples=s.npz", "reference=floats.npy"], capsys)
    (advice,) = re.findall(r"`python -m fcdm\.prepare (reference .*?)`", said)
    assert advice == "reference images=floats.npy resolution=16 range=0..1"
    assert prepare([*shlex.split(advice), "device=cpu", "out=floats.npz"]) == 0
    result("samples=s.npz", "reference=floats.npz")
    # A file in the place of the statistics that is not of these images: the advice is of this command.
    (here / "real" / "0" / "bad one.png").unlink()
    result("samples=s.npz", "reference=real", "shuffle=1")
    (kept,) = [path for path in here.glob("real.16px-*.npz.json") if json.loads(path.read_text())["left_out"] == []]
    kept.unlink()
    said = refused(["samples=s.npz", "reference=real", "shuffle=2"], capsys)
    assert said.endswith("remove it, and the same command makes it again")
    kept.with_suffix("").unlink()
    result("samples=s.npz", "reference=real", "shuffle=2")


def test_a_training_s_protocol_carries_the_identity_of_the_images(here: Path, capsys: Any) -> None:
    with composing(*TINY) as composer:
        config = composer.config(["model=N", "evaluation.samples=40"])
    config.resolution = 16
    config.steps = [1]
    config.evaluation.features, config.evaluation.reference = "inception", "real"
    part = Part(config)
    before = part.protocol["reference"]
    assert re.fullmatch(r"16px@images-[0-9a-f]{8}", before)
    measure = open_measure(config, None, Worker(Ranks(0, 1, torch.device("cpu")), Silent()))
    assert isinstance(measure, ReferenceMeasure)
    assert measure.reference.count == 20
    (here / "real" / "new.png").write_bytes(encoded(Image.fromarray(REAL[0]), "PNG"))
    assert protocol_of(config)["reference"] != before, "other images are another protocol"
    config.data.checksum = "0" * 64
    alone = Worker(Ranks(0, 1, torch.device("cpu")), Silent())
    evaluator = Evaluator(open_run(config), [part], None, alone)  # type: ignore[arg-type]
    evaluator.trained(1, SimpleNamespace(ema=torch.nn.Linear(1, 1), model=None), None)  # type: ignore[arg-type]
    assert "evaluation.reference=real has changed since this command began (16px@images-" in evaluator.failed[0]
    np.save(here / "floats.npy", REAL / 255)
    for path, told in (("gone", "there is no such file"), ("floats.npy", "what is white"), ("home", "no images in")):
        config.evaluation.reference = path
        with pytest.raises(Exception, match=rf"evaluation\.reference={path}.*{told}"):
            protocol_of(config)  # before anything is trained


RANK = """
import sys
from fcdm.engine.stop import end_process
from fcdm.evaluate import main
from fcdm.features import space
from tests.support.small_extractor import SMALL

space.open_extractor = lambda *_: SMALL
space.extractor_id = lambda *_: SMALL.id
end_process(lambda: main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_processes_share_samples_and_reference(here: Path) -> None:
    write_pictures(here / "flat", SAMPLES)
    wanted = result("samples=flat", "reference=real")
    for path in here.glob("real.16px-*"):
        path.unlink()
    words = ["samples=flat", "reference=real", "out=both", "batch_size=5", "device=cpu"]
    told = told_by_ranks(2, "-c", RANK, *words, timeout=300, PYTHONPATH=str(ROOT))
    assert "are made once and kept in" in told[0][1]
    assert told[1] == ("", "")
    (path,) = here.glob("both/*.json")
    for key, value in json.loads(path.read_text())["metrics"].items():
        assert value == pytest.approx(wanted["metrics"][key], rel=1e-6), key


def test_calibrate_says_what_is_not_adms_batch(here: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(here / "s.npz", SAMPLES)
    assert prepare(["reference", "images=real", "resolution=16", "out=r.npz", "device=cpu"]) == 0
    words = ["calibrate", "samples=s.npz", "reference=r.npz"]
    for reference in ("r.npz", "real"):
        said = refused(["calibrate", "samples=s.npz", f"reference={reference}"], capsys)
        assert f"{reference} is not the reference of the published values" in said
    monkeypatch.setattr(calibration, "SIDE", 16)
    said = refused(words, capsys)
    assert "12 images of 16x16x3 (uint8, NHWC), and the published values are of ADM's batch, 50,000 images" in said
    assert not list(here.glob("results/*.json"))
    # Both pieces of advice work: the metrics alone, and values of one's own.
    metrics = result(*words[1:])["metrics"]
    (here / "values.json").write_text(json.dumps({"fid": metrics["fid"], "recall": metrics["recall"]}))
    assert main([*words, "published=values.json", "batch_size=5", "device=cpu"]) == 0
    assert "agrees" in capsys.readouterr().out
    assert "say samples=<path of " in refused(["calibrate"], capsys)
    assert "samples=gone: there is no such file" in refused(["calibrate", "samples=gone", "reference=r.npz"], capsys)
