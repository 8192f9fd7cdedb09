"""MACs of what evaluation needs besides the model: the decoder of latents, and the networks that features come from.

Convolutions, Linears and attention's two matrix products are counted, as in `fcdm.cost`; norms and activations are not.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path

from fcdm.config.schema import Config
from fcdm.config.spaces import DINOV2
from fcdm.data.image_counts import DIGITS_HELDOUT, DIGITS_TRAIN, heldout_images
from fcdm.errors import UserError
from fcdm.runs.run_cost import run_cost
from fcdm.runs.run_paths import run_facts

HELDOUT_BINS = 10
"""Forward passes of each held-out image for the held-out loss; the same number as in `fcdm.engine.evaluated_loss`."""


def vae_widths(downsample: int = 8) -> tuple[int, ...]:
    """Channels of a VAE's levels: the SD-VAE's, whose downsample is 8; of another, with levels more or fewer."""
    return tuple(min(128 << level, 512) for level in range(downsample.bit_length()))


def _conv(c_in: int, c_out: int, kernel: int, positions: int) -> int:
    return c_in * c_out * kernel * positions


@cache
def vae_decoder_macs(side: int, channels: int = 4, downsample: int = 8) -> int:
    """MACs of decoding one image from (channels, side, side) latents to pixels by the SD-VAE, whose downsample is 8.

    Of another power of two: by a VAE of its kind with levels more or fewer, an estimate.

    Architecture: `AutoencoderKL` of stabilityai/sd-vae-ft-ema (its config.json: block_out_channels 128, 256, 512, 512,
    layers_per_block 2, latent_channels 4), which is kl-f8 of arXiv 2112.10752: a 1x1 convolution, a 3x3 convolution to
    512, a middle of two residual blocks around one single-head attention, then four levels of three residual blocks,
    an up-sampling with a 3x3 convolution after each level but the last, and a 3x3 convolution to 3.
    """
    n = side * side
    widths = vae_widths(downsample)[::-1]
    top = widths[0]
    macs = _conv(channels, channels, 1, n) + _conv(channels, top, 9, n)
    macs += 2 * _vae_residual(top, top, n)
    macs += 4 * _conv(top, top, 1, n) + 2 * n * n * top  # q, k, v, out; q times k, and the weights times v
    for level, (c_in, c_out) in enumerate(pairwise((top, *widths))):
        macs += _vae_residual(c_in, c_out, n) + 2 * _vae_residual(c_out, c_out, n)
        if level < len(widths) - 1:
            n *= 4
            macs += _conv(c_out, c_out, 9, n)
    return macs + _conv(widths[-1], 3, 9, n)


def _vae_residual(c_in: int, c_out: int, positions: int) -> int:
    macs = _conv(c_in, c_out, 9, positions) + _conv(c_out, c_out, 9, positions)
    return macs + (_conv(c_in, c_out, 1, positions) if c_in != c_out else 0)


@cache
def inception_macs() -> int:
    """MACs of one 299x299 image through Inception-v3 up to its 2,048 pooled features, as FID takes them.

    Architecture: arXiv 1512.00567 as in TensorFlow's inception-2015-12-05, whose convolutions torchvision's
    `inception_v3` shares (it counts 5.71 GMACs with its last Linear). The FID variant differs in pooling only.
    """
    macs = _conv(3, 32, 9, 149**2) + _conv(32, 32, 9, 147**2) + _conv(32, 64, 9, 147**2)
    macs += _conv(64, 80, 1, 73**2) + _conv(80, 192, 9, 71**2)
    n = 35**2  # Mixed_5b, 5c, 5d
    for c_in, pooled in ((192, 32), (256, 64), (288, 64)):
        macs += _conv(c_in, 64, 1, n) + _conv(c_in, 48, 1, n) + _conv(48, 64, 25, n)
        macs += _conv(c_in, 64, 1, n) + _conv(64, 96, 9, n) + _conv(96, 96, 9, n) + _conv(c_in, pooled, 1, n)
    # Mixed_6a halves the side
    macs += _conv(288, 64, 1, n) + _conv(64, 96, 9, n)
    n = 17**2
    macs += _conv(288, 384, 9, n) + _conv(96, 96, 9, n)
    for mid in (128, 160, 160, 192):  # Mixed_6b ... 6e: 1x7 and 7x1 convolutions
        macs += 2 * _conv(768, 192, 1, n) + 2 * _conv(768, mid, 1, n)
        macs += 4 * _conv(mid, mid, 7, n) + 2 * _conv(mid, 192, 7, n)
    # Mixed_7a halves the side
    macs += 2 * _conv(768, 192, 1, n) + 2 * _conv(192, 192, 7, n)
    n = 8**2
    macs += _conv(192, 320, 9, n) + _conv(192, 192, 9, n)
    for c_in in (1280, 2048):  # Mixed_7b, 7c
        macs += _conv(c_in, 320, 1, n) + _conv(c_in, 192, 1, n) + _conv(c_in, 384, 1, n) + 2 * _conv(384, 384, 3, n)
        macs += _conv(c_in, 448, 1, n) + _conv(448, 384, 9, n) + 2 * _conv(384, 384, 3, n)
    return macs


def digits_cnn_macs() -> int:
    """MACs of one 8x8 image through `fcdm.features.digits_cnn.DigitsCNN` up to its 64 features."""
    return _conv(1, 32, 9, 64) + _conv(32, 32, 9, 64) + _conv(32, 64, 9, 16) + 256 * 64


def decoding_macs(config: Config) -> int:
    """MACs of one sample from latents to pixels; 0 where the model works on pixels. Raises UserError."""
    downsample = config.data.downsample
    if downsample == 1:
        return 0
    if downsample & (downsample - 1):
        raise UserError(f"data.downsample={downsample}: no decoder is known for it: VAEs have powers of two")
    return vae_decoder_macs(config.resolution // downsample, config.data.channels, downsample)


def metrics_macs(config: Config, forward_macs: int) -> int:
    """MACs of one evaluation behind the sampler: features of the samples (the digits: of the real images too), and the
    held-out loss of data that is evaluated against itself."""
    return features_macs(config) + losses_macs(config, forward_macs)


def losses_macs(config: Config, forward_macs: int) -> int:
    """MACs of the held-out loss, and of that of training images where it is asked for: the model's forward passes."""
    return HELDOUT_BINS * _loss_images(config) * forward_macs


