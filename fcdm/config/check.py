"""From a composed Hydra configuration to a `Config` that is known to make sense, or one line that says why not."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import re
from collections.abc import Collection, Iterator
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from fcdm.config.conditions import check_labels, settle
from fcdm.config.ema_profiles import check_averages
from fcdm.config.fast_config import NotExact, exactly
from fcdm.config.keys import config_keys
from fcdm.config.model_checks import check_model
from fcdm.config.own_checks import check_own
from fcdm.config.said import NOTHING, Said
from fcdm.config.samplers import CUSTOM, SAMPLERS
from fcdm.config.schema import FAMILIES, HEADLINES, HELDOUT, PRECISIONS, Config, DataConfig
from fcdm.config.spaces import OF_DIGITS, SPACES
from fcdm.config.texts import refuse_secrets, settle_texts
from fcdm.config.user_code import OPTIONS, codes_of
from fcdm.errors import UserError
from fcdm.paths import place

CHOICES: dict[str, tuple[str, ...]] = {
    "data.flip": ("none", "random", "frozen"),
    "data.latents": ("posterior", "frozen"),
    "data.normalisation": ("scalar", "channel"),
    "precision": PRECISIONS,
    "label_drop.mode": ("independent", "shared"),
    "optimiser.schedule": ("constant", "inverse_sqrt"),
    "optimiser.lr_rule": ("constant", "width"),
    "batch_rule": ("constant", "width"),
    "diffusion.objective": (*SAMPLERS, CUSTOM),
    "evaluation.sampler": tuple(name for names in SAMPLERS.values() for name in names),
    "evaluation.labels": ("uniform", "balanced"),
    "init_from_weights": ("ema", "raw"),
    "evaluation.where": ("inline", "job"),
    "evaluation.precision": PRECISIONS,
    "evaluation.features": SPACES,
    "evaluation.headline": HEADLINES,
}

FREE = ("grids.", *OPTIONS)
"""Below these, keys are the user's own."""

RESOURCES: dict[str, tuple[float, bool, float]] = {
    "gpus": (0, True, 4096),
    "nodes": (1, True, 1024),
    "hours": (0, False, 10_000),
    "mem_gb": (0, True, 100_000),
    "cpus": (1, True, 4096),
}

# key: (lowest value, whether that value itself is allowed, highest value)
BOUNDS: dict[str, tuple[float, bool, float]] = {
    "resolution": (1, True, 16384),
    "data.channels": (1, True, 4096),
    "data.classes": (1, True, 2**31 - 2),
    "data.downsample": (1, True, 1024),
    "batch_size": (1, True, 2**20),
    "seed": (0, True, 2**63 - 1),
    "micro_batch": (1, True, 2**20),
    "threads": (1, True, 4096),
    "log_every": (1, True, math.inf),
    "diffusion.timesteps": (2, True, 100_000),
    "diffusion.beta_start": (0, False, 1),
    "diffusion.beta_end": (0, False, 1),
    "label_drop.probability": (0, True, 1),
    "optimiser.lr": (0, False, math.inf),
    "optimiser.weight_decay": (0, True, math.inf),
    "optimiser.warmup_steps": (0, True, math.inf),
    "optimiser.lr_power": (-4, True, 4),
    "batch_power": (-4, True, 4),
    "optimiser.decay_from": (1, True, math.inf),
    "optimiser.clip_grad_norm": (0, False, math.inf),
    "ema.decay": (0, True, 1),
    "ema.rampup": (0, False, 1),
    "evaluation.sampling_steps": (2, True, 100_000),
    "evaluation.guidance_scale": (0, True, math.inf),
    "evaluation.guidance_channels": (1, True, math.inf),
    "evaluation.atol": (0, False, 1),
    "evaluation.rtol": (0, False, 1),
    "evaluation.samples": (0, True, math.inf),
    "evaluation.loss_images": (1, True, math.inf),
    "evaluation.seed": (0, True, 2**63 - 1),
    "evaluation.batch_size": (1, True, 2**20),
    **{f"{prefix}resources.{key}": bound for prefix in ("", "evaluation.") for key, bound in RESOURCES.items()},
    "checkpoint.every_minutes": (0, False, math.inf),
    "checkpoint.every_steps": (1, True, math.inf),
    "checkpoint.keep": (1, True, math.inf),
    "power_ema.every": (1, True, math.inf),
}


