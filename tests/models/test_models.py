"""The models' behaviour: initialisation, conditioning, gradients, options and layouts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.utils import counters

from benchmarks.plain_fcdm import PlainFCDM
from fcdm.config.schema import DiTConfig, FCDMConfig, ModelConfig
from fcdm.errors import UserError
from fcdm.models import FCDM, build_model
from fcdm.models.dit import DiTBlock
from fcdm.models.embeddings import position_embedding, timestep_features
from fcdm.models.fcdm import FCDMBlock, GlobalResponseNorm
from fcdm.models.official_weights import to_official
from tests.support.golden import load_official

SMALL_FCDM = FCDMConfig(name="small", width=8, blocks=[1, 1, 2, 1, 1])
SMALL_DIT = DiTConfig(name="small", patch_size=2, depth=2, width=16, heads=2)
OPTIONS = [
    SMALL_FCDM,
    replace(SMALL_FCDM, kernel_size=3, expansion=2),
    replace(SMALL_FCDM, grn=False),
    replace(SMALL_FCDM, grn=False, channel_attention=True),
    replace(SMALL_FCDM, channel_attention=True, feed_forward=True),
    replace(SMALL_FCDM, grn=False, channel_attention=True, channel_attention_on="depthwise"),
    replace(SMALL_FCDM, feed_forward=True, expansion=1),
    replace(SMALL_FCDM, blocks=[3, 1, 1, 2, 1]),
    SMALL_DIT,
    replace(SMALL_DIT, patch_size=4, mlp_ratio=2),
]


def small(config: ModelConfig, *, random: bool = True, **more: bool) -> nn.Module:
    torch.manual_seed(0)
    learn_sigma = more.pop("learn_sigma", True)
    model = build_model(config, channels=3, side=8, classes=5, learn_sigma=learn_sigma, **more)
    if random:  # else adaLN-Zero hides everything
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.2)
    return model


def inputs(batch: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 3, 8, 8, generator=generator)
    return x, torch.arange(batch) * 250.0, torch.arange(batch) % 5


@pytest.mark.parametrize("config", OPTIONS)
@pytest.mark.parametrize("learn_sigma", [True, False])
def test_output_is_exactly_zero_at_start(config: ModelConfig, learn_sigma: bool) -> None:
    model = small(config, random=False, learn_sigma=learn_sigma)
    out = model(*inputs())
    assert out.shape == (4, 6 if learn_sigma else 3, 8, 8)
    assert out.dtype == torch.float32
    assert out.is_contiguous()
    assert torch.count_nonzero(out) == 0


@pytest.mark.parametrize("config", OPTIONS)
def test_every_parameter_gets_a_gradient(config: ModelConfig) -> None:
    model = small(config)
    x, t, labels = inputs(5)
    model(x, t, labels).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("config", [SMALL_FCDM, SMALL_DIT])
def test_images_of_a_batch_do_not_mix(config: ModelConfig) -> None:
    model = small(config)
    x, t, labels = inputs()
    together = model(x, t, labels)
    alone = torch.cat([model(x[i : i + 1], t[i : i + 1], labels[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [SMALL_FCDM, SMALL_DIT])
def test_output_depends_on_time_and_label(config: ModelConfig) -> None:
    model = small(config)
    x, t, labels = inputs()
    out = model(x, t, labels)
    assert not torch.allclose(out, model(x, t + 0.5, labels))  # fractions count
    assert not torch.allclose(out, model(x, t, torch.full_like(labels, model.null_class)))
    assert torch.equal(out, model(x, t.to(torch.int64), labels))


def test_each_fcdm_level_has_its_own_label_column() -> None:
    model = small(SMALL_FCDM)
    x, t, labels = inputs()
    assert model.label_embedders == 3
    same = labels[:, None].expand(-1, 3)
    out = model(x, t, same)
    assert torch.equal(out, model(x, t, labels))
    dropped = []
    for column in range(3):
        mixed = same.clone()
        mixed[:, column] = model.null_class
        dropped.append(model(x, t, mixed))
    for first, second in pairwise([out, *dropped, dropped[0]]):
        assert not torch.allclose(first, second)
    with pytest.raises(ValueError, match=r"expected \(batch,\) or \(batch, 3\)"):
        model(x, t, same[:, :2])


def test_dit_takes_a_label_column() -> None:
    model = small(SMALL_DIT)
    x, t, labels = inputs()
    assert model.label_embedders == 1
    assert torch.equal(model(x, t, labels), model(x, t, labels[:, None]))


@pytest.mark.parametrize("config", [SMALL_FCDM, OPTIONS[4], SMALL_DIT])
def test_activation_checkpointing_changes_no_gradient(config: ModelConfig) -> None:
    gradients = []
    calls = []
    for recompute in (False, True):
        model = small(config, activation_checkpointing=recompute)
        block = next(module for name, module in model.named_modules() if name.endswith(("middle.0", "blocks.0")))
        count = [0]
        block.expand.register_forward_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        model(*inputs()).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        calls.append(count[0])
        count[0] = 0
        with torch.no_grad():
            model(*inputs())
        model.eval()(*inputs()).sum().backward()
        assert count[0] == 2  # sampling and evaluation never recompute
    assert calls == [1, 2]
    for ours, again in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, again)


def test_fcdm_is_fully_convolutional_and_keeps_channels_last() -> None:
    model = small(SMALL_FCDM)
    _, t, labels = inputs()
    seen: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda _, args, out: seen.extend((args[0], out)))
    assert model(torch.randn(4, 3, 16, 12), t, labels).shape == (4, 6, 16, 12)
    inside = [tensor for tensor in seen[2:] if tensor.dim() == 4]
    assert len(inside) > 40
    assert all(tensor.is_contiguous() for tensor in inside[1:])  # (B, H, W, C), never transposed


@pytest.mark.parametrize("config", [SMALL_FCDM, SMALL_DIT])
def test_one_channel_and_the_smallest_side(config: ModelConfig) -> None:
    model = build_model(config, channels=1, side=4, classes=2, learn_sigma=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    out = model(torch.randn(3, 1, 4, 4), torch.zeros(3), torch.zeros(3, dtype=torch.int64))
    assert out.shape == (3, 1, 4, 4)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("config", [SMALL_FCDM, SMALL_DIT])
def test_bfloat16_autocast_is_close_and_answers_in_float32(config: ModelConfig) -> None:
    model = small(config)
    x, t, labels = inputs()
    exact = model(x, t, labels)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(x, t, labels)
    rounded.square().sum().backward()
    assert rounded.dtype == torch.float32
    error = (rounded - exact).norm() / exact.norm()
    assert 1e-5 < error < 0.05  # the lower bound: it really ran in bfloat16
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("config", [SMALL_FCDM, SMALL_DIT])
@pytest.mark.parametrize("autocast", [True, False])
def test_the_residual_stream_is_of_autocast_s_type_in_both_families(config: ModelConfig, autocast: bool) -> None:
    model = small(config)
    seen: set[torch.dtype] = set()
    for block in model.modules():
        if isinstance(block, FCDMBlock | DiTBlock):
            block.register_forward_hook(lambda _, given, out: seen.update((given[0].dtype, out.dtype)))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        model(*inputs())
    assert seen == {torch.bfloat16 if autocast else torch.float32}


@pytest.mark.parametrize("config", [SMALL_FCDM, SMALL_DIT])
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated")  # by torch itself
def test_models_compile_whole_and_a_bounded_number_of_times(config: ModelConfig) -> None:
    """One graph for the first batch, one for all other sizes but 1, which has its own; the gradients stay."""
    torch.compiler.reset()
    counters.clear()
    model = small(config)
    whole = torch.compile(model, backend="aot_eager", fullgraph=True)
    for batch in (4, 3, 2, 1, 5, 4, 1):
        gradients = []
        for called in (model, whole):
            model.zero_grad()
            called(*inputs(batch)).square().mean().backward()
            gradients.append([parameter.grad for parameter in model.parameters()])
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 3


@pytest.mark.parametrize("config", [SMALL_FCDM, SMALL_DIT])
def test_same_seed_same_weights(config: ModelConfig) -> None:
    first, second = small(config, random=False), small(config, random=False)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


# --- initialisation: bounds and deviations of the public codes ------------------------------------------


def test_fcdm_initialisation() -> None:
    torch.manual_seed(0)
    config = FCDMConfig(name="wide", width=64, blocks=[1, 1, 1, 1, 1])
    model = FCDM(config, channels=4, classes=100, learn_sigma=True)

    def bound(weight: Tensor, fans: int) -> None:
        expected = (6 / fans) ** 0.5
        assert 0.93 * expected < float(weight.detach().abs().max()) <= expected * (1 + 1e-6)

    bound(model.stem.weight, 64 + 36)
    bound(model.middle[0].depthwise.weight, 49 + 49 * 256)
    bound(model.middle[0].expand.weight, 256 + 768)
    bound(model.down_1.conv.weight, 9 * (64 + 32))
    bound(model.fuse_2.weight, 256 + 128)
    for conditioner in model.conditioners:
        assert float(conditioner.label.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
        assert float(conditioner.timestep.hidden.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    zero = {"modulation", "head_modulation", "out", "response_norm"}
    for name, parameter in model.named_parameters():
        owner = name.split(".")[-2]
        if name.endswith("bias") or (owner in zero and "timestep" not in name):
            assert torch.count_nonzero(parameter) == 0, name
        else:
            assert torch.count_nonzero(parameter) > 0, name


def test_embeddings_in_closed_form() -> None:
    features = timestep_features(torch.tensor([0.0, 0.25, 999.0]))
    assert features.shape == (3, 256)
    assert torch.equal(features[0], torch.cat([torch.ones(128), torch.zeros(128)]))
    torch.testing.assert_close(features[1, [0, 128]], torch.tensor([0.25]).cos().new_tensor([0.968912, 0.247404]))
    torch.testing.assert_close(features[2, 64], torch.tensor(9.99).cos(), atol=1e-4, rtol=0)

    table = position_embedding(8, 3)[0]  # token 3 * row + column
    assert table.shape == (9, 8)
    column_2_row_1 = torch.tensor([2.0, 0.02, 1.0, 0.01])
    sines, cosines = column_2_row_1.sin(), column_2_row_1.cos()
    torch.testing.assert_close(table[5], torch.cat([sines[:2], cosines[:2], sines[2:], cosines[2:]]))


# --- against a second implementation --------------------------------------------------------------------


def test_response_norm_and_its_gradient() -> None:
    torch.manual_seed(0)
    norm = GlobalResponseNorm(6).double()
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        norm.gamma.normal_()
        norm.beta.normal_()
    g = x.square().sum((1, 2), keepdim=True).sqrt()
    expected = norm.gamma * (x * (g / (g.mean(-1, keepdim=True) + 1e-6))) + norm.beta + x
    torch.testing.assert_close(norm(x), expected)
    assert torch.autograd.gradcheck(norm, (x,))
    assert torch.autograd.gradcheck(
        lambda gamma, beta: torch.func.functional_call(norm, {"gamma": gamma, "beta": beta}, (x.detach(),)),
        (norm.gamma, norm.beta),
    )


def test_response_norm_of_a_dead_channel_has_no_nan() -> None:
    norm = GlobalResponseNorm(3)
    x = torch.randn(1, 2, 2, 3)
    x[..., 1] = 0
    x.requires_grad_()
    norm(x).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def random_block(config: FCDMConfig) -> tuple[FCDMBlock, Tensor, Tensor]:
    """A block of 8 channels with no weight at 0, an input (2, 4, 4, 8) and a condition (2, 8)."""
    torch.manual_seed(0)
    block = FCDMBlock(8, config)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=0.3)
    return block, torch.randn(2, 4, 4, 8), torch.randn(2, 8)


def test_block_variants_in_plain_words() -> None:
    """Channel attention scales each hidden channel of an image; the feed-forward branch is a second residual."""
    config = replace(SMALL_FCDM, grn=False, channel_attention=True, feed_forward=True)
    block, x, c = random_block(config)

    def modulated(layer: nn.Linear, h: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale, gate = layer(c).view(2, 1, 1, 3, 8).unbind(3)
        normed = (h - h.mean(-1, keepdim=True)) / (h.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()
        return normed * (1 + scale) + shift, gate

    h, gate = modulated(block.modulation, block.depthwise(x))
    h = F.gelu(block.expand(h))
    attention = torch.sigmoid(
        h.sum((1, 2)) / 16 @ block.channel_attention.gate.weight.T + block.channel_attention.gate.bias
    )
    middle = x + gate * block.project(torch.einsum("bhwc,bc->bhwc", h, attention))
    assert block.feed_forward is not None
    h, gate = modulated(block.feed_forward.modulation, middle)
    expected = middle + gate * block.feed_forward.project(F.gelu(block.feed_forward.expand(h)))
    torch.testing.assert_close(block(x, c), expected, rtol=1e-5, atol=1e-5)


def test_channel_attention_on_the_depthwise_convolution() -> None:
    """As many channels as the block has, before the LayerNorm: DiCo's place, and what Table 6's MACs fit."""
    config = replace(SMALL_FCDM, grn=False, channel_attention=True, channel_attention_on="depthwise")
    block, x, c = random_block(config)
    gate = block.channel_attention.gate
    assert gate.weight.shape == (8, 8)
    h = block.depthwise(x)
    h = torch.einsum("bhwc,bc->bhwc", h, torch.sigmoid(h.sum((1, 2)) / 16 @ gate.weight.T + gate.bias))
    shift, scale, out_gate = block.modulation(c).view(2, 1, 1, 3, 8).unbind(3)
    h = (h - h.mean(-1, keepdim=True)) / (h.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    h = block.project(F.gelu(block.expand(h * (1 + scale) + shift)))
    torch.testing.assert_close(block(x, c), x + out_gate * h, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("key", ["channel_attention", "feed_forward"])
def test_variants_have_no_public_weights(key: str) -> None:
    config = replace(SMALL_FCDM, **{key: True})
    with pytest.raises(UserError, match=rf"model\.{key}=true: the public code has no such block"):
        load_official(small(config), to_official(small(SMALL_FCDM)))


def test_plain_fcdm_agrees_forward_and_backward() -> None:
    torch.manual_seed(0)
    config = FCDMConfig(name="small", width=16, blocks=[1, 2, 1, 1, 1])
    ours = FCDM(config, channels=4, classes=10, learn_sigma=True)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.1)
    x, t = torch.randn(3, 4, 16, 16), torch.tensor([0, 417, 999])
    labels = torch.tensor([[0, 10, 3], [1, 2, 3], [10, 10, 10]])
    results = []
    for checkpointing in (True, False):
        plain = PlainFCDM(16, list(config.blocks), 4, 10, checkpointing)
        plain.load_state_dict(to_official(ours))
        out = plain(x, t, labels)
        (out - x.repeat(1, 2, 1, 1)).square().mean().backward()
        results.append((out.detach(), {name: p.grad for name, p in plain.named_parameters()}))
    out = ours(x, t, labels)
    (out - x.repeat(1, 2, 1, 1)).square().mean().backward()
    gradient = FCDM(config, channels=4, classes=10, learn_sigma=True)
    for holder, parameter in zip(gradient.parameters(), ours.parameters(), strict=True):
        assert parameter.grad is not None
        holder.data = parameter.grad
    for plain_out, plain_gradients in results:
        assert float((out.detach() - plain_out).norm() / plain_out.norm()) < 1e-5
        for name, value in to_official(gradient).items():
            other = plain_gradients[name]
            assert other is not None
            assert float((value - other).norm() / other.norm()) < 1e-4, name


def test_dit_block_against_plain_attention() -> None:
    block = small(SMALL_DIT).blocks[0]
    x, activated = torch.randn(2, 5, 16), torch.randn(2, 16)
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = block.modulation(activated)[:, None].chunk(6, -1)
    h = F.layer_norm(x, (16,), eps=1e-6) * (1 + scale_a) + shift_a
    q, k, v = block.attention.qkv(h).view(2, 5, 3, 2, 8).permute(2, 0, 3, 1, 4)
    mixed = torch.softmax(q @ k.mT / 8**0.5, -1) @ v
    middle = x + gate_a * block.attention.project(mixed.transpose(1, 2).reshape(2, 5, 16))
    h = F.layer_norm(middle, (16,), eps=1e-6) * (1 + scale_m) + shift_m
    expected = middle + gate_m * block.project(F.gelu(block.expand(h), approximate="tanh"))
    torch.testing.assert_close(block(x, activated), expected)
