"""Cooldown branches beside their parent, as training leaves them; made up as `tests.support.fake_runs`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from fcdm.runs.identity import run_id
from fcdm.runs.protocol import TRAINED_ONLY
from tests.support.fake_runs import PROTOCOL, START, evaluate, make_run, make_study, protocol_id

RAW = {**PROTOCOL, "weights": "raw"}
GAIN, RAW_GAIN = 0.8, 0.9
"""A cooled FID over the one that is not cooled: by the average, and by raw weights."""
WIDTHS = {"N": 16, "M": 24, "dit/N-2": 64, "dit/M-2": 96}
"""A model's name is not what a run is: without another width two would be one."""
DEVICES = 2
"""Of a branch; its parent has one."""


def make_cooled(
    runs_dir: Path,
    model: str = "N",
    *,
    ends: Sequence[int] = (100, 200, 400, 800),
    share: float = 0.2,
    seed: int = 0,
    lr: float = 4e-3,
    constant: bool = True,
    study: str = "cooled",
) -> list[Path]:
    """A parent and its branches in a study, as `cooldown=null,0.2` asks for them: the parent's folder, then theirs.

    `constant`: the parent is evaluated at the ends too; else only trained to where the branches leave (`cooldown=0.2`).
    """
    starts = [end - round(share * end) for end in ends]
    parent = make_run(
        runs_dir,
        model,
        budgets=ends if constant else starts,
        seed=seed,
        lr=lr,
        evaluated=constant,
        grids=False,
        keys={"width": WIDTHS[model]},
    )
    config = _rewritten(parent, yaml.safe_load((parent / "config.yaml").read_text()), None, None)
    branches = [_branch(parent, config, model, start, end, share, lr) for start, end in zip(starts, ends, strict=True)]
    if constant:
        make_study(runs_dir, [parent], study, budgets=ends, more=True)
    for branch, end in zip(branches, ends, strict=True):
        for protocol in (PROTOCOL, RAW):
            make_study(runs_dir, [branch], study, budgets=[end], protocol=protocol, more=True)
    path = runs_dir / "studies" / f"{study}.json"
    content = json.loads(path.read_text())
    identity = json.loads((parent / "run.json").read_text())["id"]
    content["requests"].append({"run": parent.name, "id": identity, "budgets": starts, "protocol_id": TRAINED_ONLY})
    content |= {"protocol_id": protocol_id(PROTOCOL), "protocol": PROTOCOL}
    path.write_text(json.dumps(content))
    return [parent, *branches]


def _rewritten(folder: Path, config: dict[str, Any], cooldown: list[int] | None, share: float | None) -> dict[str, Any]:
    """The run's configuration with its cooldown, in its folder, and the id that follows."""
    config = {**config, "optimiser": {**config["optimiser"], "cooldown": cooldown, "cooldown_share": share}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    described = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(described | {"id": run_id(config)}))
    return config


def _branch(parent: Path, config: dict[str, Any], model: str, start: int, end: int, share: float, lr: float) -> Path:
    stem, _, _ = parent.name.rpartition("-")
    cooled = {**config, "optimiser": {**config["optimiser"], "cooldown": [start, end]}}
    folder = parent.parent / f"{stem}-cooldown-{start}-{end}-{run_id(cooled)[:8]}"
    (folder / "evaluations").mkdir(parents=True)
    (folder / "run.json").write_bytes((parent / "run.json").read_bytes())
    _rewritten(folder, config, [start, end], share)
    clock = START + 10_000
    where = {"host": "laptop", "pid": 9, "device": "cpu", "threads": 1, "world_size": DEVICES, "revision": "abc1234"}
    lines: list[dict[str, Any]] = [
        {"step": start, "time": clock, "segment": "start", **where, "branched_from": f"{parent.name}@{start}"}
    ]
    clock += 2.0 * (end - start) / 50
    lines.append({"step": end, "time": clock, "loss": 0.25, "images_per_s": 800.0})
    for protocol, gain in ((PROTOCOL, GAIN), (RAW, RAW_GAIN)):
        clock += 12.0
        evaluate(folder, model, end, clock, protocol, config["seed"], lr, grids=False)
        path = folder / "evaluations" / f"step-{end:08d}-{protocol_id(protocol)}.json"
        content = json.loads(path.read_text())
        content["metrics"] = {key: gain * value for key, value in content["metrics"].items()}
        path.write_text(json.dumps(content))
        lines.append({"step": end, "time": clock, "protocol": protocol_id(protocol), **content["metrics"]})
    lines.append({"step": end, "time": clock, "segment": "end", "completed": True})
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
