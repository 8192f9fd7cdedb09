"""Run folders as training leaves them, for tests of what reads them. The curves are made up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

PROTOCOL: dict[str, Any] = {
    "weights": "ema",
    "sampler": "ddim",
    "sampling_steps": 25,
    "clip_denoised": True,
    "guidance_scale": 1.0,
    "guidance_channels": None,
    "samples": 1000,
    "seed": 0,
    "labels": "balanced",
    "precision": "fp32",
    "rounding": "truncate-uint8",
    "features": "digits-cnn@1234abcd",
    "reference": "digits-train@5678abcd",
}
# parameters, forward MACs, and how many steps the made-up curve needs for FID 100
MODELS = {
    "N": (250_000, 4_100_000, 90.0),
    "M": (550_000, 9_000_000, 70.0),
    "dit/N-2": (480_000, 7_600_000, 200.0),
    "dit/M-2": (800_000, 12_700_000, 150.0),
}
# The same of the paper's models at 256 px.
PAPER = {
    "S": (32_700_000, 3_073_390_000, 150_000.0),
    "B": (127_680_000, 12_136_350_000, 72_000.0),
    "L": (504_450_000, 48_230_960_000, 36_000.0),
    "XL": (698_750_000, 64_530_020_000, 28_000.0),
    "dit/S-2": (32_870_000, 6_055_670_000, 280_000.0),
    "dit/B-2": (130_320_000, 23_005_100_000, 180_000.0),
    "dit/L-2": (457_840_000, 80_697_620_000, 95_000.0),
    "dit/XL-2": (674_830_000, 118_621_420_000, 75_000.0),
}
PAPER_PROTOCOL = {
    **PROTOCOL,
    "sampler": "ddpm",
    "sampling_steps": 250,
    "clip_denoised": False,
    "samples": 50_000,
    "features": "inception@1234abcd",
    "reference": "imagenet256@5678abcd",
}
START = 1_764_000_000.0
FLOOR = 4.1


def protocol_id(protocol: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:8]
    return f"{protocol['sampler']}{protocol['sampling_steps']}-{protocol['samples']}-{digest}"


def fid_at(model: str, step: int, seed: int = 0, lr: float = 4e-3) -> float:
    """Falls as step^-1.3 to a floor; a bit luckier or unluckier by seed; a lower learning rate is slower."""
    luck = 1.0 + 0.08 * np.sin(7.3 * seed + 0.1 * len(model))
    slow = (4e-3 / lr) ** 0.5
    return float(FLOOR + 100.0 * luck * (step / ({**MODELS, **PAPER}[model][2] * slow)) ** -1.3)


def make_run(
    runs_dir: Path,
    model: str = "N",
    *,
    budgets: Sequence[int] = (100, 200, 400, 800),
    seed: int = 0,
    lr: float = 4e-3,
    every: int = 50,
    batch_size: int = 128,
    protocol: dict[str, Any] = PROTOCOL,
    evaluated: bool = True,
    torn: bool = False,
    grids: bool = True,
    tiles: int = 10,
    keys: dict[str, Any] | None = None,
    resolution: int | None = None,
    images: int | None = None,
) -> Path:
    """One run trained to its last budget in two segments, the first of which died hard. Its folder.

    `keys`: of the model, instead of the preset's. A model of PAPER is one on ImageNet at 256 px, others on digits at 8;
    at another `resolution` FIDs and MACs rise with the pixels. `images`: an epoch's, where the configuration says it.
    """
    dit = model.startswith("dit/")
    parameters, macs, _ = {**MODELS, **PAPER}[model]
    data, side = ("imagenet", 256) if model in PAPER else ("digits", 8)
    shape: dict[str, Any] = {"depth": 6, "width": 64, "heads": 4, "patch_size": 2, "mlp_ratio": 4}
    harder = 1.0
    if resolution is not None:
        harder, side = (resolution / side) ** 2, resolution
        macs = int(macs * harder)
    if not dit:
        shape = {"width": 16, "blocks": [1, 1, 2, 1, 1], "kernel_size": 7, "expansion": 3, "grn": True}
    config = {
        "model": {"family": "dit" if dit else "fcdm", "name": model, **shape, **(keys or {})},
        "data": {"name": data, "path": None, "checksum": "5678abcd" * 8, "channels": 1, "classes": 10},
        "resolution": side,
        "batch_size": batch_size,
        "precision": "fp32",
        "seed": seed,
        "optimiser": {"lr": lr, "betas": [0.9, 0.999], "weight_decay": 0.0},
        "ema": {"decay": 0.999, "rampup": None},
    }
    if images is not None:
        config["data"]["images"] = images
    identity = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    name = f"{model.replace('/', '-')}-{data}-{side}px"
    folder = runs_dir / f"{name}-{identity[:8]}"
    (folder / "evaluations").mkdir(parents=True)
    described = {
        "schema": 1,
        "id": identity,
        "name": name,
        "model": model,
        "family": config["model"]["family"],
        "data": data,
        "resolution": side,
        "batch_size": batch_size,
        "seed": seed,
        "cost": {
            "parameters": parameters,
            "forward_macs": macs,
            "train_flops_per_image": 6 * macs,
            "train_flops_per_step": 6 * macs * batch_size,
        },
        "created": START,
    }
    (folder / "run.json").write_text(json.dumps(described))
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    lines: list[dict[str, Any]] = []
    clock = START
    segment = {
        "segment": "start",
        "host": "laptop",
        "pid": 7,
        "device": "cpu",
        "threads": 1,
        "world_size": 1,
        "revision": "abc1234",
    }
    last = max(budgets)
    crash = last // 2 // every * every
    lines.append({"step": 0, "time": clock, **segment})
    for step in sorted({*range(every, last + 1, every), *budgets}):
        clock += 2.0 * (step - lines[-1]["step"]) / every  # two seconds of training each `every` steps
        lines.append(
            {
                "step": step,
                "time": clock,
                "loss": 0.3 + 2.0 / step**0.5,
                "grad_norm": 0.8 + 0.1 * np.sin(step),
                "images_per_s": (800.0 + 10 * np.sin(step)) * min(1.0, 3e9 / macs),
                "train_pflops": 6 * macs * batch_size * step / 1e15,
            }
        )
        if evaluated and step in budgets:
            clock += 12.0
            metrics = evaluate(folder, model, step, clock, protocol, seed, lr, grids, tiles, harder)
            lines.append({"step": step, "time": clock, "protocol": protocol_id(protocol), **metrics})
        if step == crash:
            clock += 3600.0  # an hour in the queue
            lines.append({"step": step, "time": clock, **segment, "pid": 8})
    lines.append({"step": last, "time": clock, "segment": "end"})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "records.jsonl").write_text(text + ('{"step": 85' if torn else ""))
    return folder


def evaluate(
    folder: Path,
    model: str,
    step: int,
    clock: float,
    protocol: dict[str, Any] = PROTOCOL,
    seed: int = 0,
    lr: float = 4e-3,
    grids: bool = True,
    tiles: int = 10,
    harder: float = 1.0,
) -> dict[str, float]:
    """An evaluation's file and grid; returns its metrics."""
    fid = fid_at(model, step, seed, lr) * (1.5 if protocol["sampling_steps"] < 25 else 1.0) * harder
    metrics = {
        "fid": fid,
        "fid_heldout": fid + 9.0,
        "fid_pixels": fid / 10,
        "fid_pixels_heldout": fid / 10 + 1.0,
        "heldout_loss": 0.3 + 1.5 / step**0.5,
    }
    if protocol["features"].startswith("inception"):  # guidance buys precision with recall, and too much is too much
        scale = protocol["guidance_scale"]
        metrics["fid"] = fid = 2.0 + (fid - 2.0) * np.exp(-2.2 * (scale - 1)) + 6 * (scale - 1) ** 2
        metrics["inception_score"] = 900 / (fid + 6) + 220 * (scale - 1)
        metrics |= {"precision": 0.9 - 0.25 / scale**2, "recall": 0.75 - 0.2 * scale**0.8 + 1 / (fid + 30)}
    stem = folder / "evaluations" / f"step-{step:08d}-{protocol_id(protocol)}"
    if grids:
        picture(step, tiles).save(f"{stem}.png")
    content = {
        "step": step,
        "time": clock,
        "protocol_id": protocol_id(protocol),
        "protocol": protocol,
        "metrics": metrics,
        "heldout_loss_bins": [0.1] * 10,
        "floor": {"fid": FLOOR * harder, "fid_sd": 0.3, "fid_pixels": 0.4, "fid_heldout_against_train": 5.0},
        "grid": {"columns": tiles, "rows": tiles},
        "seconds": 12.0,
    }
    Path(f"{stem}.json").write_text(json.dumps(content))
    return metrics


