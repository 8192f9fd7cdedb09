"""Users' own models before anything starts: their source hashed, their code tried, their cost counted; all once.

Trying needs torch and runs the user's code, so a process of its own does it, for all models of a command at a time.
What it counted is kept in the cache folder under all that it depends on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fcdm.atomic import write_json
from fcdm.config.schema import Config, CustomConfig
from fcdm.config.shape import shape_of
from fcdm.config.user_model_source import ModelSource, changed_files, dotted, find_source
from fcdm.cost.model_cost import ModelCost
from fcdm.errors import UserError
from fcdm.hashing import file_sha256

COUNTING = 1
"""To be raised where the counting changes (`fcdm.models.measure`): then nothing counted before holds."""

LIMIT = "FCDM_TRY_SECONDS"
"""Environment variable: how long all models of a command may take to be tried; 120 s where it is not set."""
PATIENCE = 5.0
"""Seconds after which the user is told what is waited for."""

SOURCE = "source"
"""In a run's folder: the model's source files."""


@dataclass(frozen=True)
class _Asked:
    """A question as `fcdm.models.measure.Question` takes it, in canonical JSON."""

    text: str

    @property
    def target(self) -> str:
        return str(json.loads(self.text)["model"]["target"])

    @property
    def file(self) -> Path:
        """What was counted; torch decides what a fused attention keeps."""
        key = hashlib.sha256(f"{COUNTING}\n{version('torch')}\n{self.text}".encode()).hexdigest()
        return Path.home() / ".cache" / "fcdm" / "models" / f"{key[:32]}.json"


_known: dict[_Asked, ModelCost] = {}


def with_source(model: CustomConfig) -> CustomConfig:
    """The model with its target in one spelling and the hash of its source.

    Raises UserError where there is no source, or not the one that the configuration names.
    """
    source = source_of(dotted(model.target))
    if model.source not in (None, source.sha256):
        raise UserError(
            f"model.source={model.source}: the code of model.target={model.target} ({source.file}) is another: its "
            f"sha256 is {source.sha256}; without model.source= it is taken as it is"
        )
    return dataclasses.replace(model, target=dotted(model.target), source=source.sha256)


@cache
def source_of(target: str) -> ModelSource:
    """`find_source`, once a process: all jobs of a command have the same."""
    return find_source(target)


def keep_source(model: CustomConfig, run: Path) -> None:
    """Copy the model's source into a run's folder, so that what was trained can be read. Raises OSError."""
    source = source_of(model.target)
    for name, path in source.files.items():
        copy = run / SOURCE / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def check_source(model: CustomConfig, run: Path) -> None:
    """Raise UserError, naming the files, where the code is no longer what the run was made with."""
    now = find_source(model.target)
    if now.sha256 == model.source:
        return
    raise UserError(
        f"{run.name}: the code of model.target={model.target} has changed since this was asked for: "
        f"{changed_files(_kept(run), now.digests) or now.file}. Put it back (a copy is in {run / SOURCE}), or give the "
        "command again: with other code it is another run"
    )


def news_of_source(model: CustomConfig, run: Path) -> str | None:
    """What differs in the code from the newest run of the same name, for a run that is new; None: there is none."""
    name = run.name.rsplit("-", 1)[0]
    others = [path for path in run.parent.glob(f"{name}-*/{SOURCE}") if path.parent != run]
    if not others:
        return None
    newest = max(others, key=lambda path: path.stat().st_mtime).parent
    changed = changed_files(_kept(newest), source_of(model.target).digests)
    return f"{run.name} is another run than {newest.name}: {changed}" if changed else None


def _kept(run: Path) -> dict[str, str]:
    """Digests of the source that the run keeps."""
    folder = run / SOURCE
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def check_models(configs: Iterable[Config]) -> None:
    """Build and try every user's own model among them, each as it would be trained. Raises UserError for the first."""
    asked: dict[_Asked, None] = {}
    for config in configs:
        if isinstance(config.model, CustomConfig):
            for checkpointing in sorted({False, config.activation_checkpointing}):
                asked[_question(config.model, **shape_of(config), activation_checkpointing=checkpointing)] = None
    _find(list(asked))


