"""A second FCDM, written the obvious way: what ours is timed against, and checked against.

Channels first, a permute around every LayerNorm, 1x1 convolutions, one elementwise operation after another, and one
activation checkpoint per block that can be switched off. It shares no code with `fcdm.models`. Its parameters carry
the names of the public checkpoints, so `plain.load_state_dict(to_official(model))` gives both the same weights.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class TimestepMLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        frequencies = torch.exp(torch.arange(128, device=t.device) * (-math.log(10000) / 128))
        angles = t.float().unsqueeze(1) * frequencies.unsqueeze(0)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))


class LabelTable(nn.Module):
    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, width)

    def forward(self, y: Tensor) -> Tensor:
        return self.embedding_table(y)


def layer_norm(x: Tensor) -> Tensor:
    """LayerNorm over the channels of (B, C, H, W)."""
    x = x.permute(0, 2, 3, 1)
    x = F.layer_norm(x, (x.shape[-1],), eps=1e-6)
    return x.permute(0, 3, 1, 2)


class GRN(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        g = torch.norm(x, p=2, dim=(2, 3), keepdim=True)
        n = g / (g.mean(dim=1, keepdim=True) + 1e-6)
        return self.gamma * (x * n) + self.beta + x


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.pwconv1 = nn.Conv2d(width, 3 * width, 1)
        self.grn = GRN(3 * width)
        self.pwconv2 = nn.Conv2d(3 * width, width, 1)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate = self.adaLN_modulation(c).unsqueeze(-1).unsqueeze(-1).chunk(3, dim=1)
        h = layer_norm(self.dwconv(x))
        h = h * (1 + scale) + shift
        h = self.pwconv2(self.grn(F.gelu(self.pwconv1(h))))
        return x + gate * h


class Downsample(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(c_in, c_out // 4, 3, padding=1, bias=False), nn.PixelUnshuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(c_in, 4 * c_out, 3, padding=1, bias=False), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Head(nn.Module):
    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.conv = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).unsqueeze(-1).unsqueeze(-1).chunk(2, dim=1)
        return self.conv(layer_norm(x) * (1 + scale) + shift)


class PlainFCDM(nn.Module):
    """x (B, channels, H, W), t (B,), y (B,) or (B, 3) to (B, 2*channels, H, W)."""

    def __init__(self, width: int, blocks: list[int], channels: int, classes: int, checkpointing: bool) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        for level in range(3):
            setattr(self, f"t_embedder_{level + 1}", TimestepMLP(width * 2**level))
            setattr(self, f"y_embedder_{level + 1}", LabelTable(classes, width * 2**level))
        self.x_embedder = nn.Conv2d(channels, width, 3, padding=1)
        self.encoder_level_1 = nn.ModuleList(Block(width) for _ in range(blocks[0]))
        self.down1_2 = Downsample(width, 2 * width)
        self.encoder_level_2 = nn.ModuleList(Block(2 * width) for _ in range(blocks[1]))
        self.down2_3 = Downsample(2 * width, 4 * width)
        self.latent = nn.ModuleList(Block(4 * width) for _ in range(blocks[2]))
        self.up3_2 = Upsample(4 * width, 2 * width)
        self.reduce_chans_2 = nn.Conv2d(4 * width, 2 * width, 1)
        self.decoder_level_2 = nn.ModuleList(Block(2 * width) for _ in range(blocks[3]))
        self.up2_1 = Upsample(2 * width, width)
        self.reduce_chans_1 = nn.Conv2d(2 * width, width, 1)
        self.decoder_level_1 = nn.ModuleList(Block(width) for _ in range(blocks[4]))
        self.output_layer = nn.Conv2d(width, width, 3, padding=1)
        self.final_layer = Head(width, 2 * channels)

    def stage(self, blocks: nn.ModuleList, x: Tensor, c: Tensor) -> Tensor:
        for block in blocks:
            x = checkpoint(block, x, c, use_reentrant=False) if self.checkpointing else block(x, c)
        return x

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        labels = [y] * 3 if y.dim() == 1 else y.unbind(1)
        c1 = self.t_embedder_1(t) + self.y_embedder_1(labels[0])
        c2 = self.t_embedder_2(t) + self.y_embedder_2(labels[1])
        c3 = self.t_embedder_3(t) + self.y_embedder_3(labels[2])
        h1 = self.stage(self.encoder_level_1, self.x_embedder(x), c1)
        h2 = self.stage(self.encoder_level_2, self.down1_2(h1), c2)
        h = self.stage(self.latent, self.down2_3(h2), c3)
        h = self.reduce_chans_2(torch.cat([self.up3_2(h), h2], dim=1))
        h = self.stage(self.decoder_level_2, h, c2)
        h = self.reduce_chans_1(torch.cat([self.up2_1(h), h1], dim=1))
        h = self.stage(self.decoder_level_1, h, c1)
        return self.final_layer(self.output_layer(h), c1)
