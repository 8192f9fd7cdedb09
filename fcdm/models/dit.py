"""DiT: the diffusion transformer of arXiv 2212.09748 with adaLN-Zero blocks, the baseline of the study."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fcdm.config.schema import DiTConfig
from fcdm.models.embeddings import (
    Conditioner,
    label_columns,
    position_embedding,
    timestep_features,
    xavier_flat_,
)

NORM_EPS = 1e-6


def _normalise(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without parameters, then the conditioning's shift and scale; x (B, N, D), the others (B, 1, D)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=NORM_EPS), 1 + scale)


class Attention(nn.Module):
    """Multi-head self-attention on (B, N, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.heads, d // self.heads)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # (B, heads, N, D / heads)
        mixed = F.scaled_dot_product_attention(q, k, v)
        projected: Tensor = self.project(mixed.transpose(1, 2).reshape(b, n, d))
        return projected


class DiTBlock(nn.Module):
    """Attention and MLP, each with adaLN-Zero: x (B, N, D) and SiLU(c) (B, D) to (B, N, D)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = config.width
        self.attention = Attention(width, config.heads)
        self.expand = nn.Linear(width, config.mlp_ratio * width)
        self.project = nn.Linear(config.mlp_ratio * width, width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(activated)[:, None].chunk(6, -1)
        x = torch.addcmul(x, gate_a, self.attention(_normalise(x, shift_a, scale_a)))
        hidden = F.gelu(self.expand(_normalise(x, shift_m, scale_m)), approximate="tanh")
        return torch.addcmul(x, gate_m, self.project(hidden))


class DiT(nn.Module):
    """x (B, channels, side, side), t (B,), labels (B,) or (B, 1) to (B, channels or 2*channels, side, side).

    `side` is a multiple of the patch size. Outputs exactly 0 before the first optimiser step. `label_embedders` is 1;
    `null_class` is the label of an unconditional sample. The position embedding is fixed and in no state dict.
    """

    label_embedders = 1
    is_stochastic = False
    position_embedding: Tensor

    def __init__(
        self,
        config: DiTConfig,
        *,
        channels: int,
        side: int,
        classes: int,
        learn_sigma: bool,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.null_class = classes
        self.activation_checkpointing = activation_checkpointing
        self.patch_size = config.patch_size
        self.grid = side // config.patch_size
        width = config.width
        out_channels = channels * (2 if learn_sigma else 1)
        self.patchify = nn.Conv2d(channels, width, config.patch_size, stride=config.patch_size)
        self.register_buffer("position_embedding", position_embedding(width, self.grid), persistent=False)
        self.conditioner = Conditioner(width, classes)
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        self.head_modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, config.patch_size**2 * out_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The public code's initialisation: Xavier uniform, zero biases, adaLN-Zero, zero output (models.md)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        xavier_flat_(self.patchify.weight)
        assert self.patchify.bias is not None
        nn.init.zeros_(self.patchify.bias)
        self.conditioner.reset_parameters()
        zeroed = [self.head_modulation, self.out]
        zeroed += [module.modulation for module in self.modules() if isinstance(module, DiTBlock)]
        for layer in zeroed:
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        (column,) = label_columns(labels, self.label_embedders)
        activated = F.silu(self.conditioner(timestep_features(t), column))  # once, not in every block
        patches = self.patchify(x).flatten(2).transpose(1, 2)
        # The table is float32: without the cast it would make all of the residual stream so under autocast.
        h = (patches + self.position_embedding).to(patches.dtype)
        recompute = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        for block in self.blocks:
            h = checkpoint(block, h, activated, use_reentrant=False) if recompute else block(h, activated)
        shift, scale = self.head_modulation(activated)[:, None].chunk(2, -1)
        return self._unpatchify(self.out(_normalise(h, shift, scale))).to(x.dtype)

    def _unpatchify(self, tokens: Tensor) -> Tensor:
        """(B, N, p*p*C), a token laid out (row, column, channel), to (B, C, side, side)."""
        p, g = self.patch_size, self.grid
        pixels = tokens.view(tokens.shape[0], g, g, p, p, -1).permute(0, 5, 1, 3, 2, 4)
        return pixels.reshape(tokens.shape[0], -1, g * p, g * p)