def checked(composed: DictConfig, said: Said = NOTHING) -> Config:
    """The composed configuration, as one that makes sense; said: by the user. Raises UserError with one line."""
    config = typed(composed, said)
    check_asked(config)
    return config


def typed(composed: DictConfig, said: Said = NOTHING) -> Config:
    """The composed configuration as a `Config`, of whatever values. Raises UserError with one line."""
    ours = composed
    if "hydra" in composed:
        ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    try:
        values = OmegaConf.to_container(ours, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} has no value: say {error.full_key}=...") from None
    except OmegaConfBaseException as error:
        raise UserError(first_line(error)) from None
    assert isinstance(values, dict)
    plain = {str(key): value for key, value in values.items()}
    known = known_keys()
    for key, _ in walk(plain):
        if key not in known and not key.startswith(FREE):
            raise UserError(unknown_key(key, known))
    config = settle(config_from(plain), said)
    _check_name("data.name", config.data.name)  # not of frozen runs, whose folders are there
    for code in codes_of(config):
        refuse_secrets(code.options, code.kind.options, code.kind.one)
    return config


def config_from(values: dict[str, Any]) -> Config:
    """A typed `Config` from plain nested dictionaries. Raises UserError for a value of the wrong type."""
    family = values["model"]["family"]
    if family not in FAMILIES:
        raise UserError(f"model.family={family} is not known: {near(str(family), tuple(FAMILIES))}")
    with contextlib.suppress(NotExact):
        return exactly(Config, values)
    try:
        typed = OmegaConf.structured(Config)
        typed.model = OmegaConf.structured(FAMILIES[family])
        config = OmegaConf.to_object(OmegaConf.merge(typed, values))
    except OmegaConfBaseException as error:
        raise UserError(first_line(error)) from None
    assert isinstance(config, Config)
    return config


def check(config: Config) -> None:
    """Raise UserError for the first value that cannot be right; `steps` becomes the sorted list of its budgets, and
    texts become what is meant by them (`fcdm.config.texts`)."""
    check_values(config)
    settle_texts(config)
    config.steps = _budgets(config.steps)
    _check_name("study", config.study)
    _check_resources(config)
    _check_sampling(config)
    check_averages(config)
    check_own(config)
    if not config.runs_dir.strip():
        raise UserError("runs_dir is empty: say runs_dir=runs")
    if len(config.optimiser.betas) != 2 or not all(0 <= beta < 1 for beta in config.optimiser.betas):
        raise UserError(f"optimiser.betas={config.optimiser.betas} cannot be: two numbers in [0, 1)")
    _check_schedule(config)
    if config.diffusion.beta_end < config.diffusion.beta_start:
        raise UserError("diffusion.beta_end is below diffusion.beta_start: the noise must grow")
    if config.diffusion.objective == "ddpm" and config.evaluation.sampling_steps > config.diffusion.timesteps:
        raise UserError(
            f"evaluation.sampling_steps={config.evaluation.sampling_steps} is more than the "
            f"{config.diffusion.timesteps} steps of the diffusion (diffusion.timesteps)"
        )
    channels = config.evaluation.guidance_channels
    if channels is not None and channels > config.data.channels:
        raise UserError(
            f"evaluation.guidance_channels={channels}, but the data has {config.data.channels} channels"
            " (null guides all of them)"
        )
    if config.resolution % config.data.downsample:
        raise UserError(
            f"resolution={config.resolution} is not a multiple of {config.data.downsample}, the side in pixels "
            f"of one latent of {config.data.name}"
        )
    if config.data.name == "digits" and config.data.path is not None:
        raise UserError(
            f"data.name=digits is the bundled digits' name, and data.path={config.data.path} is other data: leave one "
            "of the two away"
        )
    features = config.evaluation.features
    own_extractor = "." in str(features)
    if config.data.name == "digits" and features not in OF_DIGITS and not own_extractor:
        raise UserError(f"evaluation.features={features} does not fit data=digits: use {' or '.join(OF_DIGITS)}")
    of_pixels = config.data.downsample == 1
    if config.data.name != "digits" and features == "digits-cnn":
        instead = "classifier" if of_pixels else "inception"
        raise UserError(f"evaluation.features=digits-cnn knows the digits alone (as recipe=digits does): use {instead}")
    if features in ("pixels", "classifier") and not of_pixels:
        if config.data.path is not None and not place(config.data.path).exists():  # then nobody knows what it holds
            raise UserError(
                f"no store at data.path={config.data.path}, and evaluation.features={features} is of stores of pixels: "
                f"`python -m fcdm.prepare images images=<folder> resolution=32 out={config.data.path}` makes one"
            )
        raise UserError(f"evaluation.features={features} is of data of pixels, and these are latents: use inception")
    check_model_fits(config)


