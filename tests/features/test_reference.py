"""Reference files in ADM's format, and evaluation in one pass, in parts and on ranks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcdm.errors import UserError
from fcdm.features import Features, open_extractor
from fcdm.features.make_reference import write_reference
from fcdm.features.reference import read_reference
from fcdm.features.sample_statistics import GROUP, SampleStatistics
from fcdm.metrics.frechet import FeatureStatistics, frechet_distance
from fcdm.metrics.inception_score import InceptionScore
from fcdm.metrics.kernel_distance import kernel_distance
from fcdm.metrics.precision_recall import precision_recall
from tests.support.sample_metrics import evaluate_samples, write_reference_of
from tests.support.small_extractor import CLASSES, DIM, SIDE, SMALL, small_features


def random_images(n, seed=0, side=SIDE, channels=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, channels, side, side), generator=generator, dtype=torch.uint8)


def adm_file(path, images, **changes):
    """As ADM's published files are: made with np.savez, float64 moments, images (n, h, w, 3)."""
    features = small_features(images)
    arrays = {"arr_0": images.permute(0, 2, 3, 1).numpy()}
    for suffix, values in (("", features.pool), ("_s", features.spatial)):
        arrays[f"mu{suffix}"] = values.double().mean(0).numpy()
        arrays[f"sigma{suffix}"] = np.cov(values.double().numpy(), rowvar=False)
    arrays |= changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


@pytest.fixture
def reference(tmp_path):
    write_reference_of(tmp_path / "reference.npz", random_images(200).split(64), SMALL)
    return read_reference(tmp_path / "reference.npz")


# --- reference files ----------------------------------------------------------------------------


def test_adms_files_are_read_as_they_are(tmp_path):
    images = random_images(50)
    path = adm_file(tmp_path / "VIRTUAL.npz", images)
    reference = read_reference(path, resolution=SIDE)
    assert (reference.resolution, reference.images.count, reference.count, reference.extractor) == (
        SIDE,
        50,
        None,
        None,
    )
    assert len(reference.sha256) == 64
    np.testing.assert_array_equal(reference.pool[0], small_features(images).pool.double().mean(0).numpy())
    assert [m.shape for m in (*reference.pool, *reference.spatial)] == [(6,), (6, 6), (5,), (5, 5)]
    assert torch.equal(torch.cat(list(reference.images.batches(20))), images)
    assert evaluate_samples(images.split(7), reference, SMALL)["fid"] == pytest.approx(0, abs=1e-6)


def test_ours_are_in_adms_format(tmp_path):
    images = random_images(150, seed=1)
    path = tmp_path / "new" / "reference.npz"
    assert write_reference_of(path, images.split(64), SMALL) == []
    assert [p.name for p in path.parent.iterdir()] == ["reference.npz"]
    features = small_features(images)
    with np.load(path, allow_pickle=False) as arrays:
        assert set(arrays) == {"mu", "sigma", "mu_s", "sigma_s", "arr_0", "count", "extractor"}
        np.testing.assert_array_equal(arrays["arr_0"], images.permute(0, 2, 3, 1).numpy())
        for suffix, values in (("", features.pool), ("_s", features.spatial)):
            np.testing.assert_allclose(arrays[f"mu{suffix}"], values.double().mean(0).numpy(), rtol=1e-12)
            np.testing.assert_allclose(arrays[f"sigma{suffix}"], np.cov(values.double().numpy().T), rtol=1e-10)
    reference = read_reference(path)
    assert (reference.count, reference.extractor, reference.resolution) == (150, "small@1", SIDE)
    write_reference_of(tmp_path / "again.npz", images.split(64), SMALL)
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_images_kept_are_a_fair_draw_of_all(tmp_path):
    numbers = torch.arange(200, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    drawn = np.zeros(200)
    for seed in range(40):
        write_reference_of(tmp_path / "r.npz", numbers.split(64), open_extractor("pixels"), keep=20, seed=seed)
        reference = read_reference(tmp_path / "r.npz")
        assert (reference.count, reference.images.count, reference.images.channels) == (200, 20, 1)
        kept = torch.cat(list(reference.images.batches(8)))[:, 0, 0, 0].tolist()
        assert len(set(kept)) == 20
        drawn[kept] += 1
    # 800 draws over 200 numbers; each eighth of them is due 100, with a deviation of about 9.
    assert (np.abs(drawn.reshape(8, 25).sum(axis=1) - 100) < 35).all()


def test_an_interrupted_or_refused_write_leaves_nothing(tmp_path):
    def broken():
        yield np.zeros((5, 4, 4, 3), np.uint8)
        raise KeyboardInterrupt

    path = tmp_path / "r.npz"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_reference(path, statistics_of(random_images(10), 10), SMALL, broken(), 10)
    for images in ([], [random_images(1)]):
        with pytest.raises(UserError, match="at least 2 images, there were"):
            write_reference_of(path, images, SMALL)
    nan = dataclasses.replace(SMALL, extract_all=lambda x: Features(small_features(x).pool * torch.nan))
    with pytest.raises(UserError, match=r"features of 10 of 10 samples are NaN or infinite \(first: sample 0\)"):
        write_reference_of(path, [random_images(10)], nan)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("r.npz", b"old")]
    with pytest.raises(UserError, match=r"r.npz is a file, not a folder"):
        write_reference_of(path / "below.npz", [random_images(10)], SMALL)


