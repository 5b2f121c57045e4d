"""Extract the messages of one direction of a link by image: the file `captured.safetensors`.

    input   (n,) int64, ascending       the numbers of the images
    "0"     (n, numbers) float32        the payloads of ordinal 0; (n, bytes) uint8, with tag, if protected
                                        (other numbers are converted as the receiver converts them)
    "1"     ...

A capture is read twice: once for the survey, once for the selected payloads.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from cloven.errors import ClovenError
from cloven.files import read_tensors, replacing
from cloven.runtime.message_shapes import MessageShapes
from cloven.runtime.tap.captures import Tally
from cloven.runtime.tap.flows import TLS, Flow, Survey
from cloven.runtime.tap.grpc_messages import TAG
from cloven.runtime.tap.links import FrameHeader, listen
from cloven.runtime.unit_images import unit
from cloven.runtime.wire_format import decode, size

if TYPE_CHECKING:
    from cloven.graph.box import Shape
    from cloven.partition.transform import WireKind

CAPTURED = "captured.safetensors"
FORMAT = "1"
INPUT = "input"
NumberType = Literal["float32", "float16", "int8", "uint8"]
KINDS: Mapping[str, WireKind] = {"float32": "none", "float16": "float16", "int8": "int8"}
"""The kinds of `cloven.runtime.wire_format` by the type of the numbers that cross."""
Layout = tuple[bool, tuple[tuple[int, int], ...]]
"""True if an image's messages are protected, and the bytes of each ordinal."""


@dataclass(frozen=True, eq=False)
class CapturedMessages:
    """The messages of one direction of a link.

    Attributes:
        inputs: (n,) int64, ascending: the numbers of the images.
        messages: by ordinal (n, numbers) float32, or (n, bytes) uint8 if protected.
        link: "IP:PORT -> IP:PORT".
        protected: whether the messages are ciphertext and tag.
        bytes: the payload of all frames, including those of skipped images.
        sessions: their ids, hexadecimal.
        left_out: the number of images that were skipped because messages are missing or have other sizes than those
            of most images.
        repeated: the number of images with a message that occurs more than once; the first is kept.
        image_bytes: the bytes of an image's messages as they crossed the link; None if unknown.
    """

    inputs: NDArray[np.int64]
    messages: Mapping[int, NDArray[Any]]
    link: str
    protected: bool
    bytes: int
    sessions: tuple[str, ...]
    left_out: int = 0
    repeated: int = 0
    image_bytes: int | None = None


def choose(survey: Survey, source: str | None = None, target: str | None = None) -> Flow:
    """Return the flow with the most payload, optionally from a source or to a target.

    Args:
        survey: the survey of the capture.
        source: "IP:PORT" as in the survey, or only the IP.
        target: likewise.

    Raises:
        ClovenError: if there are no frames, or none between these addresses.
    """
    framed = [flow for flow in survey.flows if flow.frames]
    if not framed:
        tls = sum(flow.bytes for flow in survey.flows if flow.kind == TLS)
        seen = f"{tls:,} bytes of TLS, which cannot be decrypted" if tls else f"{len(survey.flows)} other flows"
        raise ClovenError(f"{survey.path} does not contain frames of cloven, only {seen}")
    for flow in framed:
        if _is(flow.source, source) and _is(flow.target, target):
            return flow
    asked = f"{source or 'any'} -> {target or 'any'}"
    there = ", ".join(flow.name for flow in framed)
    raise ClovenError(f"{survey.path} does not contain frames of {asked}; expected one of {there}")


def _is(end: str, asked: str | None) -> bool:
    host = end.rpartition(":")[0]
    return asked is None or asked in (end, host, host.strip("[]"))


def extract(
    survey: Survey, flow: Flow, numbers: NumberType = "float32", shapes: MessageShapes | None = None
) -> CapturedMessages:
    """Return the messages of a flow, for all images whose ordinals and sizes are those of most images.

    Args:
        survey: the survey of the capture.
        flow: the flow.
        numbers: the type of the numbers in its payloads; ``uint8`` are the pixels of an image, 0 to 255, and
            ``int8`` are shares as `cloven.runtime.wire_format` encodes them.
        shapes: the shapes of the shares in each message, which ``int8`` requires where there are several; by
            default, a message is one share.

    Raises:
        ClovenError: if the messages of most images do not consist of such numbers, or the file has changed.
    """
    (protected, sizes), inputs, left_out, repeated = _rows(flow.headers)
    counts = {k: _counts(length, numbers, (shapes or {}).get(k)) for k, length in sizes} if not protected else {}
    broken = [f"{length} bytes in ordinal {k}" for k, length in sizes if not protected and not counts[k]]
    if broken:
        known = " of the shapes given" if shapes else ""
        raise ClovenError(f"{flow.name}: payloads are not {numbers} numbers{known}: {', '.join(broken)}")
    tag = TAG if protected else 0
    found = {k: np.empty((len(inputs), length + tag), np.uint8) for k, length in sizes}
    missing = set(product(inputs, found))
    row = {number: i for i, number in enumerate(inputs)}
    for _, _, frames in listen(survey.path, Tally(), flow.ports):
        for frame in frames:
            if (frame.input, frame.ordinal) in missing:
                missing.remove((frame.input, frame.ordinal))
                found[frame.ordinal][row[frame.input]] = np.frombuffer(frame.body, np.uint8)
    if missing:
        raise ClovenError(f"{survey.path} changed while it was read; read it again")
    messages: dict[int, NDArray[Any]] = dict(found)
    if not protected:
        messages = {ordinal: _floats(block, numbers, counts[ordinal]) for ordinal, block in found.items()}
    return CapturedMessages(
        inputs=np.array(inputs, np.int64),
        messages=messages,
        link=flow.name,
        protected=protected,
        bytes=flow.payload,
        sessions=flow.sessions,
        left_out=left_out,
        repeated=repeated,
        image_bytes=sum(block.shape[1] for block in found.values()),
    )


