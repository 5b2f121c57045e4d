"""The documents of a bundle: its manifest and the part of each device, and the names of its files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from cloven.documents import Document
from cloven.graph.box import covers, extent, text, whole
from cloven.partition.protection import Protection
from cloven.partition.transform import ImageType, Transform, WireKind

FORMAT = 4
"""The version of a bundle's files; a reader accepts no other."""

MANIFEST, PART, WEIGHTS = "manifest.json", "part.json", "weights.bin"

LARGEST = 2**31 - 1
"""The largest index, size and step number: onnxruntime and the wire format use 32-bit integers."""

Number = Annotated[int, Field(ge=0, le=LARGEST)]


def _interval(found: tuple[int, int]) -> tuple[int, int]:
    if found[0] >= found[1]:
        raise ValueError(f"the interval {found[0]}:{found[1]} is empty")
    return found


Box = tuple[Annotated[tuple[Number, Number], AfterValidator(_interval)], ...]


# --- part.json ------------------------------------------------------------------------------------------------


class SegmentTensor(Document):
    """An input or output of a segment: a box of a value, and its name in the ONNX model."""

    name: str
    value: str
    box: Box


class SegmentOperator(Document):
    """An operator of a segment, with its work for one image; ``name`` is the prefix of the names of its ONNX nodes.

    ``family``, ``macs`` and ``bytes`` are as `cloven.cost.operators.work` counts them.
    """

    name: str
    family: str
    macs: Annotated[int, Field(ge=0)]
    bytes: Annotated[int, Field(ge=0)]


class RunSegment(Document):
    """Run one segment: assemble its inputs from the values that the device holds, and keep its outputs.

    ``weight_bytes`` and ``loading_bytes`` are the memory of its weights, see `cloven.cost.loading`.
    """

    do: Literal["run"] = "run"
    step: Number
    segment: str
    inputs: tuple[SegmentTensor, ...]
    outputs: tuple[SegmentTensor, ...]
    operators: tuple[SegmentOperator, ...] = ()
    weight_bytes: Annotated[int, Field(ge=0)] | None = None
    loading_bytes: Annotated[int, Field(ge=0)] | None = None


class _ShareTransfer(Document):
    step: Number
    transfer: Number
    message: Number
    value: str
    share: Box
    shape: tuple[Number, ...]
    dtype: Literal["float32"] = "float32"
    transform: WireKind = "none"
    bytes: Number

    @model_validator(mode="after")
    def _sized(self) -> Self:
        if extent(self.share) != self.shape:
            raise ValueError(f"the share {text(self.share)} does not have the shape {self.shape}")
        expected = Transform(self.transform).bytes(prod(self.shape))
        if self.bytes != expected:
            name = f" as {self.transform}" if self.transform != "none" else ""
            raise ValueError(f"bytes is {self.bytes}; expected {expected} for {self.shape}{name}")
        return self

    def same_transfer(self, other: _ShareTransfer) -> bool:
        """Return whether two steps are the two ends of one transfer: equal in all but the direction."""
        ends = {"do", "source", "target"}
        return self.model_dump(exclude=ends) == other.model_dump(exclude=ends)


class ReceiveShare(_ShareTransfer):
    """Receive a transfer from another device: a share of a value, ``shape`` and ``bytes`` of one image.

    ``transform`` is how the share crosses the link, see `cloven.runtime.wire_format`; devices hold float32 numbers.

    ``message`` is the number of the frame that carries it on its link, counted from 0 for each image; see
    `cloven.runtime.bundle.schedule`.
    """

    do: Literal["receive"] = "receive"
    source: str


class SendShare(_ShareTransfer):
    """Send a transfer to another device; the fields are those of `ReceiveShare`."""

    do: Literal["send"] = "send"
    target: str


Step = RunSegment | ReceiveShare | SendShare


class WholeValue(Document):
    """A value that a device holds completely, and its shape for one image."""

    value: str
    shape: tuple[Annotated[int, Field(ge=1, le=LARGEST)], ...]


class SentImage(WholeValue):
    """The image, and the type of the numbers that the coordinator sends; ``uint8`` are pixels of 0 to 255."""

    dtype: ImageType = "float32"


class DevicePart(Document):
    """The part of one device: its steps, in order. Step numbers are positions in the order over all devices.

    ``image`` is the input value, None unless this device receives the image; ``output`` is the output value, None
    unless this device computes it.
    """

    format: Literal[4] = 4
    device: str
    model: str
    image: SentImage | None
    output: WholeValue | None
    steps: tuple[Annotated[Step, Field(discriminator="do")], ...]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        """Check that steps are in order, and that each reads only boxes that the device already holds."""
        held: dict[str, list[Box]] = {}
        if self.image is not None:
            held[self.image.value] = [whole(self.image.shape)]
        reads: Iterable[tuple[str, Box]]
        made: Iterable[tuple[str, Box]]
        before = -1
        for step in self.steps:
            if step.step <= before:
                raise ValueError(f"step {step.step} follows step {before}; expected ascending numbers")
            before = step.step
            match step:
                case RunSegment():
                    reads = [(tensor.value, tensor.box) for tensor in step.inputs]
                    made = [(tensor.value, tensor.box) for tensor in step.outputs]
                case SendShare():
                    reads, made = [(step.value, step.share)], []
                case ReceiveShare():
                    reads, made = [], [(step.value, step.share)]
            _expect_held(held, reads, f"step {step.step}")
            for value, box in made:
                if any(len(box) != len(other) for other in held.get(value, [])):
                    raise ValueError(f"step {step.step} writes a box of {value!r} with a different rank")
                held.setdefault(value, []).append(box)
        if self.output is not None:
            _expect_held(held, [(self.output.value, whole(self.output.shape))], "the output")
        return self


def _expect_held(held: Mapping[str, Sequence[Box]], reads: Iterable[tuple[str, Box]], reader: str) -> None:
    for value, box in reads:
        boxes = held.get(value, [])
        if any(len(box) != len(other) for other in boxes) or not covers(boxes, box):
            raise ValueError(f"{reader} reads {value!r} [{text(box)}], which the device does not hold yet")


# --- manifest.json --------------------------------------------------------------------------------------------


class FileDigest(Document):
    """The SHA-256 and the size of a file."""

    sha256: str
    bytes: int


class DeviceFolder(Document):
    """A device and its folder in the bundle."""

    name: str
    folder: str


class NumericalCheck(Document):
    """The largest difference from PyTorch when the models were written, relative to max(1, largest number)."""

    images: int
    largest_difference: float
    tolerance: float


class Manifest(Document):
    """The manifest of a bundle.

    Attributes:
        bundle: the program that wrote it.
        format: the version of the format.
        model: the model's name, for display.
        plan: the plan file's text.
        exact: whether the program computes the same output as the model.
        image: the shape of one image, (C, H, W).
        output: the shape of one image's output.
        devices: in the plan's order.
        protection: of the links.
        made_with: versions of the packages that wrote it.
        check: the comparison of its models with PyTorch.
        files: every file by its path in the bundle.
    """

    bundle: Literal["cloven"] = "cloven"
    format: Literal[4] = 4
    model: str
    plan: str
    exact: bool
    image: tuple[int, ...]
    output: tuple[int, ...]
    devices: tuple[DeviceFolder, ...]
    protection: Protection = Protection()
    made_with: dict[str, str]
    check: NumericalCheck
    files: dict[str, FileDigest]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for names in (
            {device.name for device in self.devices},
            {device.folder.casefold() for device in self.devices},
        ):
            if len(names) < len(self.devices):
                raise ValueError("two devices have the same name or folder")
        return self
