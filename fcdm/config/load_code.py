"""Importing and calling a user's own code; whatever goes wrong is one line with their file's."""

from __future__ import annotations

import difflib
import importlib
import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from fcdm.config.code_source import CodeSource, find_source
from fcdm.config.user_code import UserCode
from fcdm.errors import UserError


def build(code: UserCode, given: dict[str, Any], *arguments: Any) -> Any:
    """What the target gives when it is called with `arguments`, with its options, and with what of `given` it takes.

    Raises UserError: the source is not there or not what the configuration was frozen with, it cannot be imported,
    takes other keywords, or raises.
    """
    source = find_source(code.target, code.kind)
    factory = load_factory(code, source)
    taken = _taken(factory, len(arguments))
    kept = {name: value for name, value in given.items() if taken is None or name in taken}
    keywords = {**kept, **code.options}
    _check_keywords(code, factory, {**given, **code.options}, taken, len(arguments))
    try:
        return factory(*arguments, **keywords)
    except Exception as error:
        refuse(code, "cannot be built", error, source)


def verify(code: UserCode) -> None:
    """Import the code and raise UserError where that does not work or it is not the code of its hash."""
    load_factory(code, find_source(code.target, code.kind))


def refuse(code: UserCode, what: str, error: BaseException, source: CodeSource | None = None) -> NoReturn:
    """Raise UserError: `model.target=my_unet.MyUNet cannot be built: KeyError: 'x' (my_unet.py:12)`."""
    if isinstance(error, UserError):
        raise error
    where = _place(error, source or find_source(code.target, code.kind))
    text = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    if len(text) > 400:
        text = f"{text[:400]} ..."
    raise UserError(f"{code} {what}: {type(error).__name__}: {text}{f' ({where})' if where else ''}") from error


def _place(error: BaseException, source: CodeSource) -> str:
    """`/home/me/my_unet.py:12`: the innermost line of the user's own on the way to the error, or nothing."""
    own = {path.resolve() for path in source.files.values()}
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).resolve() in own]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def load_factory(code: UserCode, source: CodeSource) -> Callable[..., Any]:
    """What the target names. Raises UserError."""
    if code.source is not None and source.sha256 != code.source:
        raise UserError(
            f"{code}: its code has changed ({source.file}; sha256 {source.sha256[:8]}, not {code.source[:8]}): put it "
            f"back, or give the command again: with other code it is another {code.kind.makes}"
        )
    try:
        module = importlib.import_module(source.module)
    except (Exception, SystemExit) as error:
        refuse(code, "cannot be imported", error, source)
    found = Path(getattr(module, "__file__", None) or "nowhere")
    if found.resolve() != source.file.resolve():
        raise UserError(
            f"{code}: another module of the name {source.module} is loaded already ({found}), so {source.file} needs "
            "another name"
        )
    value: Any = module
    for name in source.attribute.split("."):
        if not hasattr(value, name):
            near = difflib.get_close_matches(name, [n for n in vars(value) if not n.startswith("_")], n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"{code}: {source.file} has no {name}{hint}")
        value = getattr(value, name)
    if not callable(value):
        raise UserError(f"{code} is a {type(value).__name__}: it must be a class or a function")
    return value  # type: ignore[no-any-return]


def _parameters(factory: Callable[..., Any]) -> list[inspect.Parameter] | None:
    try:
        return list(inspect.signature(factory).parameters.values())
    except (ValueError, TypeError):
        return None  # written in C, say: then calling it tells


def _taken(factory: Callable[..., Any], positional: int) -> set[str] | None:
    """The keywords that it takes besides its first `positional` arguments; None: any, for all that is known."""
    parameters = _parameters(factory)
    if parameters is None or any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        return None
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {parameter.name for parameter in parameters[positional:] if parameter.kind in kinds}


def _check_keywords(
    code: UserCode, factory: Callable[..., Any], keywords: dict[str, Any], taken: set[str] | None, positional: int
) -> None:
    """Raise UserError where the target takes other keywords than it would be given."""
    kind, name = code.kind, code.target.rsplit(".", 1)[-1]
    for keyword in keywords:
        if taken is None or keyword in taken:
            continue
        own = sorted(taken - {*kind.required, *kind.offered})
        if keyword in kind.required:
            plural = "s" if len(kind.required) > 1 else ""
            raise UserError(
                f"{code}: {name} must take the keyword{plural} {', '.join(kind.required)}: it takes no {keyword}"
            )
        if keyword == "activation_checkpointing":
            raise UserError(f"{keyword}=true: {name} takes no keyword {keyword}, so it cannot be asked to")
        if keyword in kind.offered:
            continue
        near = difflib.get_close_matches(keyword, own, n=1, cutoff=0.6)
        hint = f"did you mean {kind.options}.{near[0]}?" if near else f"it takes {', '.join(own) or 'none'}"
        raise UserError(f"{kind.options}.{keyword}: {name} takes no such option; {hint}")
    missing = [
        parameter.name
        for parameter in (_parameters(factory) or [])[positional:]
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and parameter.name not in keywords
    ]
    if missing:
        raise UserError(
            f"{kind.options}.{missing[0]} has no value, and {name} needs one: say +{kind.options}.{missing[0]}=..."
        )
