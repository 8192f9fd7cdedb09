"""A run's id: what moves it, what does not, and that it never changes between versions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fcdm.config.check import check, config_from
from fcdm.config.schema import SCIENCE_KEYS
from fcdm.errors import UserError
from fcdm.jobs.make_jobs import make_jobs
from fcdm.runs import identity
from fcdm.runs.folder import check_frozen, open_run
from fcdm.runs.identity import canonical, run_id, science
from tests.support.commands import composed, composed_anyway

# The ids of version 1. If one of these changes, every run of every user is lost to its own command: a new key
# belongs into `identity.INTRODUCED` with the value it is introduced with.
GOLDEN = {
    ("model=N", "label_drop.mode=independent"): "d3f1e7a7a4504587",
    ("model=M", "seed=3", "label_drop.mode=independent"): "0793697f8ca6caa3",
    ("model=dit/N-2",): "d3d6ba1e31280cb1",
    ("model=N", "objective=flow", "label_drop.mode=independent"): "2e7829c09a4c6a90",
    ("model=dit/M-2", "optimiser.lr=1e-3"): "2c1028c51a311a6c",
    ("model=XL", "data.checksum=0123"): "a03ecde8ce04d31a",
    ("model=dit/XL-2", "resolution=512", "data.checksum=0123"): "c8a4fda59bb007f7",
    ("model=N", "model.channel_attention=true", "label_drop.mode=independent"): "68c39254906af13c",
}


def id_of(*overrides: str) -> str:
    config = composed_anyway(*overrides)  # earlier versions took mirrored digits
    if config.data.checksum is None:
        (job,) = make_jobs([config])
        return job.id
    return run_id(science(config))


@pytest.mark.parametrize("overrides", list(GOLDEN))
def test_ids_never_change(overrides: tuple[str, ...]) -> None:
    assert id_of(*overrides)[:16] == GOLDEN[overrides]


@pytest.mark.parametrize(
    "override",
    [
        "device=cpu",
        "threads=3",
        "micro_batch=8",
        "compile=true",
        "deterministic=false",
        "log_every=7",
        "checkpoint.keep=9",
        "runs_dir=elsewhere",
        "study=other",
        "steps=7",
        "evaluation.samples=77",
        "evaluation.sampler=ddpm",
        "model.name=renamed",
        "activation_checkpointing=true",
        "optimiser.lr=0.0080",
    ],
)
def test_runtime_and_request_do_not_move_the_id(override: str) -> None:
    assert id_of("model=N", override) == id_of("model=N")


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "model.width=20",
        "model.kernel_size=5",
        "model.grn=false",
        "model.channel_attention=true",
        "model.feed_forward=true",
        "model.expansion=4",
        "batch_size=64",
        "precision=bf16",
        "optimiser.lr=1e-3",
        "optimiser.weight_decay=0.1",
        "optimiser.warmup_steps=5",
        "ema.decay=0.999",
        "ema.rampup=null",
        "resolution=16",
        "data.flip=random",
        "diffusion.learn_sigma=false",
        "label_drop.mode=independent",
        "label_drop.probability=0.2",
    ],
)
def test_science_moves_the_id(override: str) -> None:
    assert id_of("model=N", override) != id_of("model=N")


def test_where_channels_attend_moves_the_id_and_match_macs_does_not() -> None:
    attends = ("model=N", "model.channel_attention=true")
    assert id_of(*attends, "model.channel_attention_on=hidden") == id_of(*attends)
    assert id_of(*attends, "model.channel_attention_on=depthwise") != id_of(*attends)
    (key,) = [key for key in identity.NOT_IDENTITY if key.endswith("match_macs")]
    assert key not in identity.identifying(science(composed("model=N")))


@pytest.mark.parametrize("model", ["dit/N-2", "dit/M-2"])
def test_a_recipe_that_shares_the_mask_leaves_the_ids_of_one_embedder(model: str) -> None:
    config = composed(f"model={model}")
    assert config.label_drop.mode == "independent"  # as before there was a recipe that says `shared`
    assert composed("model=N").label_drop.mode == "shared"
    assert composed("model=N", "label_drop.probability=0").label_drop.mode == "independent"


def test_every_science_key_is_in_the_canonical_form() -> None:
    kept = json.loads(canonical(science(composed("model=N"))))
    flat = set(identity.flatten(science(composed("model=N"))))
    assert flat - set(kept) == {*identity.NOT_IDENTITY, *identity.INTRODUCED}, "all of them at their first values"
    introduced = set(identity.INTRODUCED)
    assert {key.split(".")[0] for key in kept} == {*SCIENCE_KEYS, "schema"} - introduced


def test_a_key_of_a_later_version_is_left_out_at_its_introduction_value(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before: dict[str, Any] = science(make_jobs([composed("model=N")])[0].config)
    after = {**before, "optimiser": {**before["optimiser"], "momentum": "none"}}
    assert run_id(after) != run_id(before)
    monkeypatch.setitem(identity.INTRODUCED, "optimiser.momentum", "none")
    assert run_id(after) == run_id(before)
    # and the folder that an older version made is still the run's.
    (job,) = make_jobs([composed("model=N", f"runs_dir={tmp_path}")])
    check_frozen(open_run(job.config).folder, after)
    after["optimiser"]["momentum"] = "some"
    assert run_id(after) != run_id(before)


def test_the_frozen_config_has_the_same_id_when_read_back(tmp_path: Path) -> None:
    (job,) = make_jobs([composed("model=N", f"runs_dir={tmp_path}", "optimiser.lr=1e-05")])
    run = open_run(job.config)
    assert run_id(yaml.safe_load((run.folder / "config.yaml").read_text())) == job.id == run.id


def test_a_run_is_found_under_another_readable_name(tmp_path: Path) -> None:
    (job,) = make_jobs([composed("model=N", f"runs_dir={tmp_path}")])
    first = open_run(job.config)
    (other,) = make_jobs([composed("model=N", f"runs_dir={tmp_path}", "model.name=mine")])
    assert open_run(other.config).folder == first.folder


def test_jobs_join_budgets_and_keep_protocols_apart() -> None:
    jobs = make_jobs(
        [
            composed("model=N", "steps=100"),
            composed("model=N", "steps=[50,200]"),
            composed("model=N", "steps=100", "evaluation.samples=50"),
            composed("model=M", "steps=100"),
        ]
    )
    assert [[part.budgets for part in job.parts] for job in jobs] == [[[50, 100, 200], [100]], [[100]]]
    assert jobs[0].budgets == [50, 100, 200]


def test_a_config_survives_plain_dictionaries() -> None:
    for model in ("XL", "dit/XL-2"):
        config = composed(f"model={model}")
        assert config_from(dataclasses.asdict(config)) == config


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("optimiser.betas", [0.9], "two numbers"),
        ("diffusion.beta_end", 1e-5, "the noise must grow"),
        ("evaluation.guidance_channels", 5, "1 channels"),
        ("optimiser.lr", float("nan"), "optimiser.lr"),
        ("seed", -1, "at least 0"),
        ("ema.rampup", 0.0, "more than 0"),
    ],
)
def test_values_that_cannot_be_are_named(key: str, value: Any, says: str) -> None:
    config = composed("model=N")
    *path, last = key.split(".")
    owner: Any = config
    for name in path:
        owner = getattr(owner, name)
    setattr(owner, last, value)
    with pytest.raises(UserError, match=says):
        check(config)
