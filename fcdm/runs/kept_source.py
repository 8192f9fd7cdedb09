"""The source of users' own code in a run's life: hashed into its configuration, kept in its folder, held to that."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from fcdm.atomic import write_atomic
from fcdm.config.code_source import CodeSource, changed_files, find_source
from fcdm.config.schema import Config
from fcdm.config.user_code import FEATURES, KINDS, SCIENCE, Kind, UserCode, codes_of, dotted, with_code
from fcdm.errors import UserError
from fcdm.hashing import file_sha256

SOURCE = "source"
"""In a run's folder: the files of what is in its id; those of an extractor stand below it in a folder for each."""


def with_sources(config: Config, kinds: tuple[Kind, ...] = KINDS) -> Config:
    """The configuration with the hash of every source of the user's, and each target in one spelling.

    Raises UserError where there is no source, or not the one that the configuration names.
    """
    for code in codes_of(config, kinds):
        config = with_code(config, with_source(code))
    return config


def with_source(code: UserCode) -> UserCode:
    """The code with the hash of its source. Raises UserError where it has none, or another."""
    target = dotted(code.target, code.kind)
    source = source_of(target, code.kind)
    if code.source not in (None, source.sha256):
        raise UserError(
            f"{code.kind.source}={code.source}: the code of {code.kind.target}={target} ({source.file}) is another: "
            f"its sha256 is {source.sha256}; without {code.kind.source}= it is taken as it is"
        )
    return dataclasses.replace(code, target=target, source=source.sha256)


@cache
def source_of(target: str, kind: Kind) -> CodeSource:
    """`find_source`, once a process: all jobs of a command have the same."""
    return find_source(target, kind)


def keep_source(config: Config, run: Path) -> None:
    """Copy the user's code into a run's folder, so that what was trained can be read. Raises OSError and UserError."""
    for code in codes_of(config, SCIENCE):
        _copy(code, run / SOURCE)


def keep_extractor(config: Config, run: Path) -> None:
    """Copy the user's extractor into a run's folder, beside others that have evaluated it. Raises OSError and
    UserError."""
    for code in codes_of(config, (FEATURES,)):
        _copy(code, run / SOURCE / f"features-{(code.source or '')[:8]}")


def _copy(code: UserCode, folder: Path) -> None:
    """Each file whole or not at all; what is there stays, for the code may have changed since it was hashed."""
    for name, path in source_of(code.target, code.kind).files.items():
        copy = folder / name
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(copy, path.read_bytes())


def check_source(codes: Iterable[UserCode], run: Path) -> None:
    """Raise UserError, naming the files, where the code is no longer what the run was made with."""
    codes = list(codes)
    sources = {code.target: find_source(code.target, code.kind) for code in codes}
    digests = {name: digest for source in sources.values() for name, digest in source.digests.items()}
    for code in codes:
        now = sources[code.target]
        if now.sha256 != code.source:
            tops = {name.split("/")[0] for name in digests}  # the run may keep files of other code beside
            kept = {name: digest for name, digest in _kept(run).items() if name.split("/")[0] in tops}
            raise UserError(
                f"{run.name}: the code of {code} has changed since this was asked for: "
                f"{changed_files(kept, digests) or now.file}. Put it back (a copy is in {run / SOURCE}), or give the "
                f"command again: with other code it is another {code.kind.makes}"
            )


def news_of_source(config: Config, run: Path) -> str | None:
    """What differs in the code from the newest run of the same name, for a run that is new; None: there is none.

    A run that keeps none of these files had other code altogether, an objective where this one has an optimiser.
    """
    codes = list(codes_of(config, SCIENCE))
    name = run.name.rsplit("-", 1)[0]
    others = [path.parent for path in run.parent.glob(f"{name}-*/{SOURCE}") if path.parent != run]
    if not codes or not others:
        return None
    digests: dict[str, str] = {}
    for code in codes:
        digests |= source_of(code.target, code.kind).digests
    kept = {other: of_run for other in others if (of_run := _kept(other)).keys() & digests.keys()}
    if not kept:
        return None
    newest = max(kept, key=lambda other: (other / SOURCE).stat().st_mtime)
    changed = changed_files(kept[newest], digests)
    return f"{run.name} is another run than {newest.name}: {changed}" if changed else None


def _kept(run: Path) -> dict[str, str]:
    """Digests of the source that the run keeps of what is in its id."""
    folder = run / SOURCE
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: file_sha256(path) for name, path in names.items() if not name.startswith("features-")}
