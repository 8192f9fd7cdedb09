"""Why a job died, from the end of its log: what stands above the lines with which srun and torchrun close it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

TAIL_BYTES = 16_384
_CLOSING = re.compile(
    "|".join(
        (
            r"srun: (error: )?\S+: tasks? [\d,\[\]-]+: .*",  # node1: task 0: Exited with exit code 1
            r"srun: (\S+: )*(Force )?[Tt]erminat(ing|ed) .*",  # launch/slurm: _step_signal: Terminating StepId=5.0
            r"srun: (error: )?(Job step \S*\s?aborted|Timed out waiting for job step|First task exited) ?.*",
            r"srun: (StepId=|got SIG|interrupt|forcing job termination|sending Ctrl-C|Cancelled pending job step).*",
            r"slurmstepd\S*: error: \*\*\* (STEP|JOB) .*",  # ... ON node1 CANCELLED AT 2026-11-28T03:25:13 ***
            r"(\[rank\d+\]:)?\[?[WI]\d{4} \d\d:\d\d.*",  # a warning of torch's C++ side, when it is torn down
            r"SIG\w+: (saving and )?stopping .*",  # a signal's doing, of which SLURM or a note tells
            r".*resource_tracker.*leaked.*|warnings\.warn\(.*",
        )
    )
)
_TORCHRUN = re.compile(r"(torch[./]distributed[./]elastic)")
"""Of several ranks: from here on torchrun tells that one failed, and how it ended the others."""
_REQUEUED = re.compile(
    r"SIG\w+: (saved; back into the queue|preempted; saved, and waiting)"
    r"|slurmstepd\S*: error: \*\*\* (STEP|JOB) .* DUE TO (JOB REQUEUE|PREEMPTION|NODE FAILURE) .*"
)
"""The last words of a start whose job starts again: no cause of anything later."""
_TROUBLE = re.compile(r"error|fatal|fail|not found|no such|cannot|denied|no space|killed|unable", re.I)
_FULL = re.compile(r"disk is full|disk quota is used up|No space left on device|Disk quota exceeded")


def last_words(log: Path, since: float = 0.0) -> list[str]:
    """The last start's lines that say something, oldest first; [] where nothing came after the Unix time `since`."""
    try:
        if log.stat().st_mtime < since:
            return []
    except OSError:
        return []
    words: list[str] = []
    for line in end_of_log(log, TAIL_BYTES):
        text = " ".join(line.split())
        if _REQUEUED.match(text):
            words = []
        elif text and not _CLOSING.fullmatch(text):
            words.append(text)
    torchrun = next((at for at, text in enumerate(words) if _TORCHRUN.search(text)), None)
    return words[:torchrun] or words


def end_of_log(path: Path, size: int) -> list[str]:
    """The lines of its last `size` bytes, the first of them perhaps in part; [] where it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def why(words: Iterable[str]) -> str:
    """The cause in a log's last words: the last one, but for a full disk, that whatever is tried afterwards hides."""
    lines = list(words)
    full = next((line for line in lines[-20:] if _FULL.search(line)), "")
    return full or (lines[-1] if lines else "")


def is_trouble(line: str) -> bool:
    """Whether a line reads as if something went wrong."""
    return bool(_TROUBLE.search(line))


def full_disk(text: str, folder: Path) -> str:
    """`disk full: PATH` where that is what the text says; "" elsewhere. `folder`: where the text names no path."""
    found = _FULL.search(text)
    if found is None:
        return ""
    quoted = re.search(r"'([^']*/[^']*)'", text)
    before = text[: found.start()].removesuffix("the ").rstrip(": ").split(": ")[-1]
    path = quoted[1] if quoted else before if "/" in before else str(folder)
    return f"disk full: {path}"
