"""The ledger on disk: one JSON file an entry, chained by hash, written once and never changed.

runs/forecasts/000001.json ...    a forecast, or the withdrawal of one
runs/forecasts/head.json          how many there are and the last one's hash

An entry holds the hash of the one before it and its own, the sha256 of all its other content. So an entry that is
edited, missing or put in shows. Whoever rewrites every hash behind it is met by the copies that were published
(`publish`), which must be where the chain begins, and by their history in git.

An entry gets its name by a hard link, which fails where the name exists (on NFS too), under a lock: of two that write
at once each has its number, and one that is killed leaves nothing, or all.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from fcdm.atomic import (
    create_linked,
    file_errors,
    locked,
    read_json,
    remove_unfinished,
    sync_folder,
    write_atomic,
    write_json,
)
from fcdm.errors import UserError
from fcdm.forecasts.entries import ForecastEntry, ForecastWithdrawal, Ledger, LedgerEntry
from fcdm.runs.checkpoints import digest

FOLDER, HEAD = "forecasts", "head.json"
SCHEMA = 1
_NAME = re.compile(r"\d{6,}\.json")
_TRIES = 100
_Entry = TypeVar("_Entry", ForecastEntry, ForecastWithdrawal)
_WHAT: dict[str, type[ForecastEntry] | type[ForecastWithdrawal]] = {
    "forecast": ForecastEntry,
    "withdrawal": ForecastWithdrawal,
}


def ledger_folder(runs_dir: Path | str) -> Path:
    return Path(runs_dir) / FOLDER


def read_ledger(folder: Path) -> Ledger:
    """Every entry, once the whole chain is checked; empty where there is no such folder.

    Raises UserError with one line, naming the file, for an entry that was edited, deleted or put in by hand.
    """
    head = _head(folder)  # first: what is written while this reads comes behind it
    with file_errors(folder, "reading the ledger"):
        paths = sorted((path for path in folder.glob("*.json") if _NAME.fullmatch(path.name)), key=_number)
    entries: list[LedgerEntry] = []
    for path in paths:
        missing = entry_path(folder, len(entries) + 1)
        if path != missing:
            raise UserError(
                f"{missing} is missing, and {path.name} follows it: restore it (git, a published copy); entries are "
                "never deleted: --withdraw takes a forecast back"
            )
        entries.append(_read(path, entries[-1].hash if entries else ""))
    count, last = head
    if count > len(entries):
        raise UserError(
            f"{entry_path(folder, count)} is missing: {folder / HEAD} counts {count} entries; restore it (git, a "
            "published copy)"
        )
    if count and entries[count - 1].hash != last:
        raise UserError(
            f"{entry_path(folder, count)} is another entry than {folder / HEAD} says was written: restore both"
        )
    return Ledger(tuple(entries))


def _head(folder: Path) -> tuple[int, str]:
    """(how many entries there are at least, the hash of the last of them); (0, ""): none yet. Raises UserError."""
    path = folder / HEAD
    try:
        content = read_json(path)
        return int(content["entries"]), str(content["hash"])
    except FileNotFoundError:
        if entry_path(folder, 2).exists():  # after the first, a death may have kept it from being written
            raise UserError(f"{path} is missing, and entries are there: restore it (git, a published copy)") from None
        return 0, ""
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} lacks or garbles {error}: restore it (git, a published copy)") from None


def entry_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.json"


def append(folder: Path, entry: _Entry) -> _Entry:
    """Write an entry behind the last one: as it stands then, with number, time and hash. Raises UserError.

    Nothing is written where the chain is broken.
    """
    with locked(folder / ".lock"):
        for _ in range(_TRIES):
            remove_unfinished(folder)
            ledger = read_ledger(folder)
            number = len(ledger.entries) + 1
            content = {
                "schema": SCHEMA,
                "number": number,
                "time": round(time.time(), 3),
                "previous": ledger.head,
                **entry.content(),
            }
            content["hash"] = digest(content)
            if _create(entry_path(folder, number), content):
                write_json(folder / HEAD, {"entries": number, "hash": content["hash"]})
                return type(entry).of_content(content)
            # Somebody was faster, on a file system whose locks do not hold.
    raise UserError(f"{folder}: other processes keep writing; run the same command again")


def publish(source: Path, to: Path) -> int:
    """Copy the entries that are not there yet; returns how many. Raises UserError where what is there is another chain:
    a published entry is never replaced."""
    ours, theirs = read_ledger(source), read_ledger(to)
    for mine, published in zip(ours.entries, theirs.entries, strict=False):
        if mine.hash != published.hash:
            raise UserError(
                f"{entry_path(to, published.number)} is another entry than {entry_path(source, mine.number)}: one of "
                "the two was made anew; what is published stands"
            )
    if len(theirs.entries) > len(ours.entries):
        raise UserError(
            f"{to} has {len(theirs.entries)} entries and {source} {len(ours.entries)}: the chain goes on there; "
            f"python -m fcdm.forecast --ledger {to} --publish {source} brings them here"
        )
    new = ours.entries[len(theirs.entries) :]
    with file_errors(to, "making the folder"):
        to.mkdir(parents=True, exist_ok=True)
    for entry in new:
        _create(entry_path(to, entry.number), read_json(entry_path(source, entry.number)))
    if ours.entries:
        write_json(to / HEAD, {"entries": len(ours.entries), "hash": ours.head})
    return len(new)


def _read(path: Path, previous: str) -> LedgerEntry:
    with file_errors(path, "reading"):
        content = read_json(path)
    told = content.pop("hash", None)
    if told != digest(content):
        raise UserError(
            f"{path} was changed since it was written: its content has another hash than it says; restore it (git, a "
            "published copy). Entries are never changed: --withdraw takes a forecast back"
        )
    if content.get("previous") != previous or content.get("number") != _number(path):
        raise UserError(
            f"{path} does not follow the entry before it, whose hash it lacks: it was put in, or the one before it was "
            "made anew; restore the folder (git, a published copy)"
        )
    try:
        if content["schema"] > SCHEMA:
            raise UserError(f"{path} is of a later version of fcdm: this one reads entries of schema {SCHEMA}")
        return _WHAT[content["what"]].of_content({**content, "hash": told})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} lacks or garbles {error}: no command of fcdm has written it") from None


def _create(path: Path, content: Mapping[str, Any]) -> bool:
    """Make the file, whole; False where it exists already. Raises UserError."""
    raw = (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
    with file_errors(path):
        made = create_linked(path, raw)
        if made is None:  # no hard links: the lock alone must do
            made = not path.exists()
            if made:
                write_atomic(path, raw)
        elif made:
            sync_folder(path.parent)
    return made


def _number(path: Path) -> int:
    return int(path.stem)
