"""The rules of ops that move elements without changing them: reshape, permute, narrow, concat, pad, expand."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from math import ceil, prod
from operator import mul

from cloven.graph.box import Box, Interval, Shape, extent, intersect, relative, whole
from cloven.graph.graph import Op
from cloven.graph.kinds import Kind, Local, Shapes

# --- reshape: runs of axes that hold the same elements --------------------------------------------------------


def _runs(a: Shape, b: Shape) -> Iterator[tuple[slice, slice]]:
    """Yield the shortest runs of axes of two shapes that hold the same elements, in order."""
    ends_a = dict(zip(accumulate(a, mul), range(1, len(a) + 1), strict=True))
    ends_b = dict(zip(accumulate(b, mul), range(1, len(b) + 1), strict=True))
    edges = [(0, 0), *((ends_a[n], ends_b[n]) for n in sorted(ends_a.keys() & ends_b.keys()) if n > 1)]
    if edges[-1] != (len(a), len(b)):
        edges.append((len(a), len(b)))
    for (i, j), (p, q) in pairwise(edges):
        yield slice(i, p), slice(j, q)


def kept_axis(before: Shape, after: Shape, axis: int) -> int | None:
    """Return the axis that an axis has become in a reshaped value, or None if it was merged or split."""
    for a, b in _runs(before, after):
        if a.start == axis and a.stop - a.start == b.stop - b.start == 1:
            return int(b.start)
    return None


def _span(shape: Shape, box: Box) -> Interval:
    """Return the interval of memory positions from the first to the last element of a box."""
    first = last = 0
    for size, (lo, hi) in zip(shape, box, strict=True):
        first, last = first * size + lo, last * size + hi - 1
    return first, last + 1


def _cover(shape: Shape, span: Interval) -> Box:
    """Return the smallest box that is contiguous in memory and contains a span."""
    if not shape:
        return ()
    row = prod(shape[1:])
    lo, hi = span[0] // row, ceil(span[1] / row)
    if hi - lo > 1:
        return ((lo, hi), *whole(shape[1:]))
    return ((lo, hi), *_cover(shape[1:], (span[0] - lo * row, span[1] - lo * row)))


def _common(a: Shape, b: Shape, span: Interval) -> tuple[Box, Box]:
    """Return the smallest boxes of two shapes that hold the same elements and contain a span of memory."""
    while True:
        box = _cover(a, span)
        other = _cover(b, _span(a, box))
        wider = _span(b, other)
        if wider == _span(a, box):
            return box, other
        span = wider


def _reshaped(op: Op, source: Shape, box: Box) -> tuple[Box, Box]:
    """Return the smallest boxes of input and output that hold the same elements and contain ``box``."""
    need: list[Interval] = []
    made: list[Interval] = []
    for a, b in _runs(source, op.shape):
        inner, outer = _common(source[a], op.shape[b], _span(op.shape[b], box[b]))
        need += inner
        made += outer
    return tuple(need), tuple(made)


def _reshape_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return (_reshaped(op, inputs[0], box)[0],)


def _reshape_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    _, made = _reshaped(op, inputs[0], box)
    return Local("reshape", {"shape": extent(made)}, crop=relative(box, made))


def _reshape_carry(op: Op, inputs: Shapes, index: int, box: Box) -> Box | None:
    found: list[Interval] = []
    for a, b in _runs(inputs[0], op.shape):
        span = _span(inputs[0][a], box[a])
        inner, outer = _cover(inputs[0][a], span), _cover(op.shape[b], span)
        if inner != box[a] or _span(op.shape[b], outer) != span:
            return None
        found += outer
    return tuple(found)


RESHAPE = Kind(_reshape_needs, _reshape_localise, carry=_reshape_carry)


# --- permute --------------------------------------------------------------------------------------------------


def _permute_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    order = op.attrs["order"]
    return (tuple(box[order.index(axis)] for axis in range(len(order))),)


def _permute_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    return Local("permute", op.attrs)


def _permute_carry(op: Op, inputs: Shapes, index: int, box: Box) -> Box | None:
    return tuple(box[axis] for axis in op.attrs["order"])


PERMUTE = Kind(_permute_needs, _permute_localise, carry=_permute_carry)


# --- narrow: every step-th index of one axis ------------------------------------------------------------------


def _with(box: Box, axis: int, interval: Interval) -> Box:
    return (*box[:axis], interval, *box[axis + 1 :])


def _narrow_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    axis, start, step = op.attrs["axis"], op.attrs["start"], op.attrs["step"]
    lo, hi = box[axis]
    return (_with(box, axis, (start + lo * step, start + (hi - 1) * step + 1)),)


def _narrow_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    if op.attrs["step"] == 1:
        return Local("identity")
    return Local("stride", {"axis": op.attrs["axis"], "step": op.attrs["step"]})


def _narrow_carry(op: Op, inputs: Shapes, index: int, box: Box) -> Box | None:
    axis, start, step = op.attrs["axis"], op.attrs["start"], op.attrs["step"]
    lo, hi = (min(max(ceil((edge - start) / step), 0), op.shape[axis]) for edge in box[axis])
    return _with(box, axis, (lo, hi))


NARROW = Kind(_narrow_needs, _narrow_localise, carry=_narrow_carry)


# --- concat ---------------------------------------------------------------------------------------------------


def _shifted(box: Box, axis: int, by: int) -> Box:
    lo, hi = box[axis]
    return _with(box, axis, (lo + by, hi + by))


def _offsets(op: Op, inputs: Shapes) -> list[int]:
    """Return the offset of each input of a concatenation along its axis."""
    lengths = [shape[op.attrs["axis"]] for shape in inputs]
    return [sum(lengths[:i]) for i in range(len(lengths))]


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


CONCAT = Kind(_concat_needs, _concat_localise, carry=_concat_carry, gathers=True)


# --- pad ------------------------------------------------------------------------------------------------------


def _inside(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, Box]:
    """Return the part of an output box that is not padding, and the whole box, in the input's coordinates."""
    moved = tuple((lo - first, hi - first) for (lo, hi), first in zip(box, op.attrs["before"], strict=True))
    return intersect(moved, whole(inputs[0])), moved


def _pad_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    inner, _ = _inside(op, inputs, box)
    # For a box that is all padding, one element is read: the engine takes the batch size from it.
    return (inner or tuple((0, 1) for _ in box),)


def _pad_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    inner, moved = _inside(op, inputs, box)
    at = relative(inner, moved) if inner else None
    return Local("place", {"shape": extent(box), "at": (at,), "value": op.attrs["value"]})


def _pad_carry(op: Op, inputs: Shapes, index: int, box: Box) -> Box | None:
    """Return the padded box: padding belongs to the owner of the edge next to it."""
    found = []
    for (lo, hi), size, first, out in zip(box, inputs[0], op.attrs["before"], op.shape, strict=True):
        start = 0 if lo == 0 else min(max(lo + first, 0), out)
        found.append((start, out if hi == size else min(max(hi + first, start), out)))
    return tuple(found)


PAD = Kind(_pad_needs, _pad_localise, carry=_pad_carry)


# --- expand ---------------------------------------------------------------------------------------------------


def broadcast(shape: Shape, box: Box) -> Box:
    """Return the box of an operand that a box of the result reads: (0, 1) along an axis of length 1."""
    return tuple([(0, 1) if n == 1 else interval for n, interval in zip(shape, box, strict=True)])


def _expand_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return (broadcast(inputs[0], box),)


def _expand_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    return Local("expand", {"shape": extent(box)})


EXPAND = Kind(_expand_needs, _expand_localise)
