"""Schedules of the learning rate that depend on no last step: what is refused, and that ids of before stay."""

from __future__ import annotations

import pytest

from fcdm.errors import UserError
from fcdm.runs.identity import run_id, science
from tests.support.commands import composed

FALLING = "optimiser.schedule=inverse_sqrt"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([FALLING], "needs the step from which the rate falls: say optimiser.decay_from=10000"),
        (["optimiser.decay_from=100"], "optimiser.decay_from=100 has no effect at optimiser.schedule=constant"),
        ([FALLING, "optimiser.decay_from=0"], "optimiser.decay_from=0 cannot be: it must be at least 1"),
        ([FALLING, "optimiser.decay_from=5", "optimiser.warmup_steps=9"], "before the end of the warm-up"),
        (["optimiser.schedule=cosine"], "optimiser.schedule=cosine is not known"),
    ],
)
def test_what_cannot_be_is_one_line(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as refused:
        composed("model=N", *words)
    assert said in str(refused.value)


def test_a_falling_rate_is_another_run_and_the_constant_one_is_what_it_was() -> None:
    constant, falling = composed("model=N"), composed("model=N", FALLING, "optimiser.decay_from=100")
    constant.data.checksum = falling.data.checksum = "0"
    assert run_id(science(constant)) != run_id(science(falling))
