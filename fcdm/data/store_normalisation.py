"""How latents are normalised, agreed between a configuration, its store and its decoder. Torch-free."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fcdm.codecs.vae_files import vae_identity
from fcdm.config.schema import Config, DataConfig
from fcdm.data.manifest import LATENTS, read_manifest
from fcdm.errors import UserError

CHANNEL = "channel"


def with_channels(data: DataConfig) -> DataConfig:
    """With the numbers of `normalisation=channel`, read from the store. Raises UserError where they are not there."""
    if data.normalisation != CHANNEL or data.channel_mean is not None:
        return data
    if data.path is None or not Path(data.path).exists():
        raise UserError(
            f"data.normalisation=channel needs the numbers of a store of latents, and there is none at {data.path}: "
            "say data.path=STORE"
        )
    from fcdm.data.channels import read_channels  # numpy is not for who composes only

    channels = read_channels(Path(data.path))
    return dataclasses.replace(data, channel_mean=[*channels.mean], channel_deviation=[*channels.deviation])


def check_decoder(config: Config) -> None:
    """Raises UserError where the decoder undoes another scale than the store's latents have.

    Nothing is known of a store or a decoder that is not on this machine.
    """
    data, decoder = config.data, config.evaluation.decoder
    if data.path is None or decoder is None or data.normalisation == CHANNEL or not Path(data.path).exists():
        return
    manifest = read_manifest(Path(data.path))
    if manifest.kind != LATENTS:
        return
    try:
        found = vae_identity(decoder, download=False)
    except UserError:
        return
    if (found.scaling_factor, found.shift_factor) != (manifest.scaling_factor, manifest.shift_factor):
        raise UserError(
            f"evaluation.decoder={decoder} undoes a scale of {found.scaling_factor} (shift {found.shift_factor}), and "
            f"the latents store {data.path} has {manifest.scaling_factor} (shift {manifest.shift_factor}): say the "
            "store's own VAE, or data.normalisation=channel, which needs no scale"
        )
