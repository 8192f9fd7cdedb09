"""`data.path=STORE` of pixels suffices: what it says, what it costs, and what is refused beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fcdm.config.schema import Config
from fcdm.config.shape import shape_of
from fcdm.cost.model_cost import model_cost
from fcdm.data.manifest import manifest_checksum
from fcdm.data.pixel_store import PixelStore
from fcdm.errors import UserError
from fcdm.jobs.make_jobs import make_jobs
from fcdm.runs.identity import readable_name
from tests.support.commands import Command, composed
from tests.support.counted_macs import counted
from tests.support.pixel_data import pixel_store
from tests.support.tiny_store import tiny_store


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def facts(config: Config) -> tuple[object, ...]:
    data = config.data
    return data.name, data.channels, data.classes, data.downsample, config.resolution, data.vae


@pytest.mark.parametrize("model", ["N", "M", "dit/N-2", "S", "B", "L", "XL", "dit/S-2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_path_says_all_and_costs_are_those_of_pixels(model: str, channels: int) -> None:
    store = pixel_store(Path("data/birds-16"), side=16, channels=channels, classes=5)
    config = composed(f"model={model}", f"data.path={store}")
    assert facts(config) == ("birds", channels, 5, 1, 16, None)
    assert readable_name(config) == f"{model.replace('/', '-')}-birds-16px"
    asked = config.evaluation
    assert (asked.features, asked.decoder, asked.clip_denoised) == ("classifier", None, True)
    assert (config.ema.rampup, config.data.flip) == (0.1, "none")
    assert shape_of(config) == {"channels": channels, "side": 16, "classes": 5, "learn_sigma": True}
    if model in ("N", "M", "dit/N-2", "S", "dit/S-2"):
        cost = model_cost(config.model, **shape_of(config))
        assert (cost.parameters, cost.forward_macs) == counted(config.model, channels, 16, 5, True)


def test_the_papers_sizes_on_pixels_are_their_latents_less_a_channel() -> None:
    """At 32 x 32 a model does on RGB what it does on latents of 256 pixels, but for what enters and leaves."""
    store = pixel_store(Path("store"), side=32)
    for model in ("S", "B", "L", "XL"):
        config = composed(f"model={model}", f"data.path={store}")
        pixels = model_cost(config.model, **shape_of(config))
        latents = model_cost(config.model, **{**shape_of(config), "channels": 4})
        assert pixels.forward_macs < latents.forward_macs
        assert pixels.forward_macs == pytest.approx(latents.forward_macs, rel=0.01)
        assert (config.batch_size, config.optimiser.lr) == (256, 1e-4), "the paper's recipe"


def test_small_models_keep_batch_and_budget_of_the_laptop() -> None:
    config = composed("model=N", f"data.path={pixel_store(Path('store'))}")
    assert (config.batch_size, config.precision, config.label_drop.mode) == (128, "fp32", "shared")
    assert config.evaluation.resources.gpus == 0
    assert composed("model=N", "data.path=store", "ema=plain").ema.rampup is None
    assert composed("model=N", "data.path=store", "data.flip=random").data.flip == "random"


def test_the_manifest_is_the_datas_part_of_the_id(tmp_path: Path) -> None:
    pixel_store(Path("one"))
    pixel_store(Path("elsewhere/other-8"))
    pixel_store(Path("more"), images=41)
    (one,), (other,), (more,), (flipped,) = (
        make_jobs([composed("model=N", f"data.path={path}", f"data.flip={flip}", "evaluation.features=pixels")])
        for path, flip in (("one", "none"), ("elsewhere/other-8", "none"), ("more", "none"), ("one", "random"))
    )
    assert one.config.data.checksum == manifest_checksum(Path("one"))
    assert one.id == other.id, "wherever it lies, whatever it is called"
    assert len({one.id, more.id, flipped.id}) == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["data=imagenet"], "data=imagenet is for stores of a VAE's latents, and data.path=store is one of pixels"),
        (["recipe=small"], "recipe=small is for stores of a VAE's latents"),
        (["data.vae=ft-ema"], "data.vae=ft-ema has no effect at data.downsample=1: these are pixels"),
        (["data.latents=frozen"], "data.latents=frozen has no effect at data.downsample=1: these are pixels"),
        (["evaluation.decoder=ft-ema"], "evaluation.decoder=ft-ema has no effect at data.downsample=1"),
        (["data.flip=sometimes"], "data.flip=sometimes is not known"),
        (["recipe=digits", "evaluation.features=digits-cnn"], "digits-cnn knows the digits alone"),
        (["data.channels=1"], "the pixels store store has data.channels=3, data.channels=1 is asked for"),
        (
            ["data.downsample=4", "evaluation.features=classifier"],
            "evaluation.features=classifier is of data of pixels, and these are latents",
        ),
        (["resolution=16"], "has resolution=8, resolution=16 is asked for"),
        (["model=N", "data=pixels", "data.path=latents"], "data=pixels is for stores of pixels"),
        (["model=S", "recipe=pixels_paper", "data.path=latents"], "recipe=pixels_paper is for stores of pixels"),
        (["data.path=odd"], "resolution=10: FCDM halves twice, so the images' side must be a multiple of 4"),
        (["model=dit/N-2", "model.patch_size=4", "data.path=odd"], "try 8 or 12, by making a store of it: python -m"),
    ],
)
def test_what_does_not_fit_is_one_line(words: list[str], says: str) -> None:
    pixel_store(Path("store"))
    pixel_store(Path("odd"), side=10)
    tiny_store(Path("latents"))
    with pytest.raises(UserError) as refusal:
        make_jobs([composed("model=N", "data.path=store", "evaluation.features=pixels", *words)])
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_damaged_store_of_an_unknown_kind_is_one_line() -> None:
    store = pixel_store(Path("store"))
    text = (store / "manifest.json").read_text()
    (store / "manifest.json").write_text(text.replace('"pixels"', '"voxels"'))
    with pytest.raises(UserError, match="is of a store of voxels, which this fcdm does not know"):
        composed("model=N", "data.path=store", "seed=1")
    (store / "manifest.json").write_text(text.replace('"channels": 3', '"channels": 4'))
    with pytest.raises(UserError, match=r"is not as its manifest says"):
        PixelStore(store)


def test_a_plan_of_a_sweep_on_pixels(fcdm: Command, tmp_path: Path) -> None:
    pixel_store(tmp_path / "data/birds-16", side=16)
    words = ["-m", "model=N,dit/N-2,S", "data.path=data/birds-16", "hydra/launcher=plan", "evaluation.features=pixels"]
    done = fcdm(*words)
    assert done.returncode == 0, done.stderr
    for name in ("N-birds-16px", "dit-N-2-birds-16px", "S-birds-16px"):
        assert name in done.stdout
    assert "Nothing was started" in done.stdout
    cost = fcdm("model=S", "data.path=data/birds-16", module="fcdm.cost")
    assert cost.returncode == 0, cost.stderr


@pytest.mark.parametrize("features", ["pixels", "classifier"])
def test_a_store_that_is_not_there_is_told_as_that(features: str) -> None:
    with pytest.raises(UserError, match=r"no store at data\.path=nowhere.* `python -m fcdm\.prepare images"):
        composed("model=N", "data.path=nowhere", f"evaluation.features={features}")
