"""Messages between the processes of an enclave, over pipes: a typed JSON document followed by bytes."""

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
"""The size of the JSON, and the size of the content after it, in bytes."""
WORDS, CONTENT = 2**24, 2**34
"""The limits of both."""
BLOCK = 2**26
"""The most memory that is allocated for a message before any of it has arrived, in bytes."""

Count = Annotated[int, Field(ge=0)]
Shape = tuple[Count, ...]
Kind = TypeVar("Kind", bound=BaseModel)


class EndedError(ClovenError):
    """The other process has ended."""


# --- the messages, in the order of a run ------------------------------------------------------------------------


class KeyAwaited(Document):
    """The trusted half has started and waits for its key; `limits` describes its sandbox."""

    kind: Literal["waiting"] = "waiting"
    limits: tuple[str, ...]


class OwnerMessage(Document):
    """A message of the owner to the trusted half, or its answer; its text is the content."""

    kind: Literal["owner"] = "owner"


class SplitReport(Document):
    """The model is decrypted and split; the content is the rear.

    Attributes:
        decrypted_seconds: the time of decryption.
        split_seconds: the time of building and splitting the model.
        takes: the shapes that are handed over, for one image.
        gives: the shapes that are handed back, for one image.
        values: the names of the values that are handed over.
        result: whether the result leaves sealed or in clear.
        front_ops: the number of ops of the front.
        rear_ops: the number of ops of the rear.
        front_weight_bytes: the size of the front's weights.
        rear_weight_bytes: the size of the rear's weights.
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
    """The content is the rear, for the accelerator; `result` is clear if its output is the result."""

    kind: Literal["rear"] = "rear"
    result: Literal["sealed", "clear"]


class RearLoaded(Document):
    """The accelerator has loaded the rear onto a device."""

    kind: Literal["loaded"] = "loaded"
    load_seconds: float
    device: str


class SealedInputs(Document):
    """The content is sealed pictures, one after another, with these sizes in bytes."""

    kind: Literal["inputs"] = "inputs"
    sizes: Annotated[tuple[Count, ...], Field(min_length=1)]


class FrontDone(Document):
    """The front has run; with a pipe, the content is the tensors. Times are in seconds of the machine's clock."""

    kind: Literal["front"] = "front"
    images: Count
    bytes: Count
    began: float
    opened: float
    computed: float


class HandedOver(Document):
    """Images are handed over to the accelerator; with a pipe, the content is the tensors."""

    kind: Literal["images"] = "images"
    images: Count


class RearDone(Document):
    """The rear has run; the content is its output, or with a pipe the tensors. Shapes include all images."""

    kind: Literal["done"] = "done"
    images: Count
    taken: float
    computed: float
    shapes: tuple[Shape, ...]


class HandedBack(Document):
    """Images are handed back to the trusted half; with a pipe, the content is the tensors."""

    kind: Literal["back"] = "back"
    images: Count


class RestDone(Document):
    """The rest has run inside; the content is the sealed result."""

    kind: Literal["result"] = "result"
    taken: float
    sealed: float


class Failure(Document):
    """The problems of a message that was refused, or that ends the process."""

    kind: Literal["failed"] = "failed"
    problems: tuple[str, ...]


class TrustedTask(RootModel[Annotated[SealedInputs | HandedBack, Field(discriminator="kind")]]):
    """A message that the trusted half processes."""


# --- sending and receiving --------------------------------------------------------------------------------------

NAME = "a message from the other process"


def tell(descriptor: int, message: BaseModel, content: bytes | bytearray | memoryview = b"") -> None:
    """Send a message.

    Raises:
        EndedError: if the other process has ended.
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
    """Return the next message and its content.

    Args:
        descriptor: the descriptor of the pipe.
        kind: the expected kind of message.
        timeout: the limit until it begins, in seconds.

    Raises:
        EndedError: if the other process has ended.
        ClovenError: if the message has another kind, none begins in time, or the other process reports a `Failure`.
    """
    if timeout is not None and not select.select([descriptor], [], [], timeout)[0]:
        raise ClovenError(f"the process at the other end of a pipe did not send a message within {timeout:g} s")
    words, content = HEAD.unpack(_exactly(descriptor, HEAD.size))
    if words > WORDS or content > CONTENT:
        raise ClovenError(
            f"the other process announced a message of {words} and {content} bytes; expected at most {WORDS} and "
            f"{CONTENT}"
        )
    text = bytes(_exactly(descriptor, words))
    behind = _exactly(descriptor, content)
    if parse_json(text, NAME).get("kind") == "failed":
        raise ClovenError(parse_document(Failure, text, NAME).problems)
    return parse_document(kind, text, NAME), behind


def served(work: Callable[[int, int], None]) -> int:
    """Run a process that reads messages from standard input and answers on standard output; return its exit code.

    It succeeds when the other process ends; problems are sent as a `Failure`.
    """
    hears, tells = 0, os.dup(1)
    os.dup2(2, 1)  # libraries that print must not corrupt the messages
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
        if filled == len(held):  # allocate memory for what has arrived, not for what was announced
            held.extend(bytes(min(size - filled, filled)))
        with memoryview(held)[filled:] as left:
            got = os.readv(descriptor, [left])
        if not got:
            raise EndedError("the process at the other end of a pipe has ended")
        filled += got
    return held
