"""Check a pickle before it is unpickled, even by an unpickler that calls nothing.

Hashing tuples that are nested 10^5 deep crashes the process, and a few bytes can allocate gigabytes: the C
unpickler reserves memory for the highest memo index.
"""

from __future__ import annotations

import pickletools
import warnings
from typing import Any, BinaryIO

from cloven.errors import ClovenError

DEPTH = 100
"""The deepest nesting of values."""
NAME = 500
"""The longest name of a global; PyTorch takes hours to refuse one of 10^6 characters."""
SIZED = ("bytearray",)
"""Builtins that allocate as much memory as their argument says."""

FILLED = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")
"""Steps that put values into the first value that they take."""


def check(stream: BinaryIO) -> None:
    """Read one pickle without creating its values, up to its end in the stream.

    Raises:
        ClovenError: if the pickle is incomplete, is nested deeper than `DEPTH`, has a memo index larger than its
            number of steps, or names a global that is longer than `NAME` or one of `SIZED`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid escapes in text
            _walk(stream)
    except ClovenError:
        raise
    except (ValueError, LookupError, EOFError, UnicodeError) as error:
        raise ClovenError(f"is not an intact pickle ({str(error)[:80]}); fetch it again") from error


def _walk(stream: BinaryIO) -> None:
    """Follow the unpickler's stack, with the depth of each value in its place."""
    depths, marks, kept = list[int](), list[int](), dict[int, int]()
    value: Any
    for step, (code, value, _) in enumerate(pickletools.genops(stream)):
        match code.name:
            case "MARK":
                marks.append(len(depths))
            case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                place = len(kept) if code.name == "MEMOIZE" else value
                if not 0 <= place <= step:
                    raise ClovenError("has a memo index larger than its number of steps")
                kept[place] = depths[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                depths.append(kept[value])
            case "GLOBAL" if len(value) > NAME:
                raise ClovenError(f"names a global of {len(value):,} characters; expected at most {NAME}")
            case "GLOBAL" if value.split(" ")[-1] in SIZED:
                raise ClovenError(f"names {value.replace(' ', '.')}, which can exhaust the memory")
            case name:
                taken = _taken(code, depths, marks)
                filled = name in FILLED
                inner = [1 + depth for depth in taken[filled:]]
                depths += [max([*taken[:filled], *inner], default=1)] * len(code.stack_after)
        if depths and depths[-1] > DEPTH:
            raise ClovenError(f"holds values nested deeper than {DEPTH}")


def _taken(code: pickletools.OpcodeInfo, depths: list[int], marks: list[int]) -> list[int]:
    """Return the depths of the values that a step takes from the stack."""
    before = code.stack_before
    count = len(before)
    if pickletools.markobject in before:
        start = marks.pop()
        count = before.index(pickletools.markobject) + len(depths) - start
    if count > len(depths):
        raise IndexError("a step lacks its values")
    taken = depths[len(depths) - count :]
    del depths[len(depths) - count :]
    return taken
