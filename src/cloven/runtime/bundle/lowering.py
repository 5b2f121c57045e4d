"""Build each device's part of a bundle in memory: its steps, and an ONNX model for each of its segments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from cloven.cost.loading import weights
from cloven.cost.operators import work
from cloven.errors import ClovenError
from cloven.graph.box import contains, extent, relative
from cloven.graph.graph import Op
from cloven.partition.program import Compute, Program, Receive, Send
from cloven.partition.segments import Key, Segment, named, segments
from cloven.partition.transform import WIRE
from cloven.runtime.bundle.format import (
    WEIGHTS,
    DevicePart,
    ReceiveShare,
    RunSegment,
    SegmentOperator,
    SegmentTensor,
    SendShare,
    SentImage,
    Step,
    WholeValue,
)
from cloven.runtime.bundle.onnx.builder import ModelBuilder, UnsupportedError, Value, Weights
from cloven.runtime.bundle.onnx.finite import finite
from cloven.runtime.bundle.onnx.layout import crop
from cloven.runtime.bundle.onnx.nodes import apply
from cloven.runtime.bundle.schedule import numbered


@dataclass(frozen=True, eq=False)
class BuiltPart:
    """One device's part of a bundle in memory; segments and models by file name."""

    part: DevicePart
    segments: Mapping[str, Segment]
    models: Mapping[str, onnx.ModelProto]
    weights: Weights


def build(program: Program, model: str) -> dict[str, BuiltPart]:
    """Return every device's part, by device name.

    Args:
        program: its transfers must be float32, with transforms that workers can send, see `Transforms.unsendable`.
        model: the model's name, for display.

    Raises:
        ClovenError: lists every op that has no ONNX node, and every value that leaves its segment in another type
            than float32.
    """
    problems: list[str] = []
    built: dict[str, BuiltPart] = {}
    for device in program.devices:
        weights = Weights()
        cut = {f"segment-{i}.onnx": segment for i, segment in enumerate(segments(program, device))}
        models = {}
        for name, segment in cut.items():
            models[name], wrong = _lower(program, segment, weights, f"{device}/{name}")
            problems += wrong
        built[device] = BuiltPart(_part(program, device, model, cut), cut, models, weights)
    if problems:
        said = "the model cannot be bundled; `cloven run` runs it with PyTorch"
        raise ClovenError([*dict.fromkeys(problems), said])
    parts = numbered({device: one.part for device, one in built.items()})
    return {device: replace(one, part=parts[device]) for device, one in built.items()}


def _lower(program: Program, segment: Segment, weights: Weights, title: str) -> tuple[onnx.ModelProto, list[str]]:
    """Return a segment's ONNX model, and a sentence for each op that cannot be written as ONNX."""
    model, proved = ModelBuilder(title, weights, WEIGHTS), finite(program.graph)
    problems: list[str] = []
    values = {key: model.input(named(key), extent(key[1])) for key in segment.inputs}
    for step in segment.computes:
        key, shape, op = (step.value, step.box), extent(step.box), program.graph.by_name[step.value]
        model.scope(named(key))
        try:
            reads = [replace(_read(model, values, read), finite=read[0] in proved) for read in step.reads]
            made = apply(model, step.local, reads)
            if made.dims != (None, *shape):
                raise UnsupportedError(f"its nodes return {made.dims}; expected {(None, *shape)} (None: the batch)")
            if key in segment.outputs and model.dtype(made) != np.float32:
                raise UnsupportedError(f"its value is {model.dtype(made)}; outputs of a segment must be float32")
        except Exception as error:  # unforeseen arguments are refused rather than written incorrectly
            problems.append(_unsupported(op, error))
            made = model.input(f"{named(key)}/missing", shape)
        values[key] = model.called(made, named(key))
    for value, box in segment.outputs:
        if (dtype := program.graph.by_name[value].dtype) == "float32":
            model.output(values[value, box], extent(box))
        else:
            problems.append(
                f"{value} leaves its segment as {dtype}, but workers hold and send float32: cut the model before "
                f"the cast to {dtype}, or after the cast back to float32"
            )
    return model.finish(), problems


def _read(model: ModelBuilder, values: Mapping[Key, Value], read: Key) -> Value:
    """Return a box that a computation reads: directly, or cropped from a larger one."""
    if read in values:
        return values[read]
    value, box = read
    key = next(k for k in values if k[0] == value and contains(k[1], box))
    return crop(model, values[key], relative(box, key[1]))


def _unsupported(op: Op, error: Exception) -> str:
    reason = str(error)
    if not isinstance(error, UnsupportedError):
        reason = f"there is no node for these arguments ({type(error).__name__}: {error})"
    kind = op.attrs.get("op", op.kind)
    return f"{op.name} ({kind}, in {op.module or 'the model itself'}) cannot be written as ONNX: {reason}"


def _part(program: Program, device: str, model: str, cut: Mapping[str, Segment]) -> DevicePart:
    """Return a device's steps; `numbered` sets their message numbers once all parts exist."""
    steps: list[Step] = []
    for name, segment in cut.items():
        held = weights(segment.computes)
        steps.append(
            RunSegment(
                step=segment.step,
                segment=name,
                inputs=_tensors(segment.inputs),
                outputs=_tensors(segment.outputs),
                operators=tuple(_operator(program, compute) for compute in segment.computes),
                weight_bytes=held.held,
                loading_bytes=held.loading,
            )
        )
    for step in program.parts[device]:
        match step:
            case Send(transfer=t):
                steps.append(
                    SendShare(
                        step=step.step,
                        transfer=t.id,
                        message=0,
                        value=t.value,
                        share=t.share,
                        shape=t.shape,
                        transform=WIRE[t.transform.kind],
                        bytes=t.bytes,
                        target=t.target,
                    )
                )
            case Receive(transfer=t):
                steps.append(
                    ReceiveShare(
                        step=step.step,
                        transfer=t.id,
                        message=0,
                        value=t.value,
                        share=t.share,
                        shape=t.shape,
                        transform=WIRE[t.transform.kind],
                        bytes=t.bytes,
                        source=t.source,
                    )
                )
    image, output = program.graph.input, program.graph.by_name[program.graph.output]
    return DevicePart(
        device=device,
        model=model,
        image=SentImage(value=image.name, shape=image.shape, dtype=program.transforms.image)
        if device == program.source
        else None,
        output=WholeValue(value=output.name, shape=output.shape) if device == program.sink else None,
        steps=tuple(sorted(steps, key=lambda step: step.step)),
    )


def _operator(program: Program, step: Compute) -> SegmentOperator:
    done = work(program.graph, step.value, step.box)
    return SegmentOperator(name=named((step.value, step.box)), family=done.family, macs=done.macs, bytes=done.bytes)


def _tensors(keys: Iterable[Key]) -> tuple[SegmentTensor, ...]:
    return tuple(SegmentTensor(name=named((value, box)), value=value, box=box) for value, box in keys)
