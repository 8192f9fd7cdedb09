"""`python -m fcdm.engine.try_code ANSWERS`: tries users' code, asked for on stdin by `fcdm.runs.trials`.

Each question names the code and the facts that it would be used with; each answer says what was counted, or what is
wrong in one line. What each kind is held to stands where it is used: models in `fcdm.models.measure`, and so on.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fcdm.config.schema import CustomConfig
from fcdm.config.user_code import KIND, UserCode
from fcdm.errors import UserError
from fcdm.runs.processes import end_with_parent


def _try_model(code: UserCode, **facts: Any) -> dict[str, Any]:
    from fcdm.models.measure import Question, measure

    return asdict(measure(Question(CustomConfig("custom", "", code.target, code.options, code.source), **facts)))


def _try_objective(code: UserCode, **facts: Any) -> dict[str, Any]:
    from fcdm.diffusion.user_objective import try_objective

    try_objective(code, **facts)
    return {}


def _try_optimiser(code: UserCode, **facts: Any) -> dict[str, Any]:
    from fcdm.engine.optimisers import try_optimiser

    try_optimiser(code, **facts)
    return {}


def _try_data(code: UserCode, **facts: Any) -> dict[str, Any]:
    from fcdm.data.user_data import try_data

    return {"images": try_data(code, **facts)}


def _try_extractor(code: UserCode, **facts: Any) -> dict[str, Any]:
    from fcdm.features.user_extractor import try_extractor

    try_extractor(code, **facts)
    return {}


TRIALS = {
    "model": _try_model,
    "data": _try_data,
    "diffusion": _try_objective,
    "optimiser": _try_optimiser,
    "evaluation": _try_extractor,
}


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """What was found out, or `error`."""
    code = UserCode(KIND[question["kind"]], question["target"], question["options"], question["source"])
    try:
        return TRIALS[question["kind"]](code, **question["facts"])
    except UserError as error:
        return {"error": str(error)}


def main(answers: Path) -> None:
    answers.write_text(json.dumps([answer(question) for question in json.load(sys.stdin)]))


if __name__ == "__main__":
    end_with_parent()
    main(Path(sys.argv[1]))
