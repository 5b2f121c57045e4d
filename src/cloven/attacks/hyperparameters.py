"""Checks of hyper-parameters: which values each may have, and how an error says so."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from cloven.errors import ClovenError, shown


class Allowed(NamedTuple):
    """The values that a hyper-parameter may have: a test of a value, and the values in words."""

    right: Callable[[Any], bool]
    words: str

    def or_none(self) -> Allowed:
        """Return the same values and None."""
        return Allowed(lambda value: value is None or self.right(value), f"{self.words}, or None")

    def holds(self, value: object) -> bool:
        """Return whether a value is one of them."""
        try:
            return bool(self.right(value))
        except (TypeError, ValueError):  # for example, an array is compared with a text
            return False


def check_fields(attack: object, /, **expected: Allowed) -> None:
    """Check the fields of a dataclass.

    Raises:
        ClovenError: for values that are not as expected, with a sentence for each.
    """
    values = {name: getattr(attack, name) for name in expected}
    problems = [
        f"{name} is {value if isinstance(value, tuple) else shown(value)}; expected {expected[name].words}"
        for name, value in values.items()
        if not expected[name].holds(value)
    ]
    if problems:
        raise ClovenError(problems)


def whole(least: int) -> Allowed:
    """Return the whole numbers from ``least`` on."""
    return Allowed(lambda n: type(n) is int and n >= least, f"a whole number, {least} or more")


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


COUNT = whole(1)
NUMBER = Allowed(lambda x: _is_finite(x) and x >= 0, "a number, 0 or more")
POSITIVE = Allowed(lambda x: _is_finite(x) and x > 0, "a positive number")
FRACTION = Allowed(lambda x: _is_finite(x) and 0 <= x < 1, "a number from 0 to below 1")


def one_of(*names: str) -> Allowed:
    """Return the given names."""
    return Allowed(lambda name: name in names, " or ".join(names))


def tuple_of(entry: Allowed, words: str) -> Allowed:
    """Return the tuples and lists of one or more values, each as ``entry`` says."""
    return Allowed(
        lambda some: isinstance(some, tuple | list) and bool(some) and all(map(entry.holds, some)), words
    )
