"""TF32 is switched on and off whichever of torch's two sets of flags was used before, and is put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from fcdm.metrics.float32 import tf32

CUDA, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn
HAS_BOTH = hasattr(CUDNN, "conv")


def _old(allowed: bool) -> None:
    CUDA.allow_tf32 = CUDNN.allow_tf32 = allowed


def _new(precision: str) -> None:
    CUDA.fp32_precision = CUDNN.conv.fp32_precision = CUDNN.rnn.fp32_precision = precision


def _everywhere(precision: str) -> None:
    torch.backends.fp32_precision = precision


def _state() -> list[object]:
    """What rules products, convolutions and recurrences."""
    if HAS_BOTH:
        return [CUDA.fp32_precision, CUDNN.conv.fp32_precision, CUDNN.rnn.fp32_precision]
    return [CUDA.allow_tf32, CUDNN.allow_tf32]


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    if HAS_BOTH:
        _everywhere("none")
        _new("none")
    CUDA.allow_tf32, CUDNN.allow_tf32 = False, True  # as torch starts


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(lambda: None, id="nothing"),
        pytest.param(lambda: _old(True), id="old-on"),
        pytest.param(lambda: _old(False), id="old-off"),
        *(
            pytest.param(function, id=name, marks=pytest.mark.skipif(not HAS_BOTH, reason="torch before 2.9"))
            for name, function in {
                "new-on": lambda: _new("tf32"),
                "new-off": lambda: _new("ieee"),
                "everywhere": lambda: _everywhere("tf32"),
            }.items()
        ),
    ],
)
@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_what_is_asked_while_the_block_runs_and_what_it_was_after(
    before: Callable[[], None], allowed: bool
) -> None:
    before()
    was = _state()
    with tf32(allowed):
        assert (CUDA.allow_tf32, CUDNN.allow_tf32) == (allowed, allowed)  # neither raises: compilers read them
        if HAS_BOTH:
            assert _state() == ["tf32" if allowed else "ieee"] * 3
        with tf32(not allowed):
            assert (CUDA.allow_tf32, CUDNN.allow_tf32) == (not allowed, not allowed)
        assert (CUDA.allow_tf32, CUDNN.allow_tf32) == (allowed, allowed)
    assert _state() == was
