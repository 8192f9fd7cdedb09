"""FCDM: the fully convolutional diffusion model of arXiv 2603.09408, a U-shape of three levels.

Activations are (B, H, W, C) in memory from stem to head. LayerNorm, the 1x1 convolutions (as Linears) and the global
response normalisation work on the last dimension; a convolution sees the same memory as a channels-last tensor, so
nothing is ever transposed. On a CPU a depthwise convolution is several times faster in this layout, on CUDA it is
the layout of the tensor cores.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fcdm.config.schema import FCDMConfig
from fcdm.models.convolution import ChannelsLastConv, DepthwiseConv
from fcdm.models.embeddings import Conditioner, label_columns, timestep_features, xavier_flat_

NORM_EPS = 1e-6


class _ResponseNorm(torch.autograd.Function):
    """out = x * (1 + gamma * G / (mean_C(G) + eps)) + beta with G = |x|_2 over positions, and its gradient by hand.

    x (B, P, C), gamma and beta (C,). By hand because this tensor is the widest of the block: autograd would keep
    two copies of it and pass over it about twice as often. Statistics in float32, whatever x is.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        norm = _norm_over_positions(x)
        mean = norm.mean(-1, keepdim=True) + NORM_EPS
        scale = (1 + gamma * norm / mean).to(x.dtype)
        ctx.save_for_backward(x, gamma, norm, mean, scale)
        return torch.addcmul(beta.to(x.dtype), x, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, gamma, norm, mean, scale = ctx.saved_tensors
        grad_scale = (grad * x).sum(1, keepdim=True, dtype=norm.dtype)  # (B, 1, C)
        response = norm / mean
        # d scale / d norm: directly, and through the mean over channels that all responses share.
        grad_response = grad_scale * gamma
        shared = (grad_response * response).mean(-1, keepdim=True)
        grad_norm = (grad_response - shared) / mean
        pull = torch.where(norm > 0, grad_norm / norm, 0).to(x.dtype)  # d norm / d x = x / norm
        grad_x = torch.addcmul(grad * scale, x, pull)
        grad_gamma = (grad_scale * response).sum((0, 1)).to(gamma.dtype)
        grad_beta = grad.sum((0, 1), dtype=norm.dtype).to(gamma.dtype)
        return grad_x, grad_gamma, grad_beta


def _norm_over_positions(x: Tensor) -> Tensor:
    """L2 norm of x (B, P, C) over P, as (B, 1, C), at least float32."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if x.device.type == "cpu":  # torch's own norm over a strided dimension is not vectorised here: 5 to 15 times slower
        return (x * x).sum(1, keepdim=True, dtype=dtype).sqrt()
    norm: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=dtype)
    return norm


class GlobalResponseNorm(nn.Module):
    """Global response normalisation of (B, H, W, C) (ConvNeXt V2, arXiv 2301.00808, section 3), identity at start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(width))
        self.beta = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _ResponseNorm.apply(x.flatten(1, 2), self.gamma, self.beta)  # type: ignore[no-untyped-call]
        return out.view(x.shape)