def check_model_fits(config: Config) -> None:
    """Raise UserError where the model cannot be built for the data at this resolution."""
    check_model(
        config.model,
        config.resolution // config.data.downsample,
        config.resolution,
        config.data.downsample,
        _of_store(config.data),
    )


def _of_store(data: DataConfig) -> str:
    """How a store of another resolution is made; nothing where the data are bundled, or come of a user's own code."""
    if data.path is None or data.target is not None:
        return ""
    return f", by making a store of it: python -m fcdm.prepare {'images' if data.downsample == 1 else 'latents'} ..."


def check_asked(config: Config) -> None:
    """As `check`, and that no sample is asked of a label that is never trained; not of frozen configurations."""
    check(config)
    check_labels(config)


def check_values(config: Config) -> None:
    """Raise UserError for the first value that is right in no configuration: no known choice, out of bounds."""
    values = dict(walk(dataclasses.asdict(config)))
    for key, choices in CHOICES.items():
        if values[key] not in choices and not _is_own(key, values):
            raise UserError(f"{key}={values[key]} is not known: {near(str(values[key]), choices)}")
    for key, (low, inclusive, high) in BOUNDS.items():
        value = values[key]
        if value is None:
            continue
        if not math.isfinite(value) or value > high or value < low or (value == low and not inclusive):
            wanted = f"{'at least' if inclusive else 'more than'} {low}"
            if math.isfinite(high):
                wanted += f" and at most {high}"
            raise UserError(f"{key}={value} cannot be: it must be {wanted}")


def _is_own(key: str, values: dict[str, Any]) -> bool:
    """Whether the value is a name of the user's own code, and so none of our choices."""
    if key == "evaluation.sampler":
        return bool(values["diffusion.objective"] == CUSTOM)
    return key == "evaluation.features" and isinstance(values[key], str) and "." in values[key]


def _check_sampling(config: Config) -> None:
    objective, evaluation = config.diffusion.objective, config.evaluation
    if evaluation.samples == 1:
        raise UserError("evaluation.samples=1 cannot be: at least 2, or 0 for the losses of held-out images alone")
    by_heldout = evaluation.headline == HELDOUT and evaluation.samples > 0
    if by_heldout and not (config.data.downsample == 1 and evaluation.reference is None):
        why = "a reference has no held-out part" if evaluation.reference else "that is of stores of pixels"
        raise UserError(f"evaluation.headline=heldout cannot be: {why}; leave it away")
    if by_heldout and config.data.name == "digits":
        raise UserError(
            "evaluation.headline=heldout cannot be: of the digits both distances are told, fid_heldout beside fid; "
            "leave it away"
        )
    if objective != CUSTOM and evaluation.sampler not in SAMPLERS[objective]:
        other = next(name for name, samplers in SAMPLERS.items() if evaluation.sampler in samplers)
        raise UserError(
            f"evaluation.sampler={evaluation.sampler} samples models of objective={other}, not of {objective}: "
            f"write {', '.join(SAMPLERS[objective])}"
        )
    if objective == "flow" and (config.diffusion.learn_sigma or evaluation.clip_denoised):
        key = "diffusion.learn_sigma" if config.diffusion.learn_sigma else "evaluation.clip_denoised"
        raise UserError(f"{key}=true means nothing of a flow: say objective=flow, which turns it off")
    if evaluation.guidance_weak is not None and evaluation.guidance_scale != 1.0 and evaluation.guidance_channels:
        raise UserError(
            f"evaluation.guidance_channels={evaluation.guidance_channels} belongs to classifier-free guidance; a "
            "weaker model guides all channels: say evaluation.guidance_channels=null"
        )
    interval = evaluation.guidance_interval
    if interval is not None and not (len(interval) == 2 and 0 <= interval[0] < interval[1] <= 1):
        raise UserError(
            f"evaluation.guidance_interval={interval} cannot be: two diffusion times from 0 (data) to 1 (noise), "
            "such as '[0.1,0.8]', or null"
        )


