"""Which parquet or arrow files of a folder are the data set: one split, by the layouts of HF `datasets`.

Its index is `state.json` where `save_to_disk` left one, else the names: `train-00000-of-00294.parquet`,
`imagenet-1k-train-00000-of-00257.arrow`, `parquet-train.arrow`, or a folder per split. What `map` and `filter` leave
(`cache-*.arrow`) is never data.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fcdm.atomic import read_json
from fcdm.data.labelled_images import some
from fcdm.errors import UserError
from fcdm.formatting import plural
from fcdm.images.splits import split_named, split_within

STATE = "state.json"
_SHARD = re.compile(r"(.+?)-(\d+)-of-(\d+)(?:-[0-9a-f]+)?")


@dataclass(frozen=True)
class TableFiles:
    """The files that are one data set, in order."""

    root: Path
    kind: str
    """`parquet` or `arrow`."""
    names: list[str]
    """Below the root, with `/`."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """Files whose names differ by numbers only, in one folder or in numbered ones: a split, as far as names tell."""

    folder: str
    name: str
    files: list[str]

    @property
    def split(self) -> str:
        """`train`, `validation`, `test`, or "" for none of them; the nearest word decides."""
        places = (self.name, *reversed(PurePosixPath(self.folder).parts))
        return next((word for word in map(split_within, places) if word), "")

    @property
    def words(self) -> list[str]:
        """What `split=` may call it."""
        return [*filter(None, (self.name.split("-")[-1], self.name)), *reversed(PurePosixPath(self.folder).parts)]


def choose_tables(
    root: Path, tables: Sequence[str], files: Sequence[str], split: str | None, beside: str | None = None
) -> TableFiles:
    """Of the `tables` below `root`, those of one split. Raises UserError where names cannot tell which.

    files: all files below the root. split: which one, where several can be told apart; null: train. beside: a split
    that the caller reads too.
    """
    if root.is_file():
        if split:
            raise UserError(f"images={root} is one file, and so one split: leave split={split} away")
        return TableFiles(root.parent, root.suffix[1:], [root.name], ())
    data = _saved(root, [name for name in tables if not _is_cache(name)], files)
    if not data:
        raise UserError(
            f"images={root} has only what map() and filter() of HF datasets leave ({some(sorted(tables), 3)}): write "
            "the data set with save_to_disk, and say that folder"
        )
    kinds = sorted({PurePosixPath(name).suffix[1:] for name in data})
    if len(kinds) > 1:
        one_each = ", ".join(min(name for name in data if name.endswith(kind)) for kind in kinds)
        raise UserError(f"images={root} holds parquet and arrow files ({one_each}): say the folder or file of one kind")
    parts = _parts(data)
    part = _named(root, parts, split) if split else _pick(parts)
    if part is None:
        raise UserError(f"images={root} holds several data sets or splits: say one of {_choices(root, parts)}")
    notes = [*_incomplete(root, part)]
    if others := [other for other in parts if other is not part and (not beside or other.split != beside)]:
        left = some([_called(other) for other in others])
        what = part.split or part.name
        notes.append(f"of its splits, {what} is taken ({left} left out); split= says another")
    if left_out := len(tables) - len(data):
        notes.append(f"{plural(left_out, 'arrow file')} of map(), filter() or an earlier save left out")
    return TableFiles(root, kinds[0], part.files, tuple(notes))


def table_splits(root: Path, tables: Sequence[str], files: Sequence[str]) -> set[str]:
    """The splits of which there is exactly one part: `train`, `validation`, `test`. Arguments as in `choose_tables`."""
    splits = [part.split for part in _parts(_saved(root, [name for name in tables if not _is_cache(name)], files))]
    return {split for split in splits if split and splits.count(split) == 1}


def _is_cache(name: str) -> bool:
    return PurePosixPath(name).match("cache-*.arrow")


def _saved(root: Path, tables: list[str], files: Sequence[str]) -> list[str]:
    """The tables, less those that a `state.json` beside them does not list. Raises UserError for missing ones."""
    here = set(tables)
    for state in files:
        folder, _, name = state.rpartition("/")
        beside = {table for table in tables if table.rpartition("/")[0] == folder} if name == STATE else set()
        content = read_json(root / state) if beside else {}
        if "_data_files" not in content:
            continue
        if content.get("_indices_data_files") or content.get("_indices_files"):
            raise UserError(
                f"{root / state}: rows are chosen by an indices file: save_to_disk of a newer datasets has none"
            )
        try:
            named = {str(PurePosixPath(folder, str(entry["filename"]))) for entry in content["_data_files"]}
        except (TypeError, KeyError):
            raise UserError(f"{root / state} is damaged: its _data_files have no file names") from None
        if lost := sorted(named - here):
            raise UserError(f"{root / state} lists {len(lost):,} files that are not there, first {lost[0]}")
        here -= beside - named
    return [name for name in tables if name in here]


def _parts(tables: list[str]) -> list[_Part]:
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in sorted(tables, key=PurePosixPath):
        path = PurePosixPath(name)
        shard = _SHARD.fullmatch(path.stem)
        folder = re.sub(r"\d{3,}", "", name.rpartition("/")[0])  # chunk-000, but not the versions 1.0.0 and 2.0.0
        found[folder, shard[1] if shard else re.sub(r"\d+", "", path.stem).strip("-_. ")].append(name)
    return [_Part(files[0].rpartition("/")[0], name, files) for (_, name), files in found.items()]


def _pick(parts: Sequence[_Part]) -> _Part | None:
    """The only part, or the only one of training data."""
    if len(parts) == 1:
        return parts[0]
    train = [part for part in parts if part.split == "train"]
    return train[0] if len(train) == 1 else None


def _named(root: Path, parts: Sequence[_Part], split: str) -> _Part:
    found = _matching(parts, split)
    if len(found) != 1:
        if len(parts) == 1:
            raise UserError(f"images={root} has one split ({_called(parts[0])}), not {split}: leave split= away")
        what = "names several" if found else "is none"
        raise UserError(f"images={root}: split={split} {what} of its splits: say one of {_choices(root, parts)}")
    return found[0]


def _matching(parts: Sequence[_Part], split: str) -> list[_Part]:
    exact = [part for part in parts if split in part.words]
    return exact or [part for part in parts if part.split and part.split == split_named(split)]


def _called(part: _Part) -> str:
    return part.split or (PurePosixPath(part.folder) / part.name).as_posix()


def _choices(root: Path, parts: Sequence[_Part]) -> str:
    """What chooses each part, by what has been seen to choose it."""
    return some([_choice(root, part, parts) for part in parts], 8)


def _choice(root: Path, part: _Part, parts: Sequence[_Part]) -> str:
    if part.split and _matching(parts, part.split) == [part]:
        return f"split={part.split}"
    for up in reversed(PurePosixPath(part.folder, "-").parents):
        inside = [other for other in parts if PurePosixPath(other.folder, "-").is_relative_to(up)]
        if str(up) != "." and _pick(inside) is part:
            return f"images={root / up}"
    if len(part.files) == 1:
        return f"images={root / part.files[0]}"
    if words := [word for word in part.words if _matching(parts, word) == [part]]:
        return f"split={words[0]}"
    return f"{_called(part)} ({len(part.files):,} files: move them into a folder of their own)"


def _incomplete(root: Path, part: _Part) -> list[str]:
    """A note where files `-00000-of-00294` are not all there. Raises UserError where there are too many."""
    shards = [_SHARD.fullmatch(PurePosixPath(name).stem) for name in part.files]
    totals = {(int(shard[3]) if shard else 0) for shard in shards}
    if totals == {0}:
        return []
    numbers = {int(shard[2]) for shard in shards if shard}
    if len(totals) > 1 or len(numbers) < len(shards):
        raise UserError(
            f"images={root} has files of two versions of {_called(part)} ({part.files[0]}, {part.files[-1]}): keep "
            "those of one"
        )
    (total,) = totals
    return [f"{len(shards):,} of the {total:,} files of {_called(part)} are there"] if len(shards) < total else []
