"""Trains the digits' feature network on the train split.

    python -m tools.train_digits_cnn [--out FILE]

One thread and a fixed seed, under a minute. Other machines round differently and give another file, hence
other FIDs: the shipped file is the reference, and its checksum is in the extractor's id.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from fcdm.data.digits import load_digits_split
from fcdm.features import DIGITS_CNN_WEIGHTS
from fcdm.features.digits_cnn import DigitsCNN, to_8x8
from fcdm.metrics.rounding import to_uint8

BATCH = 64
LR = 1e-3  # at 2e-3 one of the 64 features dies in the first epochs (variance under 1e-6)
WEIGHT_DECAY = 1e-4
LABEL_SMOOTHING = 0.05  # keeps logits, and so the scale of the features, from growing without bound


def train(images: Tensor, labels: Tensor, epochs: int, seed: int = 0) -> DigitsCNN:
    """Train on `images` (n, 1, 8, 8) in [-1, 1] and `labels` (n,): AdamW, cosine decay, random shifts."""
    torch.manual_seed(seed)
    network = DigitsCNN()
    per_epoch = len(images) // BATCH
    optimiser = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * per_epoch)
    for _ in range(epochs):
        for rows in torch.randperm(len(images))[: per_epoch * BATCH].reshape(per_epoch, BATCH):
            loss = F.cross_entropy(network(_shifted(images[rows])), labels[rows], label_smoothing=LABEL_SMOOTHING)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return network.eval().requires_grad_(False)


def _shifted(images: Tensor) -> Tensor:
    """Each image moved by -1, 0 or 1 pixels down and right at random, with paper (-1) coming in."""
    padded = F.pad(images, (1, 1, 1, 1), value=-1.0)
    windows = padded.unfold(2, 8, 1).unfold(3, 8, 1)  # (n, 1, down, right, 8, 8)
    down, right = torch.randint(3, (2, len(images)))
    return windows[torch.arange(len(images)), :, down, right]


def accuracy(network: DigitsCNN, images: Tensor, labels: Tensor) -> float:
    """Share of `images` (n, 1, 8, 8) whose largest logit is that of `labels` (n,)."""
    with torch.no_grad():
        return float((network(images).argmax(1) == labels).double().mean())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the digits' feature network on the train split.")
    parser.add_argument("--out", type=Path, default=DIGITS_CNN_WEIGHTS, help="weight file to write")
    parser.add_argument("--epochs", type=int, default=60)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)

    digits = load_digits_split()
    train_images, heldout_images = (
        to_8x8(to_uint8(torch.from_numpy(images))).float() for images in (digits.train_images, digits.heldout_images)
    )
    train_labels, heldout_labels = map(torch.from_numpy, (digits.train_labels, digits.heldout_labels))
    network = train(train_images, train_labels, arguments.epochs)
    print(f"train accuracy    {accuracy(network, train_images, train_labels):.4f} of {len(train_labels)}")
    print(f"held-out accuracy {accuracy(network, heldout_images, heldout_labels):.4f} of {len(heldout_labels)}")
    variances = network.features(train_images).var(0)
    print(f"feature variances {variances.min():.2f} to {variances.max():.2f} on the train split")

    unfinished = arguments.out.with_name(arguments.out.name + ".partial")
    save_file(network.state_dict(), unfinished)
    unfinished.replace(arguments.out)
    print(f"wrote {arguments.out} ({arguments.out.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