def _check_schedule(config: Config) -> None:
    asked = config.optimiser
    if asked.schedule == "constant":
        return
    if asked.decay_from is None:
        raise UserError(
            "optimiser.schedule=inverse_sqrt needs the step from which the rate falls: say optimiser.decay_from=10000"
        )
    if asked.decay_from < asked.warmup_steps:
        raise UserError(
            f"optimiser.decay_from={asked.decay_from} is before the end of the warm-up "
            f"(optimiser.warmup_steps={asked.warmup_steps}): the rate would fall before it has risen"
        )


def _check_resources(config: Config) -> None:
    for key, resources in (("resources", config.resources), ("evaluation.resources", config.evaluation.resources)):
        if resources.gpus % resources.nodes:
            raise UserError(
                f"{key}.gpus={resources.gpus} does not divide over {key}.nodes={resources.nodes}: gpus counts those "
                "of the whole job"
            )


def _check_name(key: str, name: str) -> None:
    if not re.fullmatch(r"[^\W_][\w.-]*", name):
        raise UserError(f"{key}={name!r} is no name for a file: letters, digits, dots, - and _ only")


def _budgets(steps: Any) -> list[int]:
    """`steps` as typed (a number or a list) as sorted, distinct numbers of steps. Raises UserError."""
    values = list(steps) if isinstance(steps, list | tuple) else [steps]
    if not values:
        raise UserError("steps=[] asks for nothing: say steps=1000 or 'steps=[100,1000]'")
    for value in values:
        if isinstance(value, float) and value.is_integer():
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            raise UserError(f"steps={value!r} is no number of steps: say steps=1000 or 'steps=[100,1000]'")
    numbers = sorted({int(value) for value in values})
    if numbers[0] <= 0:
        raise UserError(f"steps={numbers[0]} cannot be: a budget is at least 1 step")
    return numbers


@cache
def known_keys() -> frozenset[str]:
    """What a command line may set: keys and groups."""
    return frozenset(
        {*config_keys(), "model", "data", "recipe", "objective", "ema", "sweeps", "slurm", "evaluation", "resources"}
    )


def unknown_key(key: str, known: Collection[str]) -> str:
    """`unknown key 'btach_size': did you mean batch_size?`"""
    last = key.rsplit(".", 1)[-1]
    found = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    found = found or [name for name in known if difflib.get_close_matches(last, [name.rsplit(".", 1)[-1]], 1, 0.75)]
    hint = f"did you mean {found[0]}?" if found else "python -m fcdm.train --help lists the keys"
    return f"unknown key '{key}': {hint}"


def near(value: str, choices: Collection[str], shown: int = 24) -> str:
    """`did you mean X? (known: ...)`, or `say one of ...`, for a value that is none of the choices."""
    found = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
    listed = ", ".join(sorted(choices)[:shown])
    return f"did you mean {found[0]}? (known: {listed})" if found else f"say one of {listed}"


def first_line(error: BaseException) -> str:
    """The first line of an OmegaConf message, with the key it is about."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = getattr(error, "full_key", None)
    text = lines[0] if lines else type(error).__name__
    return f"{key}: {text}" if key and key not in text else text


def walk(container: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in nested dictionaries; an empty one is a value."""
    for key, value in container.items():
        if isinstance(value, dict) and value:
            yield from walk(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