def test_few_images_warn(tmp_path):
    (warning,) = write_reference_of(tmp_path / "r.npz", [random_images(6)], SMALL)
    assert "6 images for 6 features: the covariance is rank-deficient" in warning
    assert write_reference_of(tmp_path / "r.npz", [random_images(7)], SMALL) == []


class Code:
    def __reduce__(self):
        return (print, ("ran",))


def test_bad_reference_files_are_refused_in_one_line(tmp_path, capsys):
    images, path = random_images(20), tmp_path / "r.npz"

    def refused(match, **changes):
        if changes:
            adm_file(path, images, **changes)
        with pytest.raises(UserError, match=match) as error:
            read_reference(path, resolution=SIDE)
        assert "\n" not in str(error.value)
        assert "r.npz" in str(error.value)

    refused("no such file")
    refused("no reference statistics in it", mu=None, sigma=None)
    refused("go together, and one is missing", sigma=None)
    refused("go together, and one is missing", mu_s=None)
    refused(r"`mu` has shape \(6,\) and `sigma` \(5, 5\)", sigma=np.eye(5))
    refused(r"`mu_s` has shape \(5, 1\)", mu_s=np.zeros((5, 1)))
    refused("floats were expected", mu=np.zeros(6, np.int64))
    refused("NaN or infinities", mu=np.full(6, np.nan))
    refused("not a readable .npz.*allow_pickle", mu=np.array([Code()] * 6))
    refused("holds Python objects.*refused", arr_0=np.array([Code()]))
    refused(r"`arr_0` is float32, and floats do not say", arr_0=np.zeros((2, 4, 4, 3), np.float32))
    refused(r"`arr_0` is uint8 of shape \(2, 4, 4, 2\)", arr_0=np.zeros((2, 4, 4, 2), np.uint8))
    refused("no image in it", arr_0=np.zeros((0, 4, 4, 3), np.uint8))
    refused("a reference of 8x8 pixels, but 4x4 is asked for", arr_0=np.zeros((2, 8, 8, 3), np.uint8))
    adm_file(path, images)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused("not a readable .npz")
    path.write_bytes(b"")
    refused("not a readable .npz")
    np.save(tmp_path / "array", np.zeros(3))
    (tmp_path / "array.npy").replace(path)
    refused("not a readable .npz")
    assert capsys.readouterr().out == ""


def test_without_images_or_sfid_there_is_less_to_say(tmp_path):
    path = adm_file(tmp_path / "r.npz", random_images(20), arr_0=None, mu_s=None, sigma_s=None)
    reference = read_reference(path, resolution=SIDE)
    assert (reference.images, reference.spatial, reference.resolution) == (None, None, None)
    assert reference.features(SMALL) is None
    assert set(evaluate_samples([random_images(9)], reference, SMALL)) == {
        "fid",
        "inception_score",
        "inception_score_std",
    }