def _counts(length: int, numbers: NumberType, shapes: Sequence[Shape] | None) -> list[int]:
    """Return how many numbers each share of a message of ``length`` bytes has; an empty list if they do not fit."""
    if numbers == "uint8":
        return [length]
    kind = KINDS[numbers]
    counts = [(length - size(kind, 0)) // (size(kind, 1) - size(kind, 0))]
    if shapes is not None:
        counts = [prod(shape) for shape in shapes]
    return counts if min(counts) >= 0 and sum(size(kind, count) for count in counts) == length else []


def _floats(block: NDArray[np.uint8], numbers: NumberType, counts: Sequence[int]) -> NDArray[np.float32]:
    """Return the numbers of a message of each image ``(n, numbers)``, in float32."""
    if numbers == "uint8":
        return unit(block)
    kind, at = KINDS[numbers], 0
    shares = []
    for count in counts:
        end = at + size(kind, count)
        shares.append(decode(kind, block[:, at:end], (count,)))
        at = end
    return shares[0] if len(shares) == 1 else np.concatenate(shares, axis=1)


def _rows(headers: Sequence[FrameHeader]) -> tuple[Layout, list[int], int, int]:
    """Return the most frequent shape, its images in order, and how many have another one or a repeated message."""
    images: dict[int, dict[int, FrameHeader]] = defaultdict(dict)
    repeated: set[int] = set()
    for frame in headers:
        if images[frame.input].setdefault(frame.ordinal, frame) is not frame:
            repeated.add(frame.input)
    shapes = {number: _layout(messages) for number, messages in images.items()}
    counts = Counter(shapes.values())
    # If two shapes are equally frequent, the one with more bytes is the complete one.
    most = max(counts, key=lambda shape: (counts[shape], sum(length for _, length in shape[1])))
    inputs = sorted(number for number, shape in shapes.items() if shape == most)
    return most, inputs, len(shapes) - len(inputs), len(repeated)


def _layout(messages: Mapping[int, FrameHeader]) -> Layout:
    protected = any(frame.protected for frame in messages.values())
    return protected, tuple(sorted((ordinal, frame.length) for ordinal, frame in messages.items()))


def write(captured: CapturedMessages, folder: Path) -> Path:
    """Write `captured.safetensors` into a folder, which is created; return the file's path.

    Raises:
        ClovenError: if the file cannot be written.
    """
    path = folder / CAPTURED
    tensors = {INPUT: captured.inputs, **{str(k): block for k, block in captured.messages.items()}}
    about = {
        "format": FORMAT,
        "link": captured.link,
        "protected": "yes" if captured.protected else "no",
        "bytes": str(captured.bytes),
        "session": ",".join(captured.sessions),
    }
    if captured.image_bytes is not None:
        about["image_bytes"] = str(captured.image_bytes)
    with replacing(path) as part:
        save_file(tensors, part, about)
    return path


def read(folder: Path) -> CapturedMessages:
    """Read `captured.safetensors` of a folder.

    Raises:
        ClovenError: if the file cannot be read, or `write` did not write it.
    """
    path = folder / CAPTURED
    about, tensors = read_tensors(path, "numpy")
    problems = _problems(about, tensors)
    if problems:
        raise ClovenError([f"{path}: {problem}" for problem in problems])
    return CapturedMessages(
        tensors.pop(INPUT),
        {ordinal: tensors[str(ordinal)] for ordinal in sorted(map(int, tensors))},
        about["link"],
        about["protected"] == "yes",
        int(about["bytes"]),
        tuple(filter(None, about["session"].split(","))),
        image_bytes=int(about["image_bytes"]) if "image_bytes" in about else None,
    )


def _problems(about: Mapping[str, str], tensors: Mapping[str, NDArray[Any]]) -> list[str]:
    """Return the problems of a file's content."""
    if about.get("format") != FORMAT:
        return [f"the format is {about.get('format')!r}; expected {FORMAT!r}, as written by `cloven tap --read`"]
    said = [f"{name!r} is missing" for name in ("link", "protected", "bytes", "session") if name not in about]
    counted = [name for name in ("bytes", "image_bytes") if not about.get(name, "0").isdecimal()]
    said += [f"{name} is {about[name]!r}; expected a number" for name in counted]
    inputs = tensors.get(INPUT, np.zeros(0))
    if inputs.dtype != np.int64 or inputs.ndim != 1 or (np.diff(inputs) <= 0).any():
        said.append("'input' must be an ascending list of int64 numbers")
    dtype = np.uint8 if about.get("protected") == "yes" else np.float32
    for name, block in tensors.items():
        if name != INPUT and not (name.isdecimal() and block.dtype == dtype and block.shape[:-1] == inputs.shape):
            said.append(f"{name!r} is {block.dtype} {block.shape}; expected {dtype.__name__} ({len(inputs)}, ...)")
    return said
