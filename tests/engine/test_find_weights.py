"""Where weights come from: a run, a checkpoint, anybody's file; and what is refused."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fcdm.config.presets import load_preset
from fcdm.engine.read_weights import read_weights
from fcdm.engine.state import TrainState, create_model, load_weights
from fcdm.errors import UserError
from fcdm.models import FCDM, DiT, build_model
from fcdm.models.official_weights import to_official
from fcdm.runs.checkpoints import BrokenCheckpoint
from fcdm.runs.find_weights import find_weights
from fcdm.runs.folder import Run
from tests.support.commands import TINY, composing, environment
from tests.support.golden import DATA, golden_inputs, golden_weights, names_shapes
from tests.support.tiny_runs import tiny_run

PUBLIC = {
    "S": ("official_fcdm_s_state_dict.tsv", "golden_fcdm_s.npz"),
    "dit/S-2": ("official_dit_s2_state_dict.tsv", "golden_dit_s2.npz"),
}


def public_model(preset: str, side: int = 32) -> FCDM | DiT:
    model = build_model(load_preset(preset), channels=4, side=side, classes=1000, learn_sigma=True)
    assert isinstance(model, FCDM | DiT)
    return model.eval()


def training_file(path: Path, ema: dict[str, Tensor], model: dict[str, Tensor]) -> Path:
    """A checkpoint as both public training codes write it."""
    some = next(iter(model))
    moments = {"step": torch.tensor(3.0), "exp_avg": model[some] * 0, "exp_avg_sq": model[some] * 0}
    opt = {"state": {0: moments}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0]}]}
    args = argparse.Namespace(model="DiT-S/2", image_size=256, vae="ema", ckpt=None, cfg_scale=1.5)
    torch.save({"model": model, "ema": ema, "opt": opt, "args": args}, path)
    return path


@pytest.mark.parametrize("preset", PUBLIC)
def test_public_checkpoints_answer_as_the_public_codes(tmp_path: Path, preset: str) -> None:
    """Golden values of the public codes, from a file as their training writes it."""
    tsv, npz = PUBLIC[preset]
    ema = golden_weights(names_shapes(tsv))
    file = training_file(tmp_path / "0400000.pt", ema, {name: tensor * 0.5 for name, tensor in ema.items()})
    found = find_weights(str(file))
    assert found.id.startswith("sha256:")
    assert (found.run, found.step, found.path, found.name) == (None, None, file, "0400000.pt")
    model, given = public_model(preset), golden_inputs()
    load_weights(model, read_weights(found, model))
    with np.load(DATA / npz) as arrays, torch.no_grad():
        expected = torch.from_numpy(arrays["output"])
        output = model(given.x, given.t, given.labels)
    assert (output - expected).norm() / expected.norm() < 1e-5
    if preset == "S":  # the raw weights are the other group; DiT's position embedding cannot be halved
        raw, averaged = read_weights(found, model, "model"), model.state_dict()
        assert all(torch.equal(raw[name], averaged[name] * 0.5) for name in averaged)


def test_bare_state_dicts_and_safetensors_in_either_code_s_names(tmp_path: Path) -> None:
    model = tiny_dit()
    own, public = model.state_dict(), {name: t.contiguous() for name, t in to_official(model).items()}
    half = {name: tensor.half() for name, tensor in public.items() if name != "pos_embed"}
    torch.save(public, tmp_path / "public.pt")
    torch.save({f"module.{name}": tensor for name, tensor in own.items()}, tmp_path / "ddp.pth")
    torch.save(public, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(public, tmp_path / "public.safetensors")
    save_file(own, tmp_path / "own.safetensors")
    torch.save({**half, "pos_embed": public["pos_embed"]}, tmp_path / "half.pt")
    for name in ("public.pt", "ddp.pth", "old.pt", "public.safetensors", "own.safetensors", "half.pt"):
        read = read_weights(find_weights(str(tmp_path / name)), tiny_dit(seed=1))
        assert read.keys() == own.keys()
        for key, tensor in own.items():
            assert read[key].dtype == torch.float32
            assert torch.equal(read[key], tensor.half().float() if name == "half.pt" else tensor), (name, key)


def test_a_dit_of_another_resolution_only_where_asked(tmp_path: Path) -> None:
    model = tiny_dit()
    torch.save(to_official(model), tmp_path / "small.pt")
    found, larger = find_weights(str(tmp_path / "small.pt")), tiny_dit(side=16)
    with pytest.raises(UserError, match="pos_embed is 1x16x64, not 1x64x64"):
        read_weights(found, larger)
    read = read_weights(found, larger, any_side=True)
    assert all(torch.equal(read[name], tensor) for name, tensor in model.state_dict().items())


def tiny_dit(seed: int = 0, side: int = 8) -> DiT:
    config = load_preset("dit/N-2")
    config.depth, config.width, config.heads = 1, 64, 2  # type: ignore[attr-defined]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(config, channels=1, side=side, classes=10, learn_sigma=True)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
    assert isinstance(model, DiT)
    return model


# --- runs ---


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run, TrainState]:
    """A run on the digits with checkpoints of steps 2 and 4, as training leaves it."""
    runs = tmp_path_factory.mktemp("weights") / "runs"
    run, _, state = tiny_run(runs)
    return runs, run, state


def test_a_run_by_folder_name_or_id_at_any_step(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, run, state = lab
    monkeypatch.chdir(runs.parent)
    for text in (f"runs/{run.name}", f"runs/{run.name}/", str(run.folder), run.name, run.id, run.id[:4], run.id[:12]):
        found = find_weights(text)
        assert (found.id, found.step, found.name) == (f"{run.id}@4", 4, f"{run.name}@4")
        assert find_weights(f"{text}@2").id == f"{run.id}@2"
    monkeypatch.chdir(run.folder)
    assert find_weights(".").name == f"{run.name}@4"
    found = find_weights(str(run.checkpoints / "step-00000002"))
    assert (found.id, found.step) == (f"{run.id}@2", 2)
    ema = read_weights(find_weights(run.id[:6], runs), state.model)
    assert all(torch.equal(ema[name], tensor) for name, tensor in state.ema.state_dict().items())
    raw = read_weights(find_weights(run.id[:6], runs), state.ema, "model")
    assert all(torch.equal(raw[name], tensor) for name, tensor in state.model.state_dict().items())
    with pytest.raises(UserError, match="has no other, only model, ema, optimiser"):
        read_weights(find_weights(run.name, runs), state.ema, "other")


def test_finding_needs_no_torch(lab: Any) -> None:
    runs, run, _ = lab
    code = (
        "import sys\nfrom fcdm.runs.find_weights import find_weights\n"
        f"print(find_weights({run.name!r}, {str(runs)!r}).id)\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"{run.id}@4", done.stderr


def test_the_newest_whole_checkpoint(lab: Any, tmp_path: Path) -> None:
    runs, run, state = lab
    shutil.copytree(runs, tmp_path / "runs")
    ema = tmp_path / "runs" / run.name / "checkpoints" / "step-00000004" / "ema.safetensors"
    ema.write_bytes(ema.read_bytes()[:-8])
    assert find_weights(run.name, tmp_path / "runs").step == 2
    with pytest.raises(BrokenCheckpoint, match=r"ema\.safetensors has \d+ bytes instead of"):
        read_weights(find_weights(f"{run.name}@4", tmp_path / "runs"), state.model)
    for checkpoint in (tmp_path / "runs").glob("*/checkpoints/step-*/manifest.json"):
        checkpoint.unlink()
    with pytest.raises(UserError, match="none of its 2 checkpoints is whole"):
        find_weights(run.name, tmp_path / "runs")
    with pytest.raises(BrokenCheckpoint, match=r"manifest\.json is missing"):
        find_weights(f"{run.name}@2", tmp_path / "runs")


def test_what_is_not_there_or_not_clear_is_said(lab: Any, tmp_path: Path) -> None:
    runs, run, _ = lab
    both = tmp_path / "both"
    shutil.copytree(runs, both)
    other = both / f"M-digits-8px-{run.id[:6]}00"
    shutil.copytree(both / run.name, other)
    described = json.loads((other / "run.json").read_text())
    described["id"] = f"{run.id[:6]}00" + run.id[8:]
    (other / "run.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match="give more digits") as error:
        find_weights(run.id[:5], both)
    assert run.name in str(error.value)
    assert other.name in str(error.value)
    assert find_weights(run.id[:8], both).id == f"{run.id}@4"
    for text, said in {
        f"{run.name}@3": r"no checkpoint of step 3 \(kept: 2, 4\)",
        "N-digits-8px": rf"no run's folder, name or id.*in .*runs there is {run.name}",
        "0123": rf"there is {run.name}",
        "": "no run's folder",
        str(runs): "is no run's folder: there is no run.json",
        str(tmp_path / "no.pt"): "there is no such file$",
        str(tmp_path / "no" / "no.pt"): "nor a folder",
    }.items():
        with pytest.raises(UserError, match=said):
            find_weights(text, runs)
    with pytest.raises(UserError, match="there are no runs in"):
        find_weights("0123", tmp_path / "nowhere")
    (tmp_path / "0400000.pt").touch()
    with pytest.raises(UserError, match=r"there is 0400000\.pt"):
        find_weights(str(tmp_path / "040000.pt"))
    loose = tmp_path / "step-00000004"
    shutil.copytree(run.checkpoints / "step-00000004", loose)
    with pytest.raises(UserError, match=r"name its ema\.safetensors instead"):
        find_weights(str(loose))
    assert find_weights(str(loose / "ema.safetensors")).id.startswith("sha256:")
    (other / "run.json").write_text('{"id": 3}')
    with pytest.raises(UserError, match="holds no run's id"):
        find_weights(other.name, both)
    (both / "empty").mkdir()
    shutil.copy(runs / run.name / "run.json", both / "empty" / "run.json")
    with pytest.raises(UserError, match=r"no checkpoint \(yet\)"):
        find_weights("empty", both)


# --- files that are refused ---


class Trap:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_wrong_files_are_one_line_each(tmp_path: Path) -> None:
    model = tiny_dit()
    own = model.state_dict()

    def refused(name: str, said: str) -> None:
        with pytest.raises(UserError, match=said) as error:
            read_weights(find_weights(str(tmp_path / name)), model)
        assert "\n" not in str(error.value)
        assert str(tmp_path / name) in str(error.value)

    torch.save({"model": own, "ema": own, "args": Trap(tmp_path / "sprung")}, tmp_path / "code.pt")
    refused("code.pt", "could run code: refused")
    torch.save({"ema": own, "args": Path("x")}, tmp_path / "class.pt")
    refused("class.pt", r"holds pathlib[.\w]* that is no tensor")
    assert not (tmp_path / "sprung").exists()
    torch.save({"model": own, "args": argparse.Namespace()}, tmp_path / "noema.pt")
    refused("noema.pt", "no weights 'ema', only model")
    torch.save(own, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    for size in (len(whole) - 100, 5000, 10, 0):
        (tmp_path / "torn.pt").write_bytes(whole[:size])
        refused("torn.pt", "cut short")
    save_file(own, tmp_path / "whole.safetensors")
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-8])
    refused("torn.safetensors", "cut short")
    (tmp_path / "text.safetensors").write_text("not found")
    refused("text.safetensors", "no safetensors file")
    torch.save([own], tmp_path / "list.pt")
    refused("list.pt", "holds a list, no state dict")
    torch.save({"weight": 3.0}, tmp_path / "numbers.pt")
    refused("numbers.pt", "weight is no tensor")
    torch.save({}, tmp_path / "empty.pt")
    refused("empty.pt", "it is empty")

    public = to_official(model)
    del public["blocks.0.attn.qkv.bias"]
    torch.save({**public, "extra": torch.ones(1)}, tmp_path / "other.pt")
    refused("other.pt", r"missing blocks\.0\.attn\.qkv\.bias; unexpected extra")
    public = {**to_official(model), "x_embedder.proj.weight": torch.ones(64, 3, 2, 2)}
    torch.save(public, tmp_path / "channels.pt")
    refused("channels.pt", r"x_embedder\.proj\.weight is 64x3x2x2, not 64x1x2x2")
    ours = dict(own)
    ours["out.weight"] = ours["out.weight"][:2]
    ours["more"] = ours.pop("out.bias")
    save_file({name: tensor.contiguous() for name, tensor in ours.items()}, tmp_path / "ours.safetensors")
    refused("ours.safetensors", r"missing out\.bias; unexpected more; shapes differ: out\.weight is 2x64, not 8x64")


def test_a_run_s_weights_are_no_other_model_s(lab: Any) -> None:
    runs, run, _ = lab
    with composing(*TINY) as composer:
        config = composer.config(["model=dit/N-2", "steps=2", f"runs_dir={runs}"])
    with pytest.raises(UserError, match=r"not the weights of model dit/N-2: missing .*; unexpected"):
        read_weights(find_weights(run.name, runs), create_model(config, torch.device("cpu")))


class Wrapped(nn.Module):
    """A module around another, as Lightning's, with an average of it beside it."""

    def __init__(self, model: nn.Module, **others: nn.Module) -> None:
        super().__init__()
        self.model = model
        for name, other in others.items():
            setattr(self, name, other)


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "_orig_mod.module.",
        "module._orig_mod.",
        "module.module._orig_mod.",
        "net.model.",
        "model.",
    ],
)
@pytest.mark.parametrize("names", ["ours", "public"])
def test_whatever_wrapped_the_model(tmp_path: Path, prefix: str, names: str) -> None:
    model = tiny_dit()
    own = model.state_dict()
    inner = own if names == "ours" else to_official(model)
    wrapped = {f"{prefix}{name}": tensor for name, tensor in inner.items()}
    lightning = {
        "epoch": 3,
        "global_step": 20,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": wrapped,
        "callbacks": {},
    }
    torch.save(wrapped, tmp_path / "bare.pt")
    torch.save({"ema": wrapped, "opt": {"state": {}}}, tmp_path / "group.pt")
    torch.save({"n_averaged": torch.tensor(7), **wrapped}, tmp_path / "averaged.pth")
    torch.save(lightning, tmp_path / "epoch=3-step=20.ckpt")
    for file in tmp_path.iterdir():
        read = read_weights(find_weights(str(file)), tiny_dit(seed=1))
        assert all(torch.equal(read[name], tensor) for name, tensor in own.items()), file


