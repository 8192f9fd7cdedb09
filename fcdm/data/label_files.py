"""Files that give each image its label: EDM2's dataset.json, a json object, csv or tsv."""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fcdm.atomic import describe_oserror
from fcdm.data.labelled_images import LARGEST
from fcdm.errors import UserError
from fcdm.images.listing import is_image

INDEX = "dataset.json"
"""The index of EDM2's and StyleGAN's data sets, beside their images: `{"labels": [["00000/img00000000.png", 6]]}`."""
PATHS = {"path", "file", "file_name", "filename", "filepath", "image", "image_path", "img", "name"}
LABELS = {"label", "labels", "class", "cls", "class_name", "category", "target"}
"""Headers of columns, in lower case."""


def read_labels(path: Path, root: Path) -> dict[str, int | str] | None:
    """Image path below `root` -> label as it stands in the file; None: the file says that there are none.

    json: `{"labels": [[path, label], ...]}` or `{path: label}`; csv, tsv: path and label, with a header or without.
    Raises UserError, naming the file and the place.
    """
    ending = path.suffix.lower()
    if ending not in (".json", ".csv", ".tsv"):
        raise UserError(f"labels={path}: a .json, .csv or .tsv file, `folders` or `none` is wanted")
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise describe_oserror(error, path, "reading the labels") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text in UTF-8: save it so") from None
    pairs = _of_json(path, text) if ending == ".json" else _of_table(path, text, "," if ending == ".csv" else "\t")
    if pairs is None:
        return None
    found: dict[str, int | str] = {}
    for name, label in pairs:
        below = posixpath.normpath(name)
        if below.startswith("/"):
            below = posixpath.relpath(below, root.absolute().as_posix())
        if found.setdefault(below, label) != label:
            raise UserError(f"{path} gives {name} two labels: {found[below]} and {label}")
    if not found:
        raise UserError(f"{path} holds no labels: say labels=none to do without")
    return found


def numbered(labels: Mapping[str, int | str], path: Path) -> tuple[dict[str, int], list[str]]:
    """Labels as class numbers, and the classes. Numbers stay what they are; names are numbered as they come.

    Raises UserError for what can be neither.
    """
    numbers = {name: _number(label) for name, label in labels.items()}
    if None not in numbers.values():
        whole = {name: number for name, number in numbers.items() if number is not None}
        name, highest = max(whole.items(), key=lambda item: item[1])
        if highest >= LARGEST:
            raise UserError(f"{path} gives {name} the label {highest}: class numbers count from 0; a name is no number")
        return whole, [str(number) for number in range(highest + 1)]
    for name, label in labels.items():
        if re.fullmatch(r"-\d+|[+-]?\d*\.\d*(e\d+)?", str(label)):
            raise UserError(f"{path} gives {name} the label {label}: a number from 0, or a name, is wanted")
    classes = {label: number for number, label in enumerate(dict.fromkeys(str(label) for label in labels.values()))}
    return {name: classes[str(label)] for name, label in labels.items()}, list(classes)


def _number(label: int | str) -> int | None:
    if isinstance(label, int):
        return label if label >= 0 else None
    return int(label) if re.fullmatch(r"0|[1-9]\d*", label) else None


def _of_json(path: Path, text: str) -> Iterator[tuple[str, int | str]] | None:
    try:
        content = json.loads(text, object_pairs_hook=_once)
    except ValueError as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    if path.name == INDEX and isinstance(content, dict) and "labels" not in content:
        raise UserError(f'{path} has no "labels", as EDM2\'s has: say labels=FILE, labels=folders or labels=none')
    if isinstance(content, dict) and isinstance(content.get("labels", ""), list | dict | None):
        content = content["labels"]
        if content is None:
            return None
    if not isinstance(content, list | dict):
        raise UserError(f"{path} holds no labels: {_WANTED}")
    return _json_pairs(path, content.items() if isinstance(content, dict) else content)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand once, or with one value: Python would take the last one."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if found.setdefault(key, value) != value:
            raise ValueError(f"{key} stands twice, as {found[key]} and as {value}")
    return found


_WANTED = 'wanted is {"labels": [["<path>", 6], ...]} or {"<path>": 6, ...}'


def _json_pairs(path: Path, items: Iterable[Any]) -> Iterator[tuple[str, int | str]]:
    for item in items:
        if not isinstance(item, list | tuple) or len(item) != 2 or not isinstance(item[0], str):
            raise UserError(f"{path} holds {json.dumps(item)[:80]}: {_WANTED}")
        name, label = item
        if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
            raise UserError(
                f"{path} gives {name} the label {json.dumps(label)[:40]}: the number or the name of one class is wanted"
            )
        yield name, label


def _of_table(path: Path, text: str, delimiter: str) -> Iterator[tuple[str, int | str]]:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns: tuple[int, int] | None = None
    for row in rows:
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if columns is None:
            columns = (0, 1)
            is_header = not any(map(is_image, cells))
            if is_header or len(cells) != 2:
                columns = _columns(path, cells, is_header)
            if is_header:
                continue
        if len(cells) <= max(columns) or not cells[columns[0]] or not cells[columns[1]]:
            raise UserError(f"{path}, line {rows.line_num}: a path and a label are wanted, not {' '.join(cells)[:80]}")
        yield cells[columns[0]], cells[columns[1]]


def _columns(path: Path, header: list[str], is_header: bool) -> tuple[int, int]:
    """Where paths and labels stand. Raises UserError where that has to be guessed."""
    lower = [cell.casefold() for cell in header]
    paths, labels = ([n for n, cell in enumerate(lower) if cell in words] for words in (PATHS, LABELS))
    if len(paths) == 1 and len(labels) == 1:
        return paths[0], labels[0]
    if len(header) == 2 and is_header:
        return 0, 1
    raise UserError(f"{path} has the columns {', '.join(header)[:160]}: leave two, with the header path and label")
