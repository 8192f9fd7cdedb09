"""What a distance is called, by the features of its protocol."""

from __future__ import annotations

import pytest

from fcdm.features.distance_names import distance_name, headline_name, shown_of, space_of, without_images
from fcdm.jobs.progress import metrics_text


@pytest.mark.parametrize(
    ("features", "frechet", "kernel"),
    [
        ("", "FID", "KID"),
        ("inception@6726825d", "FID", "KID"),
        ("digits-cnn@7981de2a", "FID", "KID"),
        ("dinov2@0123abcd", "FD-DINOv2", "KDD"),
        ("classifier@0123abcd", "FD-classifier", "kernel distance (classifier)"),
        ("pixels-8x8", "FD-pixels", "kernel distance (pixels)"),
        ("my_metrics.Faces@0123abcd", "FD-Faces", "kernel distance (Faces)"),
    ],
)
def test_names_follow_the_features(features: str, frechet: str, kernel: str) -> None:
    assert distance_name("fid", features) == frechet
    assert distance_name("kid", features) == kernel
    assert distance_name("fid_heldout_second", features) == f"{frechet} to held-out images by the second classifier"
    assert distance_name("precision", features) == "precision"
    assert distance_name("kid_se", features) == "kid_se"
    assert distance_name("heldout_loss", features) == "held-out loss"


def test_a_kernel_distance_is_shown_where_there_is_no_other() -> None:
    assert shown_of({"kid": 0.1, "fid": 2.0}) == "fid"
    assert shown_of({"kid": 0.1, "kid_se": 0.01}) == "kid"
    assert shown_of({"heldout_loss": 0.1}) is None
    assert space_of("dinov2-pil@12") == "dinov2-pil"


def test_a_line_of_progress_names_the_distance() -> None:
    assert metrics_text(4, {"fid": 12.345}, {"fid": 3.0}, "dinov2@1") == "step 4: FD-DINOv2 12.35 (real images 3.00)"
    few = {"kid": 0.012345, "kid_se": 0.00123, "heldout_loss": 0.5}
    said = "step 4: kernel distance (classifier) 0.0123 ± 0.00123, held-out loss 0.5000"
    assert metrics_text(4, few, {}, "classifier@1") == said
    assert metrics_text(4, {"fid": 1.0}, {}) == "step 4: FID 1.00", "a file of a version before"
    assert metrics_text(4, {"heldout_loss": 0.5}, {}, "classifier@1") == "step 4: held-out loss 0.5000"


def test_the_headline_says_which_images_it_is_to() -> None:
    train, held = (
        {"features": "classifier@12345678", "reference": f"store-16px-{part}@2fd20d2d"} for part in ("train", "heldout")
    )
    assert headline_name("fid", train) == "FD-classifier"
    assert headline_name("fid", held) == "FD-classifier to held-out images"
    assert headline_name("kid", held) == "kernel distance (classifier) to held-out images"
    assert distance_name("fid_train", "classifier@12345678") == "FD-classifier to training images"
    assert without_images(headline_name("fid", held)) == headline_name("fid", train)
    assert headline_name("fid", {}) == "FID"
