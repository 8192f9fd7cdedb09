"""Numbers as people read them: counts, FLOPs, hours, bytes."""

from __future__ import annotations


def count_text(number: int) -> str:
    return f"{number:,}"


def flops_text(value: float) -> str:
    """`39.6 E`: three digits and the prefix of FLOPs."""
    if not value:
        return "0"
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if value >= 0.9995 * size:
            return f"{_digits(value / size)} {prefix}"
    return f"{_digits(value / 1e6)} M"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def number_text(value: float) -> str:
    """Three digits that mean something, never an exponent."""
    if not value:
        return "0"
    if value < 0.0005:
        return "<0.001"
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.2f}" if value >= 0.995 else f"{value:.3f}"


def hours_text(hours: float | None) -> str:
    if hours is None:
        return "?"
    if hours >= 48:
        return f"{hours / 24:,.1f} d"
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.0f} s"


def bytes_text(count: float) -> str:
    return f"{count / 1e9:,.3g} GB" if count >= 0.9995e9 else f"{count / 1e6:,.0f} MB"
