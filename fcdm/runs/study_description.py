"""What a study asks, in words: the comment at the top of its sweep file; and the commands that ask for it again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from fcdm.config.schema import Config

_SWEEPS = Path(__file__).resolve().parent.parent / "conf" / "sweeps"
_CONFIG_DIRS = ("--config-dir", "-cd")


def question_of(command: Sequence[str], study: str) -> str:
    """The comment at the top of the sweep file of a command (`+sweeps=NAME`) that makes `study`; "" without one.

    Looked for where Hydra finds it: in `--config-dir`, then among the sweeps of this project. Of several files
    (`+sweeps=a,b`, or one that lists studies) that of the study's own name counts.
    """
    named = [word.partition("=")[2] for word in command if word.lstrip("+").startswith("sweeps=")]
    names = [name for text in named for name in re.findall(r"[\w./-]+", text)]
    if not names:
        return ""
    if not any(word.startswith("study=") for word in command):
        names = [study, *names]
    folders = [*(Path(folder) / "sweeps" for folder in _config_dirs(command)), _SWEEPS]
    for path in (folder / f"{name}.yaml" for name in names for folder in folders):
        try:
            return leading_comment(path.read_text())
        except OSError:
            continue
    return ""


def for_folder(command: str, runs_dir: Path | str) -> str:
    """The recorded command with the folder of its runs, where it does not say one: it may be typed elsewhere."""
    said = any(word.lstrip("+").startswith("runs_dir=") for word in shlex.split(command))
    if said or Path(runs_dir) == Path(Config.runs_dir):
        return command
    return f"{command} {shlex.quote(f'runs_dir={runs_dir}')}"


def leading_comment(text: str) -> str:
    """The comment lines before the first key of a YAML file as one text, without Hydra's `@package`."""
    lines = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            break
        words = line.lstrip("# ").strip()
        if words and not words.startswith("@package"):
            lines.append(words)
    return " ".join(lines)


def _config_dirs(command: Sequence[str]) -> list[str]:
    found = []
    for word, after in zip(command, [*command[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        if option in _CONFIG_DIRS:
            found.append(value if equals else after)
    return found
