"""Mistakes that a user can mend: one line that says what is wrong, where, and what to write instead.

No message holds a secret, nor does a traceback that is shown (`fcdm.redact`).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NoReturn

from fcdm.redact import redacted


class UserError(Exception):
    """Its message is shown alone, without a traceback, and the exit code is 1."""

    def __init__(self, message: object = "", *more: object) -> None:
        super().__init__(redacted(message) if isinstance(message, str) else message, *more)


class Unsure(UserError):
    """Something may have been begun, or is: what was written down for it stays."""


def traceback_text(error: BaseException) -> str:
    """The traceback of an error, as it may be shown and written down."""
    return redacted("".join(traceback.format_exception(error)))


class OneLineParser(argparse.ArgumentParser):
    """A parser that raises UserError, where argparse prints its usage and leaves."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help says what there is")


def as_options(words: Sequence[str]) -> list[str]:
    """The words of a command line for argparse: `batch_size=8`, as fcdm.train takes it, is `--batch-size=8`.

    A word that only holds a `=` somewhere, as a path may, stays as it is.
    """
    split = [re.fullmatch(r"(?:--)?([A-Za-z][\w-]*)=(.*)", word, re.DOTALL) for word in words]
    return [
        f"--{match[1].replace('_', '-')}={match[2]}" if match else word
        for word, match in zip(words, split, strict=True)
    ]


def in_one_line(program: str = "") -> Callable[[Callable[..., None]], Callable[..., int]]:
    """Makes a command of a function: its exit code is 0, or 1 after the line of a UserError, `program: message`."""
    start = f"{program}: " if program else ""

    def command_of(run: Callable[..., None]) -> Callable[..., int]:
        @wraps(run)
        def command(*arguments: Any) -> int:
            try:
                run(*arguments)
            except UserError as error:
                print(f"{start}{error}", file=sys.stderr)
                return 1
            except BrokenPipeError:  # `| head`: what was written stands, nobody reads on
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

        return command

    return command_of
