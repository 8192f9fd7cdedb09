"""What a model costs before anything is built: parameters, MACs, FLOPs, memory. Analytic; imports no torch.

Conventions. MACs are multiply-accumulates of one forward pass of one image: convolutions, Linears and attention's
two matrix products, as torch's FlopCounterMode counts them (the papers' "Gflops" are GMACs). FLOPs = 2 x MACs. A
training step costs 3 forwards (DiT's convention, arXiv 2212.09748): one forward, two in backward; recomputation by
activation checkpointing is not counted, because it is no progress. Byte prefixes are decimal: 1 GB = 1e9 bytes.

`python -m fcdm.cost` prints the presets (`fcdm.cost.__main__`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fcdm.config.samplers import CALLS_A_STEP
from fcdm.config.schema import DiTConfig, FCDMConfig, ModelConfig
from fcdm.errors import UserError

FLOPS_PER_MAC = 2
FORWARDS_PER_TRAINING_STEP = 3
FLOAT_BYTES = 4
BF16_ACTIVATIONS = 0.6
"""Activation memory under bf16 autocast over that in float32. Not a half: CUDA's autocast normalises and modulates in
float32, so that LayerNorm's input and its normalised output are kept so. Of a block of FCDM that is 32 bytes of 56 for
each position and channel of its width (0.57), of one of DiT 48 of 80 (0.60)."""
TIMESTEP_FEATURES = 256
"""Inputs of the timestep MLP; the same number as in `fcdm.models.embeddings`, which needs torch."""


@dataclass(frozen=True)
class ModelCost:
    """The cost of one model at one size of latents; batch and steps come in as arguments."""

    parameters: int = 0
    """Trainable parameters."""
    forward_macs: int = 0
    """Of one image."""
    saved_elements: int = 0
    """Numbers that autograd keeps for the backward pass of one image, without activation checkpointing."""
    block_elements: int = 0
    """Of these, the ones inside blocks: with activation checkpointing they are dropped and computed again."""
    block_inputs: int = 0
    """What is kept of each block instead: its input."""
    largest_block: int = 0
    """`block_elements` of the largest block: one block at a time is there again during the backward pass."""

    def __add__(self, other: ModelCost) -> ModelCost:
        return ModelCost(
            self.parameters + other.parameters,
            self.forward_macs + other.forward_macs,
            self.saved_elements + other.saved_elements,
            self.block_elements + other.block_elements,
            self.block_inputs + other.block_inputs,
            max(self.largest_block, other.largest_block),
        )

    def __mul__(self, times: int) -> ModelCost:
        return ModelCost(
            self.parameters * times,
            self.forward_macs * times,
            self.saved_elements * times,
            self.block_elements * times,
            self.block_inputs * times,
            self.largest_block,
        )

    @property
    def train_flops_per_image(self) -> int:
        return FORWARDS_PER_TRAINING_STEP * FLOPS_PER_MAC * self.forward_macs

    def train_flops_per_step(self, batch_size: int) -> int:
        return self.train_flops_per_image * batch_size

    def train_flops(self, batch_size: int, steps: int) -> int:
        """FLOPs of a whole budget of steps."""
        return self.train_flops_per_step(batch_size) * steps

    @property
    def state_bytes(self) -> int:
        """Training memory that does not grow with the batch: weights, gradients, AdamW's two moments, EMA."""
        return 5 * FLOAT_BYTES * self.parameters

    @property
    def checkpoint_bytes(self) -> int:
        """On disk: weights, EMA, AdamW's two moments."""
        return 4 * FLOAT_BYTES * self.parameters

    @property
    def activation_bytes_per_image(self) -> int:
        """Memory held between forward and backward, per image in float32; an estimate.

        Counted layer by layer: a Linear or convolution keeps its input, LayerNorm its input, a modulation its
        normalised input, GELU its input, GRN its input, a gate what it scales. Every kept tensor is counted once,
        workspaces and what else lives during backward are not. Under bfloat16 autocast it is `BF16_ACTIVATIONS` of it.
        """
        return FLOAT_BYTES * self.saved_elements

    @property
    def checkpointed_bytes_per_image(self) -> int:
        """`activation_bytes_per_image` with activation checkpointing: blocks keep their inputs, one is there whole."""
        elements = self.saved_elements - self.block_elements + self.block_inputs + self.largest_block
        return FLOAT_BYTES * elements

    def training_bytes_parts(self, precision: str, activation_checkpointing: bool) -> tuple[int, int]:
        """Memory of one process that trains, an estimate: (bytes whatever the batch is, bytes per image).

        State and activations; `bf16` adds the copies of the weights that autocast keeps.
        """
        per_image = self.checkpointed_bytes_per_image if activation_checkpointing else self.activation_bytes_per_image
        if precision != "bf16":
            return self.state_bytes, per_image
        return self.state_bytes + FLOAT_BYTES // 2 * self.parameters, round(BF16_ACTIVATIONS * per_image)