def test_features_of_the_images_are_kept_beside_the_file(reference, tmp_path, monkeypatch):
    calls, seen = [], []
    counted = dataclasses.replace(SMALL, extract=lambda x: calls.append(len(x)) or small_features(x).pool)
    features = reference.features(counted, batch=64, progress=lambda *done: seen.append(done))
    np.testing.assert_array_equal(features, small_features(random_images(200)).pool.numpy())
    assert calls == [64, 64, 64, 8]
    assert seen[-1] == (200, 200)
    beside = tmp_path / "reference.features-small@1.npz"
    assert beside.is_file()
    np.testing.assert_array_equal(reference.features(counted), features)
    assert len(calls) == 4
    beside.write_bytes(b"damaged")
    np.testing.assert_array_equal(reference.features(counted), features)
    assert len(calls) == 8
    write_reference_of(reference.path, [random_images(30, seed=5)], SMALL)
    assert read_reference(reference.path).features(counted).shape == (30, DIM)
    monkeypatch.setattr(
        "fcdm.features.reference.write_atomic", lambda *_: (_ for _ in ()).throw(UserError("read-only"))
    )
    beside.unlink()
    assert read_reference(reference.path).features(counted).shape == (30, DIM)


def test_another_extractor_or_size_is_refused(reference):
    with pytest.raises(UserError, match="made with small@1, but the images are evaluated with small@2"):
        evaluate_samples([], reference, dataclasses.replace(SMALL, id="small@2"))
    unnamed = dataclasses.replace(reference, extractor=None)
    with pytest.raises(UserError, match="statistics of 6 features, but pixels-8x8 has 64"):
        unnamed.check_extractor(open_extractor("pixels"))
    with pytest.raises(UserError, match="sFID statistics of 5 features, but small@1 has 9"):
        unnamed.check_extractor(dataclasses.replace(SMALL, spatial_dim=9))
    with pytest.raises(UserError, match="a reference of 4x4 pixels, but the samples are 8x8"):
        evaluate_samples([random_images(3, side=8)], reference, SMALL)


# --- evaluation ------------------------------------------------------------------------------------


def by_hand(images, reference_images):
    """All metrics, each from all features at once."""
    a, b = small_features(images), small_features(reference_images)
    found = {}
    for name, x, y in (("fid", a.pool, b.pool), ("sfid", a.spatial, b.spatial)):
        sides = FeatureStatistics(x.shape[1]), FeatureStatistics(x.shape[1])
        for side, values in zip(sides, (x, y), strict=True):
            side.update(values)
        found[name] = frechet_distance(*sides)
    score = InceptionScore(CLASSES)
    score.update(a.probabilities)
    found["inception_score"], found["inception_score_std"] = score.score()
    distance = kernel_distance(a.pool, b.pool)
    found |= {"kid": distance.value, "kid_se": distance.standard_error}
    shares = precision_recall(b.pool, a.pool)
    return found | {"precision": shares.precision, "recall": shares.recall}


def statistics_of(images, batch, first=0, **kwargs):
    statistics = SampleStatistics.for_extractor(SMALL, **kwargs)
    for part in images.split(batch):
        statistics.update(SMALL.features(part), first)
        first += len(part)
    return statistics


def test_evaluation_is_all_the_metrics(reference):
    images, seen = random_images(120, seed=2) // 2 + 40, []
    got = evaluate_samples(images.split(50), reference, SMALL, progress=seen.append)
    assert got == pytest.approx(by_hand(images, random_images(200)), rel=1e-9)
    scores = ["fid", "sfid", "inception_score", "inception_score_std", "kid", "kid_se", "precision", "recall"]
    assert list(got) == scores
    assert seen == [50, 100, 120]
    before = statistics_of(images[:70], 30)
    assert evaluate_samples([images[70:]], reference, SMALL, statistics=before) == pytest.approx(got, rel=1e-9)


