"""Names and shapes of the public codes' weights (FCDM: star-kwon/FCDM, DiT: facebookresearch/DiT), and ours.

One table each way: entry by entry, in the order of the public code's state dict. Differences are names, unit axes
(ours keeps 1x1 convolutions as Linears and norms as vectors) and DiT's fixed position embedding, which ours computes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from fcdm.config.schema import DiTConfig, FCDMConfig, ModelConfig
from fcdm.errors import UserError
from fcdm.models.dit import DiT
from fcdm.models.embeddings import position_embedding
from fcdm.models.fcdm import FCDM

_FCDM_BLOCK = {
    "dwconv": "depthwise",
    "pwconv1": "expand",
    "grn": "response_norm",
    "pwconv2": "project",
    "adaLN_modulation.1": "modulation",
}
_DIT_BLOCK = {
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.project",
    "mlp.fc1": "expand",
    "mlp.fc2": "project",
    "adaLN_modulation.1": "modulation",
}
_POSITION = "pos_embed"


def official_names(config: ModelConfig) -> dict[str, str]:
    """Public name to our name, for every entry of the public code's state dict, in its order.

    Raises UserError for a family that has no public code.
    """
    if isinstance(config, FCDMConfig):
        return dict(_fcdm_names(config))
    if isinstance(config, DiTConfig):
        return dict(_dit_names(config))
    raise UserError(f"model.family={config.family!r}: has no public weights; only fcdm and dit have")


def from_official(model: FCDM | DiT, state_dict: Mapping[str, Tensor], any_side: bool = False) -> dict[str, Tensor]:
    """The public code's weights in our names and shapes, as the state dict of a model like `model`.

    any_side: also of a DiT for images of another size. Raises UserError naming missing and unexpected entries and those
    of another shape, or where DiT's position embedding is not the fixed one.
    """
    names = official_names(model.config)
    ours = _our_tensors(model)
    fixed = None
    if _POSITION in names:
        fixed = ours[names[_POSITION]]
        if any_side and _POSITION in state_dict:
            side = math.isqrt(state_dict[_POSITION].shape[-2] if state_dict[_POSITION].ndim == 3 else 0)
            fixed = position_embedding(fixed.shape[-1], side).to(fixed)

    def wanted(name: str, own: str) -> torch.Size:
        return fixed.shape if name == _POSITION and fixed is not None else _official_shape(name, ours[own].shape)

    missing = [name for name in names if name not in state_dict]
    unexpected = [name for name in state_dict if name not in names]
    reshaped = [
        f"{name} is {size(state_dict[name].shape)}, not {size(wanted(name, own))}"
        for name, own in names.items()
        if name in state_dict and state_dict[name].shape != wanted(name, own)
    ]
    problems = []
    if missing:
        problems.append(f"missing {listed(missing)}")
    if unexpected:
        problems.append(f"unexpected {listed(unexpected)}")
    if reshaped:
        problems.append(f"shapes differ: {listed(reshaped)}")
    if problems:
        raise UserError(
            f"these are not the weights of the public code for model {model.config.name}: "
            f"{'; '.join(problems)}. Choose the model (and diffusion.learn_sigma) that the file was trained with"
        )
    if fixed is not None and not torch.allclose(state_dict[_POSITION].to(fixed), fixed, atol=1e-5):
        raise UserError(f"{_POSITION} is not DiT's fixed sin-cos embedding: ours cannot hold a learned one")
    return {own: state_dict[name].reshape(ours[own].shape) for name, own in names.items() if name != _POSITION}


def to_official(model: FCDM | DiT) -> dict[str, Tensor]:
    """The weights of `model` (detached, sharing memory where they can) as the public code's state dict."""
    ours = _our_tensors(model)
    return {
        name: ours[own].detach().reshape(_official_shape(name, ours[own].shape))
        for name, own in official_names(model.config).items()
    }


def _our_tensors(model: FCDM | DiT) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _official_shape(name: str, ours: torch.Size) -> torch.Size:
    layer, _, kind = name.rpartition(".")
    if layer.endswith((".pwconv1", ".pwconv2")) or layer.startswith("reduce_chans_"):
        return torch.Size((*ours, 1, 1)) if kind == "weight" else ours
    if layer.endswith(".grn"):
        return torch.Size((1, *ours, 1, 1))
    return ours


def size(shape: Iterable[int]) -> str:
    """`32x384`."""
    return "x".join(str(n) for n in shape)


def listed(names: list[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _pair(official: str, own: str, kinds: tuple[str, ...] = ("weight", "bias")) -> list[tuple[str, str]]:
    return [(f"{official}.{kind}", f"{own}.{kind}") for kind in kinds]


def _conditioner(suffix: str, own: str) -> list[tuple[str, str]]:
    return [
        *_pair(f"t_embedder{suffix}.mlp.0", f"{own}.timestep.hidden"),
        *_pair(f"t_embedder{suffix}.mlp.2", f"{own}.timestep.out"),
        (f"y_embedder{suffix}.embedding_table.weight", f"{own}.label.weight"),
    ]


def _fcdm_names(config: FCDMConfig) -> list[tuple[str, str]]:
    for key in ("channel_attention", "feed_forward"):
        if getattr(config, key):
            raise UserError(f"model.{key}=true: the public code has no such block, so no weights for it; write false")

    def stage(official: str, own: str, blocks: int) -> list[tuple[str, str]]:
        names = []
        for block in range(blocks):
            for public, layer in _FCDM_BLOCK.items():
                if public == "grn" and not config.grn:
                    continue
                kinds = ("gamma", "beta") if public == "grn" else ("weight", "bias")
                names += _pair(f"{official}.{block}.{public}", f"{own}.{block}.{layer}", kinds)
        return names

    return [
        *(pair for level in range(3) for pair in _conditioner(f"_{level + 1}", f"conditioners.{level}")),
        *_pair("x_embedder", "stem"),
        *stage("encoder_level_1", "encoder_1", config.blocks[0]),
        ("down1_2.conv.0.weight", "down_1.conv.weight"),
        *stage("encoder_level_2", "encoder_2", config.blocks[1]),
        ("down2_3.conv.0.weight", "down_2.conv.weight"),
        *stage("latent", "middle", config.blocks[2]),
        ("up3_2.conv.0.weight", "up_2.conv.weight"),
        *_pair("reduce_chans_2", "fuse_2"),
        *stage("decoder_level_2", "decoder_2", config.blocks[3]),
        ("up2_1.conv.0.weight", "up_1.conv.weight"),
        *_pair("reduce_chans_1", "fuse_1"),
        *stage("decoder_level_1", "decoder_1", config.blocks[4]),
        *_pair("output_layer", "head"),
        *_pair("final_layer.adaLN_modulation.1", "head_modulation"),
        *_pair("final_layer.conv", "out"),
    ]


def _dit_names(config: DiTConfig) -> list[tuple[str, str]]:
    return [
        (_POSITION, "position_embedding"),
        *_pair("x_embedder.proj", "patchify"),
        *_conditioner("", "conditioner"),
        *(
            pair
            for block in range(config.depth)
            for public, layer in _DIT_BLOCK.items()
            for pair in _pair(f"blocks.{block}.{public}", f"blocks.{block}.{layer}")
        ),
        *_pair("final_layer.linear", "out"),
        *_pair("final_layer.adaLN_modulation.1", "head_modulation"),
    ]
