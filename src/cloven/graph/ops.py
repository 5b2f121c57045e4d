"""The op table: for each kind of op, what a box of its output needs, becomes and costs.

``KINDS`` is the whole of it. A kind is a few small functions over boxes:

- ``needs(op, inputs, box)``: for each input the box of it that ``box`` of the output depends on, or None;
- ``localise(op, inputs, box)``: the op restricted to ``box``, to be run on just those inputs;
- ``macs(op, inputs, box)``: multiply-accumulates of conv and dense layers (no bias, pooling or activation);
- ``carry(op, inputs, index, box)``: the box of the output that a device which owns ``box`` of an input can own,
  or None where ownership does not carry over from that input.

Where an axis is taken whole, the whole input axis is needed and the op keeps its own padding: a divided op then
runs the very kernel that the whole model runs. An op without an entry here is of kind ``opaque``: whole in,
whole out, sliced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloven.graph.box import Box, Interval, Shape, count, extent, intersect, relative, whole
from cloven.graph.graph import Op, Params

Shapes = tuple[Shape, ...]


@dataclass(frozen=True, eq=False)
class Local:
    """An op restricted to a box: what an engine runs on the boxes that ``needs`` named.

    ``crop`` is the part to keep of what the kind computes, or None for all of it.
    """

    kind: str
    attrs: Mapping[str, Any] = field(default_factory=dict)
    params: Params = field(default_factory=dict, repr=False)
    crop: Box | None = None


Needs = Callable[[Op, Shapes, Box], tuple[Box | None, ...]]
Localise = Callable[[Op, Shapes, Box], Local]
Macs = Callable[[Op, Shapes, Box], int]
Carry = Callable[[Op, Shapes, int, Box], Box | None]


def _free(op: Op, inputs: Shapes, box: Box) -> int:
    """No multiply-accumulates."""
    return 0


def _nowhere(op: Op, inputs: Shapes, index: int, box: Box) -> Box | None:
    """Ownership does not carry over."""
    return None


@dataclass(frozen=True)
class Kind:
    """The rules of one kind of op; see the module's text."""

    needs: Needs
    localise: Localise
    macs: Macs = _free
    carry: Carry = _nowhere
    gathers: bool = False
    """Whether the output is made of all inputs' shares together; else of those of one input."""


# --- windows: convolution and pooling along one axis ---------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """What an interval of a windowed op's output takes along one axis.

    ``need`` of the input, ``pad`` to put before and after it, and ``skip``: results to drop at the start.
    """

    need: Interval
    pad: tuple[int, int]
    skip: int = 0


def window(out: Interval, size: int, kernel: int, stride: int, pad: int, dilation: int) -> Window:
    """The window of ``out`` over an input axis of ``size``; ``pad`` is the op's own padding at the start.

    A window can lie wholly in the padding; then one row is taken all the same and the results that it adds
    are skipped.
    """
    first = out[0] * stride - pad
    last = (out[1] - 1) * stride - pad + dilation * (kernel - 1) + 1
    lo, hi = max(first, 0), min(last, size)
    if lo < hi:
        return Window((lo, hi), (lo - first, last - hi))
    if last <= 0:
        return Window((0, 1), (-first, 0))
    row = size - 1
    skip = ceil((first - row) / stride)
    return Window((row, size), (row - (first - skip * stride), max(last - size, 0)), skip)


def _is_whole(interval: Interval, size: int) -> bool:
    return interval == (0, size)


def _spatial(op: Op, inputs: Shapes, box: Box) -> list[Window]:
    """The windows of a 2-d op along height and width; the op's own padding where an axis is whole."""
    a, found = op.attrs, []
    for axis in (0, 1):
        size, out = inputs[0][1 + axis], box[1 + axis]
        before, after = a["pads"][2 * axis : 2 * axis + 2]
        if _is_whole(out, op.shape[1 + axis]):
            found.append(Window((0, size), (before, after)))
        else:
            found.append(window(out, size, a["kernel"][axis], a["stride"][axis], before, a["dilation"][axis]))
    return found


def _pads(windows: list[Window]) -> tuple[int, int, int, int]:
    return (*windows[0].pad, *windows[1].pad)


def _crop(channels: Interval, windows: list[Window], box: Box) -> Box:
    spans = [(w.skip, w.skip + hi - lo) for w, (lo, hi) in zip(windows, box[1:], strict=True)]
    return (channels, *spans)


# --- convolution ----------------------------------------------------------------------------------------------


def _groups(op: Op, channels: Interval) -> Interval:
    """The groups of a convolution that cover an interval of its output channels."""
    per_group = op.shape[0] // int(op.attrs["groups"])
    return channels[0] // per_group, ceil(channels[1] / per_group)


def _conv_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    per_group = inputs[0][0] // int(op.attrs["groups"])
    first, last = _groups(op, box[0])
    return (((first * per_group, last * per_group), *(w.need for w in _spatial(op, inputs, box))),)


def _rows(params: Params, interval: Interval) -> dict[str, NDArray[np.float32]]:
    # Copied, so that a slice is aligned as a whole weight is: MKL's results depend on it.
    return {key: np.ascontiguousarray(p[interval[0] : interval[1]]) for key, p in params.items()}


