"""The error that cloven raises if the user's input is wrong, and helpers for error messages."""

from __future__ import annotations

import errno
import operator
import os
import re
import reprlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

Made = TypeVar("Made")


class ClovenError(ValueError):
    """An error in the user's input, with every problem that was found.

    A problem is a sentence that says what is wrong, what was got, what is expected, and what to do. ``problems``
    are the sentences; ``str(error)`` joins them, one per line.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


def tried(make: Callable[[], Made], problems: list[str]) -> Made | None:
    """Return the result of a call; if it fails, return None and add its problems to the others."""
    try:
        return make()
    except ClovenError as error:
        problems += error.problems
        return None


CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
SHOWN = 400
"""The largest number of characters of someone else's text that is shown."""


def printable(text: str) -> str:
    """Return text with escaped control characters, since someone else's file name could control a terminal."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """Return someone else's text for an error message: short, on one line, without unprintable characters."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: SHOWN + 1])
    return escaped if len(escaped) <= SHOWN else escaped[:SHOWN] + "..."


TO_DO = {
    errno.ENOSPC: "free some space there, or choose another place",
    errno.EDQUOT: "free some space there, or choose another place",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: "choose a place that this user may use",
    errno.EPERM: "choose a place that this user may use",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}
"""Advice for errors of the operating system."""


def system_reason(error: OSError) -> str:
    """Return the reason of an operating system error, and what to do about it."""
    reason = error.strerror or str(error) or type(error).__name__
    advice = TO_DO.get(error.errno or 0)
    return f"{reason}; {advice}" if advice else reason


def system_error(error: OSError) -> ClovenError:
    """Return the ClovenError for an operating system error that no caller has handled."""
    if isinstance(error, BrokenPipeError):
        return ClovenError("the output was closed before all of it was written")
    if error.filename is not None:
        return ClovenError(f"{error.filename}: {system_reason(error)}")
    written = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if error.errno == errno.EIO:
        return ClovenError("cannot read or write a file: the system reports an input/output error")
    return ClovenError(f"{'cannot write the output or a file: ' if written else ''}{system_reason(error)}")


def require(extra: str, error: ImportError) -> ClovenError:
    """Return the error for a missing optional dependency, with the extra that includes it."""
    return ClovenError(
        f"{error.name or 'a package'} is not installed; it comes with an extra: pip install 'cloven[{extra}]'"
    )


def check_type(value: object, kinds: type | tuple[type, ...], name: str, expected: str) -> None:
    """Check the type of an argument.

    Raises:
        ClovenError: if it is not one of ``kinds``; the message has ``name``, the value, and what is ``expected``.
    """
    if not isinstance(value, kinds):
        raise ClovenError(f"{name} is {shown(value)}; expected {expected}")


def whole_number(value: object, name: str, least: int) -> int:
    """Return an argument as an int; integers of NumPy are accepted.

    Raises:
        ClovenError: if it is not an integer (or True or False), or is below ``least``.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ClovenError(f"{name} is {shown(value)}; expected a whole number, {least} or more")
    number = operator.index(value)
    if number < least:
        raise ClovenError(f"{name} is {number}; expected {least} or more")
    return number


def path_of(value: object, name: str) -> Path:
    """Return an argument as a path.

    Raises:
        ClovenError: if it is neither text nor a path.
    """
    if not isinstance(value, str | os.PathLike):
        raise ClovenError(f"{name} is {shown(value)}; expected a path")
    return Path(value)


def shown(value: object) -> str:
    """Return a value for an error message: numbers and short text unchanged, other values by their type."""
    if value is None or isinstance(value, str | int | float):
        return reprlib.repr(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
