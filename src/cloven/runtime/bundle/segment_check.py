"""Compare every segment of a bundle with PyTorch, on the same inputs."""

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
"""The largest difference allowed, relative to max(1, largest number)."""


ROUNDING = 10
"""A larger difference is accepted up to this many times PyTorch's own float32 error, measured against float64.

In a model with random weights, a difference in the last digit can grow a thousandfold.
"""

FEWEST = 3
"""The minimum number of images in a check. They run together; then the first runs alone."""


def largest_difference(
    program: Program, built: Mapping[str, BuiltPart], folders: Mapping[str, Path], images: Array
) -> float:
    """Return the largest difference of any segment's output from PyTorch's, relative to max(1, largest number).

    Each segment runs on all images together and on the first one alone, which shows a dependence on the batch size.

    Args:
        program: the program.
        built: its parts, by device.
        folders: the folder of each part.
        images: ``(n, C, H, W)`` float32 in [0, 1].

    Raises:
        ClovenError: if a segment differs by more than ``TOLERANCE`` and more than rounding explains; it names the
            first op that differs.
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
        raise ClovenError(
            f"the bundle's output differs from PyTorch by {apart:.3g} (allowed: {TOLERANCE}): "
            "please report this model"
        )
    return worst


def _made(path: Path, step: RunSegment, inputs: Mapping[str, Array]) -> list[tuple[int, dict[str, Array]]]:
    """Return onnxruntime's outputs for all images together and for the first alone, with the number of images."""
    names, images = [p.name for p in step.outputs], len(next(iter(inputs.values())))
    try:
        ready = session(path)
        return [(n, outputs(ready, names, {k: x[:n] for k, x in inputs.items()})) for n in (images, 1)]
    except Exception as error:  # onnxruntime's errors have no common base class
        raise ClovenError(f"onnxruntime cannot run {path.parent.name}/{step.segment}: {error}") from error


def computed(
    segment: Segment, inputs: Mapping[Key, Array], dtype: torch.dtype = torch.float32
) -> Iterator[tuple[Key, Array]]:
    """Yield every value that PyTorch computes from a segment's inputs, in order."""
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
    """Return the largest difference, relative to max(1, largest expected number); infinity if shapes differ."""
    if made.shape != expected.shape:
        return float("inf")
    same = (made == expected) | (np.isnan(made) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0, np.nan_to_num(np.abs(made - expected), nan=np.inf))
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=1)
    return float(apart.max(initial=0) / largest)


def _is_rounding(segment: Segment, inputs: Mapping[Key, Array], pairs: Mapping[Key, tuple[Array, Array]]) -> bool:
    """Return whether float32 rounding explains the differences of results from PyTorch's."""
    exact = dict(computed(segment, inputs, torch.float64))
    return all(
        _within_rounding(made, expected, exact[key][: len(expected)]) for key, (made, expected) in pairs.items()
    )


def _within_rounding(made: Array, expected: Array, exact: Array) -> bool:
    return difference(made, exact) <= max(TOLERANCE, ROUNDING * difference(expected, exact))


def _first_that_differs(
    path: Path, segment: Segment, inputs: Mapping[Key, Array], expected: Mapping[Key, Array]
) -> tuple[Key, float] | None:
    """Return the first result of a segment that differs by more than rounding, and its difference."""
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
    """Return `FEWEST` test images: smooth like photographs, with a little noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(FEWEST, shape[0], 4, 4, generator=generator)
    smooth = functional.interpolate(coarse, shape[1:], mode="bilinear")
    made: Array = (smooth + 0.05 * torch.randn(FEWEST, *shape, generator=generator)).clamp(0, 1).numpy()
    return made


def _sentence(program: Program, segment: str, images: int, where: tuple[Key, float] | None, found: float) -> str:
    batch = f"{images} image{'s' * (images > 1)}"
    said = f"{segment} differs from PyTorch by {found:.3g} for {batch} (allowed: {TOLERANCE} of the largest number)"
    if where is None:
        return f"{said}, but each of its ops alone is correct: please report this model"
    (value, box), apart = where
    op = program.graph.by_name[value]
    return (
        f"{said}; the first op that differs is {value} [{text(box)}] ({op.attrs.get('op', op.kind)}, in "
        f"{op.module or 'the model'}), by {apart:.3g}: please report this model"
    )
