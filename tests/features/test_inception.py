"""Our Inception against torch-fidelity's on random weights, its resize, and how its weight file is found."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pickle
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from fcdm.errors import UserError
from fcdm.features import extractor_id, open_extractor
from fcdm.features.download import download_weights
from fcdm.features.inception import Inception, load_inception, resize_like_tf1
from fcdm.features.inception_weights import NAME, check_weights, find_weights
from tests.support.random_inception import close, random_images, random_weights

# Of "name shape" lines of torch-fidelity 0.4.0's module (without BatchNorm's counters), sorted.
PARAMETERS = "d84f693f2abd7fea61cb31c87d3b2f268bf707c1bae1db219afdad3363959cb0"
# What torch-fidelity 0.4.0 gives for `random_weights` and `random_images`, in float64; see `summary`.
POOL = [4.157386, 5.872922, 0.1394815, 4.420568, 0, 0.5608789, 12.58818, 0.4236271, 0]
SPATIAL = [2.724307, 2.82976, -0.2202093, 0, 0, 9.144464, 0, 5.141406, 6.458848]
PROBABILITIES = [
    0.0009920635,
    0.001282675,
    -1.42289e-05,
    0.0003856236,
    0.0008805384,
    0.0003388999,
    0.0002878085,
    0.000293228,
    0.0001682454,
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(random_weights(), path)
    return path


@pytest.fixture(scope="module")
def extractor(weights):
    return open_extractor("inception", weights=weights)


@pytest.fixture(scope="module")
def fidelity():
    """torch-fidelity's modules, around its package's __init__, which needs torchvision."""
    spec = importlib.util.find_spec("torch_fidelity")
    if spec is None:
        pytest.fail("torch-fidelity is not there: make setup installs it")
    package = types.ModuleType("torch_fidelity")
    package.__path__ = list(spec.submodule_search_locations or [])
    sys.modules["torch_fidelity"] = package
    yield lambda name: importlib.import_module(f"torch_fidelity.{name}")
    for name in [name for name in sys.modules if name.split(".")[0] == "torch_fidelity"]:
        del sys.modules[name]


def summary(x):
    """(n,): mean, standard deviation, first moment along n, and six of the numbers."""
    x = x.double()
    along = (x * torch.linspace(-1, 1, len(x), dtype=torch.float64)).mean()
    return torch.cat([torch.stack([x.mean(), x.std(), along]), x[:: len(x) // 6][:6]])


# --- the network --------------------------------------------------------------------------------


def test_agrees_with_torch_fidelity(extractor, weights, fidelity):
    theirs = fidelity("feature_extractor_inceptionv3").FeatureExtractorInceptionV3(
        "reference", ["2048", "logits_unbiased"], feature_extractor_weights_path=weights
    )
    branch = {}
    theirs.Mixed_6d.branch1x1.register_forward_hook(lambda *call: branch.update(output=call[-1]))
    images = torch.cat([random_images(1, 3, 40, 56), random_images(1, 3, 40, 56) // 2])
    pool, logits = theirs(images)
    ours = extractor.features(images)
    assert close(ours.pool, pool)
    assert close(ours.probabilities, logits.softmax(1))
    assert close(ours.spatial, branch["output"][:, :7].permute(0, 2, 3, 1).reshape(2, -1))


def test_parameters_are_torch_fidelitys():
    with torch.device("meta"):
        state = Inception().state_dict()
    lines = [f"{key} {tuple(value.shape)}" for key, value in sorted(state.items()) if "num_batches" not in key]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == PARAMETERS
    assert sum(value.numel() for key, value in state.items() if key.endswith(("weight", "bias"))) == 23_850_960


def test_features_of_fixed_weights(extractor):
    features = extractor.features(random_images(1, 3, 32, 48))
    assert extractor.dim == features.pool.shape[1] == 2048
    assert extractor.spatial_dim == features.spatial.shape[1] == 2023
    assert extractor.classes == features.probabilities.shape[1] == 1008
    assert {t.dtype for t in (features.pool, features.spatial, features.probabilities)} == {torch.float32}
    for got, expected in (
        (features.pool, POOL),
        (features.spatial, SPATIAL),
        (features.probabilities, PROBABILITIES),
    ):
        assert close(summary(got[0]), expected)


def test_batches_grey_images_and_autocast_change_nothing(extractor, monkeypatch):
    images = random_images(3, 1, 64, 64)
    whole = extractor.features(images)
    assert torch.equal(whole.pool, extractor(images))
    monkeypatch.setattr("fcdm.features.inception.BATCH", 2)
    with torch.autocast("cpu", torch.bfloat16):
        parts = extractor.features(images.expand(3, 3, 64, 64))
    for key in ("pool", "spatial", "probabilities"):
        assert close(getattr(parts, key), getattr(whole, key))
        assert not getattr(parts, key).requires_grad


def test_other_inputs_are_refused(extractor):
    with pytest.raises(TypeError, match="uint8 images"):
        extractor(torch.zeros(1, 3, 8, 8))
    for shape in ((1, 4, 8, 8), (3, 8, 8), (1, 3, 0, 8)):
        with pytest.raises(UserError, match="Inception reads images"):
            extractor(torch.zeros(shape, dtype=torch.uint8))


# --- the resize ---------------------------------------------------------------------------------


def resized_by_hand(image, side):
    """One channel (h, w), by the words of TensorFlow 1's resize_bilinear kernel."""
    f = np.float32
    (h, w), out = image.shape, np.zeros((side, side), f)
    for i in range(side):
        y = f(i) * (f(h) / f(side))
        top, bottom = int(y), min(int(y) + 1, h - 1)
        for j in range(side):
            x = f(j) * (f(w) / f(side))
            left, right = int(x), min(int(x) + 1, w - 1)
            upper = image[top, left] + (image[top, right] - image[top, left]) * (x - f(left))
            lower = image[bottom, left] + (image[bottom, right] - image[bottom, left]) * (x - f(left))
            out[i, j] = upper + (lower - upper) * (y - f(top))
    return out


