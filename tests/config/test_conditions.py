"""Constants that hold only under their own conditions: guided channels, and labels that were never trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fcdm.engine.sampler import Sampler
from fcdm.engine.state import create_model
from fcdm.errors import UserError
from fcdm.evaluate import main as evaluate
from fcdm.jobs.make_jobs import make_jobs
from fcdm.runs.folder import open_run
from fcdm.runs.protocol import sampling_protocol
from fcdm.sample import main as sample
from fcdm.sweep.sampling_config import run_config
from tests.support.commands import Command, composed
from tests.support.tiny_images import save_vae
from tests.support.tiny_runs import tiny_run
from tests.support.tiny_store import tiny_store


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- guidance_channels: 3 of 4 ---


def test_three_channels_are_guided_of_four_and_all_of_any_other_number() -> None:
    tiny_store(Path("four"))
    tiny_store(Path("sixteen"), channels=16)
    guided = "evaluation.guidance_scale=1.5"
    assert composed("model=XL", guided).evaluation.guidance_channels == 3
    assert composed("model=N", "data.path=four", guided).evaluation.guidance_channels == 3
    for words in (
        ["model=S", "data.path=sixteen"],
        ["model=S", "data.channels=16"],
        ["model=N", "recipe=paper", "evaluation.features=digits-cnn"],
    ):
        assert composed(*words, guided).evaluation.guidance_channels is None, words
    said = composed("model=S", "data.path=sixteen", guided, "evaluation.guidance_channels=3")
    assert said.evaluation.guidance_channels == 3, "what the user says stays"
    assert composed("model=S", guided, "evaluation.guidance_channels=null").evaluation.guidance_channels is None


def test_a_run_on_sixteen_channels_is_evaluated_so_too(tmp_path: Path) -> None:
    tiny_store(Path("sixteen"), channels=16)
    (job,) = make_jobs([composed("model=N", "data.path=sixteen", f"runs_dir={tmp_path}")])
    run = open_run(job.config)
    words = ["evaluation.guidance_scale=1.5", "evaluation.decoder=x"]
    assert run_config(run, words).evaluation.guidance_channels is None
    assert run_config(run, [*words, "evaluation.guidance_channels=3"]).evaluation.guidance_channels == 3


def test_protocols_of_four_channels_are_what_they_were() -> None:
    """Golden: what a guided evaluation of the paper's recipe is hashed from."""
    save_vae(Path("vae"))
    config = composed("model=XL", "evaluation.guidance_scale=1.5", "evaluation.decoder=vae")
    protocol = sampling_protocol(config)
    assert protocol.pop("decoder").startswith("vae@")
    assert protocol == {
        "weights": "ema", "sampler": "ddpm", "sampling_steps": 250, "clip_denoised": False, "guidance_scale": 1.5,
        "guidance_channels": 3, "samples": 50_000, "seed": 0, "labels": "uniform", "precision": "tf32",
        "rounding": "truncate-uint8",
    }  # fmt: skip


def test_autoguidance_on_latents_as_the_readme_writes_it(tmp_path: Path) -> None:
    """It was refused for the recipe's guidance_channels, of which nobody had spoken."""
    tiny_store(Path("store"), side=4)
    asked = ["model=N", "data.path=store", "steps=4", f"runs_dir={tmp_path}", "batch_size=8"]
    (job,) = make_jobs([composed(*asked, "seed=1")])
    weak, state = open_run(job.config), create_model(job.config, torch.device("cpu"))
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in state.state_dict().items()}, tmp_path / "weak.safetensors")
    guiding = ["evaluation.guidance_scale=2", f"evaluation.guidance_weak={tmp_path / 'weak.safetensors'}"]
    (job,) = make_jobs([composed(*asked, *guiding)])
    assert job.config.evaluation.guidance_channels is None
    sampler = Sampler(
        create_model(job.config, torch.device("cpu")), quick(job.config), torch.device("cpu"), decode=False
    )
    assert sampler.latents(torch.arange(2)).shape == (2, 4, 4, 4)
    assert run_config(weak, [*guiding, "evaluation.decoder=x"]).evaluation.guidance_channels is None
    with pytest.raises(UserError, match=r"say evaluation.guidance_channels=null"):
        composed(*asked, *guiding, "evaluation.guidance_channels=3")


def quick(config: Any) -> Any:
    config.evaluation.sampling_steps = 2
    return config


# --- labels that were never trained ---

NEVER = r"label_drop.probability=0 never trains the null class"


def test_a_model_without_label_drop_is_neither_guided_nor_sampled_without_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _, _ = tiny_run(tmp_path / "runs", "label_drop.probability=0")
    some = ["samples=4", "sampling_steps=2", "batch_size=4"]

    def refused(command: Any, *words: str) -> str:
        capsys.readouterr()
        assert command([f"{run.name}@4", *some, *words]) == 1
        said: str = capsys.readouterr().err.strip()
        assert len(said.splitlines()) == 1
        return said

    assert "evaluation.guidance_scale=1.5 guides by" in refused(evaluate, "guidance_scale=1.5", "mlflow_uri=off")
    assert "guides by" in refused(sample, "guidance_scale=0")
    assert "label=10 samples: say a class from 0 to 9" in refused(sample, "label=10")
    assert "label=10 samples" in refused(sample, "label=10", "guidance_scale=2", f"guidance_weak={run.name}@2")
    assert not (tmp_path / "samples").exists()
    assert sample([f"{run.name}@4", *some, "label=9"]) == 0
    assert sample([f"{run.name}@4", *some, "guidance_scale=2", f"guidance_weak={run.name}@2", "out=auto"]) == 0


def test_it_is_refused_at_submission_too(fcdm: Command, tmp_path: Path) -> None:
    asked = ["model=N", "label_drop.probability=0"]
    with pytest.raises(UserError, match=NEVER):
        composed(*asked, "evaluation.guidance_scale=1.5")
    assert composed(*asked, "evaluation.guidance_scale=1").label_drop.probability == 0
    assert composed(*asked, "evaluation.guidance_scale=2", "evaluation.guidance_weak=a@1").evaluation.guidance_weak
    assert composed(*asked, "evaluation.guidance_scale=2", "init_from=a@1"), "what that was trained with is not known"
    done = fcdm("-m", "model=N", "label_drop.probability=0,0.1", "evaluation.guidance_scale=1,1.5")
    assert done.returncode == 1
    assert "never trains the null class" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_model_that_never_sees_a_label_has_no_samples_of_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="trains the null class alone"):
        composed("model=N", "label_drop.probability=1")
    run, _, _ = tiny_run(tmp_path / "runs")
    config = tmp_path / "runs" / run.name / "config.yaml"
    assert config.exists()
    made = composed("model=N", "seed=5")  # as an earlier version let it be trained
    made.label_drop.probability = 1.0
    from fcdm.config.conditions import check_labels

    check_labels(made, label=10)
    for label in (None, 3):
        with pytest.raises(UserError, match="label=10"):
            check_labels(made, label)


def test_of_a_public_file_nothing_is_known_and_nothing_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import save_file

    config = composed("model=N")
    model = create_model(config, torch.device("cpu"))
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "file.safetensors")
    words = ["file.safetensors", "model=N", "resolution=8", "samples=4", "sampling_steps=2", "batch_size=4"]
    assert sample([*words, "guidance_scale=1.5", "--dry-run"]) == 0
    assert sample([*words, "label=10", "--dry-run"]) == 0
