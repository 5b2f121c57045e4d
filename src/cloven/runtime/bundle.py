"""A bundle: a folder for each device with all that it needs to run its part without PyTorch.

    bundle/
      manifest.json        the plan, versions, and the sha256 of every file below
      edge0/part.json      what the device does, step by step
      edge0/segment-0.onnx models, one op to one node
      edge0/weights.bin    their weights, raw little-endian float32

This module reads a bundle, and imports neither torch nor onnx.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from cloven.errors import ClovenError, require
from cloven.files import open_regular, parse_json, read_text
from cloven.graph.box import covers, extent, text, whole
from cloven.partition.program import BYTES
from cloven.partition.protection import Protection

if TYPE_CHECKING:
    from cloven.partition.program import Program
    from cloven.runtime.onnx.engine import Array

FORMAT = 2
"""The version of a bundle's files; a reader takes only its own."""

MANIFEST, PART, WEIGHTS = "manifest.json", "part.json", "weights.bin"

LARGEST = 2**31 - 1
"""The largest index, size and number of a step: what onnxruntime and the wire count with."""

Number = Annotated[int, Field(ge=0, le=LARGEST)]


def _interval(found: tuple[int, int]) -> tuple[int, int]:
    if found[0] >= found[1]:
        raise ValueError(f"the interval {found[0]}:{found[1]} is empty")
    return found


Box = tuple[Annotated[tuple[Number, Number], AfterValidator(_interval)], ...]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


# --- part.json ------------------------------------------------------------------------------------------------


class Piece(_Frozen):
    """A box of a value, and what it is called in an ONNX model."""

    name: str
    value: str
    box: Box


class Run(_Frozen):
    """Run one segment: its inputs are put together from what the device holds, its outputs are held."""

    do: Literal["run"] = "run"
    step: Number
    segment: str
    inputs: tuple[Piece, ...]
    outputs: tuple[Piece, ...]


class _Crossing(_Frozen):
    step: Number
    transfer: Number
    message: Number
    value: str
    share: Box
    shape: tuple[Number, ...]
    dtype: Literal["float32"] = "float32"
    bytes: Number

    @model_validator(mode="after")
    def _sized(self) -> Self:
        if extent(self.share) != self.shape:
            raise ValueError(f"the share {text(self.share)} does not have the shape {self.shape}")
        if self.bytes != BYTES * prod(self.shape):
            raise ValueError(f"bytes is {self.bytes}; expected {BYTES * prod(self.shape)} for {self.shape}")
        return self

    def crossing(self) -> dict[str, Any]:
        """Return what both ends of a transfer have in common."""
        return self.model_dump(exclude={"do", "source", "target"})


class Receive(_Crossing):
    """Receive a transfer from another device: a share of a value, ``shape`` and ``bytes`` of one image.

    ``message`` numbers the frame of the link that brings it, for each image from 0; see `cloven.runtime.messages`.
    """

    do: Literal["receive"] = "receive"
    source: str


class Send(_Crossing):
    """Send a transfer to another device; as `Receive`."""

    do: Literal["send"] = "send"
    target: str


Step = Run | Receive | Send


class Whole(_Frozen):
    """A value that a device has all of, and the shape of one image's."""

    value: str
    shape: tuple[Annotated[int, Field(ge=1, le=LARGEST)], ...]


class Part(_Frozen):
    """What one device does, in order. Steps keep their numbers in the order over all devices.

    ``image`` is the value that the device is given at the start, ``output`` the one that it has at the end; None
    where that is another device.
    """

    format: Literal[2] = 2
    device: str
    model: str
    image: Whole | None
    output: Whole | None
    steps: tuple[Annotated[Step, Field(discriminator="do")], ...]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        """Check that steps are in order, and that each reads only what the device has by then."""
        held: dict[str, list[Box]] = {}
        if self.image is not None:
            held[self.image.value] = [whole(self.image.shape)]
        reads: Iterable[tuple[str, Box]]
        made: Iterable[tuple[str, Box]]
        before = -1
        for step in self.steps:
            if step.step <= before:
                raise ValueError(f"step {step.step} comes after step {before}; expected ascending numbers")
            before = step.step
            match step:
                case Run():
                    reads, made = ([(p.value, p.box) for p in ps] for ps in (step.inputs, step.outputs))
                case Send():
                    reads, made = [(step.value, step.share)], []
                case Receive():
                    reads, made = [], [(step.value, step.share)]
            _expect_held(held, reads, f"step {step.step}")
            for value, box in made:
                if any(len(box) != len(other) for other in held.get(value, [])):
                    raise ValueError(f"step {step.step} makes a box of {value!r} of another rank")
                held.setdefault(value, []).append(box)
        if self.output is not None:
            _expect_held(held, [(self.output.value, whole(self.output.shape))], "the output")
        return self


