"""An evaluation's protocol: everything that a number such as a FID depends on besides the checkpoint.

It is written beside every result, and its id names the evaluation's file; so evaluating twice gives the same
record and no second one, and results of different protocols cannot be mixed unnoticed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fcdm.codecs.vae_files import vae_identity
from fcdm.config.ema_profiles import power_length, weights_text
from fcdm.config.samplers import ADAPTIVE
from fcdm.config.schema import NEVER, RUNTIME_EVALUATION, Config
from fcdm.config.user_code import FEATURES, code_of
from fcdm.errors import UserError
from fcdm.features.find_reference import reference_identity, refuse_other_statistics
from fcdm.features.space import asked_space, compared_with
from fcdm.runs.find_weights import PINNED, find_weights
from fcdm.runs.identity import short_hash
from fcdm.runs.kept_source import with_source

# How generated and real images become bytes before any feature is taken (DiT's and ADM's rule).
ROUNDING = "truncate-uint8"

TRAINED_ONLY = "trained"
"""In the place of a protocol's id where a budget is trained, and evaluated by nobody (`evaluation.where=never`)."""

INTRODUCED: dict[str, Any] = {
    "guidance_interval": None,
    "atol": 1e-6,
    "rtol": 1e-3,
    "guidance_weak": None,
    "guidance_weak_weights": "ema",
    "weights_snapshots": None,
    "guidance_weak_snapshots": None,
    "loss_images": None,
}
"""Keys of later versions and the values that mean what was before them: left out, so that no protocol's id changes."""


OF_METRICS = ("features", "features_options", "features_source", "dinov2", "reference", "headline")
"""Keys of `evaluation` that say what is measured of the samples, which do not depend on them."""
OF_LOSSES = ("weights", "weights_snapshots", "samples", "loss_images", "seed", "precision")
"""All that the protocol of losses alone has (`evaluation.samples=0`)."""


@dataclass(frozen=True)
class Part:
    """What one command asks of a run: its budgets, evaluated by one protocol. The configuration is a checked one.

    The protocol is made when it is first needed, and once: it hashes files.
    """

    config: Config

    @property
    def budgets(self) -> list[int]:
        return list(self.config.steps)

    @property
    def evaluates(self) -> bool:
        """False: its budgets are done once their checkpoints are there."""
        return self.config.evaluation.where != NEVER

    @cached_property
    def protocol(self) -> dict[str, Any]:
        """{} where nothing is evaluated. Raises UserError where something that it names is not there."""
        return protocol_of(self.config) if self.evaluates else {}

    @cached_property
    def protocol_id(self) -> str:
        return protocol_id(self.protocol) if self.evaluates else TRAINED_ONLY


def budgets_of(parts: Sequence[Part]) -> list[int]:
    """All that some part asks for, in their order."""
    return sorted({step for part in parts for step in part.budgets})


def sharing_samples(parts: Sequence[Part]) -> list[list[Part]]:
    """The parts of one run in groups that are one process's work on the same samples, in their order.

    Those of a group differ in what is measured of the samples, in their budgets and in the study that asks.
    """
    groups: dict[str, list[Part]] = {}
    for part in parts:
        groups.setdefault(samples_key(part.config), []).append(part)
    return list(groups.values())


def samples_key(config: Config) -> str:
    """The same for two configurations of one run where one process draws the same samples for both."""
    unmeasured: dict[str, Any] = dict.fromkeys(OF_METRICS)
    evaluation = dataclasses.replace(config.evaluation, **unmeasured)
    return repr(dataclasses.replace(config, evaluation=evaluation, steps=[], study=""))


def protocol_of(config: Config) -> dict[str, Any]:
    """The protocol that this configuration asks for (checksums filled in)."""
    protocol = sampling_protocol(config)
    if config.evaluation.samples == 0:
        return protocol
    protocol["features"] = _extractor(config)
    protocol["reference"] = _reference(config)
    if config.evaluation.features == "inception" and config.evaluation.labels == "balanced":
        protocol["splits"] = "shuffled"  # in the order of the labels, before this key
    return protocol


def _extractor(config: Config) -> str:
    own = code_of(config, FEATURES)
    return with_source(own).short_id if own and not own.source else asked_space(config).id


def _reference(config: Config) -> str:
    """What samples are compared with: data in memory, the store's own images, or a file."""
    kind = compared_with(config)
    if kind == "reference":
        return f"{config.resolution}px@{_reference_identity(config)}"
    name = config.data.name if kind == "memory" else kind  # a store's name is free
    return f"{name}-{config.resolution}px-{config.evaluation.headline}@{(config.data.checksum or '')[:8]}"