@pytest.mark.parametrize(("shape", "side"), [((8, 8), 29), ((5, 13), 29), ((64, 40), 29), ((1, 1), 7), ((29, 29), 29)])
def test_resize_is_tensorflow_1s(shape, side):
    images = random_images(2, 1, *shape).float()
    got = resize_like_tf1(images, side)
    for image, resized in zip(images, got, strict=True):
        assert (resized[0].numpy() == resized_by_hand(image[0].numpy(), side)).all()


@pytest.mark.parametrize("side", [32, 256, 299, 512])
def test_resize_is_torch_fidelitys(side, fidelity):
    theirs = fidelity("interpolate_compat_tensorflow").interpolate_bilinear_2d_like_tensorflow1x
    images = random_images(1, 3, side, side).float()
    assert torch.equal(resize_like_tf1(images), theirs(images, size=(299, 299), align_corners=False))


# --- the weight file ----------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FCDM_INCEPTION", raising=False)
    return tmp_path


def test_where_weights_are_looked_for(home, monkeypatch):
    with pytest.raises(UserError, match=rf"no Inception weights: FID needs {NAME}.*\.cache/fcdm.*FCDM_INCEPTION"):
        find_weights()
    cached = home / ".cache" / "fcdm" / NAME
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"cached")
    assert find_weights() == cached
    other = home / "other.pth"
    monkeypatch.setenv("FCDM_INCEPTION", str(other))
    for call in (find_weights, lambda: extractor_id("inception")):
        with pytest.raises(UserError, match=r"other.pth \(FCDM_INCEPTION\): no such file"):
            call()
    other.write_bytes(b"other")
    assert find_weights() == other
    assert find_weights(cached) == cached
    with pytest.raises(UserError, match=r"nowhere.pth: no such file"):
        find_weights(home / "nowhere.pth")


