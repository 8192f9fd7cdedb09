"""Fetches the public weights of the FID Inception into the cache folder, where every later command finds them.

python -m fcdm.features.download
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

from fcdm.atomic import describe_oserror, file_errors, sync_folder, temporary_name
from fcdm.errors import UserError
from fcdm.features.inception_weights import NAME, URL, check_weights, promised_checksum
from fcdm.hashing import cache_folder

CHUNK = 1 << 20


def download_weights(
    folder: Path | None = None, url: str = URL, progress: Callable[[int, int | None], None] | None = None
) -> Path:
    """Fetches the public file (95 MB) into `folder` (the cache folder), whole and checked or not at all.

    `progress(bytes so far, bytes in all or None)` is called as it goes. UserError where the network or the
    disk fails or the checksum is another.
    """
    folder = folder or cache_folder()
    target = folder / NAME
    if target.is_file():
        check_weights(target)
        return target
    temporary = folder / temporary_name(NAME)
    digest = hashlib.sha256()
    with file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        # The network's errors are OSErrors, as the disk's are: told apart by who raised them.
        try:
            response = urllib.request.urlopen(url, timeout=60)
        except OSError as error:
            raise UserError(
                f"{url}: {error}: where there is no network, copy the file to {target} from a machine that has one"
            ) from error
        with response, open(temporary, "xb") as file:
            size = response.headers.get("Content-Length")
            while chunk := response.read(CHUNK):
                file.write(chunk)
                digest.update(chunk)
                if progress:
                    progress(file.tell(), int(size) if size else None)
            file.flush()
            os.fsync(file.fileno())
        promised = promised_checksum(NAME)
        if not digest.hexdigest().startswith(promised):
            raise UserError(
                f"{url}: the sha256 of what came starts with {digest.hexdigest()[:8]}, not with {promised}: "
                "the download was cut short or is another file; try again"
            )
        temporary.replace(target)
        sync_folder(folder)
    except http.client.HTTPException as error:
        raise UserError(f"{url}: the connection broke ({error}): try again") from error
    except OSError as error:
        raise describe_oserror(error, target, "downloading") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return target


def _show(done: int, total: int | None) -> None:
    of = f" of {total / 1e6:.0f}" if total else ""
    print(f"\r{done / 1e6:.0f}{of} MB", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        print(download_weights(progress=_show))
    except UserError as error:
        sys.exit(f"error: {error}")
