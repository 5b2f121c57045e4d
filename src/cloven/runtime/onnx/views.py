"""ATen ops that move numbers and change none, as ONNX nodes. Arguments are those of the op's schema, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from onnx import TensorProto, helper

from cloven.graph.box import Box, Shape, extent
from cloven.runtime.onnx.model import Model, UnsupportedError, Value


@dataclass(frozen=True)
class Rows:
    """A length that depends on the batch: so many rows for each image."""

    times: int = 1


Length = int | Rows

END = 2**31 - 1
"""Behind the end of any axis."""


def reshape(model: Model, x: Value, shape: Sequence[Length]) -> Value:
    """Another shape of the same numbers; the first axis is the batch's in both."""
    first, *rest = shape
    lengths = [n for n in rest if isinstance(n, int)]
    if len(lengths) < len(rest):
        raise UnsupportedError("the batch is not the first axis")
    if -1 in lengths:
        if not isinstance(first, Rows):
            raise UnsupportedError(f"the first axis of {list(shape)} is not the batch")
        known = -first.times * prod(lengths)
        lengths = [x.count // known if n == -1 else n for n in lengths]
    same = prod(lengths) == prod(x.shape)
    return model.add("Reshape", [x, model.integers([0 if same else -1, *lengths])])


def flatten(model: Model, x: Value, start: int = 0, end: int = -1) -> Value:
    """Several axes as one."""
    lengths = [-1, *x.shape]
    first, last = start % len(lengths), end % len(lengths)
    merged = prod(lengths[first : last + 1]) if first else -1
    return reshape(model, x, [*lengths[:first], merged, *lengths[last + 1 :]])


def squeeze(model: Model, x: Value, dim: int | Sequence[int] | None = None) -> Value:
    """Without axes of length 1."""
    asked = range(1, len(x.dims)) if dim is None else [dim] if isinstance(dim, int) else dim
    axes = [axis for axis in asked if x.dims[axis] == 1]
    return model.add("Squeeze", [x, model.integers(axes)]) if axes else x


def unsqueeze(model: Model, x: Value, dim: int) -> Value:
    """With one more axis of length 1."""
    return model.add("Unsqueeze", [x, model.integers([dim])])


def permute(model: Model, x: Value, order: Sequence[int]) -> Value:
    """The axes in another order."""
    return model.add("Transpose", [x], perm=[axis % len(order) for axis in order])


def transpose(model: Model, x: Value, a: int, b: int) -> Value:
    """Two axes exchanged."""
    order = list(range(len(x.dims)))
    order[a], order[b] = order[b], order[a]
    return permute(model, x, order)


def narrow(model: Model, x: Value, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int]) -> Value:
    """Indices from ``starts`` to ``ends`` of some axes."""
    return model.add("Slice", [x, *(model.integers(numbers) for numbers in (starts, ends, axes))])


def crop(model: Model, x: Value, box: Box) -> Value:
    """A box of a value, where that is not all of it."""
    cut = [
        (axis, lo, hi) for axis, ((lo, hi), n) in enumerate(zip(box, x.shape, strict=True), 1) if (lo, hi) != (0, n)
    ]
    if not cut:
        return x
    axes, starts, ends = zip(*cut, strict=True)
    return narrow(model, x, starts, ends, axes)