@given(st.data())
@settings(max_examples=25)
def test_ranks_and_batches_do_not_matter(data):
    images = random_images(data.draw(st.integers(2, 40)), seed=3)
    group = data.draw(st.sampled_from([1, 5, GROUP]))
    whole = statistics_of(images, len(images), split=10, keep=30)
    batch, world = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcdm.features.sample_statistics.GROUP", group)
        ranks = [SampleStatistics.for_extractor(SMALL, keep=30, split=10) for _ in range(world)]
        for turn, part in enumerate(images.split(batch)):
            ranks[turn % world].update(SMALL.features(part), turn * batch)
        merged = SampleStatistics.for_extractor(SMALL, keep=30, split=10)
        for rank in data.draw(st.permutations(ranks)):
            merged.merge(rank)
    assert merged.count == whole.count == len(images)
    whole.flush()
    np.testing.assert_allclose(merged.pool.covariance, whole.pool.covariance, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(merged.spatial.mean, whole.spatial.mean, rtol=1e-9)
    assert merged.inception.score() == pytest.approx(whole.inception.score(), rel=1e-9, abs=1e-9)
    np.testing.assert_array_equal(merged.kept_features(), small_features(images[:30]).pool.numpy())


@pytest.mark.parametrize("group", [1, 30, GROUP])
def test_save_and_restore_between_updates_changes_no_bit(tmp_path, reference, group, monkeypatch):
    monkeypatch.setattr("fcdm.features.sample_statistics.GROUP", group)
    images = random_images(100, seed=4)
    straight, broken = statistics_of(images, 12), SampleStatistics.for_extractor(SMALL)
    for part in images.split(12):
        np.savez(tmp_path / "state.npz", **broken.state())
        with np.load(tmp_path / "state.npz", allow_pickle=False) as saved:
            broken = SampleStatistics.from_state(dict(saved))
        broken.update(SMALL.features(part))
    for key, value in straight.state().items():
        assert value.tobytes() == broken.state()[key].tobytes(), key
    features = reference.features(SMALL)
    assert straight.metrics(reference, features) == broken.metrics(reference, features)


def test_an_extractor_of_one_output_gives_distances_precision_and_recall(tmp_path):
    extractor, images = open_extractor("pixels"), random_images(90, side=8, channels=1)
    (warning,) = write_reference_of(tmp_path / "r.npz", [images[:50]], extractor)
    assert "50 images for 64 features" in warning
    found = evaluate_samples([images[50:]], read_reference(tmp_path / "r.npz"), extractor)
    assert set(found) == {"fid", "kid", "kid_se", "precision", "recall"}
    state = SampleStatistics.for_extractor(extractor).state()
    assert SampleStatistics.from_state(state).spatial is None


def test_what_a_reader_should_know_is_said():
    assert statistics_of(random_images(20), 7).warnings() == []
    few = statistics_of(random_images(6), 6, keep=4)
    assert len(few.warnings()) == 2
    assert few.warnings()[1] == "kernel distance, precision and recall are of the first 4 of 6 images"
    assert few.kept_features().shape == (4, DIM)


def test_mistakes_in_updates_and_merges_are_errors():
    statistics = statistics_of(random_images(10), 5)
    good = SMALL.features(random_images(3))
    bad = good.pool.clone()
    bad[1, 0] = torch.inf
    with pytest.raises(UserError, match=r"1 of 3 samples are NaN or infinite \(first: sample 11\)"):
        statistics.update(dataclasses.replace(good, pool=bad))
    with pytest.raises(ValueError, match="features have shape None"):
        statistics.update(Features(good.pool))
    with pytest.raises(ValueError, match="without class probabilities"):
        statistics.update(Features(good.pool, good.spatial))
    assert statistics.count == statistics.inception.count == len(statistics.kept_features()) == 10
    with pytest.raises(ValueError, match="two extractors"):
        statistics.merge(SampleStatistics(DIM))
    with pytest.raises(ValueError, match="keep 3 and 50000"):
        statistics.merge(SampleStatistics.for_extractor(SMALL, keep=3))
    twice = statistics_of(random_images(10), 5)
    twice.merge(statistics_of(random_images(4), 4))
    with pytest.raises(ValueError, match="counted twice"):
        twice.kept_features()
