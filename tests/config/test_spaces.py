"""The names of spaces of features have one home, which checks, extractors and commands go by."""

from __future__ import annotations

import pytest

from fcdm.config import spaces
from fcdm.config.check import CHOICES
from fcdm.errors import UserError
from fcdm.features import extractor_id
from fcdm.features.dinov2_files import RESIZES


def test_every_room_goes_by_the_same_names() -> None:
    assert CHOICES[spaces.KEY] is spaces.SPACES
    assert tuple(RESIZES) == spaces.DINOV2
    for some in (spaces.DINOV2, spaces.OF_DIGITS, spaces.OF_THE_DATA, spaces.OF_ANY_IMAGES):
        assert set(some) <= set(spaces.SPACES)
    with pytest.raises(UserError, match=f"choose one of {', '.join(spaces.SPACES)}"):
        extractor_id("dinov3")