def slice_(
    model: Model, x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    """Every ``step``-th index of one axis."""
    numbers = (start or 0, END if end is None else end, dim, step)
    return model.add("Slice", [x, *(model.integers([n]) for n in numbers)])


def select(model: Model, x: Value, dim: int, index: int) -> Value:
    """One index of an axis, which goes away."""
    return model.add("Gather", [x, model.tensor(np.array(index, np.int64))], axis=dim)


def index_select(model: Model, x: Value, dim: int, index: Value) -> Value:
    """Some indices of one axis."""
    return model.add("Gather", [x, index], axis=dim)


def unbind(model: Model, item: int, x: Value, dim: int = 0) -> Value:
    """One of the indices of an axis."""
    return select(model, x, dim, item)


def split(model: Model, item: int, x: Value, size: int | Sequence[int], dim: int = 0) -> Value:
    """One of the pieces of an axis, of equal or of given lengths."""
    lengths = [size] * (item + 1) if isinstance(size, int) else list(size)
    start = sum(lengths[:item])
    return slice_(model, x, dim, start, start + lengths[item])


def chunk(model: Model, item: int, x: Value, number: int, dim: int = 0) -> Value:
    """One of so many pieces of an axis."""
    length = x.dims[dim]
    if length is None:
        raise UnsupportedError("the batch is divided")
    return split(model, item, x, -(-length // number), dim)


def concat(model: Model, pieces: Sequence[Value], dim: int = 0) -> Value:
    """Put together along one axis."""
    return model.add("Concat", list(pieces), axis=dim)


def stack(model: Model, pieces: Sequence[Value], dim: int = 0) -> Value:
    """Put together along a new axis."""
    return concat(model, [unsqueeze(model, x, dim) for x in pieces], dim)


def roll(model: Model, x: Value, shifts: Sequence[int], dims: Sequence[int] = ()) -> Value:
    """Moved along some axes; what leaves at the end comes in at the start."""
    if len(dims) != len(shifts):
        raise UnsupportedError("it rolls through all axes as one")
    for shift, dim in zip(shifts, dims, strict=True):
        length = x.dims[dim]
        if length is None:
            raise UnsupportedError("the batch is rolled")
        at = -shift % length
        x = concat(model, [slice_(model, x, dim, at), slice_(model, x, dim, 0, at)], dim)
    return x


def expand(model: Model, x: Value, size: Sequence[Length]) -> Value:
    """Axes of length 1 repeated; -1 and the batch stay."""
    return model.add("Expand", [x, model.integers([n if isinstance(n, int) and n > 0 else 1 for n in size])])


def repeat(model: Model, x: Value, times: Sequence[int]) -> Value:
    """The whole value again and again along each axis."""
    if len(times) != len(x.dims):
        raise UnsupportedError("it repeats along new axes")
    return model.add("Tile", [x, model.integers(times)])


def placed(model: Model, x: Value, box: Box, shape: Shape, ground: float) -> Value:
    """A value as a box of a larger one that is ``ground`` elsewhere."""
    if extent(box) == shape:
        return x
    ends = [*(lo for lo, _ in box), *(n - hi for (_, hi), n in zip(box, shape, strict=True))]
    axes, number = model.integers(range(1, len(x.dims))), np.array(ground, model.dtype(x))
    return model.add("Pad", [x, model.integers(ends), model.tensor(number), axes], mode="constant")


def filled(model: Model, x: Value, shape: Shape, ground: float) -> Value:
    """One number for each image of ``x``, everywhere."""
    batch = model.add("Shape", [x], start=0, end=1)
    lengths = model.add("Concat", [batch, model.integers(shape)], axis=0)
    number = helper.make_tensor("value", TensorProto.FLOAT, [1], [ground])
    made = model.add("ConstantOfShape", [lengths], value=number)
    return Value(made.name, (None, *shape))


def merge(model: Model, x: Value) -> Value:
    """The first axis of each image put along the batch."""
    rows, *rest = x.shape
    made = model.add("Reshape", [x, model.integers([-1, *rest])])
    return Value(made.name, made.dims, rows)


def unmerge(model: Model, x: Value, rows: int) -> Value:
    """So many rows of the first axis as an axis of each image."""
    return model.add("Reshape", [x, model.integers([-1, rows, *x.shape])])


def pad(
    model: Model, x: Value, lengths: Sequence[int], mode: str = "constant", value: float | None = None
) -> Value:
    """So many numbers before and after each axis, from the last axis on."""
    names = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    axes = [len(x.dims) - 1 - i for i in range(len(lengths) // 2)]
    number = model.number(value or 0.0) if mode == "constant" else None
    ends = model.integers([*lengths[::2], *lengths[1::2]])
    return model.add("Pad", [x, ends, number, model.integers(axes)], mode=names[mode])


def constant_pad(model: Model, x: Value, lengths: Sequence[int], value: float = 0) -> Value:
    """The same with one number."""
    return pad(model, x, lengths, "constant", value)
