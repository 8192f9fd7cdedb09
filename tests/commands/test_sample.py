"""`python -m fcdm.sample` as a user meets it: files, ranks, kills, wrong words."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fcdm.engine.sample_files import SampleFolder
from fcdm.evaluate import main as evaluate
from fcdm.models.official_weights import to_official
from fcdm.sample import main
from tests.support.commands import environment, python_in
from tests.support.tiny_runs import tiny_run


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    folder = tmp_path_factory.mktemp("sample")
    run, _, state = tiny_run(folder / "runs")
    return folder, run, state


def command(folder: Path, *words: str, ranks: int = 1, ok: bool = True) -> subprocess.CompletedProcess[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    return python_in(folder, *launch, "-m", "fcdm.sample", *words, ok=ok)


def arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path, allow_pickle=False) as content:
        assert content.files == ["arr_0", "arr_1"]
        return content["arr_0"], content["arr_1"]


@pytest.mark.slow
def test_samples_are_a_function_of_seed_and_number(lab: Any) -> None:
    folder, run, _ = lab
    words = [run.id[:8], "samples=23", "sampling_steps=4", "labels=uniform", "guidance_scale=2"]
    first = command(folder, *words, "out=one", "batch_size=10", "format=npz,png")
    assert "23 samples of 8x8x1: 184 forward passes" in first.stdout
    images, labels = arrays(folder / "one/samples.npz")
    assert (images.shape, images.dtype, labels.shape, labels.dtype) == ((23, 8, 8, 1), np.uint8, (23,), np.int64)
    assert len({image.tobytes() for image in images}) == 23
    assert len(set(labels.tolist())) > 3
    for number in (0, 9, 22):
        with Image.open(folder / f"one/images/{number:06d}.png") as picture:
            assert np.array_equal(np.asarray(picture), images[number, ..., 0])
    with Image.open(folder / "one/grid.png") as grid:
        tiles = np.asarray(grid)[::4, ::4]
    assert np.array_equal(tiles[8:16, 16:24], images[12, ..., 0])
    said = json.loads((folder / "one/samples.json").read_text())
    assert said["source"] == f"{run.id}@4"
    assert said["protocol"]["guidance_scale"] == 2.0
    assert said["protocol"]["labels"] == "uniform"
    assert said["shape"] == [23, 8, 8, 1]
    assert not (folder / "one/.parts").exists()

    # Two processes, another batch size, fewer samples: the same ones.
    command(folder, *words, "samples=15", "out=two", "batch_size=4", ranks=2)
    there, names = arrays(folder / "two/samples.npz")
    assert np.array_equal(names, labels[:15])
    assert np.abs(there.astype(int) - images[:15]).max() <= 1, "float rounding moves a byte by one at most"
    assert (there == images[:15]).mean() > 0.99

    again = command(folder, *words, "out=one", "batch_size=3", "format=npz,png")
    assert "images/s" not in again.stdout, "all is there"
    assert {path.name for path in (folder / "one/holders").iterdir()} == {"000001.json"}, "nor claimed again"
    other = command(folder, *words, "samples=24", "out=one", "format=npz,png", ok=False)
    assert "one is of another request (protocol.samples 23, not 24; shape" in other.stderr
    assert len(other.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_killed_and_continued_is_undisturbed_and_one_at_a_time(lab: Any) -> None:
    folder, run, _ = lab
    words = [run.name, "samples=24", "sampling_steps=40", "sampler=ddpm", "batch_size=3"]
    killed = subprocess.Popen(
        [sys.executable, "-m", "fcdm.sample", *words, "out=killed"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
    )
    parts = folder / "killed/.parts"
    give_up = time.monotonic() + 200
    while len(list(parts.glob("*.npy"))) < 2:
        assert killed.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGSTOP)  # alive, and not done before the next process looks
    second = command(folder, *words, "out=killed", ok=False)
    assert "is held by process" in second.stderr
    assert second.returncode == 3
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.npy")}
    assert 2 <= len(kept) < 8
    command(folder, *words, "out=killed")
    command(folder, *words, "out=straight")
    assert (folder / "killed/samples.npz").read_bytes() == (folder / "straight/samples.npz").read_bytes()


def test_parts_that_are_missing_are_the_same_batches_whatever_was_drawn_before(tmp_path: Path) -> None:
    folder = SampleFolder(tmp_path, 23)
    folder.parts.mkdir()
    assert folder.missing(10) == [(0, 10), (10, 20), (20, 23)]
    folder.part(10, 20).touch()
    assert folder.missing(10) == [(0, 10), (20, 23)]
    assert folder.missing(4) == [(0, 4), (4, 8), (8, 10), (20, 23)]
    folder.part(0, 10).touch()
    folder.part(20, 23).touch()
    assert folder.missing(10) == []


def test_what_is_lost_is_made_again_and_leftovers_go(
    lab: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run, _ = lab
    monkeypatch.chdir(folder)
    words = [f"{run.name}@4", "samples=7", "sampling_steps=2", "batch_size=3", "format=npz,png", "out=lost"]
    assert main(words) == 0
    out = folder / "lost"
    made = {path.relative_to(out): path.read_bytes() for path in out.rglob("*.[np]*[gz]")}
    assert len(made) == 9
    for name in ("samples.npz", "grid.png", "images/000004.png"):
        (out / name).unlink()
        assert main(words) == 0
        assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*.[np]*[gz]")} == made, name
    # As a kill at the very end leaves it: all is there, and the parts too; then a picture goes.
    (out / ".parts").mkdir()
    for first, last in ((0, 3), (3, 6), (6, 7)):
        np.save(out / f".parts/{first:09d}-{last:09d}.npy", np.zeros((last - first, 8, 8, 1), np.uint8))
    before = (out / "samples.npz").stat().st_mtime_ns
    assert main(words) == 0
    assert not (out / ".parts").exists()
    assert (out / "samples.npz").stat().st_mtime_ns == before
    (out / ".parts").mkdir()
    np.save(out / ".parts/000000003-000000006.npy", np.zeros((3, 8, 8, 1), np.uint8))
    (out / "images/000004.png").unlink()
    assert main(words) == 0
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*.[np]*[gz]")} == made


def test_a_renamed_file_is_the_same_request(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _, state = lab
    monkeypatch.chdir(folder)
    torch.save({"ema": dict(state.ema.state_dict())}, folder / "before.pt")
    words = ["model=N", "model.width=8", "resolution=8", "samples=4", "sampling_steps=2", "out=renamed"]
    assert main(["before.pt", *words]) == 0
    made = (folder / "renamed/samples.npz").stat().st_mtime_ns
    (folder / "before.pt").rename(folder / "after.pt")
    assert main(["after.pt", *words, "model.name=mine"]) == 0
    assert (folder / "renamed/samples.npz").stat().st_mtime_ns == made
    assert main(["after.pt", *words, "diffusion.beta_end=0.03"]) == 1, "other samples"


def test_nan_weights_end_in_one_line_and_nothing_counts_as_done(
    lab: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _, state = lab
    monkeypatch.chdir(folder)
    weights = {name: tensor.clone() for name, tensor in state.ema.state_dict().items()}
    next(iter(weights.values())).fill_(float("nan"))
    torch.save({"ema": weights}, folder / "nan.pt")
    words = ["nan.pt", "model=N", "model.width=8", "resolution=8", "samples=4", "sampling_steps=2"]
    for program, out in ((main, "nan-samples"), (evaluate, "nan-results")):
        for _ in range(2):
            assert program([*words, f"out={out}"]) == 1
            said = capsys.readouterr().err.strip()
            assert "NaN" in said
            assert len(said.splitlines()) == 1, said
        left = [path for path in (folder / out).rglob("*") if path.is_file() and path.parent.name != "holders"]
        assert [path.name for path in left if path.name != "request.json"] == []


def test_a_weaker_model_counts_by_its_own_cost(lab: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    folder, run, _ = lab
    weak, _, _ = tiny_run(folder / "runs", "model.width=16", steps=(2,))
    monkeypatch.chdir(folder)
    flops = []
    words = [f"{run.name}@4", "--dry-run", "samples=1000", "sampling_steps=10"]
    for more in ([], ["guidance_scale=2"], ["guidance_scale=2", f"guidance_weak={weak.name}@2"]):
        assert main([*words, *more]) == 0
        flops.append(float(re.search(r"([\d.e+]+) FLOPs", capsys.readouterr().out)[1]))
    assert flops[1] == pytest.approx(2 * flops[0], rel=0.02)
    assert flops[2] > 3 * flops[0], "a wider one costs more than the model itself"


def test_a_public_file_of_one_class(lab: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The weights of the run's checkpoint under the public code's names: the same samples."""
    folder, run, state = lab
    monkeypatch.chdir(folder)
    public = {name: tensor.clone() for name, tensor in to_official(state.ema).items()}
    torch.save({"model": public, "ema": public, "opt": {}, "args": None}, folder / "public.pt")
    words = ["samples=6", "sampling_steps=3", "label=7"]
    asked = ["model=N", "model.width=8", "resolution=8"]
    assert main(["public.pt", *asked, *words, "out=public"]) == 0
    assert main([f"{run.name}@4", *words, "out=ours"]) == 0
    images, labels = arrays(folder / "public/samples.npz")
    assert labels.tolist() == [7] * 6
    assert np.array_equal(images, arrays(folder / "ours/samples.npz")[0])
    assert json.loads((folder / "public/samples.json").read_text())["source"].startswith("sha256:")
    assert main([f"{run.name}@4", *words, "label=6", "out=other"]) == 0
    assert not np.array_equal(images, arrays(folder / "other/samples.npz")[0])
    capsys.readouterr()
    for words, line in (
        (["public.pt"], "does not say which model it is: say model=...: N, M"),
        (["public.pt", "model=N"], "say resolution=... in pixels"),
        (["public.pt", "model=N", "resolution=8", "out=x"], "shapes differ"),
        (["public.pt", *asked, "objective=flow", "out=x"], "shapes differ: final_layer.conv.weight is 2x8x3x3"),
        (["public.pt", "model=Q", "resolution=8"], "model=Q is not known"),
    ):
        assert main(words) == 1
        said = capsys.readouterr().err.strip()
        assert line in said
        assert len(said.splitlines()) == 1, said


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["samples=5"], "say what to sample"),
        (["RUN", "model=N"], "model: .* is a run, which says that itself: leave model=N away"),
        (["RUN", "sampels=5"], "unknown key 'sampels': did you mean samples"),
        (["RUN", "samples=one"], "evaluation.samples: Value 'one'"),
        (["RUN", "samples=1"], "evaluation.samples=1 cannot be"),
        (["RUN", "samples=0"], "samples=0 draws nothing: say how many, samples=64"),
        (["RUN", "sampler=heun"], "samples models of objective=flow"),
        (["RUN", "label=11"], "label=11 cannot be: a class from 0 to 9, or 10"),
        (["RUN", "format=jpg"], "format=jpg is not known: npz, png"),
        (["RUN", "weights=power:0.08"], "snapshot"),
        (["RUN", "RUN"], "one source at a time"),
        (["RUN", "-x"], "-x is not known: say key=value"),
        (["RUN@3"], r"no checkpoint of step 3 \(kept: 2, 4\)"),
        (["RUN", "out=full"], "full holds other things"),
        (["RUN", "reference=x.npz"], "reference has no effect on samples that are only drawn: leave reference=x.npz"),
        (["RUN", "evaluation.features=inception"], "evaluation.features has no effect on samples"),
        (["RUN", "mlflow_uri=http://localhost"], "mlflow_uri has no effect on samples"),
        (["RUN", "evaluation.where=job"], "evaluation.where has no effect on samples"),
        (["RUN", "evaluation.resources.gpus=2"], "evaluation.resources.gpus has no effect on samples"),
        (["RUN", "data.path=store"], "data.path has no effect on samples"),
        (
            ["RUN", "guidance_interval=[0.1,0.8]"],
            "guidance_interval=.* no effect at evaluation.guidance_scale=1.0",
        ),
        (["RUN", "decoder=ft-mse"], "decoder=ft-mse has no effect at data.downsample=1"),
        (["RUN", "atol=1e-3"], "atol=0.001 has no effect at evaluation.sampler=ddim"),
        (["RUN", "label=3", "labels=uniform"], "labels=uniform has no effect where label=3"),
    ],
)
def test_wrong_words_are_one_line(
    lab: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, words: list[str], line: str
) -> None:
    folder, run, _ = lab
    monkeypatch.chdir(folder)
    (folder / "full").mkdir(exist_ok=True)
    (folder / "full/thesis.tex").touch()
    assert main([word.replace("RUN", run.name) for word in words]) == 1
    said = capsys.readouterr().err.strip()
    assert re.search(line, said), said
    assert len(said.splitlines()) == 1, said
    assert [path.name for path in (folder / "full").iterdir()] == ["thesis.tex"], "nothing is left behind"


