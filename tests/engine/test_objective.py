"""`objective=flow`, and the keys of the protocol that came with it: trained, evaluated and told apart like the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fcdm.errors import UserError
from fcdm.jobs.make_jobs import make_jobs
from tests.support.commands import TINY, Command, composed, composed_anyway, only_run, values, weights

FLOW = ("model=N", "objective=flow", *TINY, "evaluation.sampling_steps=4")


def protocol(*overrides: str) -> tuple[str, dict[str, Any]]:
    (job,) = make_jobs([composed_anyway(*overrides)])
    return job.parts[0].protocol_id, job.parts[0].protocol


def test_the_protocols_of_earlier_versions_keep_their_ids() -> None:
    """If one of these changes, every FID of every user is evaluated again."""
    assert protocol("model=N")[0] == "ddim25-1000-3781f414"
    assert protocol("model=N", "evaluation.guidance_scale=1.5", "evaluation.sampler=ddpm")[0] == "ddpm25-1000-4232d03d"


def test_what_does_not_matter_is_not_in_a_protocol() -> None:
    assert protocol("model=N", "evaluation.atol=1e-3")[0] == protocol("model=N")[0]
    assert protocol("model=N", "evaluation.guidance_interval=[0.1,0.5]")[0] == protocol("model=N")[0], "no guidance"
    guided = ("model=N", "evaluation.guidance_scale=2")
    assert protocol(*guided, "evaluation.guidance_interval=[0.1,0.5]")[0] != protocol(*guided)[0]
    adaptive = ("model=N", "objective=flow", "evaluation.sampler=dopri5")
    assert protocol(*adaptive, "evaluation.sampling_steps=9")[0] == protocol(*adaptive)[0]
    assert protocol(*adaptive, "evaluation.rtol=1e-2")[0] != protocol(*adaptive)[0]
    assert protocol(*adaptive)[0].startswith("dopri5-1000-")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["objective=flow", "evaluation.sampler=ddim"], "write euler, heun, dopri5, sde"),
        (["evaluation.sampler=heun"], "models of objective=flow, not of ddpm"),
        (["objective=flow", "diffusion.learn_sigma=true"], "diffusion.learn_sigma=true means nothing of a flow"),
        (["objective=flow", "evaluation.clip_denoised=true"], "evaluation.clip_denoised=true means nothing"),
        (["evaluation.guidance_interval=[0.9,0.1]"], "two diffusion times"),
        (["evaluation.guidance_interval=[0.1]"], "two diffusion times"),
        (["diffusion.objective=flaw"], "did you mean flow"),
    ],
)
def test_what_does_not_go_together(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said.replace("[", r"\[")):
        composed("model=N", *overrides)


def test_a_flow_is_trained_evaluated_and_resumed(fcdm: Command, tmp_path: Path) -> None:
    done = fcdm(*FLOW, "steps=[4,8]")
    assert done.returncode == 0, done.stderr
    whole = only_run(tmp_path / "runs")
    assert fcdm(*FLOW, "steps=4", "runs_dir=parts").returncode == 0
    assert fcdm(*FLOW, "steps=[4,8]", "runs_dir=parts").returncode == 0
    parts = only_run(tmp_path / "parts")
    assert parts.name == whole.name
    assert weights(parts, 8) == weights(whole, 8)
    assert values(parts) == values(whole)
    # The output has the data's channels: no variance.
    plain = fcdm("model=N", *TINY, "steps=4", "runs_dir=ddpm")
    assert plain.returncode == 0
    assert only_run(tmp_path / "ddpm").name != whole.name
    cost = json.loads((whole / "run.json").read_text())["cost"]["parameters"]
    assert cost < json.loads((only_run(tmp_path / "ddpm") / "run.json").read_text())["cost"]["parameters"]


def test_each_sampler_evaluates_the_same_weights(fcdm: Command, tmp_path: Path) -> None:
    for sampler in ("heun", "dopri5", "sde"):
        counted = [word for word in FLOW if sampler != "dopri5" or "sampling_steps" not in word]
        done = fcdm(*counted, "steps=4", f"evaluation.sampler={sampler}")
        assert done.returncode == 0, done.stderr
    evaluated = sorted((only_run(tmp_path / "runs") / "evaluations").glob("step-*.json"))
    fids = [json.loads(path.read_text())["metrics"]["fid"] for path in evaluated]
    assert all(0 < fid < 1e4 for fid in fids)
    assert len(set(fids)) == 3


def test_guidance_in_an_interval(fcdm: Command, tmp_path: Path) -> None:
    """Over all times it is guidance as such."""
    base = ("model=N", *TINY, "steps=4", "label_drop.mode=shared", "evaluation.sampling_steps=4")
    found = {}
    for name, more in {
        "none": (),
        "all": ("evaluation.guidance_scale=3",),
        "whole": ("evaluation.guidance_scale=3", "evaluation.guidance_interval=[0,1]"),
        "part": ("evaluation.guidance_scale=3", "evaluation.guidance_interval=[0.4,0.7]"),
    }.items():
        assert fcdm(*base, *more).returncode == 0
        newest = max((only_run(tmp_path / "runs") / "evaluations").glob("step-*.json"), key=lambda p: p.stat().st_mtime)
        found[name] = json.loads(newest.read_text())["metrics"]["fid_pixels"]
    assert found["whole"] == pytest.approx(found["all"], rel=1e-6)
    assert len({round(found[name], 9) for name in ("none", "all", "part")}) == 3
