"""Constants of the recipes that hold only under their own conditions: where those are not met, the neutral value does.

What the user says stays, and is refused by the checks where it cannot be.
"""

from __future__ import annotations

from fcdm.config import when
from fcdm.config.said import Said
from fcdm.config.schema import Config, LabelDropConfig
from fcdm.errors import UserError

PUBLIC_GUIDED, PUBLIC_CHANNELS = 3, 4
"""The public codes guide 3 of the 4 latent channels of their VAEs: of the paper's recipe."""


def settle(config: Config, said: Said) -> Config:
    """The configuration, changed in place where a constant that nobody said does not hold."""
    asked = config.evaluation
    by_weak = asked.guidance_weak is not None and asked.guidance_scale != 1.0  # which guides all channels
    if (
        asked.guidance_channels == PUBLIC_GUIDED
        and "evaluation.guidance_channels" not in said.keys
        and (by_weak or config.data.channels != PUBLIC_CHANNELS)
    ):
        asked.guidance_channels = None
    # Of one embedder, or where nothing is dropped, both modes are one: they must not make two runs of it.
    meant = when.SEVERAL_EMBEDDERS.holds(config.model.family) and when.DROPS.holds(config.label_drop.probability)
    if not meant:
        config.label_drop.mode = LabelDropConfig.mode
    return config


def check_labels(config: Config, label: int | None = None) -> None:
    """Raise UserError where samples are asked of a label that the model has never been trained with.

    label: all samples are of this class, the number of classes meaning the null class; None: `evaluation.labels`. A
    model that began from other weights may have learned it there.
    """
    asked, dropped = config.evaluation, config.label_drop.probability
    if config.init_from is not None:
        return
    null = label == config.data.classes
    guided = asked.guidance_scale != 1.0 and asked.guidance_weak is None
    if dropped == 0 and (guided or null):
        why = f"label={label} samples" if null else f"evaluation.guidance_scale={asked.guidance_scale:g} guides by"
        instead = f"a class from 0 to {config.data.classes - 1}" if null else "1, guide by a weaker model"
        way = "" if null else " (evaluation.guidance_weak=)"
        remedy = ", or train another run with label_drop.probability=0.1" if config.data.classes > 1 else ""
        raise UserError(
            f"label_drop.probability=0{'' if remedy else ' (of one class)'} never trains the null class, which {why}: "
            f"say {instead}{way}{remedy}"
        )
    if dropped == 1 and not null:
        raise UserError(
            "label_drop.probability=1 trains the null class alone, and samples are drawn of classes: a model without "
            "labels is trained on a store of one class, with label_drop.probability=0 "
            f"(fcdm.sample of a run draws the null class by label={config.data.classes})"
        )