def custom_cost(model: CustomConfig, *, channels: int, side: int, classes: int, learn_sigma: bool) -> ModelCost:
    """As `fcdm.cost.model_cost`, but counted. Activation checkpointing is taken to save nothing: an upper bound.

    Raises UserError for a model that cannot be built or run.
    """
    asked = _question(model, channels, side, classes, learn_sigma)
    _find([asked])
    return _known[asked]


def _question(
    model: CustomConfig,
    channels: int,
    side: int,
    classes: int,
    learn_sigma: bool,
    activation_checkpointing: bool = False,
) -> _Asked:
    nameless = dataclasses.replace(model if model.source else with_source(model), name="")
    content = {
        "model": dataclasses.asdict(nameless),
        "channels": channels,
        "side": side,
        "classes": classes,
        "learn_sigma": learn_sigma,
        "activation_checkpointing": activation_checkpointing,
    }
    return _Asked(json.dumps(content, sort_keys=True))


def _find(questions: list[_Asked]) -> None:
    """Make all answers known. Raises UserError."""
    for asked in questions:
        if asked not in _known:
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                _known[asked] = _cost(json.loads(asked.file.read_text()))
    missing = [asked for asked in questions if asked not in _known]
    if not missing:
        return
    for asked, answer in zip(missing, _ask(missing), strict=True):
        if "error" in answer:
            raise UserError(answer["error"])
        _known[asked] = _cost(answer)
        with contextlib.suppress(OSError, UserError):  # the next command counts again
            write_json(asked.file, answer)


def _cost(answer: dict[str, Any]) -> ModelCost:
    return ModelCost(
        parameters=int(answer["parameters"]),
        forward_macs=int(answer["forward_macs"]),
        saved_elements=int(answer["saved_elements"]),
    )


def _ask(questions: list[_Asked]) -> list[dict[str, Any]]:
    """The answers of one process that looks for modules where this one does. Raises UserError where it breaks."""
    safe_path = ["-P"] if sys.flags.safe_path else []
    with tempfile.TemporaryDirectory(prefix="fcdm-") as folder:
        answers = Path(folder) / "answers.json"
        command = [sys.executable, *safe_path, "-m", "fcdm.models.measure", str(answers)]
        code, told = _run(command, f"[{','.join(asked.text for asked in questions)}]", questions[0].target)
        try:
            found: list[dict[str, Any]] = json.loads(answers.read_text())
        except (OSError, ValueError):
            lines = [line for line in told.splitlines() if line.strip()] or [f"exit code {code}"]
            raise UserError(
                f"model.target={questions[0].target}: trying the model ended the process that did it: {lines[-1]}"
            ) from None
    return found


def _run(command: list[str], questions: str, target: str) -> tuple[int, str]:
    """Exit code and stderr of the process that tries models; it is ended at its limit. Raises UserError."""
    text = os.environ.get(LIMIT, "120")
    try:
        limit = float(text)
    except ValueError:
        raise UserError(f"{LIMIT}={text}: a number of seconds") from None
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that what it started ends with it
    ) as process:
        try:
            try:
                told = process.communicate(questions, timeout=min(PATIENCE, limit))[1]
            except subprocess.TimeoutExpired:
                if limit > PATIENCE:
                    print(f"trying model.target={target} in a process of its own ...", file=sys.stderr, flush=True)
                told = process.communicate(timeout=max(0.0, limit - PATIENCE))[1]
        except subprocess.TimeoutExpired:
            raise UserError(
                f"model.target={target}: trying the model (imported, built, run once) took more than {limit:g} s and "
                f"was ended; {LIMIT}=<seconds> in the environment allows more"
            ) from None
        finally:  # also at Ctrl-C, which a session of its own does not hear of
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, told
