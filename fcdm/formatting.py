"""Numbers as people read them: counts, steps, FLOPs, durations, bytes."""

from __future__ import annotations

import math
from typing import Any

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def plural(count: int, noun: str, several: str = "") -> str:
    """`1 job`, `1,438 jobs`; `several`: the noun's plural where that is not with an s."""
    return f"{count:,} {noun if count == 1 else several or noun + 's'}"


def setting_text(key: str, value: Any) -> str:
    """`optimiser.lr=0.001`, `model.grn=false`, `ema.rampup=null`: a setting much as a command line says it."""
    if isinstance(value, list):
        return f"{key}=[{','.join(map(str, value))}]"
    if isinstance(value, bool):
        return f"{key}={str(value).lower()}"
    return f"{key}={'null' if value is None else f'{value:g}' if isinstance(value, float) else value}"


def steps_text(steps: float) -> str:
    """`400K`, `2.352M`, `1B`: steps, and other large counts, as papers write them; `10¹⁵` from there on."""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if steps >= 0.99995 * size:  # what four digits round to 1000 of the smaller unit
            return f"{steps / size:.4g}{suffix}" if steps < 0.99995e15 else power_text(steps)
    return f"{steps:.4g}"


def power_text(value: float, digits: int = 3) -> str:
    """`10¹⁵`, `2×10¹¹`, `5×10⁻⁴`: with characters for the exponent, which need no typesetting. `value` from 0 to ∞."""
    if value == 0 or value == math.inf:
        return "∞" if value else "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = "10" + str(int(exponent)).translate(SUPERSCRIPTS)
    return power if float(mantissa) == 1 else f"{float(mantissa):g}×{power}"


def flops_text(value: float) -> str:
    """`39.6 E`: three digits and the prefix of FLOPs."""
    if not value:
        return "0"
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if value >= 0.9995 * size:
            return f"{three_digits(value / size)} {prefix}"
    return f"{three_digits(value / 1e6)} M"


def three_digits(value: float) -> str:
    """`64`, `0.0417`, `1,234`: never an exponent from 0.0001 on."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def number_text(value: float | None) -> str:
    """Three digits that mean something, never an exponent; `?` for what is not known."""
    if value is None:
        return "?"
    if not value:
        return "0"
    if value < 0.0005:
        return "<0.001"
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.2f}" if value >= 0.995 else f"{value:.3f}"


def duration_text(seconds: float) -> str:
    """`40 s`, `1.5 min`, `12 min`, `24.3 h`, `2 days`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    size, unit = (60, "min") if seconds < 3600 else (3600, "h") if seconds < 48 * 3600 else (86400, "days")
    value = seconds / size
    return (f"{value:,.0f}" if value >= 10 and unit != "h" else f"{value:.1f}".removesuffix(".0")) + f" {unit}"


def bytes_text(count: float) -> str:
    """`86.1 GB`: three digits; 1 GB = 1e9 bytes."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= 0.9995 * size:
            return f"{three_digits(count / size)} {unit}"
    return f"{three_digits(count / 1e3)} kB"


def printable(text: str) -> str:
    """`text` without what a terminal refuses: names of files that are no UTF-8, as `caf\\udce9`."""
    return text.encode("utf-8", "backslashreplace").decode()
