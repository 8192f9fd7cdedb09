"""Mistakes that a user can mend: one line that says what is wrong, where, and what to write instead."""

from __future__ import annotations


class UserError(Exception):
    """Its message is shown alone, without a traceback, and the exit code is 1."""