def _expect_held(held: Mapping[str, Sequence[Box]], reads: Iterable[tuple[str, Box]], reader: str) -> None:
    for value, box in reads:
        boxes = held.get(value, [])
        if any(len(box) != len(other) for other in boxes) or not covers(boxes, box):
            raise ValueError(f"{reader} reads {value!r} [{text(box)}], which the device does not have by then")


# --- manifest.json --------------------------------------------------------------------------------------------


class File(_Frozen):
    """What a file must be."""

    sha256: str
    bytes: int


class Device(_Frozen):
    """A device and its folder in the bundle."""

    name: str
    folder: str


class Check(_Frozen):
    """How far the models were from PyTorch when they were written, as a share of max(1, largest number)."""

    images: int
    largest_difference: float
    tolerance: float


class Manifest(_Frozen):
    """What a bundle is. ``plan`` is as it was given; ``made_with`` are the versions of what wrote it."""

    bundle: Literal["cloven"] = "cloven"
    format: Literal[2] = 2
    model: str
    plan: str | dict[str, Any]
    exact: bool
    image: tuple[int, ...]
    output: tuple[int, ...]
    devices: tuple[Device, ...]
    protection: Protection = Protection()
    made_with: dict[str, str]
    check: Check
    files: dict[str, File]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for names in (
            {device.name for device in self.devices},
            {device.folder.casefold() for device in self.devices},
        ):
            if len(names) < len(self.devices):
                raise ValueError("two devices have the same name or folder")
        return self


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are what its manifest says."""

    folder: Path
    manifest: Manifest
    parts: Mapping[str, Part]

    def place(self, device: str) -> Path:
        """The folder of a device."""
        (folder,) = (d.folder for d in self.manifest.devices if d.name == device)
        return self.folder / folder

    def summary(self) -> dict[str, Any]:
        """The bundle for people and JSON readers."""
        rows = []
        for device in self.manifest.devices:
            mine = [file for path, file in self.manifest.files.items() if path.startswith(device.folder + "/")]
            row = {"device": device.name, "folder": device.folder, "files": len(mine)}
            rows.append(row | {"bytes": sum(file.bytes for file in mine)})
        return {"bundle": str(self.folder), "devices": rows, "check": self.manifest.check.model_dump()}


def write(
    program: Program,
    out: Path,
    *,
    model: str,
    plan: str | Mapping[str, Any],
    images: Array | None = None,
    protection: Protection | None = None,
) -> Bundle:
    """Write a program as a bundle, and check every segment against PyTorch.

    Args:
        program: what `compile` made.
        out: the folder. It is there whole or not at all; an older bundle in its place is replaced.
        model: the model's name, for people.
        plan: the plan as text or as a table; kept in the manifest as it is.
        images: ``(n, C, H, W)`` float32 in [0, 1] to check with; fewer than three are filled up with smooth random
            ones.
        protection: how its links are to be protected; left out, not at all.

    Raises:
        ClovenError: for ops that ONNX has no node for (all of them), for a folder that holds anything but a
            bundle, for a program that transforms what it sends, and for a segment that computes something else
            than PyTorch.
    """
    try:
        from cloven.runtime.bundle_writer import write as write_bundle
    except ImportError as error:
        raise require("edge" if error.name == "onnxruntime" else "audit", error) from error
    return write_bundle(program, out, model=model, plan=plan, images=images, protection=protection or Protection())


def read(folder: Path, device: str | None = None) -> Bundle:
    """A bundle, every file checked against the manifest.

    With the name of a ``device`` only its folder need be there, beside the manifest.

    Raises:
        ClovenError: for a folder that is no bundle or of another version, and for all files that are missing,
            differ, do not belong there, or lie outside.
    """
    manifest = read_manifest(folder)
    names = [d.name for d in manifest.devices]
    if device is not None and device not in names:
        raise ClovenError(f"{folder} has no device {device!r}; its devices are {', '.join(names)}")
    devices = [d for d in manifest.devices if device in (None, d.name)]
    unsafe = [name for name in (*manifest.files, *(d.folder for d in devices)) if not _inside(name)]
    if unsafe:
        raise ClovenError([f"{folder / MANIFEST} names {n!r}, which lies outside of the bundle" for n in unsafe])
    folders = {d.folder for d in devices}
    listed = {n: f for n, f in manifest.files.items() if device is None or PurePosixPath(n).parts[0] in folders}
    problems = list(_differences(folder, listed, folders if device else None))
    if problems:
        raise ClovenError([*problems, f"{folder} is not what was written: copy it again, or run `cloven bundle`"])
    parts = {d.name: _parsed(Part, (folder / d.folder / PART)) for d in devices}
    wrong = list(_mismatches(parts, manifest)) + [
        f"{folder / d.folder / PART} names {step.segment!r}, which the manifest does not list"
        for d in devices
        for step in parts[d.name].steps
        if isinstance(step, Run) and f"{d.folder}/{step.segment}" not in manifest.files
    ]
    if wrong:
        raise ClovenError(wrong)
    return Bundle(folder, manifest, parts)


def _mismatches(parts: Mapping[str, Part], manifest: Manifest) -> Iterator[str]:
    """Return how the parts that were read contradict each other, or the manifest."""
    names = [d.name for d in manifest.devices]
    steps = [(device, step) for device, part in parts.items() for step in part.steps]
    sends = {(step.transfer, device, step.target): step for device, step in steps if isinstance(step, Send)}
    receives = {(step.transfer, device, step.source): step for device, step in steps if isinstance(step, Receive)}
    listed = sum(not isinstance(step, Run) for _, step in steps)
    if len({key[0] for key in sends}) + len({key[0] for key in receives}) < listed:
        yield "a transfer is listed twice"
    for (transfer, device, peer), step in [*sends.items(), *receives.items()]:
        if peer not in names or peer == device:
            yield f"transfer {transfer} of {device} names {peer!r}; the bundle's devices are {', '.join(names)}"
        elif peer in parts:
            other = (receives if isinstance(step, Send) else sends).get((transfer, peer, device))
            if other is None or other.crossing() != step.crossing():
                yield f"transfer {transfer} between {device} and {peer} is not the same in both parts"
    for device, part in parts.items():
        if part.device != device:
            yield f"the part of {device} was written for {part.device!r}"
    for end in ("image", "output"):
        for device, part in parts.items():
            value, shape = getattr(part, end), getattr(manifest, end)
            if value is not None and value.shape != shape:
                yield f"the {end} of {device} has the shape {value.shape}; expected {shape}, as in {MANIFEST}"
        ends = sum(getattr(part, end) is not None for part in parts.values())
        if ends > 1 or (ends < 1 and len(parts) == len(names)):
            yield f"{ends} devices have the {end}; expected one"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle; the files are not looked at.

    Raises:
        ClovenError: for a folder that is no bundle, or of another version.
    """
    if not (folder / MANIFEST).is_file():
        raise ClovenError(f"{folder} is no bundle: it has no {MANIFEST}; expected what `cloven bundle` wrote")
    return _parsed(Manifest, folder / MANIFEST)