def sampling_passes(sampler: str, sampling_steps: int, guidance_scale: float) -> int:
    """Forward passes for one sample: guidance doubles them (also where it is on for a part of the times only)."""
    return sampling_steps * CALLS_A_STEP.get(sampler, 1) * (2 if guidance_scale != 1.0 else 1)


def model_cost(config: ModelConfig, *, channels: int, side: int, classes: int, learn_sigma: bool = True) -> ModelCost:
    """Cost of a model on (channels, side, side) inputs. `config` and `side` fit (`config.model_checks`).

    Raises UserError for an unknown family.
    """
    out_channels = channels * (2 if learn_sigma else 1)
    key = (repr(config), channels, out_channels, side, classes)  # a plan of a thousand runs asks for few, often
    if key not in _counted:
        if isinstance(config, FCDMConfig):
            _counted[key] = _fcdm(config, channels, out_channels, side, classes)
        elif isinstance(config, DiTConfig):
            _counted[key] = _dit(config, channels, out_channels, side, classes)
        else:
            raise UserError(f"model.family={config.family!r}: unknown; write fcdm or dit")
    return _counted[key]


_counted: dict[tuple[str, int, int, int, int], ModelCost] = {}


def _linear(c_in: int, c_out: int, positions: int = 1, *, saves_input: bool = True) -> ModelCost:
    """A Linear with bias on `positions` vectors. An input that another layer keeps already is not counted twice."""
    return ModelCost(c_in * c_out + c_out, c_in * c_out * positions, c_in * positions if saves_input else 0)


def _conv(
    c_in: int, c_out: int, kernel: int, positions: int, *, bias: bool = True, saves_input: bool = True
) -> ModelCost:
    """A convolution onto `positions` pixels; for a depthwise one, c_in = 1."""
    weights = c_in * c_out * kernel * kernel
    saved = c_in * positions if saves_input else 0
    return ModelCost(weights + (c_out if bias else 0), weights * positions, saved)


def _saved(elements: int) -> ModelCost:
    return ModelCost(saved_elements=elements)


def _block(cost: ModelCost, inputs: int) -> ModelCost:
    """A block that activation checkpointing computes again from its `inputs` (numbers of one image)."""
    return replace(
        cost,
        block_elements=cost.saved_elements,
        block_inputs=inputs,
        largest_block=cost.saved_elements,
    )


def _modulated_norm(width: int, positions: int) -> ModelCost:
    """LayerNorm (input, mean and inverse deviation kept) and modulation (normalised input and 1 + scale kept)."""
    return _saved((2 * width + 2) * positions + width)


def _conditioner(width: int, classes: int) -> ModelCost:
    """Timestep MLP and label table, then SiLU, whose result every modulation reads."""
    table = ModelCost(parameters=(classes + 1) * width)
    mlp = _linear(TIMESTEP_FEATURES, width, saves_input=False) + _linear(width, width)
    return mlp + table + _saved(3 * width)  # inputs of both SiLUs and the result of the second


