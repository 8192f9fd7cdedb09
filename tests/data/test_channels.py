"""Each channel's mean and deviation: exact whatever the shards, kept beside the manifest, undone when decoding."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcdm.codecs.normalisation import Channels, channels_of
from fcdm.codecs.vae import open_vae
from fcdm.data.channels import CHANNELS, Sums, measure_channels, read_channels, sums_of
from fcdm.data.dataset import open_dataset
from fcdm.data.latents import LatentsStore
from fcdm.data.manifest import manifest_checksum
from fcdm.data.store_normalisation import check_decoder
from fcdm.engine.sampler import Sampler
from fcdm.errors import UserError
from fcdm.jobs.make_jobs import make_jobs
from fcdm.prepare import main
from fcdm.runs.find_weights import Weights
from fcdm.runs.folder import open_run
from fcdm.sweep.sampling_config import run_config, source_config
from tests.support.commands import composed
from tests.support.tiny_images import make_folder, save_vae
from tests.support.tiny_store import tiny_store


def test_the_law_of_total_variance() -> None:
    """Two images of one channel: means 1 and 3, deviations 0 and 2, so mean 2 and variance 1 + 2."""
    rows = np.zeros((2, 1, 2, 1, 2, 3), np.float16)
    rows[0, 0, 0], rows[1, 0, 0], rows[1, 0, 1] = 1, 3, 2
    found = sums_of(rows).channels()
    assert (found.mean, found.deviation) == ((2.0,), (math.sqrt(3),))
    scaled = sums_of(rows).channels(scale=0.5, shift=10)
    assert (scaled.mean, scaled.deviation) == ((14.0,), (2 * math.sqrt(3),)), "of (latent - 10) * 0.5"


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.sampled_from([(2, 2), (1, 1), (1, 2)]), st.data())
def test_sums_do_not_depend_on_shards(seed: int, channels: int, stored: tuple[int, int], data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    shape = (data.draw(st.integers(2, 20)), *stored, channels, 3, 3)
    rows = (rng.standard_normal(shape) * np.exp(rng.normal(0, 4, shape))).astype(np.float32)
    cut = data.draw(st.integers(1, len(rows) - 1))
    whole = sums_of(rows)
    assert whole == sums_of(rows[:cut]) + sums_of(rows[cut:])
    assert whole == Sums.of_json(json.loads(json.dumps(whole.as_json())))
    means = rows[:, :, 0].astype(np.float64).transpose(2, 0, 1, 3, 4).reshape(channels, -1)
    variances = means.var(1)
    if stored[1] == 2:
        variances += (rows[:, :, 1].astype(np.float64) ** 2).mean((0, 1, 3, 4))
    np.testing.assert_allclose(whole.channels().mean, means.mean(1), rtol=1e-9, atol=1e-12 * float(np.abs(means).max()))
    np.testing.assert_allclose(whole.channels().deviation, np.sqrt(variances), rtol=1e-9)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of 12 images by a VAE of 16 channels, in shards of 5."""
    monkeypatch.chdir(tmp_path)
    images, vae = make_folder(tmp_path / "images", 12, odd=False), save_vae(tmp_path / "vae", channels=16)
    words = [f"images={images}", f"vae={vae}", "resolution=32", "device=cpu", "heldout=0.3"]
    assert main(["latents", *words, "out=store", "shard=5"]) == 0
    assert main(["latents", *words, "out=other", "shard=12"]) == 0
    return tmp_path / "store"


def test_a_store_of_sixteen_channels_is_measured_as_it_is_made(made: Path) -> None:
    store, channels = LatentsStore(made), read_channels(made)
    rows = np.concatenate([shard.array for shard in store.shards]).astype(np.float64)
    np.testing.assert_allclose(channels.mean, rows[:, :, 0].mean((0, 1, 3, 4)), rtol=1e-9)
    variance = rows[:, :, 0].var((0, 1, 3, 4)) + (rows[:, :, 1] ** 2).mean((0, 1, 3, 4))
    np.testing.assert_allclose(channels.deviation, np.sqrt(variance), rtol=1e-9)
    assert read_channels(made.parent / "other") == channels, "to the last bit, in other shards"

    # What models see has mean 0 and deviation 1 in each channel, up to the draws.
    seen = LatentsStore(made, normalised=channels)
    numbers = np.repeat(np.arange(len(store)), 50)
    eps = torch.randn(len(numbers), 16, 4, 4, generator=torch.Generator().manual_seed(0))
    x = torch.cat([
        seen.batch(numbers, eps=eps, flip="random", mirrored=torch.full((len(numbers),), flip))[0]
        for flip in (False, True)
    ])  # fmt: skip
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(16), atol=0.05, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(16), atol=0.05, rtol=0)


def test_decoding_undoes_it(made: Path) -> None:
    channels = read_channels(made)
    scalar, normalised = LatentsStore(made), LatentsStore(made, normalised=channels)
    numbers = np.arange(4)
    plain, x = (store.batch(numbers, latents="frozen")[0] for store in (scalar, normalised))
    factor = scalar.manifest.scaling_factor
    torch.testing.assert_close(channels.latents(x), plain / factor, rtol=1e-5, atol=1e-5)
    vae = str(made.parent / "vae")
    images = open_vae(vae).decode(plain).int(), open_vae(vae, channels=channels).decode(x).int()
    assert (images[0] - images[1]).abs().max() <= 1, "up to rounding of a byte"


