"""`data.path=STORE` suffices: what the store says of itself, what the user says before it, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from fcdm.config.schema import Config
from fcdm.data.manifest import MADE, MANIFEST, manifest_checksum
from fcdm.errors import UserError
from fcdm.jobs.make_jobs import make_jobs
from fcdm.prepare import main as prepare
from fcdm.runs.folder import open_run
from fcdm.runs.identity import readable_name
from fcdm.sweep import store_defaults
from fcdm.sweep.compose import Composer
from fcdm.sweep.sampling_config import run_config
from tests.support.commands import Command, composed, composing
from tests.support.tiny_images import make_folder, save_vae
from tests.support.tiny_store import tiny_store


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def of_16_channels(folder: str, **made: Any) -> Path:
    """A store of 5 classes at 32 pixels, of a VAE with 16 channels."""
    store = tiny_store(Path(folder), side=4, classes=5, channels=16)
    (store / MADE).write_text(json.dumps(made))
    return store


def facts(config: Config) -> tuple[Any, ...]:
    data = config.data
    return data.name, data.channels, data.classes, data.downsample, config.resolution


@pytest.mark.parametrize("model", ["S", "N", "M", "dit/S-2", "dit/N-2", "dit/M-2"])
def test_the_path_of_a_store_says_all(model: str) -> None:
    of_16_channels("data/flowers-32")
    config = composed(f"model={model}", "data.path=data/flowers-32")
    assert facts(config) == ("flowers", 16, 5, 8, 32)
    assert readable_name(config) == f"{model.replace('/', '-')}-flowers-32px"
    asked = config.evaluation
    assert (asked.features, asked.sampler, asked.clip_denoised, asked.samples) == ("inception", "ddpm", False, 50_000)
    assert (config.data.flip, config.data.latents, config.ema.rampup) == ("random", "posterior", 0.1)
    (job,) = make_jobs([config])
    assert job.config.data.checksum == manifest_checksum(Path("data/flowers-32"))


def test_small_models_keep_what_they_are_trained_with_on_a_laptop() -> None:
    of_16_channels("mine")
    on_digits, on_store, plain = composed("model=N"), composed("model=N", "data.path=mine"), composed("model=N")
    for config in (on_digits, on_store):
        config.data, config.evaluation, config.resolution = plain.data, plain.evaluation, plain.resolution
    assert on_store == on_digits, "batch, learning rate, steps, precision, EMA, resources, logging"
    assert composed("model=S", "data.path=mine").steps == [400_000], "the others the paper's"
    assert composed("model=N", "data.path=mine", "recipe=paper").optimiser.lr == 1e-4
    assert composed("model=N", "data=imagenet", "data.path=mine").optimiser.lr == 1e-4, "as they always did"


def test_without_labels_there_is_nothing_to_drop() -> None:
    tiny_store(Path("mine"), classes=1)
    config = composed("model=N", "data.path=mine")
    assert (config.data.classes, config.label_drop.probability) == (1, 0.0)
    assert composed("model=N", "data.path=mine", "label_drop.probability=0.1").label_drop.probability == 0.1


def test_what_the_user_says_comes_first_and_a_conflict_is_one_line() -> None:
    of_16_channels("mine")
    said = composed("model=N", "data.path=mine", "data.name=roses", "ema.rampup=null", "data.flip=none", "batch_size=8")
    assert (said.data.name, said.ema.rampup, said.data.flip, said.batch_size) == ("roses", None, "none", 8)
    assert composed("model=S", "data.path=mine", "ema=plain").ema.rampup is None
    mapped = composed("model=N", "data={path: mine, flip: none}", "ema={decay: 0.999}", "label_drop={mode: shared}")
    assert (facts(mapped)[:3], mapped.data.flip, mapped.ema.rampup) == (("mine", 16, 5), "none", 0.1)
    for key, value in (("resolution", 64), ("data.classes", 4), ("data.channels", 4), ("data.downsample", 4)):
        with pytest.raises(UserError, match=f"has {key}=.*{key}={value} is asked for"):
            make_jobs([composed("model=N", "data.path=mine", f"{key}={value}")])
    with pytest.raises(UserError, match="vae=ft-mse is asked for"):
        make_jobs([composed("model=N", "data.path=mine", "data.vae=ft-mse")])
    with pytest.raises(UserError, match=r"data.name=digits is the bundled digits' name"):
        composed("model=N", "data.path=mine", "data.name=digits")


@pytest.mark.parametrize(
    ("folder", "made", "name"),
    [
        ("Größe", {}, "Größe"),
        ("my flowers, 2024!", {}, "my-flowers-2024"),
        ("2024", {}, "2024"),
        ("true", {}, "true"),
        ("1e3", {}, "1e3"),
        ("digits", {}, "digits-store"),
        ("data/imagenet-32", {}, "imagenet-store"),
        ("b", {"name": "imagenet"}, "imagenet-store"),
        ("data/imagenet-64", {}, "imagenet-64"),
        ("flowers_32px", {}, "flowers"),
        ("a", {"name": "team/roses"}, "team-roses"),
    ],
)
def test_runs_are_named_after_the_store(folder: str, made: dict[str, Any], name: str) -> None:
    of_16_channels(folder, **made)
    config = composed("model=N", f"data.path='{folder}'")
    assert (config.data.name, config.data.path) == (name, folder)
    assert open_run(make_jobs([config])[0].config).folder.name.startswith(f"N-{name}-32px-")


def test_a_store_where_the_preset_looks_for_it_speaks_too(capsys: pytest.CaptureFixture[str]) -> None:
    """As `fcdm.prepare latents` makes it without out=; of another resolution than its name, too."""
    of_16_channels("data/imagenet-256")
    config = composed("model=S")
    assert facts(config) == ("imagenet-256", 16, 5, 8, 32)
    assert (config.data.path, config.ema.rampup) == ("data/imagenet-256", 0.1)
    assert "evaluation.decoder= says where it is" in capsys.readouterr().err
    (job,) = make_jobs([config])
    assert job.config.data.checksum == manifest_checksum(Path("data/imagenet-256"))


def test_imagenet_keeps_the_papers_recipe_wherever_it_lies() -> None:
    store = tiny_store(Path("elsewhere/inet"), side=32)
    manifest = json.loads((store / MANIFEST).read_text())
    manifest |= {"images": 1_281_100, "classes": [f"n{n:08d}" for n in range(1000)], "shards": []}
    manifest["shards"] = [{"file": "0", "images": 1_281_100, "sha256": ""}]
    (store / MANIFEST).write_text(json.dumps(manifest))
    config = composed("model=XL", f"data.path={store}")
    assert (config.ema.rampup, config.data.classes, config.data.name) == (None, 1000, "imagenet")
    assert composed("model=N", f"data.path={store}").ema.rampup == 0.1


def test_a_vae_that_moved_is_said_and_its_weights_are_what_counts(capsys: pytest.CaptureFixture[str]) -> None:
    vae = save_vae(Path("vae"))
    make_folder(Path("images"), 6, odd=False)
    words = ["latents", "images=images", "vae=vae", "resolution=32", "device=cpu"]
    assert prepare([*words, "out=flowers"]) == 0
    config = composed("model=N", "data.path=flowers")
    assert config.data.vae == config.evaluation.decoder == str(vae.absolute()), "found from any working directory"
    assert facts(config) == ("flowers", 4, 3, 8, 32)
    assert not capsys.readouterr().err

    # Made again at another time and place, under another name: the same data, and the same runs.
    assert prepare([*words, "out=later/roses", "workers=1"]) == 0
    assert manifest_checksum(Path("flowers")) == manifest_checksum(Path("later/roses"))
    (one,), (other,) = (make_jobs([composed("model=N", f"data.path={path}")]) for path in ("flowers", "later/roses"))
    assert one.id == other.id
    before = open_run(one.config).folder
    assert make_jobs([composed("model=N", "data.path=later/roses")])[0].folder == before, "found under its old name"

    vae.rename("moved")
    store_defaults._vae.cache_clear()
    moved = composed("model=N", "data.path=later/roses")
    assert moved.data.vae is None
    said = capsys.readouterr().err
    assert f"which is not at {vae.absolute()} any more: evaluation.decoder= says" in said
    assert make_jobs([moved])[0].id == one.id, "it trains all the same"


def test_nothing_that_describes_is_in_the_manifest(tmp_path: Path) -> None:
    """Golden: a key more in it would be another checksum for every store that is made again, and another run."""
    save_vae(Path("vae"))
    make_folder(Path("images"), 3, odd=False)
    assert prepare(["latents", "images=images", "vae=vae", "resolution=32", "device=cpu", "out=store"]) == 0
    manifest = json.loads(Path("store", MANIFEST).read_text())
    assert sorted(manifest) == [
        "channels", "class_counts", "classes", "files", "format", "heldout", "images", "resolution", "scaling_factor",
        "shard_images", "shards", "shift_factor", "side", "source", "vae",
    ]  # fmt: skip
    assert sorted(manifest["vae"]) == ["precision", "weights_sha256"]
    assert sorted(manifest["source"]) == ["checksum", "images", "left_out"]
    assert sorted(manifest["files"]) == ["heldout.npy", "labels.npy", "names.txt"]
    assert manifest["source"]["checksum"] == "bb77a8f5601bcc7bc455a66ce971d0e8ae5fb76e4edfbfac8e9537c4c85fb8f8"


def test_a_run_is_evaluated_as_before(tmp_path: Path) -> None:
    """Of an earlier version: named after the preset; and digits that somebody gave a path."""
    of_16_channels("mine")
    (job,) = make_jobs([composed("model=N", "data.path=mine", "data.name=imagenet", f"runs_dir={tmp_path}")])
    run = open_run(job.config)
    assert run.folder.name.startswith("N-imagenet-32px-")
    assert make_jobs([composed("model=N", "data.path=mine", f"runs_dir={tmp_path}")])[0].folder == run.folder
    config = run_config(run, ["evaluation.decoder=x"])
    assert (facts(config), config.evaluation.features) == (("imagenet", 16, 5, 8, 32), "inception")

    (job,) = make_jobs([composed("model=N", f"runs_dir={tmp_path}")])
    digits = open_run(job.config)
    path = digits.folder / "config.yaml"
    science = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**science, "data": {**science["data"], "path": "img"}}))
    assert run_config(digits, []).evaluation.features == "digits-cnn"


RAW = "python -m fcdm.prepare images images=img resolution=32 out=img-32"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=N", "data=digits", "data.path=img"], [RAW, "leave data=digits away"]),
        (
            ["model=N", "data=digits", "data.path=mine"],
            ["data=digits are the bundled digits", "leave data=digits away"],
        ),
        (["model=N", "data.path=img"], ["is no store", RAW, "data.path=img-32 (python -m fcdm.prepare latents"]),
        (["model=S", "data.path=img"], ["is no store", RAW]),
        (["model=S", "data=imagenet", "data.path=img/"], ["is no store", RAW]),
        (["model=N", "data.path=img/1.png"], ["is no store"]),
        (["model=N", "data.path=half"], ["it is unfinished"]),
        (["model=N", "data.path=mine", "recipe=digits"], ["digits-cnn knows the digits alone", "use inception"]),
    ],
)
def test_what_is_no_store_is_refused_with_the_command_that_makes_one(words: list[str], said: list[str]) -> None:
    of_16_channels("mine")
    Path("img").mkdir()
    Path("img/1.png").touch()
    Path("half/work").mkdir(parents=True)
    with pytest.raises(UserError) as refusal:
        composed(*words)
    assert all(text in str(refusal.value) for text in said), refusal.value
    assert "\n" not in str(refusal.value)


def test_the_command_that_is_advised_works(capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(Path("my images"), 12, odd=False)
    with pytest.raises(UserError) as refusal:
        composed("model=N", "data.path='my images'")
    command, then = str(refusal.value).partition("`")[2].split("`")
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "fcdm.prepare"]
    assert prepare(words[3:]) == 0
    said = then.removeprefix(", then say ").partition(" (")[0]
    assert facts(composed("model=N", said)) == ("my-images", 3, 3, 1, 32)


def test_the_command_refuses_in_one_line_and_leaves_nothing(fcdm: Command, tmp_path: Path) -> None:
    Path("img/cat").mkdir(parents=True)
    done = fcdm("model=N", "data=digits", "data.path=img")
    assert done.returncode == 1
    assert RAW in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_where_the_data_is_not_a_plan_goes_on_as_the_presets_say() -> None:
    config = composed("model=N", "data.path=/scratch/flowers-256")
    assert facts(config) == ("flowers", 4, 1000, 8, 256)
    assert (config.ema.rampup, config.steps) == (0.1, [800])
    (job,) = make_jobs([config], data_needed=False)
    assert job.config.data.checksum == "not-here:/scratch/flowers-256"
    with pytest.raises(UserError, match="no store of flowers at /scratch/flowers-256"):
        make_jobs([config])
    assert facts(composed("model=S")) == ("imagenet", 4, 1000, 8, 256)

    of_16_channels("mine")
    with pytest.raises(UserError, match=r"data.classes=5, data.classes=7 is asked for"):  # it is here, and is not that
        make_jobs([composed("model=S", "data.path=mine", "data.classes=7")], data_needed=False)


def test_a_store_is_read_once_for_many_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    """And copies that are used again keep nothing of another's store."""
    of_16_channels("mine")
    tiny_store(Path("other"), classes=7)
    reads = []
    original = store_defaults.read_manifest
    monkeypatch.setattr(store_defaults, "read_manifest", lambda folder: (reads.append(folder), original(folder))[1])
    store_defaults._manifest.cache_clear()
    with composing() as composer:
        found = [
            composer.config(["model=N", f"seed={seed}", *([f"data.path={path}"] if path else [])])
            for seed in range(20)
            for path in ("mine", "", "other")
        ]
    assert [facts(config) for config in found[:3]] == [
        ("mine", 16, 5, 8, 32), ("digits", 1, 10, 1, 8), ("other", 4, 7, 8, 64)
    ]  # fmt: skip
    for later in range(3, 60, 3):
        assert [facts(config) for config in found[later : later + 3]] == [facts(config) for config in found[:3]]
    assert len(reads) == 2


