"""The command that evaluates a checkpoint once more, by a recorded protocol but for its seed."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

from fcdm.analysis.stats.differences import has_effect
from fcdm.config.schema import RUNTIME_EVALUATION, EvaluationConfig
from fcdm.features.distance_names import space_of

KEYS = tuple(
    item.name for item in dataclasses.fields(EvaluationConfig) if item.name not in (*RUNTIME_EVALUATION, "seed")
)
OF_FILES = ("reference", "decoder")
"""What a protocol holds the identity of, and a command takes the path of."""


def evaluate_again(
    run: str, step: int, config: dict[str, str], protocol: dict[str, Any], runs_dir: str = "runs", repeats: int = 0
) -> str:
    """`python -m fcdm.evaluate RUN@STEP ... seed=1`.

    Every key of the protocol that has an effect is said, since what is not said is as in today's recipe. `config`: the
    run's, flat, as far as it is known. `repeats`: how many there are already, by the next seeds. Empty where no
    protocol was recorded.
    """
    if not protocol:
        return ""
    whole = config | {f"evaluation.{key}": str(value) for key, value in protocol.items()}
    words = [
        f"{key}={_text(key, protocol[key])}"
        for key in KEYS
        if key in protocol
        and key not in OF_FILES
        and _matters(key, protocol)
        and has_effect(whole, f"evaluation.{key}")
    ]
    words += [f"{key}=PATH" for key in OF_FILES if _is_file(key, protocol)]
    if runs_dir != "runs" and "://" not in runs_dir:
        words.append(f"runs_dir={runs_dir}")
    return shlex.join(
        ["python", "-m", "fcdm.evaluate", f"{run}@{step}", *words, f"seed={1 + repeats + int(protocol.get('seed', 0))}"]
    )


def _matters(key: str, protocol: dict[str, Any]) -> bool:
    """None is what is left away, but where a recipe says otherwise: how many channels are guided."""
    guided = key == "guidance_channels" and protocol.get("guidance_scale", 1.0) != 1.0
    return protocol[key] is not None or guided


def _is_file(key: str, protocol: dict[str, Any]) -> bool:
    return bool(protocol.get(key)) and (key == "decoder" or str(protocol.get("features")).startswith("inception"))


def _text(key: str, value: Any) -> str:
    """As a command line says it: `true`, `null`, `[0.1,0.5]`; of features the name of the space."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return space_of(str(value)) if key == "features" else str(value).replace(" ", "")
