"""Does this model fit this resolution? Without torch, so that the answer comes before anything slow starts."""

from __future__ import annotations

import re

from fcdm.config.schema import FAMILIES, CustomConfig, DiTConfig, FCDMConfig, ModelConfig
from fcdm.config.user_code import MODEL, UserCode, check_code
from fcdm.errors import UserError

ATTENDED = ("hidden", "depthwise")
"""What `model.channel_attention_on` may be."""
OF_FCDM = 4
"""What the side that FCDM sees is a multiple of."""


def who_takes(side: int) -> str | None:
    """Which models take images of that side, where not all families do; None: they do."""
    if side % OF_FCDM == 0:
        return None
    below = side // OF_FCDM * OF_FCDM
    sides = f"{below} or {below + OF_FCDM}" if below else f"{OF_FCDM}"
    patches = "patches of 2 (model=dit/N-2)" if side % 2 == 0 else "a model.patch_size that divides it"
    return (
        f"FCDM takes no images of {side} pixels, for it halves twice: resolution={sides} would be for it too; DiT "
        f"takes them with {patches}"
    )


def check_model(config: ModelConfig, side: int, resolution: int, downsample: int, instead: str = "") -> None:
    """Raise UserError, in the terms that the user typed, where `config` cannot be built or does not fit.

    `side`: the latents' side in latent pixels; `resolution`: the images' side in pixels = side * downsample. instead:
    how another resolution comes about, where saying one is not enough.
    """
    what = "latents" if downsample > 1 else "images"
    if isinstance(config, FCDMConfig):
        _check_fcdm(config)
        multiple, reason = OF_FCDM, f"FCDM halves twice, so the {what}' side must be a multiple of {OF_FCDM}"
        unit = f"{OF_FCDM}*downsample"
    elif isinstance(config, DiTConfig):
        _check_dit(config)
        multiple = config.patch_size
        reason = f"DiT cuts patches, so the {what}' side must be a multiple of model.patch_size={multiple}"
        unit = "patch_size*downsample"
    elif isinstance(config, CustomConfig):
        check_custom(config)
        multiple, reason, unit = 1, f"the {what}' side must be a whole number", "downsample"
    else:
        raise UserError(f"model.family={config.family!r}: unknown; write {', '.join(FAMILIES)}")
    if side < 1 or side % multiple or side * downsample != resolution:
        step = multiple * downsample
        below = resolution // step * step
        tries = f"{below} or {below + step}" if below > 0 else f"{step} or {2 * step}"
        raise UserError(
            f"resolution={resolution}: {reason}: resolution must be a multiple of {unit} = {step}; try {tries}{instead}"
        )


def _check_fcdm(config: FCDMConfig) -> None:
    _check_positive("width", config.width)
    _check_positive("expansion", config.expansion)
    _check_positive("kernel_size", config.kernel_size)
    if config.kernel_size % 2 == 0:
        below, above = config.kernel_size - 1, config.kernel_size + 1
        raise UserError(
            f"model.kernel_size={config.kernel_size}: an even kernel has no centre pixel and would shift the "
            f"image; write {below} or {above}"
        )
    if config.channel_attention_on not in ATTENDED:
        raise UserError(
            f"model.channel_attention_on={config.channel_attention_on} is not known: write {' or '.join(ATTENDED)}"
        )
    if config.width % 2:
        raise UserError(
            f"model.width={config.width}: must be even, because halving the image moves 2x2 pixels into "
            f"2*width channels; write {config.width - 1 or 2} or {config.width + 1}"
        )
    if len(config.blocks) != 5 or min(config.blocks) < 1:
        raise UserError(
            f"model.blocks={list(config.blocks)}: needs 5 numbers of at least 1 (encoder 1, encoder 2, middle, "
            "decoder 2, decoder 1), as in model.blocks=[2,4,8,4,2]"
        )


def _check_dit(config: DiTConfig) -> None:
    for key in ("patch_size", "depth", "width", "heads", "mlp_ratio"):
        _check_positive(key, getattr(config, key))
    if config.width % config.heads:
        fits = [h for h in range(1, config.width + 1) if config.width % h == 0]
        nearest = sorted(sorted(fits, key=lambda h: abs(h - config.heads))[:2])
        raise UserError(
            f"model.heads={config.heads}: model.width={config.width} must be divisible by it; "
            f"try {' or '.join(str(h) for h in nearest)} heads, or a width that is a multiple of {config.heads}"
        )
    if config.width % 4:
        below = config.width // 4 * 4
        raise UserError(
            f"model.width={config.width}: the position embedding needs sines and cosines of rows and columns, so "
            f"the width must be a multiple of 4; try {below or 4} or {below + 4}"
        )


def _check_positive(key: str, value: int) -> None:
    if value < 1:
        raise UserError(f"model.{key}={value}: must be at least 1")


def check_custom(config: CustomConfig) -> None:
    """Raise UserError for a name, target or option that cannot be."""
    check_code(UserCode(MODEL, config.target, config.options, config.source))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*", config.name):
        raise UserError(f"model.name={config.name!r} is no name for a folder: letters, digits, dots, - and _ only")
