"""What goes together with a user's own code, and what does not. Without running any."""

from __future__ import annotations

from fcdm.config.samplers import CUSTOM
from fcdm.config.schema import Config, CustomConfig
from fcdm.config.user_code import DATA, FEATURES, KINDS, check_code, code_of, codes_of
from fcdm.errors import UserError


def check_own(config: Config) -> None:
    """Raise UserError for the first that cannot be, or has no effect."""
    _check_codes(config)
    objective, target = config.diffusion.objective, config.diffusion.target
    if objective == CUSTOM and target is None:
        raise UserError("objective=custom is one of your own: say which, diffusion.target=my_objective.Cosine")
    if objective != CUSTOM and target is not None:
        raise UserError(
            f"diffusion.target={target} has no effect at diffusion.objective={objective}: say objective=custom too, or "
            "leave it away"
        )
    if code_of(config, DATA) is not None:
        _check_own_data(config)
    features, reference = config.evaluation.features, config.evaluation.reference
    if code_of(config, FEATURES) is not None and config.data.downsample > 1 and reference is None:
        raise UserError(
            f"evaluation.features={features}: of latents no images are here to compare with: say evaluation.reference= "
            "too, a folder or an .npz of real images"
        )
    _check_conditions(config)


def _check_codes(config: Config) -> None:
    """Raise UserError for a target or an option that cannot be, and for options of nothing."""
    for code in codes_of(config):
        check_code(code)
    for kind in KINDS:
        options = getattr(getattr(config, kind.section), kind.names[1], None)
        if options and code_of(config, kind) is None:
            raise UserError(
                f"{kind.options}.{next(iter(options))} has no effect without {kind.one} of your own: say "
                f"{kind.target}={kind.example} too, or leave it away"
            )


def _check_own_data(config: Config) -> None:
    """Raise UserError for what does not go with a data set of the user's own."""
    data, features = config.data, config.evaluation.features
    if data.name == "digits":
        raise UserError(f"data.name=digits is the bundled digits' name: give data.target={data.target} one of its own")
    if data.path is not None:
        raise UserError(f"data.target={data.target} and data.path={data.path} are two data sets: say one of them")
    if data.downsample != 1:
        raise UserError(f"data.downsample={data.downsample}: images of data.target={data.target} are pixels: say 1")
    if features == "classifier":
        raise UserError(
            "evaluation.features=classifier is trained on images that a store sets aside, and a data set of your own "
            "has none: say evaluation.features=pixels, inception, dinov2 or an extractor of your own"
        )
    if data.conditions and data.flip != "none":
        raise UserError(
            f"data.flip={data.flip}: what data.conditions says of a mirrored image nobody knows: say data.flip=none, "
            "and let the data set hold mirrored images with conditions of their own"
        )


def _check_conditions(config: Config) -> None:
    """Raise UserError where nobody gives or takes `data.conditions`."""
    for name, shape in config.data.conditions.items():
        key = f"data.conditions.{name}"
        if config.data.target is None:
            raise UserError(f"{key}: only a data set of your own gives conditions: say data.target=my_data.shapes too")
        if not isinstance(config.model, CustomConfig):
            raise UserError(
                f"{key}: model={config.model.name} takes no conditions, only a model of your own does: leave it away "
                "here, and out of what the data set gives"
            )
        if not name.isidentifier() or name in ("x", "t", "labels", "self"):
            raise UserError(f"{key}: no name of a keyword that the model could take beside x, t and labels")
        if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
            raise UserError(f"{key}={shape}: the shape of one image's, such as [3] or [1,16,16]; [] is one number")
