"""The bundled digits, and the features that their FID is taken over."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import fcdm.data.digits as digits_module
from fcdm.data.digits import DIGITS_CHECKSUM, load_digits_split, split_checksum, split_indices
from fcdm.errors import UserError
from fcdm.features import DIGITS_CNN_WEIGHTS, digits_cnn_id, extractor_id, open_extractor
from fcdm.features.digits_cnn import FEATURES, DigitsCNN, load_digits_cnn, to_8x8
from fcdm.metrics.frechet import FeatureStatistics, frechet_distance, resampling_floor
from fcdm.metrics.rounding import to_uint8
from tools.train_digits_cnn import main


@pytest.fixture(scope="module")
def split():
    return load_digits_split()


@pytest.fixture(scope="module")
def train_pixels(split):
    return to_uint8(torch.from_numpy(split.train_images))


@pytest.fixture(scope="module")
def heldout_pixels(split):
    return to_uint8(torch.from_numpy(split.heldout_images))


# --- data ---------------------------------------------------------------------------------------


def test_shapes_types_and_range(split):
    assert split.train_images.shape == (1438, 1, 8, 8)
    assert split.heldout_images.shape == (359, 1, 8, 8)
    for images, labels in (
        (split.train_images, split.train_labels),
        (split.heldout_images, split.heldout_labels),
    ):
        assert images.dtype == np.float32
        assert labels.dtype == np.int64
        levels = (images + 1) * 8
        assert set(np.unique(levels)) == set(range(17))
    assert split.checksum == DIGITS_CHECKSUM


def test_the_split_is_stratified_shuffled_and_whole(split):
    from sklearn.datasets import load_digits

    digits = load_digits()
    train, heldout = split_indices(digits.target)
    assert sorted([*train, *heldout]) == list(range(1797))
    assert (digits.target[train] == split.train_labels).all()
    np.testing.assert_array_equal(digits.images[heldout], (split.heldout_images[:, 0] + 1) * 8)
    counts = np.bincount(digits.target)
    assert (np.bincount(split.heldout_labels) == np.round(counts / 5)).all()
    for labels in (split.train_labels, split.heldout_labels):
        assert len(set(labels[:50])) == 10  # mixed from the start
    assert abs(np.corrcoef(train, np.arange(1438))[0, 1]) < 0.1


def test_checksum_sees_values_labels_order_and_the_cut():
    images = np.arange(128, dtype=np.uint8).reshape(2, 8, 8)
    labels = np.array([0, 1], np.uint8)
    parts = (images, labels, images[:1], labels[:1])
    changed = [
        (images[::-1], labels, images[:1], labels[:1]),
        (images, labels[::-1], images[:1], labels[:1]),
        (images, labels, images[1:], labels[:1]),
        (images, labels, images[:1], labels[1:]),
        (images, labels[:1], images[:1], labels),
    ]
    assert len({split_checksum(*arrays) for arrays in [parts, *changed]}) == 6


def test_other_digits_are_refused(monkeypatch):
    monkeypatch.setattr(digits_module, "DIGITS_CHECKSUM", "0" * 64)
    with pytest.raises(UserError, match=rf"sha256 {DIGITS_CHECKSUM[:8]}, expected 00000000.*reinstall"):
        load_digits_split()


@pytest.mark.parametrize("resolution", [16, 32])
def test_larger_digits_are_torchs_bilinear(split, resolution):
    larger = load_digits_split(resolution)
    for small, large in (
        (split.train_images, larger.train_images),
        (split.heldout_images, larger.heldout_images),
    ):
        expected = F.interpolate(torch.from_numpy(small), (resolution, resolution), mode="bilinear")
        assert large.dtype == np.float32
        assert (torch.from_numpy(large) == expected).all()
    assert larger.checksum == split.checksum


@pytest.mark.parametrize("resolution", [0, 7, 64])
def test_other_resolutions_are_refused(resolution):
    with pytest.raises(UserError, match=f"digits come at 8, 16 or 32 pixels, not {resolution}"):
        load_digits_split(resolution)


def test_names_and_checksums_need_neither_torch_nor_sklearn():
    code = (
        "import sys, fcdm.data.digits, fcdm.features as f; f.extractor_id('digits-cnn'); "
        "print({'torch', 'sklearn', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# --- features -----------------------------------------------------------------------------------


def test_the_id_is_that_of_the_shipped_weights():
    data = DIGITS_CNN_WEIGHTS.read_bytes()
    assert len(data) < 300_000
    # A new weight file is a new extractor: every FID before it is of another scale.
    assert digits_cnn_id() == "digits-cnn@" + hashlib.sha256(data).hexdigest()[:8] == "digits-cnn@7981de2a"
    assert open_extractor("digits-cnn").id == extractor_id("digits-cnn") == digits_cnn_id()
    assert open_extractor("pixels").id == extractor_id("pixels") == "pixels-8x8"


def test_heldout_accuracy(split, heldout_pixels):
    network = load_digits_cnn()
    assert not network.training
    predicted = network(to_8x8(heldout_pixels).float()).argmax(1).numpy()
    assert (predicted == split.heldout_labels).mean() >= 0.98


def test_features_are_alive_and_well_conditioned(train_pixels):
    features = open_extractor("digits-cnn")(train_pixels).double()
    assert features.var(0).min() > 0.1
    spectrum = torch.linalg.eigvalsh(features.T.cov())
    assert spectrum[-1] / spectrum[0] < 1e4


@pytest.mark.parametrize("name", ["digits-cnn", "pixels"])
def test_features_do_not_depend_on_batch_size_or_autocast(name, train_pixels):
    extractor = open_extractor(name, "cpu")
    images = train_pixels[:60]
    whole = extractor(images)
    assert whole.shape == (60, extractor.dim)
    assert whole.dtype == torch.float32
    assert not whole.requires_grad
    pieces = torch.cat([extractor(part) for part in images.split(7)])
    torch.testing.assert_close(pieces, whole, rtol=2e-7, atol=1e-7)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(extractor(images), whole, rtol=2e-7, atol=1e-7)


def test_pixels_are_scaled_pixels():
    images = torch.arange(128, dtype=torch.uint8).reshape(2, 1, 8, 8) * 2 + 1
    got = open_extractor("pixels")(images)
    torch.testing.assert_close(got, (images.double() / 127.5 - 1).flatten(1).float(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["digits-cnn", "pixels"])
def test_larger_images_are_area_averaged(name, train_pixels):
    extractor = open_extractor(name)
    images = train_pixels[:5]
    enlarged = images.repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(extractor(enlarged), extractor(images), rtol=2e-7, atol=1e-7)
    blocks = torch.tensor([[10, 20], [30, 40]], dtype=torch.uint8).repeat(8, 8)[None, None]
    expected = 25 / 127.5 - 1
    torch.testing.assert_close(to_8x8(blocks), torch.full((1, 1, 8, 8), expected, dtype=torch.float64))


def test_what_is_not_a_digit_image_is_refused():
    extractor = open_extractor("digits-cnn")
    for shape in ((2, 3, 8, 8), (2, 1, 12, 12), (2, 1, 8, 16), (1, 8, 8)):
        with pytest.raises(UserError, match="one channel and 8, 16, 24"):
            extractor(torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(TypeError, match="uint8"):
        extractor(torch.zeros(2, 1, 8, 8))
    for call in (open_extractor, extractor_id):
        with pytest.raises(UserError, match="no feature extractor 'vgg': choose one of digits-cnn, pixels"):
            call("vgg")


def test_distances_of_real_digits(train_pixels, heldout_pixels):
    """The numbers that reports quote: real held-out digits, and perfect models of the train split."""
    for name, heldout, floor, noise_above in (
        ("digits-cnn", 0.6984, 0.3807, 50),
        ("pixels", 0.4262, 0.1277, 30),
    ):
        extractor = open_extractor(name)

        def statistics(images, extractor=extractor):
            result = FeatureStatistics(extractor.dim)
            result.update(extractor(images))
            return result

        train = statistics(train_pixels)
        assert frechet_distance(statistics(heldout_pixels), train) == pytest.approx(heldout, abs=1e-4)
        mean, _ = resampling_floor(extractor(train_pixels).numpy(), 1000)
        assert mean == pytest.approx(floor, abs=1e-4)
        noise = torch.randint(256, (500, 1, 8, 8), generator=torch.Generator().manual_seed(0))
        assert frechet_distance(statistics(noise.to(torch.uint8)), train) > noise_above


def test_the_training_script_runs(tmp_path, capsys):
    before = DIGITS_CNN_WEIGHTS.read_bytes()
    out = tmp_path / "weights.safetensors"
    threads = torch.get_num_threads()
    try:
        main(["--epochs", "2", "--out", str(out)])
    finally:
        torch.set_num_threads(threads)
    accuracy = float(capsys.readouterr().out.split("held-out accuracy")[1].split()[0])
    assert accuracy > 0.2  # chance is 0.1; the full 60 epochs give 0.989
    network = DigitsCNN()
    network.load_state_dict(load_file(out))
    assert network.hidden.out_features == FEATURES
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]
    assert DIGITS_CNN_WEIGHTS.read_bytes() == before