def test_training_the_held_out_loss_and_sampling_use_it(made: Path) -> None:
    """And the numbers are the run's: sampling needs no store."""
    (job,) = make_jobs([composed("model=N", "data.path=store", "data.normalisation=channel")])
    config, channels, cpu = job.config, read_channels(made), torch.device("cpu")
    data = open_dataset(config, cpu)
    store = LatentsStore(made)
    plain, _ = store.batch(store.heldout_indices, latents="frozen")
    x, _ = data.unaltered(np.arange(data.heldout), heldout=True)
    assert data.heldout > 0
    torch.testing.assert_close(channels.latents(x), plain / store.manifest.scaling_factor, rtol=1e-5, atol=1e-5)
    numbers, eps = np.array([0, 3]), torch.randn(2, 16, 4, 4)
    x, _ = data.finish(data.fetch(numbers, [torch.ones(2)]), [eps])  # not mirrored
    plain, _ = store.batch(store.train_indices[numbers], eps=eps)
    torch.testing.assert_close(channels.latents(x), plain / store.manifest.scaling_factor, rtol=1e-5, atol=1e-5)

    run = open_run(config)
    made.rename(made.parent / "gone")
    kept = run_config(run, [])
    assert channels_of(kept.data.channel_mean, kept.data.channel_deviation) == channels
    vae = Sampler(torch.nn.Identity(), kept, cpu).vae
    assert vae is not None
    assert vae.channels == channels


def test_the_side_file_is_no_part_of_the_identity_and_is_the_stores_own(made: Path) -> None:
    checksum = manifest_checksum(made)
    kept = (made / CHANNELS).read_bytes()
    assert CHANNELS not in (made / "manifest.json").read_text()
    (made / CHANNELS).unlink()
    assert manifest_checksum(made) == checksum
    assert measure_channels(made) == read_channels(made)
    assert (made / CHANNELS).read_bytes() == kept
    (made / CHANNELS).write_bytes((made.parent / "other" / CHANNELS).read_bytes())
    with pytest.raises(UserError, match=r"no measure of its channels .* fcdm\.prepare channels data\.path="):
        read_channels(made)


def test_an_older_store_is_measured_by_the_command_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_store(Path("mine"), channels=16, side=4)
    (plain,) = make_jobs([composed("model=N", "data.path=mine")])
    with pytest.raises(UserError) as refusal:
        make_jobs([composed("model=N", "data.path=mine", "data.normalisation=channel")])
    command = str(refusal.value).split("`")[1]
    assert command == "python -m fcdm.prepare channels data.path=mine"
    assert main(command.split()[3:]) == 0
    assert "deviation of each channel: " in capsys.readouterr().out
    (job,) = make_jobs([composed("model=N", "data.path=mine", "data.normalisation=channel")])
    assert job.id != plain.id
    channels = read_channels(Path("mine"))
    assert job.config.data.channel_mean == [*channels.mean]
    assert job.config.data.channel_deviation == [*channels.deviation]
    assert make_jobs([composed("model=N", "data.path=mine")])[0].id == plain.id


def test_the_numbers_are_not_in_the_id_and_may_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_store(Path("mine"))
    measure_channels(Path("mine"))
    words = "model=N", "data.path=mine", "data.normalisation=channel"
    (job,) = make_jobs([composed(*words)])
    open_run(job.config)
    values = json.loads((Path("mine") / CHANNELS).read_text())
    values["mean"][0] += 1
    (Path("mine") / CHANNELS).write_text(json.dumps(values))
    (other,) = make_jobs([composed(*words)])
    assert other.id == job.id
    with pytest.raises(UserError, match=r"says other channels \(data\.channel_mean\) than"):
        open_run(other.config)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.normalisation=image"], "data.normalisation=image is not known"),
        (["data.channel_mean=[0,0,0,0]"], "the commands set it"),
    ],
)
def test_what_cannot_be_said(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_store(Path("mine"))
    with pytest.raises(UserError, match=said):
        composed("model=N", "data.path=mine", *words)


def test_of_pixels_nothing_is_normalised() -> None:
    with pytest.raises(UserError, match="no latents of a VAE"):
        composed("model=N", "data.normalisation=channel")


def test_a_channel_that_is_the_same_everywhere(tmp_path: Path) -> None:
    store = tiny_store(tmp_path / "mine")
    measure_channels(store)
    values = json.loads((store / CHANNELS).read_text())
    values["deviation"][2] = 0.0
    (store / CHANNELS).write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"channel 2 of the latents in .* is the same everywhere"):
        read_channels(store)


def test_a_decoder_of_another_scale_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_store(Path("mine"))
    save_vae(Path("vae"))
    save_vae(Path("scaled"), scaling_factor=1.5)
    check_decoder(composed("model=N", "data.path=mine", "evaluation.decoder=vae"))
    with pytest.raises(UserError, match=r"decoder=scaled undoes a scale of 1\.5 .* mine has 0\.18215"):
        make_jobs([composed("model=N", "data.path=mine", "evaluation.decoder=scaled")])
    of_a_file = ["model=N", "resolution=64", "data.path=mine", "evaluation.decoder=scaled"]
    with pytest.raises(UserError, match=r"decoder=scaled undoes a scale of 1\.5"):
        source_config(Weights("sha256:0", Path("w.pt")), of_a_file)
    measure_channels(Path("mine"))
    make_jobs([composed("model=N", "data.path=mine", "evaluation.decoder=scaled", "data.normalisation=channel")])


def test_channels_are_undone_as_they_were_done() -> None:
    channels = Channels((1.0, -2.0), (0.5, 4.0))
    x = torch.tensor([[[[2.0]], [[-1.0]]]])
    assert channels.latents(x).flatten().tolist() == [2.0, -6.0]
