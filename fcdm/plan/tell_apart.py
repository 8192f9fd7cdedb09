"""What tells a run from others of its name, and its model from the preset of that name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from fcdm.config.presets import off_preset
from fcdm.formatting import setting_text
from fcdm.jobs.job import Job
from fcdm.jobs.make_jobs import NOT_HERE
from fcdm.runs.identity import NOT_IDENTITY, flatten, readable_name, science

_TOLD = 4
"""Keys, beyond which a run is told by those in which it is not as most others of its name."""


def differences(jobs: Sequence[Job]) -> dict[str, str]:
    """Job id -> what tells the run from the others of its name, and where its model is not its preset.

    Empty where nothing must be told.
    """
    named: dict[str, list[tuple[Job, dict[str, Any]]]] = {}
    for job in jobs:
        named.setdefault(readable_name(job.config), []).append((job, flatten(science(job.config))))
    found = {}
    for same in named.values():
        first = same[0][1]
        keys = [
            key
            for key in first
            if key not in NOT_IDENTITY and any(other.get(key) != first[key] for _, other in same[1:])
        ]
        usual = {key: Counter(repr(flat.get(key)) for _, flat in same).most_common(1)[0][0] for key in keys}
        for job, flat in same:
            told = keys if len(keys) <= _TOLD else [key for key in keys if repr(flat.get(key)) != usual[key]]
            own = [key for key in off_preset(job.config.model) if key not in told]
            words = [_said(key, flat.get(key)) for key in [*own, *told]]
            found[job.id] = " ".join(words) or ("as most others" if keys else "")
    return found


def off_all_presets(jobs: Sequence[Job]) -> str:
    """Where the models of all these jobs are not their presets: `model.width=784`."""
    each = [[setting_text(key, value) for key, value in off_preset(job.config.model).items()] for job in jobs]
    return " ".join(word for word in each[0] if all(word in other for other in each[1:]))


def _said(key: str, value: Any) -> str:
    if key == "data.checksum" and str(value).startswith(NOT_HERE):
        return f"data.path={str(value).removeprefix(NOT_HERE)}"
    return setting_text(key, value)
