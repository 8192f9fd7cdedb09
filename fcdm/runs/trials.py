"""Users' own code before anything starts: tried once for each command and code, and a model's cost counted.

Trying needs torch and runs the user's code, so a process of its own does it (`fcdm.engine.try_code`), for all code of a
command at a time. What it answered is kept in the cache folder under all that it depends on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fcdm.atomic import write_json
from fcdm.config.schema import Config, CustomConfig
from fcdm.config.shape import shape_of
from fcdm.config.user_code import DATA, FEATURES, KIND, MODEL, OBJECTIVE, OPTIMISER, UserCode, codes_of
from fcdm.cost.model_cost import ModelCost
from fcdm.errors import UserError
from fcdm.features.space import channels_seen
from fcdm.hashing import cache_folder
from fcdm.runs.kept_source import with_source
from fcdm.runs.processes import is_first_process, own_session

COUNTING = 3
"""To be raised where the trials change (`fcdm.engine.try_code`): then nothing answered before holds."""

LIMIT = "FCDM_TRY_SECONDS"
"""Environment variable: how long all code of a command may take to be tried; 120 s where it is not set."""
PATIENCE = 5.0
"""Seconds after which the user is told what is waited for."""


@dataclass(frozen=True)
class _Asked:
    """What `fcdm.engine.try_code` is asked, in canonical JSON."""

    text: str

    @classmethod
    def of(cls, code: UserCode, facts: dict[str, Any]) -> _Asked:
        code = code if code.source else with_source(code)
        named = {"kind": code.kind.section, "target": code.target, "options": code.options, "source": code.source}
        return cls(json.dumps({**named, "facts": facts}, sort_keys=True))

    @property
    def code(self) -> UserCode:
        content = json.loads(self.text)
        return UserCode(KIND[content["kind"]], content["target"], content["options"], content["source"])

    @property
    def file(self) -> Path:
        """What was answered; torch decides what a fused attention keeps."""
        key = hashlib.sha256(f"{COUNTING}\n{version('torch')}\n{self.text}".encode()).hexdigest()
        return cache_folder() / "tried" / f"{key[:32]}.json"


_known: dict[_Asked, dict[str, Any]] = {}


def try_codes(configs: Iterable[Config]) -> None:
    """Try all code of users among them, each as it would be used. Raises UserError for the first that does not do."""
    _find(list(dict.fromkeys(asked for config in configs for asked in _questions(config))))


def own_images(config: Config) -> int:
    """How many images of the configuration's own data set are trained on. Raises UserError where it does not do."""
    asked = next(asked for asked in _questions(config) if asked.code.kind is DATA)
    _find([asked])
    return int(_known[asked]["images"])


def _questions(config: Config) -> Iterator[_Asked]:
    """Data first: what is wrong with it is wrong with all that follows."""
    shape, asked = shape_of(config), config.evaluation
    of_data = {name: shape[name] for name in ("channels", "side")}
    facts: dict[str, dict[str, Any]] = {
        DATA.section: {**of_data, "classes": config.data.classes, "conditions": config.data.conditions},
        OBJECTIVE.section: {
            **of_data,
            "learn_sigma": config.diffusion.learn_sigma,
            "sampler": asked.sampler,
            "steps": asked.sampling_steps,
        },
        OPTIMISER.section: {"lr": config.optimiser.lr},
        FEATURES.section: {"channels": channels_seen(config), "side": config.resolution},
    }
    for code in sorted(codes_of(config), key=lambda code: code.kind is not DATA):
        if code.kind is not MODEL:
            yield _Asked.of(code, facts[code.kind.section])
            continue
        for checkpointing in sorted({False, config.activation_checkpointing}):
            yield _of_model(code, shape, config.data.conditions, checkpointing)


def _of_model(
    code: UserCode, shape: dict[str, Any], conditions: Mapping[str, Sequence[int]], checkpointing: bool
) -> _Asked:
    return _Asked.of(code, {**shape, "conditions": dict(conditions), "activation_checkpointing": checkpointing})


def custom_cost(
    model: CustomConfig,
    *,
    channels: int,
    side: int,
    classes: int,
    learn_sigma: bool,
    conditions: Mapping[str, Sequence[int]] | None = None,
) -> ModelCost:
    """As `fcdm.cost.model_cost`, but counted. Activation checkpointing is taken to save nothing: an upper bound.

    Raises UserError for a model that cannot be built or run.
    """
    shape = {"channels": channels, "side": side, "classes": classes, "learn_sigma": learn_sigma}
    code = UserCode(MODEL, model.target, model.options, model.source)
    asked = _of_model(code, shape, conditions or {}, False)
    _find([asked])
    answer = _known[asked]
    return ModelCost(
        parameters=int(answer["parameters"]),
        forward_macs=int(answer["forward_macs"]),
        saved_elements=int(answer["saved_elements"]),
    )


def _find(questions: list[_Asked]) -> None:
    """Make all answers known. Raises UserError."""
    for asked in questions:
        if asked not in _known:
            with contextlib.suppress(OSError, ValueError):
                _known[asked] = dict(json.loads(asked.file.read_text()))
    missing = [asked for asked in questions if asked not in _known]
    if not missing:
        return
    for asked, answer in zip(missing, _ask(missing), strict=True):
        if "error" in answer:
            raise UserError(answer["error"])
        _known[asked] = answer
        with contextlib.suppress(OSError, UserError):  # the next command tries again
            write_json(asked.file, answer)


def _ask(questions: list[_Asked]) -> list[dict[str, Any]]:
    """The answers of one process that looks for modules where this one does. Raises UserError where it breaks."""
    safe_path = ["-P"] if sys.flags.safe_path else []
    with tempfile.TemporaryDirectory(prefix="fcdm-") as folder:
        answers = Path(folder) / "answers.json"
        command = [sys.executable, *safe_path, "-m", "fcdm.engine.try_code", str(answers)]
        code, told = _run(command, f"[{','.join(asked.text for asked in questions)}]", questions[0].code)
        try:
            found: list[dict[str, Any]] = json.loads(answers.read_text())
        except (OSError, ValueError):
            lines = [line for line in told.splitlines() if line.strip()] or [f"exit code {code}"]
            first = questions[0].code
            raise UserError(
                f"{first}: trying the {first.kind.noun} ended the process that did it: {lines[-1]}"
            ) from None
    return found


def _run(command: list[str], questions: str, code: UserCode) -> tuple[int, str]:
    """Exit code and stderr of the process that tries code; it is ended at its limit. Raises UserError."""
    text = os.environ.get(LIMIT, "120")
    try:
        limit = float(text)
    except ValueError:
        raise UserError(f"{LIMIT}={text}: a number of seconds") from None
    pipe = subprocess.PIPE
    with own_session(command, signal.SIGKILL, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe) as process:
        try:
            try:
                told = process.communicate(questions, timeout=min(PATIENCE, limit))[1]
            except subprocess.TimeoutExpired:
                if limit > PATIENCE and is_first_process():
                    print(f"trying {code} in a process of its own ...", file=sys.stderr, flush=True)
                told = process.communicate(timeout=max(0.0, limit - PATIENCE))[1]
        except subprocess.TimeoutExpired:
            raise UserError(
                f"{code}: trying the {code.kind.noun} (imported, built, run once) took more than {limit:g} s and "
                f"was ended; {LIMIT}=<seconds> in the environment allows more"
            ) from None
    return process.returncode, told