def _conv_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    windows = _spatial(op, inputs, box)
    groups = int(op.attrs["groups"])
    if groups == 1:
        computed, kept = box[0], (0, box[0][1] - box[0][0])
    else:
        first, last = _groups(op, box[0])
        per_group = op.shape[0] // groups
        computed, groups = (first * per_group, last * per_group), last - first
        kept = (box[0][0] - computed[0], box[0][1] - computed[0])
    attrs = {**op.attrs, "groups": groups, "pads": _pads(windows)}
    return Local("conv2d", attrs, _rows(op.params, computed), _crop(kept, windows, box))


def _conv_macs(op: Op, inputs: Shapes, box: Box) -> int:
    return count(box) * prod(op.params["weight"].shape[1:])


# --- pooling --------------------------------------------------------------------------------------------------


def _pool_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return ((box[0], *(w.need for w in _spatial(op, inputs, box))),)


def _kept(op: Op, windows: list[Window], box: Box) -> Box:
    return _crop((0, box[0][1] - box[0][0]), windows, box)


def _max_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    windows = _spatial(op, inputs, box)
    return Local("max_pool2d", {**op.attrs, "pads": _pads(windows)}, crop=_kept(op, windows, box))


def _divisors(op: Op, size: int, axis: int, out: Interval) -> NDArray[np.float32]:
    """How many input rows an average over each window of ``out`` divides by, along one axis."""
    a = op.attrs
    kernel, stride, pad = a["kernel"][axis], a["stride"][axis], a["pads"][2 * axis]
    start = np.arange(*out) * stride - pad
    end = np.minimum(start + kernel, size + pad)
    if not a["count_include_pad"]:
        start, end = np.maximum(start, 0), np.minimum(end, size)
    counted: NDArray[np.float32] = (end - start).astype(np.float32)
    return counted


def _avg_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    windows = _spatial(op, inputs, box)
    spatial_whole = all(_is_whole(i, n) for i, n in zip(box[1:], op.shape[1:], strict=True))
    attrs = {**op.attrs, "pads": _pads(windows)}
    if spatial_whole:
        return Local("avg_pool2d", attrs, crop=_kept(op, windows, box))
    rows, columns = (_divisors(op, inputs[0][1 + axis], axis, box[1 + axis]) for axis in (0, 1))
    divisor = op.attrs["divisor"]
    counts = np.full((len(rows), len(columns)), divisor, np.float32) if divisor else np.outer(rows, columns)
    return Local("sum_pool2d", {**attrs, "crop": _kept(op, windows, box)}, {"counts": counts})


def _adaptive_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return ((box[0], *whole(inputs[0][1:])),)


def _adaptive_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    return Local("adaptive_avg_pool2d", op.attrs, crop=((0, box[0][1] - box[0][0]), *box[1:]))


def _scaled(interval: Interval, size: int, out: int) -> Interval:
    """The part of an output axis that stands over an interval of the input axis, boundary by boundary."""
    return interval[0] * out // size, interval[1] * out // size


def _pool_carry(op: Op, inputs: Shapes, index: int, box: Box) -> Box | None:
    scaled = [_scaled(i, n, m) for i, n, m in zip(box[1:], inputs[0][1:], op.shape[1:], strict=True)]
    return (box[0], *scaled)


# --- elementwise ----------------------------------------------------------------------------------------------


def _same_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return (box,)


def _same_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    return Local(op.kind, op.attrs)


def _same_carry(op: Op, inputs: Shapes, index: int, box: Box) -> Box | None:
    return box


def _channelwise_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    return Local(op.kind, op.attrs, _rows(op.params, box[0]))


def _broadcast(shape: Shape, box: Box) -> Box:
    """The box of an operand that a box of the result reads: all of an axis of length 1."""
    return tuple((0, 1) if n == 1 else interval for n, interval in zip(shape, box, strict=True))


def _elementwise_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return tuple(_broadcast(shape, box) for shape in inputs)


def _elementwise_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    params = {}
    for key, value in op.params.items():
        axes = value.shape[value.ndim - min(value.ndim, len(box)) :]
        kept = _broadcast(axes, box[len(box) - len(axes) :])
        lead = (slice(None),) * (value.ndim - len(axes))
        params[key] = np.ascontiguousarray(value[(*lead, *(slice(lo, hi) for lo, hi in kept))])
    return Local("call", op.attrs, params)


def _elementwise_carry(op: Op, inputs: Shapes, index: int, box: Box) -> Box | None:
    return box if inputs[index] == op.shape else None


def _sum_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return tuple(box for _ in inputs)


def _sum_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    axis = 0 if len(box) == 3 else len(box) - 1
    shape = tuple(-1 if i == axis else 1 for i in range(len(box)))
    return Local("sum", {}, {k: v.reshape(shape) for k, v in _rows(op.params, box[axis]).items()})


# --- channels put together and taken apart --------------------------------------------------------------------


def _offsets(op: Op, inputs: Shapes) -> list[int]:
    """Where each input of a concatenation begins along its axis."""
    lengths = [shape[op.attrs["axis"]] for shape in inputs]
    return [sum(lengths[:i]) for i in range(len(lengths))]


