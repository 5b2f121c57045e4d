"""Check a pickle before it is unpickled, even by an unpickler that calls nothing.

Tuples nested 10^5 deep end the process when they are hashed, and a few bytes can ask for gigabytes: the
unpickler in C makes room for as many values as the highest number under which one is kept.
"""

from __future__ import annotations

import pickletools
import warnings
from typing import Any, BinaryIO

from cloven.errors import ClovenError

DEPTH = 100
"""How deep values may be nested."""
NAME = 500
"""The longest name of a global: PyTorch takes hours to complain about one of 10^6 characters."""
SIZED = ("bytearray",)
"""Builtins that take as much memory as they are asked for."""

FILLED = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")
"""Steps that put values into the first one that they take."""


def check(stream: BinaryIO) -> None:
    """Read one pickle without making any of its values; the stream is left behind it.

    Raises:
        ClovenError: if it breaks off, is nested deeper than `DEPTH`, keeps a value under a number beyond the count
            of its steps, or names a global that is longer than `NAME` or one of `SIZED`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in text
            _walk(stream)
    except ClovenError:
        raise
    except (ValueError, LookupError, EOFError, UnicodeError) as error:
        raise ClovenError(f"is not an intact pickle ({str(error)[:80]}); fetch it again") from error


def _walk(stream: BinaryIO) -> None:
    """Follow the stack of the unpickler by the depths of its values."""
    depths, marks, kept = list[int](), list[int](), dict[int, int]()
    value: Any
    for step, (code, value, _) in enumerate(pickletools.genops(stream)):
        match code.name:
            case "MARK":
                marks.append(len(depths))
            case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                place = len(kept) if code.name == "MEMOIZE" else value
                if not 0 <= place <= step:
                    raise ClovenError("keeps a value under a number beyond the count of its steps")
                kept[place] = depths[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                depths.append(kept[value])
            case "GLOBAL" if len(value) > NAME:
                raise ClovenError(f"names a global of {len(value):,} characters; expected at most {NAME}")
            case "GLOBAL" if value.split(" ")[-1] in SIZED:
                raise ClovenError(f"names {value.replace(' ', '.')}, which can take all memory")
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