def test_torchs_own_averaged_model(tmp_path: Path) -> None:
    model = tiny_dit()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    torch.save(averaged.state_dict(), tmp_path / "a.pt")
    torch.save(torch.optim.swa_utils.AveragedModel(averaged).state_dict(), tmp_path / "b.pt")
    for name in ("a.pt", "b.pt"):
        read = read_weights(find_weights(str(tmp_path / name)), tiny_dit(seed=1))
        assert all(torch.equal(read[key], tensor) for key, tensor in model.state_dict().items())


def test_the_line_about_several_models_in_a_file_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it advises is typed into Python, and makes a file that is read."""
    monkeypatch.chdir(tmp_path)
    model = tiny_dit()
    whole = Wrapped(model, ema=tiny_dit(seed=3), loss=nn.Linear(2, 2))
    torch.save({"state_dict": whole.state_dict()}, "a.ckpt")
    with pytest.raises(UserError, match=r"its names begin with model\. or ema\., among others") as caught:
        read_weights(find_weights("a.ckpt"), tiny_dit())
    exec(str(caught.value).partition("Keep one: ")[2], {"torch": torch})
    read = read_weights(find_weights("weights.pt"), tiny_dit(seed=1))
    assert all(torch.equal(read[name], tensor) for name, tensor in model.state_dict().items())


def test_the_line_about_a_file_that_holds_code_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tiny_dit().state_dict()
    wrapped = {f"model.{name}": tensor for name, tensor in own.items()}
    torch.save({"state_dict": wrapped, "hyper_parameters": Trap(tmp_path / "sprung")}, "a.ckpt")
    with pytest.raises(UserError, match="could run code: refused") as caught:
        read_weights(find_weights("a.ckpt"), tiny_dit())
    assert not Path("sprung").exists()
    exec(str(caught.value).partition("where it was made: ")[2], {"torch": torch})
    read = read_weights(find_weights("weights.pt"), tiny_dit(seed=1))
    assert all(torch.equal(read[name], tensor) for name, tensor in own.items())


def test_another_models_file_is_told_by_its_own_names(tmp_path: Path) -> None:
    torch.save({"module.conv.weight": torch.ones(3)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"unexpected module\.conv\.weight"):
        read_weights(find_weights(str(tmp_path / "other.pt")), tiny_dit())
