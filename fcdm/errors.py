"""Mistakes that a user can mend: one line that says what is wrong, where, and what to write instead."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import NoReturn


class UserError(Exception):
    """Its message is shown alone, without a traceback, and the exit code is 1."""


class OneLineParser(argparse.ArgumentParser):
    """A parser that raises UserError, where argparse prints its usage and leaves."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help says what there is")


def as_options(words: Iterable[str]) -> list[str]:
    """The words of a command line for argparse: `batch_size=8`, as fcdm.train takes it, is `--batch-size=8`."""
    split = [word.partition("=") for word in words]
    return [f"--{key.lstrip('-').replace('_', '-')}={text}" if equals else key for key, equals, text in split]