def picture(step: int, tiles: int, side: int = 8) -> Image.Image:
    """tiles x tiles blobs, less noisy as the steps go up, without gaps."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    rows = []
    for _ in range(tiles):
        row = []
        for column in range(tiles):
            angle = 2 * np.pi * column / tiles
            blob = np.hypot(x - 3.5 - 1.5 * np.cos(angle), y - 3.5 - 1.5 * np.sin(angle))
            ring = np.exp(-((blob - 2.0) ** 2)) * 255
            noise = random.uniform(0, 255, (side, side))
            share = min(1.0, step / 800)
            row.append(share * ring + (1 - share) * noise)
        rows.append(np.concatenate(row, 1))
    return Image.fromarray(np.concatenate(rows, 0).astype(np.uint8))


def make_study(
    runs_dir: Path,
    folders: Sequence[Path],
    name: str = "demo",
    *,
    budgets: Sequence[int] = (100, 200, 400, 800),
    protocol: dict[str, Any] = PROTOCOL,
    created: float = START,
    more: bool = False,
) -> None:
    (runs_dir / "studies").mkdir(parents=True, exist_ok=True)
    content = {
        "name": name,
        "created": created,
        "updated": created,
        "revision": "abc1234",
        "command": ["python", "train.py", "-m", "+sweeps=demo", f"study={name}"],
        "protocol_id": protocol_id(protocol),
        "protocol": protocol,
        "requests": [
            {
                "run": folder.name,
                "id": json.loads((folder / "run.json").read_text())["id"],
                "budgets": list(budgets),
                "protocol_id": protocol_id(protocol),
            }
            for folder in folders
        ],
    }
    path = runs_dir / "studies" / f"{name}.json"
    if more and path.exists():  # another command of the same study, as fcdm.jobs.job joins them
        content["requests"] = json.loads(path.read_text())["requests"] + content["requests"]
    path.write_text(json.dumps(content))


def make_two_resolutions(runs_dir: Path, budgets: Sequence[int] = (100, 200, 400, 800)) -> Path:
    """A study of the sizes N and M of both families at 8 and at 16 px, where every FID is four times as high."""
    made = [
        make_run(runs_dir, model, budgets=budgets, grids=False, resolution=side) for side in (8, 16) for model in MODELS
    ]
    make_study(runs_dir, made, budgets=budgets)
    return runs_dir
