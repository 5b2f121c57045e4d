"""Write quantities for people: a few digits, and the largest unit that the value reaches."""

from __future__ import annotations

import math
from collections.abc import Mapping

UNITS: Mapping[str, tuple[tuple[float, str], ...]] = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "J": ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ")),
    "bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    "images/s": ((1.0, "images/s"),),
}
"""The units in which a quantity is written, the largest first, each with its factor."""


def written(value: float, unit: str, digits: int = 3) -> str:
    """Return a finite value with its unit, such as ``9.87 ms`` for 0.00987 ``s``."""
    rounded = float(f"{value:.{digits}g}")
    factor, name = next((one for one in UNITS[unit] if abs(rounded) >= one[0]), UNITS[unit][-1])
    scaled = rounded / factor
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(scaled)))) if scaled else 0
    text = f"{scaled:,.{decimals}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {name}"
