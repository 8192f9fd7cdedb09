"""The files of sweeps/: each composes and plans without data; several in one command share their runs."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from fcdm.config.presets import load_preset
from fcdm.config.schema import DiTConfig, FCDMConfig, ResourcesConfig
from fcdm.cost.model_cost import model_cost
from fcdm.jobs.job import Job
from fcdm.plan.gpus import DEFAULT_MFU, DEVICES
from fcdm.plan.make_plan import make_plan
from fcdm.plan.model import Plan
from fcdm.runs.protocol import decoder_of
from fcdm.runs.run_cost import run_cost, train_flops
from fcdm.slurm.options import PlanOptions
from tests.support.commands import TINY, Command, evaluations, records, values
from tests.support.sweep_files import NOWHERE, SWEEPS, jobs_of

FILES = sorted(path.stem for path in SWEEPS.glob("*.yaml"))
PAPER_PROTOCOL = ("ema", "ddpm", 250, False, 50_000, "uniform", "tf32", "inception")
LISTS = ("paper", "reviewers")
"""Files that name studies."""
OURS = ("isoflop",)
"""Studies on ImageNet that neither the paper nor its reviewers ask for."""
EXTENDS = {"fashion_target": "fashion", "digits_law_target": "digits_law"}
"""Files that add runs to a study that is there."""
BUDGETS: dict[str, tuple[int, int, list[int]]] = {
    "scaling_256": (8, 32, [50_000, 100_000, 200_000, 400_000]),
    "steps_256": (2, 13, [1_000_000, 7_000_000]),
    "steps_512": (2, 8, [1_000_000, 3_000_000]),
    "guidance_256": (2, 12, [2_000_000, 7_000_000]),
    "guidance_512": (2, 6, [1_000_000, 3_000_000]),
    "latents": (6, 12, [400_000]),
    "label_drop": (2, 4, [400_000]),
    "kernel": (5, 5, [200_000]),
    "block": (5, 5, [200_000]),
    "flow": (8, 8, [400_000]),
    "vae": (3, 6, [400_000]),
    "hyperparameters": (20, 40, [400_000]),
    "flop_matched": (8, 16, [400_000, 669_260, 735_294, 758_221, 788_142]),
    "precision": (12, 24, [400_000]),
    "guidance_ratio": (2, 32, [400_000]),
    "sampling_steps": (2, 24, [400_000]),
    "digits": (4, 16, [800]),
    "digits_patch": (4, 16, [800]),
    "digits_long": (4, 26, [3_200, 6_400]),
    "digits_resolution": (6, 24, [800]),
    "digits_hyperparameters": (40, 40, [800]),
    "digits_seeds": (10, 40, [800, 1_600]),
    "isoflop": (
        16,
        42,
        [
            635_495,
            665_604,
            1_128_302,
            1_075_094,
            1_609_318,
            1_610_080,
            2_847_426,
            2_829_988,
            1_349_842,
            1_396_881,
            1_008_897,
            1_029_368,
            797_762,
            806_767,
            546_962,
            548_840,
        ],
    ),
    "isoflop_digits": (10, 30, [2_672, 1_438, 829, 550, 407, 2_649, 1_458, 859, 544, 397]),
    "cooldown_digits": (
        30,
        60,
        [
            1_336,
            719,
            415,
            275,
            203,
            1_325,
            729,
            429,
            272,
            198,
            334,
            180,
            104,
            69,
            51,
            331,
            182,
            107,
            68,
            50,
            1_069,
            575,
            332,
            220,
            162,
            1_060,
            583,
            343,
            218,
            158,
        ],
    ),
    "digits_lr_by_size": (48, 96, [1_726, 431, 1_527, 395]),
    "digits_law": (20, 96, [3_600, 7_000]),
    "digits_law_target": (4, 4, [7_000]),
    "digits_law_hyperparameters": (40, 80, [1_900, 7_000]),
    "fashion": (20, 152, [4_000, 8_000]),
    "fashion_target": (4, 8, [8_000]),
    "fashion_hyperparameters": (40, 80, [500, 2_000]),
    "fashion_long": (20, 120, [1_250, 2_500, 5_000, 10_000]),
    "fashion_gpu": (10, 50, [1_000, 2_000, 4_000]),
    "fashion_quick": (2, 10, [100, 200, 400]),
}
"""Of the files named here: runs, evaluations, and (some of) the budgets: the last one of each run among them."""


def planned(jobs: list[Job]) -> Plan:
    return make_plan(jobs, PlanOptions())


def studies_of(jobs: list[Job]) -> set[str]:
    return {part.config.study for job in jobs for part in job.parts}


@pytest.mark.parametrize("name", [name for name in FILES if name not in LISTS])
def test_each_file_plans_without_data_and_is_what_it_says(name: str) -> None:
    jobs = jobs_of(name)
    assert studies_of(jobs) == {EXTENDS.get(name, name)}
    comment = " ".join(line[1:] for line in (SWEEPS / f"{name}.yaml").read_text().splitlines() if line[:1] == "#")
    said = re.search(r"(\d+) runs", comment)
    assert said is None or int(said[1]) == len(jobs), comment
    plan = planned(jobs)
    assert not NOWHERE.exists()
    assert plan.sharing is None
    for run in plan.runs:
        draws = any(part.config.evaluation.samples for part in run.job.parts)
        assert run.whole.flops["training"] > 0
        assert run.whole.flops["sampling" if draws else "metrics"] > 0
    if name in BUDGETS:
        runs, evaluated, budgets = BUDGETS[name]
        assert len(jobs) == runs
        assert sum(len(part.budgets) for job in jobs for part in job.parts if part.evaluates) == evaluated
        assert {job.budgets[-1] for job in jobs} <= set(budgets) <= {step for job in jobs for step in job.budgets}
    if jobs[0].config.data.name == "imagenet":
        for part in (part.config for job in jobs for part in job.parts):
            asked = part.evaluation
            reference = {256: "VIRTUAL_imagenet256_labeled.npz", 512: "VIRTUAL_imagenet512.npz"}[part.resolution]
            assert asked.reference == f"data/{reference}"
            protocol = (
                asked.weights, asked.sampler, asked.sampling_steps, asked.clip_denoised, asked.samples, asked.labels,
                asked.precision, asked.features,
            )  # fmt: skip
            expected = PAPER_PROTOCOL if name != "flow" else ("ema", "sde", *PAPER_PROTOCOL[2:])
            if name == "sampling_steps":
                expected = (*expected[:2], asked.sampling_steps, *expected[3:])
            assert protocol == expected
            assert part.batch_size == 256
            assert part.seed == 0 or name == "precision"
            if name not in ("guidance_256", "guidance_512", "guidance_ratio", "label_drop"):
                assert asked.guidance_scale == 1.0
        headline = jobs[0].config.evaluation
        assert (headline.guidance_scale, headline.sampling_steps) == (1.0, 250)


def test_every_issue_experiment_has_its_file() -> None:
    assert set(BUDGETS) | set(LISTS) <= set(FILES)


def test_equal_flops_are_equal() -> None:
    """Both matched budgets of each size, to the nearest step; and the MACs of the comment."""
    found = {job.config.model.name: job for job in jobs_of("flop_matched")}
    text = (SWEEPS / "flop_matched.yaml").read_text()
    for size in ("S", "B", "L", "XL"):
        fcdm, dit = found[size], found[f"dit/{size}-2"]
        for ours, theirs in zip(fcdm.budgets, dit.budgets, strict=True):
            step = run_cost(dit.config).train_flops_per_step(256)  # the larger of the two
            assert abs(train_flops(fcdm.config, ours) - train_flops(dit.config, theirs)) <= step / 2
        assert f"{run_cost(fcdm.config).forward_macs / 1e9:.5f}" in text
        assert f"{run_cost(dit.config).forward_macs / 1e9:.5f}" in text


def test_block_variants_cost_the_same_and_what_the_comment_says() -> None:
    """Table 6 adjusts the width to equal FLOPs; within half of what one step of the width makes."""
    configs = [job.config for job in jobs_of("block")]
    costs = [run_cost(config) for config in configs]
    said = re.findall(r"# width (\d+): (\d+) M(?: parameters)?, ([\d.]+) GMACs", (SWEEPS / "block.yaml").read_text())
    widths = [str(config.model.width) for config in configs]  # type: ignore[attr-defined]
    found = [(f"{cost.parameters / 1e6:.0f}", f"{cost.forward_macs / 1e9:.2f}") for cost in costs]
    assert [(width, *numbers) for width, numbers in zip(widths, found, strict=True)] == said
    for cost in costs:
        assert cost.forward_macs == pytest.approx(costs[0].forward_macs, rel=0.003)


def test_precision_differs_in_nothing_else() -> None:
    """Each float32 run has a bf16 run beside it that is the same but for the precision."""
    sciences: dict[str, list[str]] = {}
    for job in jobs_of("precision"):
        config = job.config
        rest = str(replace(config, precision="", keep_steps=[], resources=ResourcesConfig()))
        sciences.setdefault(rest, []).append(config.precision)
    assert [sorted(found) for found in sciences.values()] == [["bf16", "fp32"]] * 6


@pytest.mark.parametrize("name", ["guidance_ratio", "sampling_steps"])
def test_what_compares_two_families_drops_labels_alike(name: str) -> None:
    """The public FCDM code's three masks would be a second difference; to a DiT both modes are one."""
    modes = {job.config.model.family: job.config.label_drop.mode for job in jobs_of(name)}
    assert modes == {"fcdm": "shared", "dit": "independent"}
    assert {job.id for job in jobs_of(name)} <= {job.id for job in [*jobs_of("label_drop"), *jobs_of("scaling_256")]}


