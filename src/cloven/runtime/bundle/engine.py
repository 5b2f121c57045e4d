"""Run a bundle with onnxruntime and numpy: all devices in one process, in the global order, without torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cloven.errors import ClovenError, require
from cloven.files import check_regular
from cloven.graph.box import Box, Shape, extent, intersect, relative, slices, whole
from cloven.partition.segments import sources
from cloven.runtime.bundle.format import DevicePart, ReceiveShare, RunSegment, SendShare, Step
from cloven.runtime.bundle.reader import read
from cloven.runtime.bundle.schedule import in_order
from cloven.runtime.wire_format import received

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

CHUNK = 2**16
"""The bytes by which the memory of onnxruntime's sessions grows at least."""

Array = NDArray[np.float32]

Execute = Callable[[str, RunSegment, dict[str, Array]], Mapping[str, Array]]
"""Runs a segment of a device: takes its inputs by name, returns its outputs by name."""

Tap = Callable[[str, SendShare, Array], None]
"""Called with the sending device, the transfer and what the receiver gets ``(n, ...)``; it must not change that."""


def run(folder: Path, images: Array, *, batch: int | None = None, tap: Tap | None = None) -> Array:
    """Return the output of a bundle for ``images`` ``(n, C, H, W)`` in [0, 1], float32: ``(n, classes)``.

    Raises:
        ClovenError: if the bundle's files have changed, or the images have another shape or type.
    """
    bundle = read(folder)
    expected = bundle.manifest.image
    expect(images, expected)
    sessions: dict[tuple[str, str], InferenceSession] = {}
    for device, part in bundle.parts.items():
        for step in part.steps:
            if isinstance(step, RunSegment):
                sessions[device, step.segment] = session(bundle.place(device) / step.segment)

    def execute(device: str, step: RunSegment, inputs: dict[str, Array]) -> Mapping[str, Array]:
        return outputs(sessions[device, step.segment], [p.name for p in step.outputs], inputs)

    size = batch or max(1, min(256, 2**23 // prod(expected)))
    chunks = [images[i : i + size] for i in range(0, len(images), size)]
    return np.concatenate([interpret(bundle.parts, chunk, execute, tap) for chunk in chunks])


def expect(images: Array, shape: Shape) -> None:
    """Check that images are float32 ``(n, *shape)``, with n at least 1.

    Raises:
        ClovenError: if they are not; it gives their type and shape.
    """
    if images.dtype != np.float32 or images.shape[1:] != shape or len(images) == 0:
        raise ClovenError(
            f"the images are {images.dtype} of shape {images.shape}; expected float32 "
            f"(n, {', '.join(map(str, shape))}), the input of the plan's model"
        )


def session(path: Path, trace: Path | None = None) -> InferenceSession:
    """Return an onnxruntime session of a segment, on one thread.

    Args:
        path: the segment.
        trace: where a trace of the times of its nodes is begun; its ``end_profiling()`` completes it.

    Raises:
        ClovenError: if onnxruntime is not installed, or cannot load the file.
    """
    # The official builds store a device identifier and send telemetry unless this is set.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise require("edge", error) from error
    _share_memory()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.enable_mem_pattern = False  # it allocates all values of a segment at once, some with those of another
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # only fatal errors are logged; others are raised
    if trace is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(trace)
    try:
        return onnxruntime.InferenceSession(
            check_regular(path),
            options,
            providers=["CPUExecutionProvider"],
            enable_fallback=0,  # the fallback prints to standard output
        )
    except ClovenError:
        raise
    except Exception as error:  # onnxruntime's errors have no common base class
        reason = str(error).splitlines()
        raise ClovenError(
            f"onnxruntime cannot load {path}: {reason[0] if reason else type(error).__name__}"
        ) from error


@cache
def _share_memory() -> None:
    """Let all sessions of this process compute in the same memory, which grows by what they request.

    Otherwise each of them keeps memory of its own, which doubles whenever it is too small.
    """
    import onnxruntime as ort

    cpu = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    arena = ort.OrtArenaCfg({"arena_extend_strategy": 1, "initial_chunk_size_bytes": CHUNK})
    ort.create_and_register_allocator(cpu, arena)


def outputs(session: InferenceSession, names: Sequence[str], inputs: dict[str, Array]) -> dict[str, Array]:
    """Return the named outputs of a segment.

    Raises:
        ClovenError: if onnxruntime cannot run it on these inputs, or the segment has no output of that name.
    """
    try:
        made: list[Any] = session.run(names, inputs)
    except Exception as error:  # onnxruntime's errors have no common base class
        reason = str(error).splitlines()
        raise ClovenError(
            f"onnxruntime cannot run a segment: {reason[0] if reason else type(error).__name__}"
        ) from error
    return dict(zip(names, made, strict=True))


Pieces = dict[str, list[tuple[Box, Array]]]
"""Boxes of values ``(n, ...)`` that a device holds."""


def interpret(parts: Mapping[str, DevicePart], images: Array, execute: Execute, tap: Tap | None = None) -> Array:
    """Run the steps of all parts in the global order for one batch of images; return the output.

    What a device receives is as `cloven.runtime.wire_format` makes it for the transform of the transfer.
    """
    held: dict[str, Pieces] = {device: {} for device in parts}
    last = {device: last_reads(part) for device, part in parts.items()}
    under_way: dict[int, Array] = {}
    for device, part in parts.items():
        if part.image is not None:
            held[device][part.image.value] = [(whole(part.image.shape), images)]
    for device, i, step in in_order(parts):
        mine = held[device]
        match step:
            case RunSegment():
                inputs = {piece.name: paste(mine[piece.value], piece.box) for piece in step.inputs}
                made = execute(device, step, inputs)
                for piece in step.outputs:
                    if (shape := made[piece.name].shape[1:]) != extent(piece.box):
                        raise ClovenError(f"{piece.name} has the shape {shape}; expected {extent(piece.box)}")
                    mine.setdefault(piece.value, []).append((piece.box, made[piece.name]))
            case SendShare():
                under_way[step.transfer] = received(step.transform, paste(mine[step.value], step.share))
                if tap is not None:
                    tap(device, step, under_way[step.transfer])
            case ReceiveShare():
                mine.setdefault(step.value, []).append((step.share, under_way.pop(step.transfer)))
        for value in last[device].get(i, ()):
            del mine[value]
    ((device, output),) = ((device, part.output) for device, part in parts.items() if part.output is not None)
    return paste(held[device][output.value], whole(output.shape))


def last_reads(part: DevicePart) -> dict[int, tuple[str, ...]]:
    """Return, by the index of a step in its part, the values that no later step reads."""
    final: dict[str, int] = {}
    for i, step in enumerate(part.steps):
        final |= dict.fromkeys(_reads(step), i)
    if part.output is not None:
        final.pop(part.output.value, None)
    found: dict[int, tuple[str, ...]] = {}
    for value, i in final.items():
        found[i] = (*found.get(i, ()), value)
    return found


def _reads(step: Step) -> Sequence[str]:
    match step:
        case RunSegment():
            return [piece.value for piece in step.inputs]
        case SendShare():
            return [step.value]
    return []


def paste(held: Sequence[tuple[Box, Array]], box: Box) -> Array:
    """Return the content of a box ``(n, ...)``, assembled from pieces that cover it."""
    if len(held) == 1 and held[0][0] == box:
        return held[0][1]
    found = sources(held, box)
    if len(found) == 1:
        ((piece, array),) = found
        return array if piece == box else np.ascontiguousarray(array[slices(relative(box, piece))])
    canvas = np.empty((len(found[0][1]), *extent(box)), np.float32)
    for piece, array in found:
        shared = intersect(piece, box)
        assert shared is not None
        canvas[slices(relative(shared, box))] = array[slices(relative(shared, piece))]
    return canvas