def test_help_and_dry_run_need_no_torch(lab: Any) -> None:
    folder, run, _ = lab
    code = (
        "import sys\nfrom fcdm.sample import main\nassert main(['--help']) == 0\n"
        f"assert main([{run.name!r}, '--dry-run', 'samples=50000', 'out=dry']) == 0\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "50,000 samples of 8x8x1: 1,250,000 forward passes" in done.stdout
    assert not (folder / "dry").exists()


def test_a_file_that_is_there_wins_over_key_value(lab: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Lightning names its files so; quotes, spaces and `~` are no trouble either."""
    folder, _, state = lab
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    asked = ["model=N", "model.width=8", "resolution=8", "samples=2", "sampling_steps=2"]
    for number, name in enumerate(("epoch=20-step=20.pt", "seed=3.ckpt", "it's (2) Größe=1.pt")):
        torch.save({f"model.{key}": tensor for key, tensor in state.ema.state_dict().items()}, folder / name)
        assert main([name, *asked, f"out=~/own=({number})"]) == 0, capsys.readouterr().err
        assert json.loads((folder / f"own=({number})" / "samples.json").read_text())["source"].startswith("sha256:")
    for program in (main, evaluate):
        assert program(["epoch=20-step=21.pt", *asked]) == 1
        assert "epoch=20-step=21.pt: there is no such file, nor a key epoch" in capsys.readouterr().err
        assert program(["~/epoch=20-step=21.pt", *asked]) == 1
        assert (
            f"{folder}/epoch=20-step=21.pt: there is no such file; there is epoch=20-step=20.pt"
            in capsys.readouterr().err
        )


def test_a_runs_folder_with_signs_in_its_name(lab: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    folder, run, _ = lab
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    (folder / "a=b c").mkdir()
    shutil.copytree(run.folder, folder / "a=b c" / run.name)
    for words in ([f"a=b c/{run.name}"], [run.name, "runs_dir=a=b c"], [run.name, "runs_dir=~/a=b c"]):
        assert main([*words, "samples=2", "--dry-run"]) == 0, capsys.readouterr().err
