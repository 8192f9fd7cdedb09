"""A process of its own that builds and measures users' models: so the one that asks needs no torch, and none of their
code runs in it. `python -m fcdm.runs.probe ANSWERS`: questions as JSON on stdin, answers as JSON into that file."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fcdm.config.schema import CustomConfig
from fcdm.errors import UserError
from fcdm.models.measure import Question, measure


def main(answers: Path) -> None:
    questions = json.load(sys.stdin)
    answers.write_text(json.dumps([_answer(question) for question in questions]))


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    try:
        return asdict(measure(Question(**{**question, "model": CustomConfig(**question["model"])})))
    except UserError as error:
        return {"error": str(error)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