def features_macs(config: Config) -> int:
    """MACs of one evaluation's features: of the samples, and of the digits those of the real images too (those of a
    store are made once)."""
    images = config.evaluation.samples
    if not images:
        return 0
    if config.evaluation.features == "digits-cnn":
        images += DIGITS_TRAIN + DIGITS_HELDOUT
    return images * extractor_macs(config)


def extractor_macs(config: Config) -> int:
    """MACs of one image's features. Of a user's own extractor nothing is known: 0, as of pixels."""
    features = config.evaluation.features
    if features == "inception":
        return inception_macs()
    if features in DINOV2:
        return dinov2_macs()
    if features == "classifier":
        return 2 * classifier_macs(config.resolution, config.data.channels)
    return digits_cnn_macs() if features == "digits-cnn" else 0


def dinov2_macs(width: int = 1024, layers: int = 24, patch: int = 14, side: int = 224) -> int:
    """MACs of one image through DINOv2: the large one, unless said otherwise."""
    patches = (side // patch) ** 2
    tokens = patches + 1
    of_layer = 12 * tokens * width**2 + 2 * tokens**2 * width  # q, k, v, projection, MLP of 4; attention
    return _conv(3, width, patch**2, patches) + layers * of_layer


def classifier_macs(side: int, channels: int) -> int:
    """MACs of one image through one of the two networks of `fcdm.features.classifier.StoreClassifier`."""
    step = max(1, round(side / 16))
    sides = [-(-side // step)]
    for stride in (2, 1, 2, 1):
        sides.append(-(-sides[-1] // stride))
    widths = (32, 64, 64, 96, 96)
    macs = _conv(channels, widths[0], (2 * step + 1) ** 2, sides[0] ** 2)
    for (c_in, c_out), at in zip(pairwise(widths), sides[1:], strict=True):
        macs += _conv(c_in, c_out, 9, at**2)
    return macs + 96 * 16 * 64


def _loss_images(config: Config) -> int:
    """Images of the held-out loss and of that of as many that are trained on. 0 where all are asked for and nobody
    knows how many these are, and of latents, where it is small beside the sampling."""
    most, held = config.evaluation.loss_images, heldout_images(config.data)
    if most is not None:
        return 2 * min(most, most if held is None else held)
    return 0 if config.data.downsample > 1 else held or 0


def weak_macs(config: Config) -> int:
    """MACs of one forward pass of the weaker model (`evaluation.guidance_weak`); a file is of the same model."""
    path = Path(config.evaluation.guidance_weak_path or "")
    if path.is_dir() and (facts := run_facts(path.parent.parent)):
        return int(facts["cost"]["forward_macs"])
    return run_cost(config).forward_macs
