"""What the processes of an enclave tell each other: a line of JSON and bytes behind it, over a pipe."""

from __future__ import annotations

import json
import os
import select
import struct
from collections.abc import Callable
from typing import Any

from cloven.errors import ClovenError
from cloven.files import parse_json

HEAD = struct.Struct(">IQ")
"""Bytes of the JSON, bytes of what follows it."""
WORDS, CONTENT = 2**24, 2**34
"""The most bytes of either."""
BLOCK = 2**26
"""Bytes of memory taken for a message before any of it has come."""


class EndedError(ClovenError):
    """The other process has ended."""


def tell(descriptor: int, about: dict[str, Any], content: bytes | bytearray | memoryview = b"") -> None:
    """Send a message; `EndedError` where nobody reads any more."""
    words = json.dumps(about).encode()
    data = memoryview(content).cast("B")
    try:
        for part in (memoryview(HEAD.pack(len(words), len(data)) + words), data):
            while part:
                part = part[os.write(descriptor, part) :]
    except BrokenPipeError:
        raise EndedError("the process at the other end of a pipe has ended") from None


def heard(descriptor: int, timeout: float | None = None) -> tuple[dict[str, Any], bytearray]:
    """The next message.

    Raises:
        EndedError: where there will be none.
        ClovenError: for what is no message, or where none begins within ``timeout`` seconds.
    """
    if timeout is not None and not select.select([descriptor], [], [], timeout)[0]:
        raise ClovenError(f"the process at the other end of a pipe said nothing for {timeout:g} s")
    words, content = HEAD.unpack(_exactly(descriptor, HEAD.size))
    if words > WORDS or content > CONTENT:
        raise ClovenError(f"a message of {words} and {content} bytes was announced; at most {WORDS} and {CONTENT}")
    about = parse_json(bytes(_exactly(descriptor, words)), "a message of the other process")
    return about, _exactly(descriptor, content)


def served(work: Callable[[int, int], None]) -> int:
    """A process's life: work on messages from standard input to what was standard output; its exit code.

    It ends well where nobody writes any more; what is wrong is told as ``failed``.
    """
    hears, tells = 0, os.dup(1)
    os.dup2(2, 1)  # what a library prints is no message
    try:
        work(hears, tells)
    except EndedError:
        return 0
    except ClovenError as error:
        tell(tells, {"failed": list(error.problems)})
        return 2
    return 0


def _exactly(descriptor: int, size: int) -> bytearray:
    held, filled = bytearray(min(size, BLOCK)), 0
    while filled < size:
        if filled == len(held):  # memory is taken for what comes, not for what is announced
            held.extend(bytes(min(size - filled, filled)))
        with memoryview(held)[filled:] as left:
            got = os.readv(descriptor, [left])
        if not got:
            raise EndedError("the process at the other end of a pipe has ended")
        filled += got
    return held
