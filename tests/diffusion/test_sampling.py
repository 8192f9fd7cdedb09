"""What samplers and guidance ask of a model, and do with its answer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fcdm.diffusion import GaussianDiffusion, Process
from fcdm.diffusion.gaussian import ddim_step, predict
from fcdm.diffusion.guidance import Guided
from fcdm.diffusion.objective import Sampling
from fcdm.errors import UserError
from fcdm.randomness import Purpose, normal

PROCESS = Process.create()
OBJECTIVE = GaussianDiffusion(PROCESS)


def draw(seed: int, *shape: int) -> Tensor:
    return normal(seed, Purpose.NOISE, 0, torch.arange(shape[0]), shape[1:])


# --- sampling: the mechanics ---


class Recorder:
    """A denoiser that predicts a constant noise and writes down what it was asked."""

    def __init__(self, eps: float, channels: int) -> None:
        self.eps, self.channels, self.seen = eps, channels, []  # type: ignore[var-annotated]

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (len(x),)
        assert len(t.unique()) == 1
        self.seen.append(int(t[0]))
        return torch.full((len(x), self.channels, *x.shape[2:]), self.eps)


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_sample_asks_for_original_timesteps_and_for_noise_where_needed(sampler: str, channels: int) -> None:
    asked, done = [], []
    denoise = Recorder(0.1, channels)
    start = draw(9, 3, 2, 4, 4)
    kept = start.clone()
    start.requires_grad_()

    def noise(index: int) -> Tensor:
        asked.append(index)
        return draw(10 + index, 3, 2, 4, 4)

    settings = Sampling(sampler, 5)
    out = OBJECTIVE.sample(denoise, start, noise, settings, on_step=lambda index, x: done.append((index, x))).x
    assert denoise.seen == [999, 749, 500, 250, 0]
    assert asked == ([4, 3, 2, 1] if sampler == "ddpm" else [])
    assert [index for index, _ in done] == [4, 3, 2, 1, 0]
    assert torch.equal(done[-1][1], out)
    assert torch.equal(start, kept)
    assert out.shape == start.shape
    assert not out.requires_grad  # else every step's activations would be kept


def test_unknown_sampler() -> None:
    with pytest.raises(UserError, match=r"evaluation.sampler=euler is unknown: write ddpm or ddim"):
        OBJECTIVE.sample(Recorder(0, 1), torch.zeros(1, 1, 1, 1), torch.zeros, Sampling("euler"))


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_clipping(sampler: str) -> None:
    """A predicted x0 out of range is clipped, and eps and the mean follow it."""
    process, x, t = PROCESS.respaced(50), 3 * draw(11, 4, 2, 4, 4), torch.full((4,), 30)
    output = torch.cat([draw(12, 4, 2, 4, 4), torch.zeros(4, 2, 4, 4)], 1)
    free, clipped = predict(process, output, x, t), predict(process, output, x, t, clip_denoised=True)
    assert free.x0.abs().max() > 1
    torch.testing.assert_close(clipped.x0, free.x0.clamp(-1, 1))
    torch.testing.assert_close(process.q_sample(clipped.x0, t, clipped.eps), x, rtol=0, atol=1e-5)
    torch.testing.assert_close(clipped.mean, process.posterior_mean(clipped.x0, x, t))
    torch.testing.assert_close(clipped.log_variance, free.log_variance)
    inside = free.x0.abs() < 1
    torch.testing.assert_close(clipped.eps[inside], free.eps[inside], rtol=0, atol=1e-5)

    before = torch.tensor(process.alpha_bar[29])
    expected = (before.sqrt() * clipped.x0 + (1 - before).sqrt() * clipped.eps).float()
    torch.testing.assert_close(ddim_step(process, clipped, t), expected)

    # A denoiser that says nothing: unclipped, x grows to start / sqrt(alpha_bar), 157 times.
    zero, start = Recorder(0, 2), draw(13, 4, 2, 4, 4)
    ends = [
        OBJECTIVE.sample(zero, start, lambda k: draw(k, 4, 2, 4, 4), Sampling(sampler, 50, clip_denoised=clip)).x
        for clip in (False, True)
    ]
    assert ends[0].abs().max() > 50
    assert ends[1].abs().max() <= 1


# --- guidance ---


class LabelModel:
    """Channel c of the output is x's channel 0 plus (c + 1) times the label; counts its forward passes."""

    def __init__(self, channels: int) -> None:
        self.channels, self.batches = channels, []  # type: ignore[var-annotated]

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        assert len(x) == len(t) == len(labels)
        self.batches.append(len(x))
        weights = torch.arange(1, self.channels + 1).view(1, -1, 1, 1)
        label = (labels if labels.ndim == 1 else labels[:, -1]).view(-1, 1, 1, 1)
        return x[:, :1] + t.view(-1, 1, 1, 1) + weights * label


@pytest.mark.parametrize("columns", [None, 3])
@pytest.mark.parametrize(("channels", "guided_channels"), [(None, 4), (3, 3), (1, 1)])
@pytest.mark.parametrize("scale", [0.0, 4.0])
def test_guidance(scale: float, channels: int | None, guided_channels: int, columns: int | None) -> None:
    model, labels = LabelModel(8), torch.tensor([2, 5])
    given_labels = labels if columns is None else labels[:, None].expand(2, columns)
    x, t = draw(14, 2, 4, 3, 3), torch.tensor([7, 7])
    out = Guided(model, given_labels, 10, scale, channels)(x, t)
    assert model.batches == [4]
    conditional, unconditional = LabelModel(8)(x, t, labels), LabelModel(8)(x, t, torch.full((2,), 10))
    expected = conditional.clone()
    expected[:, :guided_channels] = ((1 - scale) * unconditional + scale * conditional)[:, :guided_channels]
    torch.testing.assert_close(out, expected)


def test_no_guidance_is_one_forward_pass() -> None:
    model, labels, x, t = LabelModel(8), torch.tensor([2, 5]), draw(14, 2, 4, 3, 3), torch.tensor([7, 7])
    out = Guided(model, labels, 10, 1.0, 3)(x, t)
    assert model.batches == [2]
    assert torch.equal(out, LabelModel(8)(x, t, labels))


@pytest.mark.parametrize("channels", [0, 5])
def test_guidance_channels_out_of_range(channels: int) -> None:
    denoise = Guided(LabelModel(8), torch.tensor([2, 5]), 10, 2.0, channels)
    with pytest.raises(UserError, match=rf"guidance_channels must be between 1 and the data's 4 .* not {channels}"):
        denoise(draw(14, 2, 4, 3, 3), torch.tensor([7, 7]))