def _fcdm_block(config: FCDMConfig, width: int, positions: int) -> ModelCost:
    hidden = config.expansion * width
    cost = _conv(1, width, config.kernel_size, positions, saves_input=False) + _saved(width * positions)
    if config.channel_attention:
        attended = hidden if config.channel_attention_on == "hidden" else width
        cost += _linear(attended, attended) + _saved(attended * positions + attended)  # what is scaled, the sigmoid
    cost += _modulated_norm(width, positions)
    cost += _linear(width, hidden, positions) + _saved(hidden * positions)  # GELU's input
    if config.grn:
        # Its input; and per channel: norm and scale. One more number, the mean.
        cost += ModelCost(parameters=2 * hidden, saved_elements=hidden * positions + 2 * hidden + 1)
    cost += _linear(hidden, width, positions) + _gate(width, positions)
    if config.feed_forward:
        cost += _modulated_norm(width, positions) + _linear(width, hidden, positions) + _saved(hidden * positions)
        cost += _linear(hidden, width, positions) + _gate(width, positions)
    return _block(cost, inputs=width * positions)


def _gate(width: int, positions: int) -> ModelCost:
    """The Linear to shift, scale and gate, and what the gate scales; the gate is a view of all three."""
    modulation = _linear(width, 3 * width, saves_input=False)  # SiLU's result, counted with the conditioner
    return modulation + _saved(width * positions + 3 * width)


def _fcdm(config: FCDMConfig, channels: int, out_channels: int, side: int, classes: int) -> ModelCost:
    w1, w2, w3 = (config.width * 2**level for level in range(3))
    n1, n2, n3 = ((side // 2**level) ** 2 for level in range(3))
    enc1, enc2, middle, dec2, dec1 = config.blocks
    cost = ModelCost()
    for width in (w1, w2, w3):
        cost += _conditioner(width, classes)
    cost += _saved(TIMESTEP_FEATURES)
    cost += _conv(channels, w1, 3, n1)
    cost += _fcdm_block(config, w1, n1) * (enc1 + dec1)
    cost += _fcdm_block(config, w2, n2) * (enc2 + dec2)
    cost += _fcdm_block(config, w3, n3) * middle
    cost += _conv(w1, w2 // 4, 3, n1, bias=False) + _conv(w2, w3 // 4, 3, n2, bias=False)
    cost += _conv(w3, 4 * w2, 3, n3, bias=False) + _conv(w2, 4 * w1, 3, n2, bias=False)
    cost += _linear(2 * w2, w2, n2) + _linear(2 * w1, w1, n1)
    cost += _conv(w1, w1, 3, n1) + _modulated_norm(w1, n1)
    return cost + _linear(w1, 2 * w1, saves_input=False) + _conv(w1, out_channels, 3, n1)


def _dit_block(config: DiTConfig, tokens: int) -> ModelCost:
    width, hidden = config.width, config.mlp_ratio * config.width
    cost = _modulated_norm(width, tokens) + _linear(width, 3 * width, tokens)
    # Attention: q times k and the weights times v; the fused kernels keep q, k, v and one number per token and head.
    cost += ModelCost(0, 2 * tokens * tokens * width, (3 * width + config.heads) * tokens)
    cost += _linear(width, width, tokens) + _saved(width * tokens)  # what the gate scales
    cost += _modulated_norm(width, tokens) + _linear(width, hidden, tokens) + _saved(hidden * tokens)
    cost += _linear(hidden, width, tokens) + _saved(width * tokens)
    cost += _linear(width, 6 * width, saves_input=False) + _saved(6 * width)  # gates are views of all six
    return _block(cost, inputs=width * tokens)


def _dit(config: DiTConfig, channels: int, out_channels: int, side: int, classes: int) -> ModelCost:
    width, patch = config.width, config.patch_size**2
    tokens = side * side // patch
    cost = _conditioner(width, classes) + _saved(TIMESTEP_FEATURES)
    cost += _linear(patch * channels, width, tokens)  # a convolution whose stride is its kernel
    cost += _dit_block(config, tokens) * config.depth
    cost += _modulated_norm(width, tokens) + _linear(width, 2 * width, saves_input=False)
    return cost + _linear(width, patch * out_channels, tokens)
