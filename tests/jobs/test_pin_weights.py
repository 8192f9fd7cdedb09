"""Weights of other runs: fine-tuning from them with the lineage in the id, and guidance by a weaker model."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fcdm.config.check import config_from
from fcdm.config.schema import Config
from fcdm.engine.load_model import initial_weights, weaker_model
from fcdm.engine.sampler import Sampler
from fcdm.engine.state import create_model, load_weights
from fcdm.errors import UserError
from fcdm.jobs.job import Job
from fcdm.jobs.make_jobs import make_jobs
from fcdm.plan.estimate import evaluation_flops
from fcdm.runs.checkpoints import CannotEvaluate
from fcdm.runs.run_cost import run_cost
from tests.support.commands import TINY, Command, composing, environment, evaluations

CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Runs:
    """N trained to 2 and 4 steps, and a narrower one to 2; with their names in `folder`."""

    folder: Path
    main: str
    weak: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("trained")
    for choice in (("steps=[2,4]",), ("steps=2", "model.width=8")):
        command = [sys.executable, "-m", "fcdm.train", "model=N", *choice, *TINY]
        subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True, timeout=240)
    by_steps = {
        json.loads((path / "run.json").read_text())["cost"]["parameters"]: path.name
        for path in (folder / "runs").iterdir()
        if (path / "run.json").exists()
    }
    return Runs(folder / "runs", by_steps[max(by_steps)], by_steps[min(by_steps)])


def job(runs: Runs | Path, *overrides: str) -> Job:
    folder = runs.folder if isinstance(runs, Runs) else runs
    with composing() as composer:
        (found,) = make_jobs([composer.config(["model=N", *TINY, f"runs_dir={folder}", *overrides])])
    return found


def averages(runs: Runs, step: int, group: str = "ema") -> dict[str, torch.Tensor]:
    return load_file(runs.folder / runs.main / "checkpoints" / f"step-{step:08d}" / f"{group}.safetensors")


# --- init_from ---


def test_8_px_to_16_px_then_the_source_goes(fcdm: Command, tmp_path: Path, trained: Runs) -> None:
    shutil.copytree(trained.folder, tmp_path / "runs")
    # A learning rate that moves nothing: after one step the weights are still the source's.
    asked = ("model=N", "resolution=16", *TINY, "optimiser.lr=1e-15", f"init_from={trained.main}@4")
    done = fcdm(*asked, "steps=1")
    assert done.returncode == 0, done.stderr
    (child,) = (tmp_path / "runs").glob("*-16px-*")
    parent = json.loads((tmp_path / "runs" / trained.main / "run.json").read_text())
    source = averages(trained, 4)
    for group in ("model", "ema"):
        begun = load_file(child / "checkpoints" / "step-00000001" / f"{group}.safetensors")
        assert begun.keys() == source.keys()
        assert all(torch.allclose(begun[name], source[name], atol=1e-9) for name in source)
    described = json.loads((child / "run.json").read_text())
    assert described["init_from"]["source"] == f"{parent['id']}@4"
    assert described["init_from"]["name"] == f"{trained.main}@4"
    assert described["init_from"]["lineage_train_flops"] == 4 * parent["cost"]["train_flops_per_step"]
    assert f"init_from: {parent['id']}@4" in (child / "config.yaml").read_text()

    # Once there is a checkpoint the source is not needed, though the command still names it.
    shutil.rmtree(tmp_path / "runs" / trained.main)
    assert f"from {trained.main}@4" in fcdm(module="fcdm.status").stdout
    more = fcdm(*asked, "steps=2")
    assert more.returncode == 0, more.stderr
    assert (child / "checkpoints" / "step-00000002").is_dir()
    # Before that it is.
    shutil.rmtree(child / "checkpoints")
    shutil.rmtree(child / "evaluations")
    refused = fcdm(*asked, "steps=2")
    assert refused.returncode == 1
    assert f"init_from: {trained.main}: no run's folder" in refused.stderr
    assert refused.stderr.strip().count("\n") == 0
    assert not (child / "checkpoints").exists()


def test_the_lineage_is_in_the_id_and_the_path_is_not(tmp_path: Path, trained: Runs) -> None:
    def identity(source: str, *more: str) -> str:
        return job(trained, f"init_from={source}", *more).id

    folder = trained.folder / trained.main / "checkpoints" / "step-00000004"
    parent = json.loads((trained.folder / trained.main / "run.json").read_text())["id"]
    same = [f"{trained.main}@4", str(folder), f"{parent}@4", f"{parent[:8]}@4", f"{trained.folder / trained.main}@4"]
    ids = {identity(source) for source in same}
    assert len(ids) == 1
    for name in ("one.safetensors", "other.safetensors"):
        shutil.copy(folder / "ema.safetensors", tmp_path / name)
    files = {identity(str(tmp_path / name)) for name in ("one.safetensors", "other.safetensors")}
    assert len(files) == 1
    assert identity(str(tmp_path / "one.safetensors"), "init_from_weights=raw") in files, "a file holds one set"
    others = [
        job(trained).id,
        identity(f"{trained.main}@2"),
        identity(f"{trained.main}@4", "init_from_weights=raw"),
        *files,
    ]
    assert len({*ids, *others}) == 5
    frozen = job(trained, f"init_from={trained.main}@4").config
    assert config_from(dataclasses.asdict(frozen)) == frozen
    assert frozen.init_path == str(folder)


def test_a_name_that_some_run_began_from_is_no_source_of_another(tmp_path: Path, trained: Runs) -> None:
    """A file that is not here is not taken for one of the same name that was elsewhere."""
    runs = tmp_path / "runs"
    shutil.copytree(trained.folder, runs)
    (tmp_path / "elsewhere").mkdir()
    file = tmp_path / "elsewhere" / "weights.safetensors"
    shutil.copy(runs / trained.main / "checkpoints" / "step-00000004" / "ema.safetensors", file)
    begun = job(runs, f"init_from={file}", "seed=3").open()
    file.unlink()
    for source in ("weights.safetensors", str(file)):  # not begun yet: nothing stands in for the file
        with pytest.raises(UserError, match="init_from"):
            job(runs, f"init_from={source}", "seed=3")
    shutil.copytree(runs / trained.main / "checkpoints" / "step-00000004", begun.checkpoints / "step-00000004")
    assert job(runs, f"init_from={file}", "seed=3").id == begun.id
    for source, seed in (("weights.safetensors", 3), (str(file), 4)):
        with pytest.raises(UserError, match="init_from"):
            job(runs, f"init_from={source}", f"seed={seed}")


def test_a_checkpoint_that_training_will_remove_is_no_source(tmp_path: Path, trained: Runs) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(trained.folder, runs)
    (path,) = [path for path in (runs / "studies").glob("*.json") if trained.main in path.read_text()]
    study = json.loads(path.read_text())
    for request in study["requests"]:
        if request["run"] == trained.main:
            request["budgets"] = [2, 40]
    path.write_text(json.dumps(study))
    assert job(runs, f"init_from={trained.main}@2", "seed=3").config.init_from
    with pytest.raises(UserError, match=r"trains on.*one of its budgets \(2, 40\)"):
        job(runs, f"init_from={trained.main}@4", "seed=3")


@pytest.mark.parametrize(("weights", "group"), [("ema", "ema"), ("raw", "model")])
def test_which_weights_it_starts_from(trained: Runs, weights: str, group: str) -> None:
    config = job(trained, f"init_from={trained.main}@4", f"init_from_weights={weights}").config
    found = initial_weights(config, create_model(config, CPU))
    assert found is not None
    source = averages(trained, 4, group)
    assert all(torch.equal(found[name], source[name]) for name in source)


def test_a_file_that_has_changed_since_submission_is_refused(tmp_path: Path, trained: Runs) -> None:
    file = tmp_path / "weights.safetensors"
    shutil.copy(trained.folder / trained.main / "checkpoints" / "step-00000004" / "ema.safetensors", file)
    config = job(trained, f"init_from={file}").config
    shutil.copy(trained.folder / trained.main / "checkpoints" / "step-00000002" / "ema.safetensors", file)
    with pytest.raises(UserError, match=r"weights.safetensors was sha256:.* at submission and is sha256:.* now"):
        initial_weights(config, create_model(config, CPU))


def test_a_file_of_another_number_of_classes_names_what_differs(tmp_path: Path, trained: Runs) -> None:
    folder = trained.folder / trained.weak / "checkpoints" / "step-00000002"
    shutil.copy(folder / "ema.safetensors", tmp_path / "narrow.safetensors")
    config = job(trained, f"init_from={tmp_path / 'narrow.safetensors'}").config
    with pytest.raises(UserError, match=r"init_from: .*narrow.safetensors: not the weights of model N: shapes differ"):
        initial_weights(config, create_model(config, CPU))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["init_from=nothing@4"], "init_from: nothing: no run's folder, name or id"),
        (["init_from={main}"], "says no step, .*: write init_from={main}@4"),
        (["init_from={main}@3"], r"init_from: .*no checkpoint of step 3 \(kept: 2, 4\)"),
        (["init_from={weak}@2"], "{weak}@2 is of another model: model.width is 8 there and 16 here"),
        (["init_from={main}@4", "model=dit/N-2"], "is of another model: .*model.family is fcdm there and dit here"),
        (["init_from={main}@4", "diffusion.learn_sigma=false"], "diffusion.learn_sigma is True there and False here"),
        (["init_from=absent.safetensors"], "absent.safetensors: there is no such file"),
        (["init_from={main}@4", "init_from_weights=emma"], "init_from_weights=emma is not known"),
        (["init_from_weights=raw"], "init_from names none"),
        (["evaluation.guidance_scale=2", "evaluation.guidance_weak={main}"], "guidance_weak={main}@4"),
        (
            ["evaluation.guidance_scale=2", "evaluation.guidance_weak={main}@3"],
            "guidance_weak: .*no checkpoint of step",
        ),
        (
            ["evaluation.guidance_scale=2", "evaluation.guidance_weak={main}@2", "resolution=16"],
            "cannot guide this run: resolution is 8 there and 16 here",
        ),
        (
            ["evaluation.guidance_scale=2", "evaluation.guidance_weak={main}@2", "objective=flow"],
            "diffusion.objective is ddpm there and flow here",
        ),
        (
            ["evaluation.guidance_scale=2", "evaluation.guidance_weak={main}@2", "evaluation.guidance_channels=1"],
            "a weaker model guides all channels: say evaluation.guidance_channels=null",
        ),
        (["evaluation.guidance_weak_weights=rare"], "evaluation.guidance_weak_weights=rare is not known"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_starts(trained: Runs, overrides: list[str], says: str) -> None:
    there = sorted(trained.folder.rglob("*"))
    names = {"main": trained.main, "weak": trained.weak}
    with pytest.raises(UserError, match=says.format(**names)) as refused:
        job(trained, *(text.format(**names) for text in overrides))
    assert "\n" not in str(refused.value)
    assert sorted(trained.folder.rglob("*")) == there


# --- evaluation.guidance_weak ---


def test_autoguidance_by_a_smaller_model(fcdm: Command, tmp_path: Path, trained: Runs) -> None:
    shutil.copytree(trained.folder, tmp_path / "runs")
    run = tmp_path / "runs" / trained.main
    before = evaluations(run)
    done = fcdm(
        "-m",
        *("model=N", "steps=4", *TINY, f"evaluation.guidance_weak={trained.weak}@2"),
        "evaluation.guidance_scale=1,2",
    )
    assert done.returncode == 0, done.stderr + done.stdout
    after = evaluations(run)
    # Scale 1 is what was evaluated before; scale 2 is one more protocol, with other samples.
    assert {name: after[name] for name in before} == before
    (new,) = after.keys() - before.keys()
    content = json.loads((run / "evaluations" / new).read_text())
    weak = json.loads((tmp_path / "runs" / trained.weak / "run.json").read_text())["id"]
    assert content["protocol"]["guidance_weak"] == f"{weak}@2"
    assert "guidance_weak_weights" not in content["protocol"]
    assert str(tmp_path) not in json.dumps(content["protocol"])
    (plain,) = (json.loads((run / "evaluations" / name).read_text()) for name in before if "00000004" in name)
    assert content["metrics"]["fid"] != plain["metrics"]["fid"]
    assert "guidance_weak" not in plain["protocol"]


def sampler(config: Config, runs: Runs) -> Sampler:
    model = create_model(config, CPU).eval()
    load_weights(model, averages(runs, 4))
    return Sampler(model, config, CPU)


def test_a_model_that_guides_itself_changes_nothing(trained: Runs) -> None:
    """base + scale (cond - base) with base = cond."""
    guided = job(trained, "evaluation.guidance_scale=3", f"evaluation.guidance_weak={trained.main}@4").config
    numbers = torch.arange(4)
    with torch.no_grad():
        plain = sampler(job(trained).config, trained).images(numbers).int()
        itself = sampler(guided, trained).images(numbers).int()
        raw = dataclasses.replace(guided.evaluation, guidance_weak_weights="raw")
        other = sampler(dataclasses.replace(guided, evaluation=raw), trained).images(numbers).int()
    assert (itself - plain).abs().max() <= 1
    assert (other - plain).abs().max() > 1


def test_the_protocol_tells_weak_models_apart_and_not_their_paths(trained: Runs) -> None:
    def protocol(*overrides: str) -> str:
        return job(trained, "evaluation.guidance_scale=2", *overrides).parts[0].protocol_id

    folder = trained.folder / trained.main / "checkpoints" / "step-00000002"
    here = [f"evaluation.guidance_weak={source}" for source in (f"{trained.main}@2", folder)]
    assert protocol(here[0]) == protocol(here[1])
    others = (
        [],
        [here[0], "evaluation.guidance_weak_weights=raw"],
        [f"evaluation.guidance_weak={trained.weak}@2"],
        [f"evaluation.guidance_weak={folder / 'ema.safetensors'}"],
    )
    assert len({protocol(here[0]), *(protocol(*other) for other in others)}) == 5


def test_the_plan_counts_the_weak_model_s_own_forward_passes(trained: Runs) -> None:
    config = job(trained, "evaluation.guidance_scale=2", f"evaluation.guidance_weak={trained.weak}@2").config
    narrow = job(trained, "model.width=8").config
    forwards = 20 * 2  # samples and sampling steps of TINY
    both = run_cost(config).forward_macs + run_cost(narrow).forward_macs
    assert evaluation_flops(config)["sampling"] == 2 * forwards * both
    assert run_cost(narrow).forward_macs < run_cost(config).forward_macs / 2


def test_a_weak_model_that_is_gone_is_a_matter_of_its_evaluation(tmp_path: Path, trained: Runs) -> None:
    shutil.copytree(trained.folder, tmp_path / "runs")
    runs = dataclasses.replace(trained, folder=tmp_path / "runs")
    config = job(runs, "evaluation.guidance_scale=2", f"evaluation.guidance_weak={trained.weak}@2").config
    assert weaker_model(config, CPU) is not None
    shutil.rmtree(runs.folder / trained.weak / "checkpoints")
    with pytest.raises(CannotEvaluate, match=r"evaluation.guidance_weak: .*step-00000002 is gone"):
        weaker_model(config, CPU)