Parsed = TypeVar("Parsed", Part, Manifest)


def _parsed(kind: type[Parsed], path: Path) -> Parsed:
    text = read_text(path)
    version = parse_json(text, str(path)).get("format")
    if version != FORMAT:
        raise ClovenError(
            f"{path} has format {version!r}; this cloven reads {FORMAT}: write it again with `cloven bundle`"
        )
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        lines = [f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ClovenError(lines) from error


def _inside(name: str) -> bool:
    """Whether a name is that of something in the folder, on any system."""
    path = PurePosixPath(name)
    plain = not any(mark in name for mark in "\\:\0")
    return plain and bool(path.parts) and not path.is_absolute() and ".." not in path.parts and str(path) == name


def _differences(folder: Path, listed: Mapping[str, File], folders: set[str] | None) -> Iterator[str]:
    """What is wrong with the files: of the whole bundle, or of some of its folders."""
    found = {
        path.relative_to(folder).as_posix(): path
        for top in ([folder] if folders is None else [folder / name for name in sorted(folders)])
        for path in sorted(top.rglob("*"))
        if path.is_symlink() or not path.is_dir()
    }
    for name in sorted(found.keys() - listed.keys() - {MANIFEST}):
        yield f"{name} does not belong to the bundle"
    for name, expected in sorted(listed.items()):
        if name not in found:
            yield f"{name} is missing"
        elif found[name].is_symlink():
            yield f"{name} is a link; expected a file"
        elif (size := found[name].stat().st_size) != expected.bytes:  # hashing a huge file takes long
            yield f"{name} differs: {size} bytes; expected {expected.bytes} bytes"
        elif (made := described(found[name])) != expected:
            yield (
                f"{name} differs: {made.bytes} bytes, sha256 {made.sha256[:12]}...; "
                f"expected {expected.bytes} bytes, {expected.sha256[:12]}..."
            )


def described(path: Path) -> File:
    """Return the hash and the size of a regular file."""
    with open_regular(path) as file:
        digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]
        return File(sha256=digest.hexdigest(), bytes=path.stat().st_size)