def test_patches_of_the_digits() -> None:
    models = {job.config.model.name: job.config.model for job in jobs_of("digits_patch")}
    tokens = {name: (8 // model.patch_size) ** 2 for name, model in models.items() if isinstance(model, DiTConfig)}
    assert tokens == {"dit/N-1": 64, "dit/N-2": 16, "dit/N-4": 4}
    macs = {job.config.model.name: run_cost(job.config).forward_macs for job in jobs_of("digits_patch")}
    assert f"{macs['dit/N-1'] / macs['dit/N-2']:.1f} times the MACs" in (SWEEPS / "digits_patch.yaml").read_text()


LAW_STUDIES = {
    "fashion": ({"fcdm/w24", "dit/w52"}, 4_000, 8_000, {(0, "train"), (2000, "heldout")}),
    "digits_law": ({"fcdm/w36", "dit/w84"}, 3_600, 7_000, {(1000, "train")}),
}
"""A study of laws -> its largest sizes, their last budget, that of the others, and its (samples, headline)."""


@pytest.mark.parametrize("study", LAW_STUDIES)
def test_a_study_of_laws_is_what_issue_and_comment_say(study: str) -> None:
    """Five sizes of each family in pairs, one shape a family; what is forecast is not there; at most 240,000 images."""
    jobs, text = jobs_of(study), (SWEEPS / f"{study}.yaml").read_text()
    largest, at_most, last, headlines = LAW_STUDIES[study]
    sizes: dict[str, dict[int, float]] = {"fcdm": {}, "dit": {}}
    for job in jobs:
        model, cost = job.config.model, run_cost(job.config)
        assert isinstance(model, FCDMConfig | DiTConfig)
        sizes[model.family][model.width] = cost.forward_macs / 1e6
        assert str(model.blocks if isinstance(model, FCDMConfig) else model.depth) in ("[1, 1, 2, 1, 1]", "6")
        assert f"{cost.forward_macs / 1e6:.2f}" in text
        assert f"{cost.parameters / 1e3:.0f} K" in text or f"{cost.parameters / 1e6:.2f} M" in text
        assert job.config.seed in (0, 1)
        assert max(job.budgets) * job.config.batch_size <= 240_000
        assert min(job.budgets) >= max(1000, 10 * job.config.optimiser.warmup_steps)
        assert {(part.config.evaluation.samples, part.config.evaluation.headline) for part in job.parts} == headlines
        assert job.budgets[-1] == (at_most if model.name in largest else last)
    for family in sizes.values():
        assert len(family) == 5
        macs = sorted(family.values())
        assert all(1.5 < after / before < 2.5 for before, after in pairwise(macs))
    for ours, theirs in zip(*(sorted(family.items()) for family in sizes.values()), strict=True):
        assert theirs[1] == pytest.approx(ours[1], rel=0.08)


@pytest.mark.parametrize("study", LAW_STUDIES)
def test_the_target_is_what_a_study_of_laws_leaves_out(study: str) -> None:
    """The largest size of each family at the last budget, by the study's protocols: seed 0 goes on, seed 2 is new."""
    largest, _, last, _ = LAW_STUDIES[study]
    studied, asked = ({job.id: job for job in jobs_of(name)} for name in (study, f"{study}_target"))
    assert {job.config.model.name for job in asked.values()} == largest
    assert {(job.config.seed, job.id in studied) for job in asked.values()} == {(0, True), (2, False)}
    assert all(job.budgets == [last] for job in asked.values())
    assert studies_of(list(asked.values())) == {study}
    protocols = [{part.protocol_id for job in some.values() for part in job.parts} for some in (studied, asked)]
    assert protocols[0] == protocols[1]


@pytest.mark.parametrize("study", LAW_STUDIES)
def test_a_study_of_laws_is_tuned_alike_on_seeds_of_its_own(study: str) -> None:
    trials: dict[str, set[tuple[float, int]]] = {}
    for job in jobs_of(f"{study}_hyperparameters"):
        trials.setdefault(job.config.model.name, set()).add((job.config.optimiser.lr, job.config.seed))
    assert len(trials) == 4
    assert len({frozenset(tried) for tried in trials.values()}) == 1
    seeds = {seed for tried in trials.values() for _, seed in tried}
    assert seeds.isdisjoint(job.config.seed for job in jobs_of(study))
    studied = {job.config.model.name: job.config for job in jobs_of(study)}
    for job in jobs_of(f"{study}_hyperparameters"):
        theirs = studied[job.config.model.name]
        assert (theirs.model, theirs.batch_size, theirs.ema) == (
            job.config.model,
            job.config.batch_size,
            job.config.ema,
        )


def test_each_vae_is_data_of_its_own_and_decodes_its_samples() -> None:
    jobs = jobs_of("vae")
    assert [decoder_of(job.config) for job in jobs] == ["ft-ema", "ft-mse", "data/vae/eq-vae"]
    assert len({job.id for job in jobs}) == 3
    assert [run.differs for run in planned(jobs).runs][1:] == [
        "data.path=data/imagenet-256-ft-mse",
        "data.path=data/imagenet-256-eq-vae",
    ]


def test_the_whole_paper_shares_its_runs() -> None:
    named, more = (list(OmegaConf.load(SWEEPS / f"{name}.yaml").studies) for name in LISTS)
    small = ("digits", "fashion")
    imagenet = [name for name in FILES if not any(word in name for word in small) and name not in (*LISTS, *OURS)]
    assert sorted([*named, *more]) == imagenet
    jobs = jobs_of("paper")
    alone = {name: jobs_of(name) for name in named}
    assert {job.id for job in jobs} == {job.id for some in alone.values() for job in some}
    sharing = planned(jobs).sharing
    assert sharing is not None
    assert {name: amount.runs for name, amount in sharing.studies.items()} == {k: len(v) for k, v in alone.items()}
    assert sharing.alone.runs - sharing.together.runs == sharing.saved.runs > 20
    for name, some in alone.items():
        flops = sum(train_flops(job.config, job.budgets[-1]) for job in some)
        assert sharing.studies[name].training_flops == pytest.approx(flops, rel=1e-12)


def test_the_documents_numbers_are_the_plans() -> None:
    sharing, more = (planned(jobs_of(name)).sharing for name in LISTS)
    assert sharing is not None
    assert more is not None
    amounts = {**sharing.studies, "paper": sharing.together, "sum of each alone": sharing.alone}
    amounts["saved by sharing"] = sharing.saved
    amounts |= {**more.studies, "reviewers": more.together}
    beside = planned(jobs_of(f"[{OURS[0]},digits]")).sharing
    assert beside is not None
    amounts[OURS[0]] = beside.studies[OURS[0]]
    seen = set()
    for line in (SWEEPS.parent / "docs" / "experiments.md").read_text().splitlines():
        cells = [cell.strip(" *").replace(",", "") for cell in line.strip("|").split("|")]
        name = next((name for name in amounts if len(cells) == 9 and cells[0].strip("`").startswith(name)), None)
        if name is None:
            continue
        seen.add(name)
        one = amounts[name]
        assert one.gpu_hours is not None
        expected = [one.runs, one.evaluations, one.training_flops / 1e18, one.evaluation_flops / 1e18, one.gpu_hours]
        assert list(map(float, cells[2:8])) == pytest.approx([*expected, one.checkpoint_bytes / 1e9], rel=0.01), name
    assert seen == set(amounts)


# --- the command ---------------------------------------------------------------------------------------------


def write(folder: Path, name: str, text: str) -> None:
    (folder / "sweeps").mkdir(parents=True, exist_ok=True)
    (folder / "sweeps" / f"{name}.yaml").write_text(f"# @package _global_\n{text}")


def plan_of(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_two_studies_share_by_hand(fcdm: Command, tmp_path: Path) -> None:
    """FCDM-S to 400K for one and to 200K for the other, which has DiT-S/2 too: saved are S's 200K and an evaluation."""
    write(tmp_path / "mine", "first", "study: first\ngrids: [{model: S, steps: [100_000, 200_000, 400_000]}]\n")
    write(tmp_path / "mine", "second", "study: second\ngrids: [{model: [S, dit/S-2], steps: 200_000}]\n")
    write(tmp_path / "mine", "both", "studies: [first, second]\n")
    plan = ("hydra/launcher=plan", "hydra.launcher.gpu=H100")
    found = plan_of(fcdm("--config-dir=mine", "-m", "+sweeps=[first,second]", *plan, "hydra.launcher.json=true"))
    sharing = found["sharing"]
    s, dit = (model_cost(load_preset(name), channels=4, side=32, classes=1000) for name in ("S", "dit/S-2"))
    step, dit_step = 6 * s.forward_macs * 256, 6 * dit.forward_macs * 256
    assert len(found["runs"]) == 2
    first, second = sharing["studies"]["first"], sharing["studies"]["second"]
    assert (first["runs"], first["evaluations"], second["runs"], second["evaluations"]) == (1, 3, 2, 2)
    assert first["flops"]["training"] == 400_000 * step
    assert second["flops"]["training"] == 200_000 * (step + dit_step)
    assert sharing["together"]["flops"]["training"] == 400_000 * step + 200_000 * dit_step
    assert sharing["together"]["evaluations"] == 4
    assert sharing["together"]["checkpoint_bytes"] == 16 * (3 * s.parameters + dit.parameters)
    saved = sharing["saved"]
    assert (saved["runs"], saved["evaluations"], saved["checkpoint_bytes"]) == (1, 1, 16 * s.parameters)
    assert saved["flops"]["training"] == 200_000 * step
    assert saved["flops"]["sampling"] == 2 * s.forward_macs * 50_000 * 250
    h100 = DEVICES["H100"]
    precisions = {"training": "bf16", "sampling": "tf32", "decoding": "tf32", "metrics": "fp32"}
    seconds = sum(saved["flops"][kind] / h100.flops_per_s(precision) for kind, precision in precisions.items())
    assert saved["gpu_hours"] == pytest.approx(seconds / DEFAULT_MFU / 3600, rel=1e-9)
    assert saved["cpu_hours"] == 0

    shown = fcdm("--config-dir=mine", "-m", "+sweeps=first,second", *plan)
    named = fcdm("--config-dir=mine", "-m", "+sweeps=both", *plan)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == named.stdout  # a list, a choice and a file that names them mean the same
    (line,) = [line.split() for line in shown.stdout.splitlines() if "saved by sharing" in line]
    assert line[3:5] == ["1", "1"]
    assert not (tmp_path / "runs").exists()


def test_two_studies_launched_together_train_the_shared_run_once(fcdm: Command, tmp_path: Path) -> None:
    write(tmp_path / "mine", "early", "study: early\ngrids: [{model: N, steps: [2, 4]}]\n")
    write(tmp_path / "mine", "late", "study: late\nlog_every: 1\ngrids: [{model: [N, M], steps: [4, 6]}]\n")
    command = ("--config-dir=mine", "-m", "+sweeps=[early,late]", "hydra/launcher=local", *TINY)
    done = fcdm(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = {path.parent.name.split("-")[0]: path.parent for path in (tmp_path / "runs").glob("*/run.json")}
    assert set(runs) == {"N", "M"}
    asked = {}
    for name in ("early", "late"):
        study = json.loads((tmp_path / "runs" / "studies" / f"{name}.json").read_text())
        assert "+sweeps=[early,late]" in " ".join(study["command"])
        asked[name] = {request["run"].split("-")[0]: request["budgets"] for request in study["requests"]}
    assert asked == {"early": {"N": [2, 4]}, "late": {"N": [4, 6], "M": [4, 6]}}
    assert len(evaluations(runs["N"])) == 3
    assert len(evaluations(runs["M"])) == 2
    assert {step for step, _ in values(runs["N"])} >= {2, 4, 6}  # fails where a step was trained twice
    written = len(records(runs["N"]))
    again = fcdm("--config-dir=mine", "-m", "+sweeps=late", "hydra/launcher=local", *TINY)
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(records(runs["N"])) == written


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["+sweeps=[digits,digts]"], "sweeps=digts is not known: did you mean digits?"),
        (["+sweeps=digits,digts"], "sweeps=digts is not known: did you mean digits?"),
        (
            ["+sweeps=grouped"],
            "sweeps/grouped.yaml says data: digits beside its grids: a group is chosen in",
        ),
        (["+sweeps=wrong"], "sweeps/wrong.yaml says grids: and studies:"),
        (["+sweeps=lost"], "sweeps=nowhere is not known"),
    ],
)
def test_mistakes_are_one_line(fcdm: Command, tmp_path: Path, arguments: list[str], says: str) -> None:
    write(tmp_path / "mine", "wrong", "studies: [digits]\ngrids: [{model: N}]\n")
    write(tmp_path / "mine", "grouped", "data: digits\ngrids: [{model: N}]\n")
    write(tmp_path / "mine", "lost", "studies: [digits, nowhere]\n")
    done = fcdm("--config-dir=mine", "-m", *arguments, "hydra/launcher=plan")
    assert done.returncode != 0
    assert done.stdout == ""
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_file_of_studies_needs_m_and_may_name_itself(fcdm: Command, tmp_path: Path) -> None:
    write(tmp_path / "mine", "ring", "studies: [ring, digits]\n")
    alone = fcdm("--config-dir=mine", "+sweeps=ring")
    assert alone.returncode == 1
    assert "a sweep file is for a sweep" in alone.stderr
    found = plan_of(fcdm("--config-dir=mine", "-m", "+sweeps=ring", "hydra/launcher=plan", "hydra.launcher.json=true"))
    assert len(found["runs"]) == 4
    assert found["sharing"] is None
