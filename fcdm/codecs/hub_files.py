"""Files of the Hugging Face hub: from the local cache without a network, else fetched. Torch-free."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from fcdm.errors import UserError
from fcdm.hashing import known_sha256


def hub_files(
    asked: str,
    repository: str,
    wanted: Sequence[Sequence[str]],
    *,
    extra: str,
    then: str,
    subfolder: str | None = None,
    download: bool = True,
) -> list[Path]:
    """Of each of `wanted` the first name that the repository (`owner/name`) has, as a file on this machine.

    The local cache is looked into first, so that a machine without network works once it has been filled. asked: what
    was said, such as `vae=owner/name`; extra: of fcdm, which brings the hub's client; then: what to do with a folder
    that was fetched elsewhere. Raises UserError, in one line, where the files cannot be had.
    """
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError:
        raise UserError(
            f"{asked} is a hub id, and huggingface_hub is not installed: pip install 'fcdm[{extra}]'"
        ) from None

    def files(local: bool) -> list[Path]:
        def get(names: Sequence[str]) -> Path:
            try:
                return Path(hf_hub_download(repository, names[0], subfolder=subfolder, local_files_only=local))
            except EntryNotFoundError:  # of which LocalEntryNotFoundError is one
                if len(names) == 1:
                    raise
                return get(names[1:])

        return [get(names) for names in wanted]

    try:
        return files(local=True)
    except (LocalEntryNotFoundError, EntryNotFoundError):
        pass
    except HFValidationError:
        raise UserError(f"{asked} is neither a folder nor a hub id") from None
    save = f"on a machine with network `hf download {repository}`, then {then}"
    if not download or not _hub_in_reach():
        raise UserError(f"{asked} is not on this machine and the hub cannot be reached: {save}")
    try:
        return files(local=False)
    except (HfHubHTTPError, EntryNotFoundError, OSError) as error:
        line = " ".join(str(error).split())[:160]
        raise UserError(f"{asked} cannot be had from the hub ({type(error).__name__}: {line}): {save}") from None


def hub_id(text: str) -> tuple[str, str | None] | None:
    """(`owner/name`, subfolder) of what can be a hub id; None for what is a path or a single word.

    Such are never asked of the network, which would complain about a connection.
    """
    parts = text.split("/")
    if text.startswith((".", "/", "~")) or len(parts) < 2 or not all(parts):
        return None
    return "/".join(parts[:2]), "/".join(parts[2:]) or None


def promised_sha256(path: Path) -> str | None:
    """What the hub's cache promises of a file: it keeps large ones under their sha256, and links to that."""
    kept = path.resolve()
    return kept.name if kept.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", kept.name) else None


def believed_sha256(path: Path) -> str:
    """The file's sha256, of a promise of the hub's cache without reading a gigabyte: for ids. Raises UserError."""
    return promised_sha256(path) or known_sha256(path)


def _hub_in_reach() -> bool:
    """False where the hub's name does not even resolve: huggingface_hub would retry for 23 s."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    if any(os.environ.get(name) or os.environ.get(name.upper()) for name in ("https_proxy", "all_proxy")):
        return True  # the proxy resolves names
    host = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").hostname or ""
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True
