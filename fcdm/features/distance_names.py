"""What a distance is called: by the space of features that it is taken in. The one home of these names. Torch-free.

An evaluation's file calls every Fréchet distance `fid` and every kernel distance `kid`, in whatever space its protocol
names; people call them FID and KID in Inception's, FD-DINOv2 (arXiv 2306.04675) and KDD in DINOv2's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

SHOWN = ("fid", "kid")
"""What is shown of an evaluation: the first of these that it has. With too few samples for a Fréchet distance there is
a kernel distance alone."""

_FRECHET = {
    "": "FID",
    "inception": "FID",
    "digits-cnn": "FID",
    "dinov2": "FD-DINOv2",
    "dinov2-pil": "FD-DINOv2 (PIL)",
    "pixels": "FD-pixels",
    "classifier": "FD-classifier",
}
_KERNEL = {
    "": "KID",
    "inception": "KID",
    "digits-cnn": "KID",
    "dinov2": "KDD",
    "dinov2-pil": "KDD (PIL)",
}
_REST = {
    "heldout": "to held-out images",
    "train": "to training images",
    "pixels": "on pixels",
    "second": "by the second classifier",
}
"""What follows in a metric's name: `fid_heldout_second`."""


_OTHERS = {"heldout_loss": "held-out loss"}
"""What is measured and no distance."""


def space_of(features: str) -> str:
    """`dinov2` of `dinov2-large-224-bicubic@1a2b3c4d`, as a protocol has it under `features`; "" of nothing."""
    space = features.partition("@")[0]
    if space.startswith("dinov2-"):
        return "dinov2-pil" if space.endswith("-pil") else "dinov2"
    return "pixels" if space.startswith("pixels-") else space


def distance_name(metric: str, features: str = "") -> str:
    """`FD-DINOv2 to held-out images` of `fid_heldout` by a protocol with these `features`; else its key."""
    kind, *rest = metric.split("_")
    space = space_of(features)
    if kind not in SHOWN or not set(rest) <= _REST.keys():
        return _OTHERS.get(metric, metric)
    own = space.rpartition(".")[2]  # the class of a user's own extractor
    name = _FRECHET.get(space, f"FD-{own}") if kind == "fid" else _KERNEL.get(space, f"kernel distance ({own})")
    return " ".join([name, *(_REST[word] for word in rest)])


def headline_name(metric: str, protocol: Mapping[str, Any]) -> str:
    """`distance_name` of what is shown by this protocol, whose reference may be images that are held out."""
    held = "-heldout@" in str(protocol.get("reference", ""))
    return distance_name(f"{metric}_heldout" if held else metric, str(protocol.get("features", "")))


def told_name(metric: str, protocol: Mapping[str, Any]) -> str:
    """`headline_name` of what stands for an evaluation by this protocol, else `distance_name`."""
    if metric in SHOWN:
        return headline_name(metric, protocol)
    return distance_name(metric, str(protocol.get("features", "")))


def without_images(name: str) -> str:
    """`FD-DINOv2` of `FD-DINOv2 to held-out images`."""
    return name.removesuffix(f" {_REST['heldout']}")


def shown_of(metrics: Collection[str]) -> str | None:
    """Which metric stands for an evaluation; None: it has no distance."""
    return next((metric for metric in SHOWN if metric in metrics), None)


def value_text(metric: str, value: float) -> str:
    """`12.34` of a Fréchet distance, by its key or its name; a kernel distance, which is small, as `0.00123`."""
    return f"{value:.2f}" if metric.startswith(("fid", "FID", "FD")) else f"{value:.3g}"