def sampling_protocol(config: Config) -> dict[str, Any]:
    """What of the protocol the samples themselves, and the losses, depend on."""
    protocol = dataclasses.asdict(config.evaluation)
    for key in RUNTIME_EVALUATION:
        del protocol[key]
    protocol["weights"] = weights_text(protocol["weights"])
    protocol["guidance_weak_weights"] = weights_text(protocol["guidance_weak_weights"])
    if protocol["guidance_weak"] is None or protocol["guidance_scale"] == 1.0:
        protocol |= {key: INTRODUCED[key] for key in INTRODUCED if key.startswith("guidance_weak")}
    elif not PINNED.fullmatch(protocol["guidance_weak"]):
        protocol["guidance_weak"] = find_weights(protocol["guidance_weak"], config.runs_dir).id
    for key, made_of in (("weights", "weights_snapshots"), ("guidance_weak_weights", "guidance_weak_snapshots")):
        if power_length(protocol[key]) is None:
            protocol[made_of] = None
    if protocol["guidance_scale"] == 1.0 or protocol["guidance_channels"] == config.data.channels:
        protocol["guidance_channels"] = None  # nothing to guide, or all of it: one protocol, one id
    for key, value in INTRODUCED.items():
        if protocol[key] == value or (key in ("atol", "rtol") and protocol["sampler"] not in ADAPTIVE):
            del protocol[key]
    if protocol["guidance_scale"] == 1.0:
        protocol.pop("guidance_interval", None)
    if protocol["sampler"] in ADAPTIVE:
        protocol["sampling_steps"] = None  # it takes the steps that it needs
    protocol["rounding"] = ROUNDING
    for key in (*OF_METRICS, "decoder"):
        del protocol[key]
    if config.evaluation.samples == 0:
        return {key: value for key, value in protocol.items() if key in OF_LOSSES}
    if config.data.downsample > 1:
        protocol["decoder"] = vae_identity(decoder_of(config)).id
    return protocol


def decoder_of(config: Config) -> str:
    """The VAE that decodes samples. Raises UserError where none is named."""
    if config.evaluation.decoder is None:
        raise UserError(
            "evaluation.decoder has no value, and latents cannot be evaluated without: say ft-ema or a folder"
        )
    return config.evaluation.decoder


def reference_of(config: Config) -> Path:
    """The file of reference statistics, or the images to make them of. Raises UserError where none is named."""
    if config.evaluation.reference is None:
        raise UserError(
            "evaluation.reference has no value, and FID needs one: say "
            "evaluation.reference=VIRTUAL_imagenet256_labeled.npz (ADM's file), a folder or an .npz of real images, or "
            "what `python -m fcdm.prepare reference images=FOLDER` makes of them"
        )
    return Path(config.evaluation.reference)


def changed_since(config: Config, protocol: dict[str, Any]) -> str | None:
    """Why an evaluation by this protocol, made earlier, cannot be: reference or extractor are others by now; None: it
    can."""
    now = asked_space(config).id
    if code_of(config, FEATURES) is None and now != protocol["features"]:
        return (
            f"evaluation.features={config.evaluation.features} has changed since this command began ({now}, not "
            f"{protocol['features']}): the same command again evaluates with what is there now"
        )
    now = _reference(config)
    if now == protocol["reference"]:
        return None
    return (
        f"evaluation.reference={config.evaluation.reference} has changed since this command began ({now}, not "
        f"{protocol['reference']}): the same command again evaluates against what is there now"
    )


def _reference_identity(config: Config) -> str:
    """Of the reference file's bytes, or of the images that a reference is still to be made of."""
    try:
        path = reference_of(config)
        refuse_other_statistics(path, config.evaluation.features, lambda: asked_space(config).id)
        return reference_identity(path, config.resolution)
    except UserError as error:
        raise UserError(f"evaluation.reference={error}") from None


def protocol_id(protocol: dict[str, Any]) -> str:
    """`ddim25-1000-3f2a91bc`: sampler and steps, samples, and the hash of the whole protocol; `loss-3f2a91bc` of losses
    alone."""
    if protocol["samples"] == 0:
        return f"loss-{short_hash(protocol)}"
    return f"{protocol['sampler']}{protocol['sampling_steps'] or ''}-{protocol['samples']}-{short_hash(protocol)}"