def _shifted(box: Box, axis: int, by: int) -> Box:
    lo, hi = box[axis]
    return (*box[:axis], (lo + by, hi + by), *box[axis + 1 :])


def _concat_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    axis = op.attrs["axis"]
    return tuple(
        intersect(_shifted(box, axis, -offset), whole(shape))
        for offset, shape in zip(_offsets(op, inputs), inputs, strict=True)
    )


def _concat_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    return Local("concat", op.attrs)


def _concat_carry(op: Op, inputs: Shapes, index: int, box: Box) -> Box | None:
    return _shifted(box, op.attrs["axis"], _offsets(op, inputs)[index])


def _narrow_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return (_shifted(box, op.attrs["axis"], op.attrs["start"]),)


def _narrow_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    return Local("identity")


def _narrow_carry(op: Op, inputs: Shapes, index: int, box: Box) -> Box | None:
    moved = intersect(_shifted(box, op.attrs["axis"], -op.attrs["start"]), whole(op.shape))
    return moved or tuple((0, 0) for _ in op.shape)


# --- flatten and linear ---------------------------------------------------------------------------------------


def _flat_channels(inputs: Shapes, interval: Interval) -> Interval:
    per_channel = prod(inputs[0][1:])
    return interval[0] // per_channel, ceil(interval[1] / per_channel)


def _flatten_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return ((_flat_channels(inputs, box[0]), *whole(inputs[0][1:])),)


def _flatten_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    start = _flat_channels(inputs, box[0])[0] * prod(inputs[0][1:])
    return Local("flatten", crop=((box[0][0] - start, box[0][1] - start),))


def _flatten_carry(op: Op, inputs: Shapes, index: int, box: Box) -> Box | None:
    if any(not _is_whole(i, n) for i, n in zip(box[1:], inputs[0][1:], strict=True)):
        return None
    per_channel = prod(inputs[0][1:])
    return ((box[0][0] * per_channel, box[0][1] * per_channel),)


def _linear_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return ((*box[:-1], (0, inputs[0][-1])),)


def _linear_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    return Local("linear", op.attrs, _rows(op.params, box[-1]))


def _linear_macs(op: Op, inputs: Shapes, box: Box) -> int:
    return count(box) * inputs[0][-1]


# --- values that only a rewritten graph has -------------------------------------------------------------------


def _mask_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    keep: Box = op.attrs["keep"]
    # Of a box that lies wholly outside, one number is taken: an engine learns the batch size from it.
    return (intersect(box, keep) or tuple((lo, lo + 1) for lo, _ in keep),)


def _mask_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    inner = intersect(box, op.attrs["keep"])
    return Local("place", {"shape": extent(box), "at": (relative(inner, box) if inner else None,)})


def _assemble_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return tuple(intersect(box, part) for part in op.attrs["parts"])


def _assemble_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    places = [intersect(box, part) for part in op.attrs["parts"]]
    return Local("place", {"shape": extent(box), "at": tuple(relative(p, box) for p in places if p)})


# --- the fallback ---------------------------------------------------------------------------------------------


def _whole_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return tuple(whole(shape) for shape in inputs)


def _opaque_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    return Local("call", op.attrs, op.params, box)


def _no_inputs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return ()


KINDS: Mapping[str, Kind] = {
    "input": Kind(_no_inputs, _same_localise),
    "normalise": Kind(_same_needs, _channelwise_localise, carry=_same_carry),
    "batch_norm": Kind(_same_needs, _channelwise_localise, carry=_same_carry),
    "conv2d": Kind(_conv_needs, _conv_localise, _conv_macs),
    "linear": Kind(_linear_needs, _linear_localise, _linear_macs),
    "max_pool2d": Kind(_pool_needs, _max_localise, carry=_pool_carry),
    "avg_pool2d": Kind(_pool_needs, _avg_localise, carry=_pool_carry),
    "adaptive_avg_pool2d": Kind(_adaptive_needs, _adaptive_localise, carry=_pool_carry),
    "flatten": Kind(_flatten_needs, _flatten_localise, carry=_flatten_carry),
    "elementwise": Kind(_elementwise_needs, _elementwise_localise, carry=_elementwise_carry),
    "concat": Kind(_concat_needs, _concat_localise, carry=_concat_carry, gathers=True),
    "narrow": Kind(_narrow_needs, _narrow_localise, carry=_narrow_carry),
    "sum": Kind(_sum_needs, _sum_localise),
    "mask": Kind(_mask_needs, _mask_localise),
    "assemble": Kind(_assemble_needs, _assemble_localise),
    "opaque": Kind(_whole_needs, _opaque_localise),
}

ANCHORS = frozenset({"conv2d", "linear"})
"""The kinds that a strategy places; ownership of the others follows from what they read."""


def macs(op: Op, inputs: Shapes, box: Box | None = None) -> int:
    """Multiply-accumulates of a box of an op's output for one image; of the whole output without a box."""
    return KINDS[op.kind].macs(op, inputs, whole(op.shape) if box is None else box)
