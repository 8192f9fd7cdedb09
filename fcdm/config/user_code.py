"""What a user brings of their own: five kinds of code, each a target, its options and the hash of its source.

`model.target`, `data.target`, `diffusion.target`, `optimiser.target` are part of the run's id;
`evaluation.features=module.Class` of the protocol's. Here is what a configuration says of them, without running any.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fcdm.config.schema import Config
from fcdm.errors import UserError

OURS = ("fcdm", "hydra_plugins")


@dataclass(frozen=True)
class Kind:
    """One of the things that users may bring."""

    noun: str
    example: str
    ours: str
    """What of fcdm's own there is instead."""
    section: str
    """Of the configuration, where it is named."""
    required: tuple[str, ...] = ()
    """Keywords that it must take."""
    offered: tuple[str, ...] = ()
    """Keywords that it is given where its signature names them."""
    follows: str = "the data"
    """What these follow from, so that no option may be called so."""
    names: tuple[str, str, str] = ("target", "options", "source")

    makes: str = "run"
    """What it is another one of where the code is another."""

    @property
    def one(self) -> str:
        """`a model`, `an optimiser`"""
        return f"{'an' if self.noun[0] in 'aeiou' else 'a'} {self.noun}"

    @property
    def target(self) -> str:
        """`model.target`"""
        return f"{self.section}.{self.names[0]}"

    @property
    def options(self) -> str:
        return f"{self.section}.{self.names[1]}"

    @property
    def source(self) -> str:
        return f"{self.section}.{self.names[2]}"


MODEL = Kind(
    noun="model",
    example="my_unet.MyUNet",
    ours="its models are model=S, model=dit/S-2 ...",
    section="model",
    required=("channels", "out_channels", "side", "classes"),
    offered=("activation_checkpointing",),
    follows="the data and the objective",
)
DATA = Kind(
    noun="data set",
    example="my_data.Shapes",
    ours="its data are data=digits and stores, data.path=STORE",
    section="data",
    offered=("channels", "side", "classes"),
    follows="data.channels, resolution and data.classes",
)
OBJECTIVE = Kind(
    noun="objective",
    example="my_objective.Cosine",
    ours="its objectives are objective=ddpm and objective=flow",
    section="diffusion",
    offered=("learn_sigma",),
    follows="diffusion.learn_sigma",
)
OPTIMISER = Kind(
    noun="optimiser",
    example="my_optimiser.Lion",
    ours="without optimiser.target it is AdamW",
    section="optimiser",
    required=("lr",),
    follows="optimiser.lr",
)
FEATURES = Kind(
    noun="feature extractor",
    example="my_features.Edges",
    ours="its feature spaces have names without dots",
    section="evaluation",
    names=("features", "features_options", "features_source"),
    makes="evaluation",
)
SCIENCE = (MODEL, DATA, OBJECTIVE, OPTIMISER)
"""Part of the run's id."""
KINDS = (*SCIENCE, FEATURES)
KIND = {kind.section: kind for kind in KINDS}
OPTIONS = (*(f"{kind.options}." for kind in KINDS), "data.conditions.")
"""Below these, keys are the user's own."""


@dataclass(frozen=True)
class UserCode:
    """One piece of a user's code, as a configuration names it."""

    kind: Kind
    target: str
    """`my_unet.MyUNet`, as Python would import it from the working directory, PYTHONPATH or installed packages."""
    options: dict[str, Any]
    source: str | None
    """sha256 of its source files; null: of those that are there."""

    def __str__(self) -> str:
        """`model.target=my_unet.MyUNet`"""
        return f"{self.kind.target}={self.target}"

    @property
    def identity(self) -> str:
        """Of its source and options: 64 hex digits."""
        text = json.dumps([self.target, self.options, self.source], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def short_id(self) -> str:
        """`my_features.Edges@3f2a91bc`: how a protocol names an extractor."""
        return f"{self.target}@{self.identity[:8]}"


def codes_of(config: Config, kinds: tuple[Kind, ...] = KINDS) -> Iterator[UserCode]:
    """What the configuration has of the user's own."""
    for kind in kinds:
        section: Any = getattr(config, kind.section)
        target, options, source = (getattr(section, name, None) for name in kind.names)
        if isinstance(target, str) and (kind is not FEATURES or "." in target):  # else null, or the checks refuse it
            yield UserCode(kind, target, options or {}, source)


def code_of(config: Config, kind: Kind) -> UserCode | None:
    """The user's own of one kind, or None."""
    return next(codes_of(config, (kind,)), None)


def with_code(config: Config, code: UserCode) -> Config:
    """The configuration with this code in its place."""
    values = dict(zip(code.kind.names, (code.target, code.options, code.source), strict=True))
    section = dataclasses.replace(getattr(config, code.kind.section), **values)
    return dataclasses.replace(config, **{code.kind.section: section})


def dotted(target: str, kind: Kind = MODEL) -> str:
    """A target in its one spelling: `my_unet:MyUNet` is `my_unet.MyUNet`. Raises UserError."""
    name = target.replace(":", ".", 1)
    parts = name.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        file, _, attribute = kind.example.partition(".")
        raise UserError(
            f"{kind.target}={target} names no {kind.noun}: say module.Class, such as {kind.example} for the class "
            f"{attribute} in {file}.py"
        )
    if parts[0] in OURS:
        raise UserError(f"{kind.target}={target}: {parts[0]} is fcdm's own; {kind.ours}")
    return name


def check_code(code: UserCode) -> None:
    """Raise UserError for a target or an option that cannot be."""
    dotted(code.target, code.kind)
    key = code.kind.options
    for name, value in code.options.items():
        if not str(name).isidentifier():
            raise UserError(f"{key}.{name}: no name that Python could take as a keyword")
        if name in (*code.kind.required, *code.kind.offered):
            other = name if name == "activation_checkpointing" else code.kind.follows
            raise UserError(f"{key}.{name} cannot be set: it follows from {other}")
        _check_value(f"{key}.{name}", value)


def _check_value(key: str, value: Any) -> None:
    """Plain values only: they are part of an id."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str) or "." in name:
                raise UserError(f"{key}: {name!r} cannot be a key: keys of a mapping are texts without dots")
            _check_value(f"{key}.{name}", inner)
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            _check_value(f"{key}[{at}]", inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{key}={value} cannot be: a number must be finite")
    elif not (value is None or isinstance(value, str | int | float)):
        raise UserError(f"{key}={value!r} is no plain value: numbers, texts, true, false, null, lists and mappings")
