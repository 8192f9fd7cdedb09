"""How few images a distance can be of. Torch-free: stores are refused by it before anything is opened."""

from __future__ import annotations

LEAST = 4
"""Rows of a set, below which a kernel distance's variance has no unbiased estimate."""