class ChannelAttention(nn.Module):
    """Compact channel attention (DiCo, arXiv 2505.11196) of (B, H, W, C): x * sigmoid(Linear(mean over positions)).

    Table 6 of the FCDM paper has it instead of GRN, and does not say where. Its MACs (48.3 for L, by third-party notes)
    fit a Linear of the block's own width: `depthwise`, where it scales that convolution's output, as in DiCo's block.
    In GRN's own place, on the bottleneck's `hidden` width, the Linear has more parameters than the block's two 1x1
    convolutions together, and L has 48.6 GMACs.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.gate(x.mean((1, 2), keepdim=True)))


class FeedForward(nn.Module):
    """A second residual branch: x (B, H, W, C) and SiLU(c) (B, C) to (B, H, W, C).

    Modulated LayerNorm, 1x1 convolution to `expansion` times the width, GELU, 1x1 convolution back, gate: the second
    half of a DiT block. Table 6 of the FCDM paper has such a row; of its details none are known, so place (after the
    block's convolutional branch), width and modulation of its own are our choice.
    """

    def __init__(self, width: int, config: FCDMConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(width, config.expansion * width)
        self.project = nn.Linear(config.expansion * width, width)
        self.modulation = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(activated)[:, None, None, :].chunk(3, dim=-1)
        h = F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)
        h = F.gelu(self.expand(torch.addcmul(shift, h, 1 + scale)))
        return torch.addcmul(x, gate, self.project(h))


class FCDMBlock(nn.Module):
    """ConvNeXt-like block with adaLN-Zero: x (B, H, W, C) and SiLU(c) (B, C) to (B, H, W, C).

    The paper's block has GRN and neither channel attention nor a feed-forward branch; those are its Table 6's.
    """

    def __init__(self, width: int, config: FCDMConfig) -> None:
        super().__init__()
        hidden = config.expansion * width
        self.depthwise = DepthwiseConv(width, config.kernel_size)
        self.expand = nn.Linear(width, hidden)
        self.response_norm = GlobalResponseNorm(hidden) if config.grn else nn.Identity()
        self.attends_hidden = config.channel_attention_on == "hidden"
        attended = hidden if self.attends_hidden else width
        self.channel_attention = ChannelAttention(attended) if config.channel_attention else nn.Identity()
        self.project = nn.Linear(hidden, width)
        self.modulation = nn.Linear(width, 3 * width)
        self.feed_forward = FeedForward(width, config) if config.feed_forward else None

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(activated)[:, None, None, :].chunk(3, dim=-1)
        h = self.depthwise(x)
        if not self.attends_hidden:
            h = self.channel_attention(h)
        h = F.layer_norm(h, x.shape[-1:], eps=NORM_EPS)
        h = self.response_norm(F.gelu(self.expand(torch.addcmul(shift, h, 1 + scale))))
        if self.attends_hidden:
            h = self.channel_attention(h)
        out = torch.addcmul(x, gate, self.project(h))
        return out if self.feed_forward is None else self.feed_forward(out, activated)


class Down(nn.Module):
    """(B, H, W, C_in) to (B, H/2, W/2, C_out): 3x3 convolution to C_out/4 channels, 2x2 pixels into channels."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = ChannelsLastConv(c_in, c_out // 4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv(x)
        b, height, width, c = h.shape
        h = h.view(b, height // 2, 2, width // 2, 2, c).permute(0, 1, 3, 5, 2, 4)
        return h.reshape(b, height // 2, width // 2, 4 * c)


class Up(nn.Module):
    """(B, H, W, C_in) to (B, 2H, 2W, C_out): 3x3 convolution to 4*C_out channels, channels into 2x2 pixels."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = ChannelsLastConv(c_in, 4 * c_out, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv(x)
        b, height, width, c = h.shape
        h = h.view(b, height, width, c // 4, 2, 2).permute(0, 1, 4, 2, 5, 3)
        return h.reshape(b, 2 * height, 2 * width, c // 4)


class FCDM(nn.Module):
    """x (B, channels, H, W), t (B,), labels (B,) or (B, 3) to (B, channels or 2*channels, H, W).

    H and W are multiples of 4. Outputs exactly 0 before the first optimiser step. `label_embedders` is 3: each
    level has a conditioning vector of its own; `null_class` is the label of an unconditional sample.
    """

    label_embedders = 3
    is_stochastic = False

    def __init__(
        self,
        config: FCDMConfig,
        *,
        channels: int,
        classes: int,
        learn_sigma: bool,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.null_class = classes
        self.activation_checkpointing = activation_checkpointing
        w1, w2, w3 = (config.width * 2**level for level in range(3))

        def stage(width: int, blocks: int) -> nn.ModuleList:
            return nn.ModuleList(FCDMBlock(width, config) for _ in range(blocks))

        self.conditioners = nn.ModuleList(Conditioner(width, classes) for width in (w1, w2, w3))
        self.stem = ChannelsLastConv(channels, w1, 3)
        self.encoder_1 = stage(w1, config.blocks[0])
        self.down_1 = Down(w1, w2)
        self.encoder_2 = stage(w2, config.blocks[1])
        self.down_2 = Down(w2, w3)
        self.middle = stage(w3, config.blocks[2])
        self.up_2 = Up(w3, w2)
        self.fuse_2 = nn.Linear(2 * w2, w2)
        self.decoder_2 = stage(w2, config.blocks[3])
        self.up_1 = Up(w2, w1)
        self.fuse_1 = nn.Linear(2 * w1, w1)
        self.decoder_1 = stage(w1, config.blocks[4])
        self.head = ChannelsLastConv(w1, w1, 3)
        self.head_modulation = nn.Linear(w1, 2 * w1)
        self.out = ChannelsLastConv(w1, channels * (2 if learn_sigma else 1), 3)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The public code's initialisation: Xavier uniform, zero biases, adaLN-Zero, zero output (models.md)."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                # torch's fan-out rule counts 49 * width for a depthwise 7x7, so those start small; as published.
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        xavier_flat_(self.stem.weight)
        for conditioner in self.modules():
            if isinstance(conditioner, Conditioner):
                conditioner.reset_parameters()
        zeroed: list[nn.Linear | nn.Conv2d] = [self.head_modulation, self.out]
        zeroed += [module.modulation for module in self.modules() if isinstance(module, FCDMBlock | FeedForward)]
        for layer in zeroed:
            nn.init.zeros_(layer.weight)

    def _stage(self, blocks: nn.ModuleList, x: Tensor, activated: Tensor) -> Tensor:
        recompute = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        for block in blocks:
            x = checkpoint(block, x, activated, use_reentrant=False) if recompute else block(x, activated)
        return x

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        features = timestep_features(t)
        columns = label_columns(labels, self.label_embedders)
        # SiLU in front of every block's modulation, done once a level.
        c1, c2, c3 = (F.silu(net(features, y)) for net, y in zip(self.conditioners, columns, strict=True))

        h1 = self._stage(self.encoder_1, self.stem(x.permute(0, 2, 3, 1)), c1)
        h2 = self._stage(self.encoder_2, self.down_1(h1), c2)
        h = self._stage(self.middle, self.down_2(h2), c3)
        h = self._stage(self.decoder_2, self.fuse_2(torch.cat([self.up_2(h), h2], dim=-1)), c2)
        h = self._stage(self.decoder_1, self.fuse_1(torch.cat([self.up_1(h), h1], dim=-1)), c1)

        shift, scale = self.head_modulation(c1)[:, None, None, :].chunk(2, dim=-1)
        h = F.layer_norm(self.head(h), h.shape[-1:], eps=NORM_EPS)
        out: Tensor = self.out(torch.addcmul(shift, h, 1 + scale))
        return out.permute(0, 3, 1, 2).to(x.dtype, memory_format=torch.contiguous_format)
