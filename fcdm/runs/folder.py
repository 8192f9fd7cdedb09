"""A run's folder: `runs/<readable-name>-<hash8>/`, with its science frozen in `config.yaml`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fcdm.atomic import describe_oserror, sync_folder
from fcdm.config.schema import Config
from fcdm.errors import UserError
from fcdm.runs.identity import (
    MEASURED,
    SCHEMA_VERSION,
    cooldown_of,
    identifying,
    parent_id,
    readable_name,
    run_id,
    science,
)
from fcdm.runs.kept_source import keep_source
from fcdm.runs.run_cost import run_cost
from fcdm.runs.run_paths import RUN_FILE, evaluation_name, run_facts


@dataclass(frozen=True)
class Run:
    """One training trajectory on disk."""

    folder: Path
    id: str

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def records(self) -> Path:
        return self.folder / "records.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def snapshots(self) -> Path:
        """Power function averages of the weights."""
        return self.folder / "ema"

    @property
    def evaluations(self) -> Path:
        return self.folder / "evaluations"

    def evaluation(self, step: int, protocol_id: str) -> Path:
        """The file of one evaluation: named by its key."""
        return self.evaluations / evaluation_name(step, protocol_id)


def open_run(config: Config) -> Run:
    """The folder of this configuration's run: found by its id, else made.

    Raises UserError where the folder cannot be made, or holds a config that was edited by hand.
    """
    wanted = science(config)
    identity = run_id(wanted)
    runs_dir = Path(config.runs_dir)
    found = find_run(runs_dir, identity)
    if found is None:
        found = runs_dir / folder_name(config, identity)
        _create(found, identity, wanted, config)
    check_frozen(found, wanted)
    return Run(found, identity)


def folder_name(config: Config, identity: str) -> str:
    """The name that a run's folder is given when it is made."""
    return f"{readable_name(config)}-{identity[:8]}"


def find_run(runs_dir: Path, identity: str) -> Path | None:
    """The folder of the run with this id, whatever its readable name is."""
    return find_runs(runs_dir, [identity]).get(identity)


def find_runs(runs_dir: Path, ids: Collection[str]) -> dict[str, Path]:
    """Run id -> folder, of those runs that are there; the folder of runs is listed once for all of them."""
    ends = {identity[:8] for identity in ids}
    folders: dict[str, Path] = {}
    for folder in sorted(path for path in runs_dir.glob("*-*") if path.name.rpartition("-")[2] in ends):
        folders.setdefault(str(run_facts(folder).get("id")), folder)
    return {identity: folders[identity] for identity in ids if identity in folders}


def check_frozen(folder: Path, wanted: dict[str, Any]) -> None:
    """Raise UserError, with the difference, where the frozen config no longer says what the id was made of.

    Nor may the store's channels have become others, which follow from its shards.
    """
    kept = frozen_science(folder)
    for key in MEASURED:
        before, now = kept["data"].get(key), wanted["data"].get(key)
        if None not in (before, now) and before != now:
            path = wanted["data"]["path"]
            raise UserError(
                f"{path} says other channels (data.{key}) than {folder.name} was trained with: its channels.json was "
                f"changed; `python -m fcdm.prepare channels data.path={path}` makes it anew"
            )
    frozen = identifying(kept)
    asked = identifying(wanted)
    differences = [
        f"{key}: {frozen.get(key, 'missing')} (the run is {asked.get(key, 'without it')})"
        for key in sorted(frozen.keys() | asked.keys())
        if frozen.get(key) != asked.get(key)
    ]
    if differences:
        raise UserError(
            f"{folder / 'config.yaml'} was changed by hand: {'; '.join(differences)}. Put it back, or ask for "
            "the changed config on the command line: it is another run"
        )


def frozen_science(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}): is this a run's folder?") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is no config: it was changed by hand or torn; remove the folder or restore it")
    return content


def _lineage(config: Config) -> dict[str, Any]:
    """Where a run's weights come from, and the FLOPs that went into them where that is a run of ours."""
    path = Path(config.init_path or "")
    lineage: dict[str, Any] = {
        "source": config.init_from,
        "weights": config.init_from_weights,
        "name": path.name,
        "path": str(path),
    }
    _, at, step = (config.init_from or "").rpartition("@")
    if at:
        parent = run_facts(path.parent.parent)
        lineage["name"] = f"{path.parent.parent.name}@{step}"
        before = (parent.get("init_from") or {}).get("lineage_train_flops", 0)
        with contextlib.suppress(KeyError, TypeError):
            lineage["lineage_train_flops"] = before + int(step) * parent["cost"]["train_flops_per_step"]
    return lineage


def _branch(folder: Path, wanted: dict[str, Any], config: Config) -> dict[str, Any] | None:
    """Which run a branch leaves, where and until where, in steps; None: it is no branch. It need not be there yet."""
    cooldown, identity = cooldown_of(wanted), parent_id(wanted)
    if cooldown is None or identity is None:
        return None
    going_on = dataclasses.replace(config.optimiser, cooldown=None)
    made = folder_name(dataclasses.replace(config, optimiser=going_on), identity)
    parent = find_run(folder.parent, identity)
    return {
        "parent": identity,
        "name": parent.name if parent else made,
        "start": cooldown[0],
        "end": cooldown[1],
        "share": config.optimiser.cooldown_share,
    }


def _create(folder: Path, identity: str, wanted: dict[str, Any], config: Config) -> None:
    """Make the folder whole under a temporary name, then rename it: no reader ever sees half of it."""
    cost = run_cost(config)
    described = {
        "schema": SCHEMA_VERSION,
        "id": identity,
        "name": readable_name(config),
        "model": config.model.name,
        "family": config.model.kind,
        "data": config.data.name,
        "resolution": config.resolution,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "cost": {
            "parameters": cost.parameters,
            "forward_macs": cost.forward_macs,
            "train_flops_per_image": cost.train_flops_per_image,
            "train_flops_per_step": cost.train_flops_per_step(config.batch_size),
        },
        "created": time.time(),
    }
    if config.init_from is not None:
        described["init_from"] = _lineage(config)
    if branch := _branch(folder, wanted, config):
        described["branch"] = branch
    temporary = folder.parent / f".new-{uuid.uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
        (temporary / RUN_FILE).write_text(json.dumps(described, indent=1) + "\n")
        (temporary / "config.yaml").write_text(yaml.safe_dump(wanted, sort_keys=False))
        keep_source(config, temporary)
        for name in (RUN_FILE, "config.yaml"):
            with open(temporary / name, "rb") as written:
                os.fsync(written.fileno())
        temporary.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if (folder / RUN_FILE).exists():
            return  # another process made the same run's folder in the meantime
        if folder.exists():
            raise UserError(f"{folder} is there, but is no run's folder (no {RUN_FILE}): remove it") from None
        raise describe_oserror(error, folder) from None
