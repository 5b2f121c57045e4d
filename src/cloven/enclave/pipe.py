"""Messages between the processes of an enclave, over pipes: a typed JSON document, and bytes behind it."""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, Field, RootModel

from cloven.documents import Document, parse_document
from cloven.errors import ClovenError
from cloven.files import parse_json

HEAD = struct.Struct(">IQ")
"""Bytes of the JSON, bytes of what follows it."""
WORDS, CONTENT = 2**24, 2**34
"""The most bytes of either."""
BLOCK = 2**26
"""Bytes of memory taken for a message before any of it has come."""

Count = Annotated[int, Field(ge=0)]
Shape = tuple[Count, ...]
Kind = TypeVar("Kind", bound=BaseModel)


class EndedError(ClovenError):
    """The other process has ended."""


# --- the messages, in the order of a run ------------------------------------------------------------------------


class KeyAwaited(Document):
    """The trusted half has started and waits for its key; `limits` describe its sandbox."""

    kind: Literal["waiting"] = "waiting"
    limits: tuple[str, ...]


class OwnerMessage(Document):
    """A message of the owner to the trusted half, or its answer: the bytes behind."""

    kind: Literal["owner"] = "owner"


class SplitReport(Document):
    """The model is decrypted and split; the rear follows.

    Attributes:
        decrypted_seconds: of decrypting.
        split_seconds: of building and splitting the model.
        takes: shapes that are handed over, for one image.
        gives: shapes that come back, for one image.
        values: names of the values that are handed over.
        result: how the result leaves the system.
        front_ops: ops of the front.
        rear_ops: ops of the rear.
        front_weight_bytes: bytes of the front's weights.
        rear_weight_bytes: bytes of the rear's weights.
    """

    kind: Literal["split"] = "split"
    decrypted_seconds: float
    split_seconds: float
    takes: tuple[Shape, ...]
    gives: tuple[Shape, ...]
    values: tuple[str, ...]
    result: Literal["sealed", "clear"]
    front_ops: Count
    rear_ops: Count
    front_weight_bytes: Count
    rear_weight_bytes: Count


class RearModel(Document):
    """The rear for the accelerator; `result` is clear if its output is the result."""

    kind: Literal["rear"] = "rear"
    result: Literal["sealed", "clear"]


class RearLoaded(Document):
    """The accelerator has loaded the rear onto a device."""

    kind: Literal["loaded"] = "loaded"
    load_seconds: float
    device: str


class SealedInputs(Document):
    """Sealed pictures, one behind another, of these sizes in bytes."""

    kind: Literal["inputs"] = "inputs"
    sizes: Annotated[tuple[Count, ...], Field(min_length=1)]


class FrontDone(Document):
    """The front has run on images; what a pipe hands over follows. Times are of the machine's clock, in seconds."""

    kind: Literal["front"] = "front"
    images: Count
    bytes: Count
    began: float
    opened: float
    computed: float


class HandedOver(Document):
    """Images are handed over to the accelerator; what a pipe hands over follows."""

    kind: Literal["images"] = "images"
    images: Count


class RearDone(Document):
    """The rear has run; its output, or what a pipe hands back, follows. Shapes are those of all images."""

    kind: Literal["done"] = "done"
    images: Count
    taken: float
    computed: float
    shapes: tuple[Shape, ...]


class HandedBack(Document):
    """Images are handed back to the trusted half; what a pipe hands back follows."""

    kind: Literal["back"] = "back"
    images: Count


class RestDone(Document):
    """The rest has run inside; the sealed result follows."""

    kind: Literal["result"] = "result"
    taken: float
    sealed: float


class Failure(Document):
    """The problems of a message that was refused, or for which the process ends."""

    kind: Literal["failed"] = "failed"
    problems: tuple[str, ...]


class TrustedTask(RootModel[Annotated[SealedInputs | HandedBack, Field(discriminator="kind")]]):
    """A message that the trusted half works on."""


# --- sending and receiving --------------------------------------------------------------------------------------

NAME = "a message of the other process"


def tell(descriptor: int, message: BaseModel, content: bytes | bytearray | memoryview = b"") -> None:
    """Send a message.

    Raises:
        EndedError: if nobody reads any more.
    """
    words = message.model_dump_json().encode()
    data = memoryview(content).cast("B")
    try:
        for part in (memoryview(HEAD.pack(len(words), len(data)) + words), data):
            while part:
                part = part[os.write(descriptor, part) :]
    except BrokenPipeError:
        raise EndedError("the process at the other end of a pipe has ended") from None


def heard(descriptor: int, kind: type[Kind], timeout: float | None = None) -> tuple[Kind, bytearray]:
    """Return the next message, and the bytes behind it.

    Args:
        descriptor: of the pipe.
        kind: of the message that is due.
        timeout: seconds until it begins.

    Raises:
        EndedError: if there will be none.
        ClovenError: if it is of another kind, none begins in time, or the other process reports a `Failure`.
    """
    if timeout is not None and not select.select([descriptor], [], [], timeout)[0]:
        raise ClovenError(f"the process at the other end of a pipe said nothing for {timeout:g} s")
    words, content = HEAD.unpack(_exactly(descriptor, HEAD.size))
    if words > WORDS or content > CONTENT:
        raise ClovenError(f"a message of {words} and {content} bytes was announced; at most {WORDS} and {CONTENT}")
    text = bytes(_exactly(descriptor, words))
    behind = _exactly(descriptor, content)
    if parse_json(text, NAME).get("kind") == "failed":
        raise ClovenError(parse_document(Failure, text, NAME).problems)
    return parse_document(kind, text, NAME), behind


def served(work: Callable[[int, int], None]) -> int:
    """Run a process on messages from standard input to what was standard output; return its exit code.

    It ends well if nobody writes any more; problems are told as a `Failure`.
    """
    hears, tells = 0, os.dup(1)
    os.dup2(2, 1)  # what a library prints is not a message
    try:
        work(hears, tells)
    except EndedError:
        return 0
    except ClovenError as error:
        tell(tells, Failure(problems=error.problems))
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