def test_a_sweep_file_says_what_it_says_though_the_presets_say_it_too(fcdm: Command, tmp_path: Path) -> None:
    """`data.vae: ft-ema` in it is no preset's value: a store of another VAE is refused."""
    of_16_channels("mine")
    (tmp_path / "conf/sweeps").mkdir(parents=True)
    file = {"study": "mine", "data": {"path": "mine", "vae": "ft-ema"}, "grids": [{"model": "S", "steps": 5}]}
    (tmp_path / "conf/sweeps/mine.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(file)}")
    done = fcdm("--config-dir", "conf", "-m", "+sweeps=mine", "hydra/launcher=plan")
    assert done.returncode == 1
    assert "vae=ft-ema is asked for" in done.stderr


def test_a_sweep_file_chooses_data_and_recipe_for_a_store(tmp_path: Path) -> None:
    """As `data=imagenet recipe=paper` on the command line."""
    of_16_channels("mine")
    (tmp_path / "sweeps").mkdir()
    text = "defaults: [override /data: imagenet, override /recipe: paper, _self_]\ndata: {path: mine}\n"
    (tmp_path / "sweeps/mine.yaml").write_text(f"# @package _global_\n{text}")
    with composing(f"hydra.searchpath=[file://{tmp_path}]", "+sweeps=mine") as composer:
        found = composer.config(["+sweeps=mine", "model=N"])
    assert found == composed("model=N", "data=imagenet", "recipe=paper", "data.path=mine")
    assert (facts(found), found.optimiser.lr) == (("mine", 16, 5, 8, 32), 1e-4)


def test_what_was_said_stays_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's own values are nobody's saying, and the presets are those that the data are composed with."""
    of_16_channels("mine")
    seen = []
    monkeypatch.setattr("fcdm.sweep.compose.configured", lambda composed, said: seen.append(said))
    with composing() as composer:
        composer.config(["model=N", "data.path=mine", "seed=3"])
    assert seen[0].keys == {"data.path", "seed"}
    assert seen[0].presets["data.name"] == "imagenet"
    assert isinstance(composer, Composer)
    assert dataclasses.is_dataclass(seen[0])
