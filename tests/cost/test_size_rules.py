"""Learning rates and batches that follow the width: by hand, alike for both families, refused without a base."""

from __future__ import annotations

import pytest

from fcdm.errors import UserError
from fcdm.runs.identity import run_id, science
from tests.support.commands import composed

RULE = ("optimiser.lr_rule=width", "optimiser.lr_power=0.5", "optimiser.lr_base=[N,dit/N-2]", "optimiser.lr=0.008")


@pytest.mark.parametrize(
    ("model", "rate"),
    [("N", 0.008), ("dit/N-2", 0.008), ("fcdm/w64", 0.004), ("dit/w256", 0.004), ("fcdm/w32", 0.005657)],
)
def test_the_rate_falls_with_the_width(model: str, rate: float, capsys: pytest.CaptureFixture[str]) -> None:
    config = composed(f"model={model}", "data=digits", *RULE)
    assert config.optimiser.lr == rate
    assert (config.optimiser.lr_rule, config.optimiser.lr_power, config.optimiser.lr_base) == ("constant", None, None)


def test_it_is_the_run_with_that_rate(capsys: pytest.CaptureFixture[str]) -> None:
    by_rule = composed("model=M", *RULE[:1], "optimiser.lr_power=1", "optimiser.lr_base=N")
    by_hand = composed("model=M", "optimiser.lr=0.005333")
    by_rule.data.checksum = by_hand.data.checksum = "0"
    assert by_rule == by_hand
    assert run_id(science(by_rule)) == run_id(science(by_hand))
    assert "note: model=M: optimiser.lr=0.005333, 0.008 x (24 / 16)^-1" in capsys.readouterr().err


def test_the_batch_grows_with_the_width_to_a_multiple_of_eight() -> None:
    words = ("batch_rule=width", "batch_power=0.5", "batch_base=N")
    assert composed("model=N", *words).batch_size == 128
    assert composed("model=M", *words).batch_size == 160  # 156.8
    # Budgets in FLOPs are of the batch that comes out.
    assert composed("model=M", "flops=1e13", *words).steps == composed("model=M", "flops=1e13", "batch_size=160").steps


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optimiser.lr_rule=width"], "needs optimiser.lr_power too: say optimiser.lr_power=0.5"),
        (["optimiser.lr_rule=width", "optimiser.lr_power=1"], "needs optimiser.lr_base too: say optimiser.lr_base=N"),
        ([*RULE[:2], "optimiser.lr_base=dit/N-2"], "names none of fcdm, and model=N is one"),
        ([*RULE[:2], "optimiser.lr_base=[N,M]"], "names several of fcdm"),
        ([*RULE[:2], "optimiser.lr_base=Q"], "optimiser.lr_base=Q is no model of ours"),
        (["optimiser.lr_rule=depth"], "optimiser.lr_rule=depth is not known"),
        (["optimiser.lr_rule=width", "optimiser.lr_power=9", "optimiser.lr_base=N"], "optimiser.lr_power=9"),
        (["batch_rule=width", "batch_power=1"], "batch_rule=width needs batch_base too"),
    ],
)
def test_what_cannot_be_is_one_line(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as refused:
        composed("model=N", *words)
    assert said in str(refused.value)
