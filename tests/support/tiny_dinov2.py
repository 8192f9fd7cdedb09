"""A DINOv2 of a few thousand random weights, in a folder as the hub has it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch


def save_dinov2(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Positions for 5x5 patches unless `changes` of the configuration say otherwise."""
    from transformers import Dinov2Config, Dinov2Model
    from transformers.utils import logging

    logging.disable_progress_bar()
    values = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2, "image_size": 70}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = Dinov2Model(Dinov2Config(**{**values, **changes}))
        for parameter in model.parameters():  # else most of it is zeros, and layers scaled by 1 say little
            torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder)
    return folder