def test_the_advice_on_a_variable_that_points_at_wrong_weights_works(home, monkeypatch):
    """A download goes to the cache folder, which is not looked at while the variable is set."""
    wrong = home / NAME
    monkeypatch.setenv("FCDM_INCEPTION", str(wrong))
    with pytest.raises(UserError, match=r"or unset FCDM_INCEPTION and `python -m fcdm\.features\.download` them"):
        find_weights()
    wrong.write_bytes(b"cut short")
    with pytest.raises(UserError, match=r"copy it again, or unset FCDM_INCEPTION and download it"):
        check_weights(find_weights())
    monkeypatch.delenv("FCDM_INCEPTION")
    cached = home / ".cache" / "fcdm" / NAME
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"cut short too")
    with pytest.raises(UserError, match=r"remove it and download it again"):
        check_weights(find_weights())


def test_the_id_names_the_weights(home, weights, extractor):
    assert extractor_id("inception") == "inception@6726825d"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert extractor_id("inception", weights) == extractor.id == f"inception@{digest[:8]}"


def test_a_name_with_a_checksum_is_held_to_it(home):
    damaged = home / NAME
    damaged.write_bytes(b"cut short")
    assert extractor_id("inception", damaged) == "inception@6726825d"
    with pytest.raises(UserError, match=r"sha256 starts with [0-9a-f]{8}, not with 6726825d as its name says"):
        open_extractor("inception", weights=damaged)


def test_naming_the_extractor_needs_no_torch():
    code = (
        "import sys, fcdm.features as f; f.extractor_id('inception', sys.executable); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Code:
    def __reduce__(self):
        return (print, ("ran",))


def test_files_that_are_not_the_weights_are_refused(tmp_path, weights, capsys):
    path = tmp_path / "wrong.pth"

    def refused(match):
        with pytest.raises(UserError, match=match) as error:
            load_inception(path)
        assert "\n" not in str(error.value)

    torch.save({"fc.weight": Code()}, path)
    refused("holds more than weights")
    path.write_bytes(pickle.dumps(Code()))
    refused("holds more than weights")
    assert capsys.readouterr().out == ""
    path.write_bytes(b"not a torch file")
    refused("wrong.pth: ")
    path.write_bytes(weights.read_bytes()[:100_000])
    refused("wrong.pth: ")
    path.write_bytes(b"")
    refused("wrong.pth: ")
    torch.save([torch.zeros(3)], path)
    refused("a state dict of tensors was expected, not list")
    state = torch.load(weights, weights_only=True)
    state["fc.weight"] = state["fc.weight"][:1000]
    state["AuxLogits.fc.weight"] = state.pop("Mixed_7c.branch_pool.conv.weight")
    torch.save(state, path)
    refused("Mixed_7c.branch_pool.conv.weight missing; AuxLogits.fc.weight unexpected; fc.weight of another shape")


def test_a_file_without_batchnorms_counters_is_whole(tmp_path, weights):
    state = {k: v for k, v in torch.load(weights, weights_only=True).items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "bare.pth")
    network = load_inception(tmp_path / "bare.pth")
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def test_download_is_whole_and_checked_or_not_there(home, monkeypatch):
    source = home / "source"
    source.write_bytes(b"weights" * 1000)
    seen = []
    with pytest.raises(UserError, match="not with 6726825d: the download was cut short or is another file"):
        download_weights(url=source.as_uri(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(7000, 7000)]
    assert list((home / ".cache" / "fcdm").iterdir()) == []
    with pytest.raises(UserError, match=r"nowhere.*where there is no network, copy the file to"):
        download_weights(url=(home / "nowhere").as_uri())
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:8]
    monkeypatch.setattr("fcdm.features.download.NAME", f"weights-{digest}.pth")
    target = download_weights(home / "folder", source.as_uri())
    assert target.read_bytes() == source.read_bytes()
    source.unlink()
    assert download_weights(home / "folder", source.as_uri()) == target
