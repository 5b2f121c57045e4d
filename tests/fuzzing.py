"""Fuzz a reader with damaged inputs: it must return a value or raise ClovenError, quickly and in little memory.

`damaged` depends on a seed only, so that a failure can be repeated: ``reader.read(damaged(reader.valid, seed))``.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloven.errors import ClovenError

QUICK = 200
"""Inputs of each reader in the suite."""
THOROUGH = int(os.environ.get("CLOVEN_FUZZ", "100000"))
"""Inputs of each reader in the slow tests."""
SECONDS = 5.0
"""The longest time in seconds that one input may take."""
MEMORY = 1 << 30
"""The number of bytes by which the process may grow."""
LENGTHS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
"""Values that overwrite a length field."""
TEXTS = (b"9" * 5000, b"1e999", b"-1", b"NaN", b"null", b'""', b"[]", b"{}", b"\xff\xfe", b"\xed\xa0\x80", b"\0")
"""Unusual pieces of JSON, TOML and text."""

counts = pytest.mark.parametrize("count", [QUICK, pytest.param(THOROUGH, marks=pytest.mark.slow)])
"""For a test ``(count, ...)`` of a reader: quick in the suite, thorough among the slow tests."""


class Hang(BaseException):
    """Not derived from Exception, so that no reader can catch it as an error of its input."""


@dataclass(frozen=True)
class Reader:
    """A reader under test: its name, valid inputs, and the function that reads one."""

    name: str
    valid: Sequence[bytes]
    read: Callable[[bytes], object]


def from_file(read: Callable[[Path], object], path: Path) -> Callable[[bytes], object]:
    """Return a reader of bytes for a reader of files; the bytes are written to a path first."""

    def written(content: bytes) -> object:
        path.write_bytes(content)
        return read(path)

    return written


def damaged(valid: Sequence[bytes], seed: int) -> bytes:
    """Return a valid input with one to four damages: flips, cuts, splices, repetitions, lengths, unusual texts."""
    chance = random.Random(seed)
    content = chance.choice(valid)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at, size = chance.randrange(len(content) + 1), min(len(content), int(2 ** (10 * chance.random())))
        piece = content[at : at + size]
        match chance.randrange(8):
            case 0 if at < len(content):
                content = content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]
            case 1:
                content = content[:at]
            case 2:
                content = content[:at] + content[at + size :]
            case 3:
                times = int(2 ** (16 * chance.random())) // (len(piece) or 1) + 1
                content = content[:at] + piece * times + content[at:]
            case 4:
                other = chance.choice(valid)
                content = content[:at] + other[chance.randrange(len(other) + 1) :]
            case 5:
                width, order = chance.choice((1, 2, 4, 8)), chance.choice(("little", "big"))
                length = chance.choice(LENGTHS) % 256**width
                content = content[:at] + length.to_bytes(width, order) + content[at + width :]
            case 6:
                content = content[:at] + chance.choice(TEXTS) + content[at + chance.choice((0, size)) :]
            case _:
                content = content[:at] + chance.randbytes(size) + content[at + size :]
    return content


def fuzz(reader: Reader, count: int, first: int = 0) -> Counter[str]:
    """Return the number of inputs that gave a "value" and an "own error".

    Raises:
        AssertionError: with the seeds of inputs that raised another error, or took longer than `SECONDS`; for valid
            inputs that are refused; and if the process grew by more than `MEMORY`.
    """
    for content in reader.valid:
        reader.read(content)
    before, found, failures = _memory(), Counter[str](), list[str]()
    for seed in range(first, first + count):
        try:
            outcome = _outcome(reader, damaged(reader.valid, seed))
        except (Exception, Hang) as error:
            failures.append(f"seed {seed}: {type(error).__name__}: {str(error)[:200]}")
            outcome = "hang" if isinstance(error, Hang) else "other error"
        found[outcome] += 1
    print(f"{reader.name}: {dict(found)}")  # noqa: T201 - shown by pytest -rP
    assert not failures, f"{reader.name}: {dict(found)} of {count}; {failures[:5]}"
    assert _memory() - before < MEMORY, f"{reader.name}: grew by {_memory() - before:,} bytes"
    return found


def _outcome(reader: Reader, content: bytes) -> str:
    started = time.monotonic()
    with _alarm(SECONDS):
        try:
            reader.read(content)
            outcome = "value"
        except ClovenError:
            outcome = "own error"
    if time.monotonic() - started > SECONDS:  # in code that a signal does not interrupt
        raise Hang(f"took {time.monotonic() - started:.1f} s")
    return outcome


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _memory() -> int:
    """Return the peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
