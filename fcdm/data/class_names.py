"""Classes by number and by name. Names are the store's: its manifest has them in the order of their numbers."""

from __future__ import annotations

import contextlib
import difflib
from pathlib import Path

from fcdm.config.schema import DataConfig
from fcdm.data.labelled_images import some
from fcdm.data.manifest import manifest_checksum, read_manifest
from fcdm.errors import UserError

NAME = "name:"
"""`name:11` is the class that is called 11, where a bare number is always a class's number."""


def find_class(text: str, data: DataConfig) -> tuple[int, str | None]:
    """The class that `label=text` means: its number, and its name where that is known here.

    The number `data.classes` is the null class. Raises UserError.
    """
    if text.isascii() and text.isdigit():
        number = int(text)
        if number > data.classes:
            raise UserError(
                f"label={text} cannot be: a class from 0 to {data.classes - 1}, or {data.classes}, the null class "
                f"(unconditional){_called(text, data)}"
            )
        with contextlib.suppress(UserError):
            return number, (*class_names(data), "the null class")[number]
        return number, None
    name = text.removeprefix(NAME)
    names = class_names(data)
    found = [number for number, other in enumerate(names) if other == name]
    if len(found) == 1:
        return found[0], name
    if found:
        raise UserError(f"label={text}: classes {some([str(n) for n in found])} are called so: say the number of one")
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"did you mean {NAME}{close[0]}?" if close else f"there are {some(list(names))}"
    raise UserError(f"label={text} is no class's number or name: {hint}")


def class_names(data: DataConfig) -> tuple[str, ...]:
    """By class number. Raises UserError where nothing here says them, or only the store of other data does."""
    if data.path is None and data.name == "digits":
        return tuple(str(number) for number in range(data.classes))
    if data.path is None:
        raise UserError("names of classes stand in the store: say data.path=STORE, or label=<number>")
    store = Path(data.path)
    try:
        names = read_manifest(store).classes
    except UserError as error:
        raise UserError(f"{error}; names of classes stand there: say data.path=STORE, or label=<number>") from None
    if data.checksum not in (None, manifest_checksum(store)) or len(names) != data.classes:
        raise UserError(
            f"names of classes stand in the store, and {store} is not what this model was trained on: say "
            "data.path=STORE, or label=<number>"
        )
    return names


def _called(text: str, data: DataConfig) -> str:
    with contextlib.suppress(UserError):
        if text in class_names(data):
            return f"; the class called {text} is label={NAME}{text}"
    return ""
