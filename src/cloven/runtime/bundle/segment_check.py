"""Compare every segment of a bundle with PyTorch: both compute it from the same numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor
from torch.nn import functional

from cloven.errors import ClovenError
from cloven.graph.box import Box, Shape, text
from cloven.partition.program import Program
from cloven.partition.segments import Key, Segment, named
from cloven.runtime import local, torch_engine
from cloven.runtime.bundle.engine import Array, interpret, outputs, session
from cloven.runtime.bundle.format import RunSegment
from cloven.runtime.bundle.lowering import BuiltPart

TOLERANCE = 1e-4
"""Largest difference of a number, times max(1, largest number)."""


ROUNDING = 10
"""A larger difference is accepted up to so many times the error of PyTorch's own float32, measured against float64.

In a model with random weights a difference in the last digit can grow a thousandfold.
"""

FEWEST = 3
"""Images that a bundle is checked with, at least: together and, once more, the first one alone."""


def largest_difference(
    program: Program, built: Mapping[str, BuiltPart], folders: Mapping[str, Path], images: Array
) -> float:
    """Return how far any segment's output is from PyTorch's, as a share of max(1, largest number).

    Each segment is run on all images together and on the first one alone, for what depends on the batch.

    Args:
        program: the program.
        built: its parts, by device.
        folders: where each part was written.
        images: ``(n, C, H, W)`` float32 in [0, 1].

    Raises:
        ClovenError: for the first segment that is off by more than ``TOLERANCE`` and by more than rounding, with
            the first op that is.
    """
    worst = 0.0

    def execute(device: str, step: RunSegment, inputs: dict[str, Array]) -> dict[str, Array]:
        nonlocal worst
        one = built[device]
        path, segment = folders[device] / step.segment, one.segments[step.segment]
        given = {(p.value, p.box): inputs[p.name] for p in step.inputs}
        expected = dict(computed(segment, given))
        for number, made in _made(path, step, inputs):
            pairs = {(p.value, p.box): (made[p.name], expected[p.value, p.box][:number]) for p in step.outputs}
            found = max(difference(*pair) for pair in pairs.values())
            worst = max(worst, found)
            if not found <= TOLERANCE and not _is_rounding(segment, given, pairs):
                where = _first_that_differs(path, segment, given, expected)
                raise ClovenError(_sentence(program, f"{path.parent.name}/{step.segment}", number, where, found))
        return {p.name: expected[p.value, p.box] for p in step.outputs}

    with torch.inference_mode():
        made = interpret({name: one.part for name, one in built.items()}, images, execute)
    expected = local.run(program, torch.tensor(images), batch=len(images)).numpy()
    if not (apart := difference(made, expected)) <= TOLERANCE:
        raise ClovenError(f"the segments together are {apart:.3g} off PyTorch (allowed {TOLERANCE}): please report")
    return worst


def _made(path: Path, step: RunSegment, inputs: Mapping[str, Array]) -> list[tuple[int, dict[str, Array]]]:
    """Return the outputs of onnxruntime for all images together and for the first alone, with their number."""
    names, images = [p.name for p in step.outputs], len(next(iter(inputs.values())))
    try:
        ready = session(path)
        return [(n, outputs(ready, names, {k: x[:n] for k, x in inputs.items()})) for n in (images, 1)]
    except Exception as error:  # onnxruntime's errors have no class of their own
        raise ClovenError(f"onnxruntime cannot run {path.parent.name}/{step.segment}: {error}") from error


def computed(
    segment: Segment, inputs: Mapping[Key, Array], dtype: torch.dtype = torch.float32
) -> Iterator[tuple[Key, Array]]:
    """Return all that PyTorch computes from a segment's inputs, in order."""
    held: dict[str, list[tuple[Box, Tensor]]] = {}
    for (value, box), array in inputs.items():
        given = torch.tensor(array)
        held.setdefault(value, []).append((box, given.to(dtype) if given.dtype == torch.float32 else given))
    for step in segment.computes:
        read = [torch_engine.paste(held[value], box) for value, box in step.reads]
        made = torch_engine.apply(
            torch_engine.in_precision(step.local, dtype), read, torch_engine.weights(step.local, dtype)
        )
        held.setdefault(step.value, []).append((step.box, made))
        yield (step.value, step.box), (made.float() if made.dtype == torch.bfloat16 else made).numpy()


def difference(made: Array, expected: Array) -> float:
    """Return the largest difference, as a share of max(1, largest number expected); infinite if shapes differ."""
    if made.shape != expected.shape:
        return float("inf")
    same = (made == expected) | (np.isnan(made) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0, np.nan_to_num(np.abs(made - expected), nan=np.inf))
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=1)
    return float(apart.max(initial=0) / largest)


def _is_rounding(segment: Segment, inputs: Mapping[Key, Array], pairs: Mapping[Key, tuple[Array, Array]]) -> bool:
    """Return whether results are no further from those in float64 than PyTorch's own are."""
    exact = dict(computed(segment, inputs, torch.float64))
    return all(
        _within_rounding(made, expected, exact[key][: len(expected)]) for key, (made, expected) in pairs.items()
    )


def _within_rounding(made: Array, expected: Array, exact: Array) -> bool:
    return difference(made, exact) <= max(TOLERANCE, ROUNDING * difference(expected, exact))


def _first_that_differs(
    path: Path, segment: Segment, inputs: Mapping[Key, Array], expected: Mapping[Key, Array]
) -> tuple[Key, float] | None:
    """Return the first of a segment's results that is off by more than rounding, and by how much."""
    model = onnx.load(path, load_external_data=False)
    del model.graph.output[:]
    keys = [key for key, array in expected.items() if array.dtype == np.float32]
    model.graph.output.extend(helper.make_tensor_value_info(named(k), TensorProto.FLOAT, None) for k in keys)
    probe = path.with_name("probe.onnx")
    probe.write_bytes(model.SerializeToString())
    feeds = {named(key): array for key, array in inputs.items()}
    made = outputs(session(probe), [named(key) for key in keys], feeds)
    probe.unlink()
    for key, exact in computed(segment, inputs, torch.float64):
        if key not in keys:
            continue
        if not _within_rounding(made[named(key)], expected[key], exact):
            return key, difference(made[named(key)], exact)
    return None


def smooth_images(shape: Shape) -> Array:
    """Return `FEWEST` images to check with: smooth as photographs are, with a little noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(FEWEST, shape[0], 4, 4, generator=generator)
    smooth = functional.interpolate(coarse, shape[1:], mode="bilinear")
    made: Array = (smooth + 0.05 * torch.randn(FEWEST, *shape, generator=generator)).clamp(0, 1).numpy()
    return made


def _sentence(program: Program, segment: str, images: int, where: tuple[Key, float] | None, found: float) -> str:
    batch = f"{images} image{'s' * (images > 1)}"
    said = (
        f"{segment} is {found:.3g} off PyTorch for {batch} (allowed {TOLERANCE}, as a share of the largest number)"
    )
    if where is None:
        return f"{said}, but each of its ops alone is right: please report this model"
    (value, box), apart = where
    op = program.graph.by_name[value]
    return (
        f"{said}; the first op that differs is {value} [{text(box)}] ({op.attrs.get('op', op.kind)}, in "
        f"{op.module or 'the model'}), by {apart:.3g}: please report this model"
    )
