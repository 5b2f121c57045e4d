"""Numbers and names as a person reads them: small pure functions, one per kind of quantity.

A number that is missing (``None``) or not finite is written as ``n/a``, never as zero.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Protocol

from cloven.quantities import written

MISSING = "n/a"
MINUS = "\N{MINUS SIGN}"
SPACE = "\N{NO-BREAK SPACE}"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]+")


def known(value: float | None) -> bool:
    """Return whether there is a number to show."""
    return value is not None and math.isfinite(value)


def number(value: float | None, digits: int = 2) -> str:
    """Return a number such as ``0.62``; one that rounds to zero has no sign."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def signed(value: float | None, digits: int = 2) -> str:
    """Return a difference such as ``+0.10`` or ``−0.04``."""
    text = number(value, digits)
    positive = text != MISSING and not text.startswith(MINUS) and float(text) != 0
    return f"+{text}" if positive else text


class Ranged(Protocol):
    """A mean and the ends of its interval."""

    @property
    def mean(self) -> float:
        """The mean."""
        ...

    @property
    def low(self) -> float:
        """The lower end."""
        ...

    @property
    def high(self) -> float:
        """The upper end."""
        ...


def interval(score: Ranged, digits: int = 2) -> str:
    """Return ``0.62 [0.58, 0.66]``: a mean and its 95 % interval."""
    return f"{number(score.mean, digits)} {bounds(score, digits)}"


def bounds(score: Ranged, digits: int = 2) -> str:
    """Return ``[0.58, 0.66]``: the interval alone."""
    return f"[{number(score.low, digits)}, {number(score.high, digits)}]"


def share(value: float | None) -> str:
    """Return ``62 %``: a leakage, as the verdict says it."""
    return MISSING if value is None or not math.isfinite(value) else f"{round(100 * value)}{SPACE}%"


def percent(value: float | None) -> str:
    """Return a share such as ``98.0 %``; ``100 %`` and ``0 %`` only where they are exact."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value in (0, 1):
        return f"{100 * value:.0f}{SPACE}%"
    digits = 1
    while digits < 6 and round(value, digits + 2) in (0, 1):
        digits += 1
    return f"{number(100 * value, digits)}{SPACE}%"


def count(value: float | None) -> str:
    """Return a count such as ``40,000``."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:,.0f}".replace("-", MINUS)


def size(value: float | None) -> str:
    """Return a number of bytes such as ``784 B``, ``1.6 kB``, ``12 MB``: powers of 1,000 and two digits."""
    if value is None or not math.isfinite(value):
        return MISSING
    amount, unit = float(value), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if abs(amount) < 999.5:
            break
        amount, unit = amount / 1000, larger
    digits = 1 if unit != "B" and abs(amount) < 9.95 else 0
    return f"{number(amount, digits)}{SPACE}{unit}"


def duration(value: float | None) -> str:
    """Return a time such as ``2.1 s``, ``71 s``, ``5 min 3 s``, ``2 h 10 min``."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value < 10:
        return f"{number(value, 1)}{SPACE}s"
    whole = round(value)
    if whole < 120:
        return f"{whole}{SPACE}s"
    if whole < 7200:
        return f"{whole // 60}{SPACE}min {whole % 60}{SPACE}s"
    return f"{whole // 3600}{SPACE}h {whole % 3600 // 60}{SPACE}min"


def seconds(value: float | None) -> str:
    """Return a latency such as ``9.87 ms``, with three digits."""
    return _quantity(value, "s")


def joules(value: float | None) -> str:
    """Return an energy such as ``420 mJ``, with three digits."""
    return _quantity(value, "J")


def octets(value: float | None) -> str:
    """Return a memory such as ``80.3 MB``, with three digits."""
    return _quantity(value, "bytes")


def rate(value: float | None) -> str:
    """Return a throughput such as ``402 images/s``, with three digits."""
    return _quantity(value, "images/s")


def _quantity(value: float | None, unit: str) -> str:
    if value is None or not math.isfinite(value):
        return MISSING
    return written(value, unit).replace("-", MINUS).replace(" ", SPACE)


def tiny(value: float | None) -> str:
    """Return two digits and the power of ten, such as ``1.2 × 10⁻⁶``; ``3.4`` where there is no need for it."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0 or 1e-3 <= abs(value) < 1e3:
        return f"{float(f'{value:.1e}'):.6g}".replace("-", MINUS)
    digits, power = f"{value:.1e}".split("e")
    return f"{digits} × 10{str(int(power)).translate(_RAISED)}".replace("-", MINUS).replace(" ", SPACE)


def shape(sides: Sequence[int]) -> str:
    """Return a shape such as ``1 × 28 × 28``."""
    return f"{SPACE}×{SPACE}".join(str(side) for side in sides)


def plural(amount: int, one: str, many: str | None = None) -> str:
    """Return an amount with its noun: ``1 share``, ``4 shares``."""
    return f"{count(amount)} {one if amount == 1 else many or one + 's'}"


def listed(items: Sequence[str]) -> str:
    """Return a list in words: ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def spread(values: Sequence[float], write: Callable[[float], str] = count) -> str:
    """Return ``1.6 kB`` where all values are equal, else their range ``1.6 kB to 3.1 kB``."""
    if not values:
        return MISSING
    low, high = write(min(values)), write(max(values))
    return low if low == high else f"{low} to {high}"


def clean(text: object, limit: int | None = None) -> str:
    """Return a text as one line without control or direction marks, cut at ``limit`` characters."""
    line = " ".join(_CONTROL.sub(" ", str(text)).split())
    return line if limit is None or len(line) <= limit else line[: limit - 1].rstrip() + "…"


def capital(text: str) -> str:
    """Return a text with a capital letter at its start."""
    return text[:1].upper() + text[1:]


def natural(text: str) -> tuple[tuple[bool, int, str], ...]:
    """Return a key that sorts ``Layer 2`` before ``Layer 10``."""
    pieces = re.split(r"([0-9]{1,9})", text)
    return tuple((piece.isdecimal(), int(piece) if piece.isdecimal() else 0, piece) for piece in pieces if piece)


def short(value: float) -> str:
    """Return a number with as many digits as it has, three at most: ``0.05``, ``0.5``, ``1``."""
    return number(value, 3).rstrip("0").rstrip(".")


def thousands(value: float) -> str:
    """Return a short amount: ``500``, ``2.5k``, ``40k``."""
    return f"{value:,.0f}" if value < 1000 else f"{value / 1000:.3g}k"
