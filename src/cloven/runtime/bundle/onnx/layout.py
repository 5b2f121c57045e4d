"""ATen ops that only move numbers, as ONNX nodes. The arguments are those of the op's schema, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import DTypeLike, NDArray
from onnx import numpy_helper

from cloven.graph.box import Box, Shape, extent
from cloven.runtime.bundle.onnx.builder import Dims, ModelBuilder, UnsupportedError, Value


@dataclass(frozen=True)
class Rows:
    """A length that depends on the batch: the number of rows per image."""

    times: int = 1


Length = int | Rows

END = 2**31 - 1
"""An index beyond the end of any axis."""


def reshaped(model: ModelBuilder, x: Value, dims: Dims) -> Value:
    """Return a value reshaped to these lengths; None marks the batch axis."""
    if dims.count(None) != 1:
        raise UnsupportedError(f"the batch is on {dims.count(None)} axes of its result; expected one")
    rest = [n for n in dims if n is not None]
    same = x.dims[0] is dims[0] is None and prod(rest) == prod(x.shape)
    return model.add("Reshape", [x, model.integers([(0 if same else -1) if n is None else n for n in dims])])


def _lengths(x: Value) -> list[Length]:
    return [Rows(x.rows) if n is None else n for n in x.dims]


def reshape(model: ModelBuilder, x: Value, shape: Sequence[Length]) -> Value:
    """Return a value in another shape; -1 is the batch if no other length is."""
    batch = next((n for n in shape if isinstance(n, Rows)), None)
    if batch is None:
        return reshaped(model, x, [None if n == -1 else n for n in shape if isinstance(n, int)])
    lengths: list[int | None] = [n if isinstance(n, int) else None for n in shape]
    left = x.count // (-batch.times * prod(n for n in lengths if n is not None))
    return reshaped(model, x, [left if n == -1 else n for n in lengths])


def reshape_as(model: ModelBuilder, x: Value, other: Value) -> Value:
    """Return a value in the shape of another one."""
    return reshaped(model, x, other.dims)


def flatten(model: ModelBuilder, x: Value, start: int = 0, end: int = -1) -> Value:
    """Merge several axes into one."""
    first, last = start % len(x.dims), end % len(x.dims)
    merged = x.dims[first : last + 1]
    length = None if None in merged else prod(n for n in merged if n is not None)
    return reshaped(model, x, [*x.dims[:first], length, *x.dims[last + 1 :]])


def unflatten(model: ModelBuilder, x: Value, dim: int, sizes: Sequence[Length]) -> Value:
    """Split one axis into several."""
    kept, first = _lengths(x), dim % len(x.dims)
    return reshape(model, x, [*kept[:first], *sizes, *kept[first + 1 :]])


def squeeze(model: ModelBuilder, x: Value, dim: int | Sequence[int] | None = None) -> Value:
    """Remove axes of length 1."""
    asked = range(len(x.dims)) if dim is None else [dim] if isinstance(dim, int) else dim
    axes = [axis for axis in asked if x.dims[axis] == 1]
    return model.add("Squeeze", [x, model.integers(axes)]) if axes else x


def unsqueeze(model: ModelBuilder, x: Value, dim: int) -> Value:
    """Insert an axis of length 1."""
    return model.add("Unsqueeze", [x, model.integers([dim])])


def permute(model: ModelBuilder, x: Value, order: Sequence[int]) -> Value:
    """Return a value with its axes in another order."""
    return model.add("Transpose", [x], perm=[axis % len(order) for axis in order])


def transpose(model: ModelBuilder, x: Value, a: int, b: int) -> Value:
    """Exchange two axes."""
    order = list(range(len(x.dims)))
    order[a], order[b] = order[b], order[a]
    return permute(model, x, order)


def moved(model: ModelBuilder, x: Value, sources: int | Sequence[int], targets: int | Sequence[int]) -> Value:
    """Move some axes to other places; the others keep their order."""
    rank = len(x.dims)
    old = [n % rank for n in ([sources] if isinstance(sources, int) else sources)]
    new = [n % rank for n in ([targets] if isinstance(targets, int) else targets)]
    rest = (axis for axis in range(rank) if axis not in old)
    order = [old[new.index(axis)] if axis in new else next(rest) for axis in range(rank)]
    return x if order == list(range(rank)) else permute(model, x, order)


def narrow(model: ModelBuilder, x: Value, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int]) -> Value:
    """Slice some axes from ``starts`` to ``ends``."""
    return model.add("Slice", [x, *(model.integers(numbers) for numbers in (starts, ends, axes))])


def crop(model: ModelBuilder, x: Value, box: Box) -> Value:
    """Return a box of a value; the value itself if the box is the whole."""
    cut = [
        (axis, lo, hi) for axis, ((lo, hi), n) in enumerate(zip(box, x.shape, strict=True), 1) if (lo, hi) != (0, n)
    ]
    if not cut:
        return x
    axes, starts, ends = zip(*cut, strict=True)
    return narrow(model, x, starts, ends, axes)


def slice_(
    model: ModelBuilder,
    x: Value,
    dim: int = 0,
    start: Length | None = None,
    end: Length | None = None,
    step: int = 1,
) -> Value:
    """Slice one axis; on the batch axis, start and end are numbers of rows per image."""
    ends = (start or 0, END if end is None else end)
    made = model.add("Slice", [x, *(lengths(model, [n]) for n in (*ends, dim, step))])
    if all(isinstance(n, int) for n in ends):
        return made
    if x.dims[dim] is not None:
        raise UnsupportedError("it slices an axis other than the batch by the number of images")
    return model.sized(made, x.dims)


def narrowed(model: ModelBuilder, x: Value, dim: int, start: int, length: int) -> Value:
    """Return ``length`` indices of one axis, from ``start`` on."""
    start %= x.dims[dim] or END
    return slice_(model, x, dim, start, start + length)


def flip(model: ModelBuilder, x: Value, dims: Sequence[int]) -> Value:
    """Reverse some axes."""
    numbers = ([-1] * len(dims), [-END - 1] * len(dims), dims, [-1] * len(dims))
    return model.add("Slice", [x, *(model.integers(n) for n in numbers)])


def select(model: ModelBuilder, x: Value, dim: int, index: int) -> Value:
    """Return one index of an axis, which is removed."""
    return model.add("Gather", [x, model.tensor(np.array(index, np.int64))], axis=dim)


def taken(model: ModelBuilder, x: Value, dim: int, places: NDArray[np.int64]) -> Value:
    """Gather the indices ``places`` of one axis, which the axes of ``places`` replace."""
    return model.add("Gather", [x, model.tensor(places.astype(np.int64))], axis=dim % len(x.dims))


def index_select(model: ModelBuilder, x: Value, dim: int, index: Value) -> Value:
    """Return some indices of one axis."""
    return taken(model, x, dim, model.constant(index))


def index(model: ModelBuilder, x: Value, indices: Sequence[Value | None]) -> Value:
    """Index several axes at once, as in NumPy.

    The indices broadcast against each other, and their axes replace the indexed ones; if the indexed axes are not
    adjacent, the new axes come first.
    """
    axes = [axis for axis, given in enumerate(indices) if given is not None]
    arrays = [model.constant(given) for given in indices if given is not None]
    lengths = [x.dims[axis] for axis in axes]
    if None in lengths or any(array.dtype == bool for array in arrays):
        raise UnsupportedError("it selects images of the batch, or by a mask; expected indices of other axes")
    sizes = [n for n in lengths if n is not None]
    places = np.ravel_multi_index(np.broadcast_arrays(*(a % n for a, n in zip(arrays, sizes, strict=True))), sizes)
    first = axes[0] if axes == list(range(axes[0], axes[-1] + 1)) else 0
    together = moved(model, x, axes, range(first, first + len(axes)))
    behind = together.dims[first + len(axes) :]
    return taken(model, reshaped(model, together, [*together.dims[:first], prod(sizes), *behind]), first, places)


def gather(model: ModelBuilder, x: Value, dim: int, index: Value, sparse: bool = False) -> Value:  # noqa: ARG001
    """Return, for each number of the result, the one at its index along an axis, as ``torch.gather`` does."""
    return model.add("GatherElements", [x, index], axis=dim)


def take_along_dim(model: ModelBuilder, x: Value, index: Value, dim: int) -> Value:
    """Return the result of `gather`, with axes of length 1 of the index broadcast."""
    size = _lengths(x)
    size[dim] = index.shape[dim]
    return gather(model, x, dim, expand(model, index, size))


def repeat_interleave(model: ModelBuilder, x: Value, times: int, dim: int | None = None) -> Value:
    """Return each index of an axis several times in a row."""
    if dim is None:
        raise UnsupportedError("it repeats the flattened tensor; expected an axis")
    axis = dim % len(x.dims)
    repeats = [1] * (len(x.dims) + 1)
    repeats[axis + 1] = times
    tiled = model.add("Tile", [unsqueeze(model, x, axis + 1), model.integers(repeats)])
    length = x.dims[axis]
    return reshaped(model, tiled, [*x.dims[:axis], None if length is None else length * times, *x.dims[axis + 1 :]])


def sliding(model: ModelBuilder, x: Value, dim: int, size: int, step: int) -> Value:
    """Return the windows of one axis, each along a new last axis."""
    axis = dim % len(x.dims)
    length = x.dims[axis]
    if length is None:
        raise UnsupportedError("it takes windows along the batch axis")
    starts = np.arange(0, length - size + 1, step)
    return moved(model, taken(model, x, axis, starts[:, None] + np.arange(size)), axis + 1, -1)


def unbind(model: ModelBuilder, item: int, x: Value, dim: int = 0) -> Value:
    """Return one index of an axis."""
    return select(model, x, dim, item)


def _together(lengths: Sequence[Length]) -> Length:
    """Return the sum of lengths."""
    numbers, rows = [n for n in lengths if isinstance(n, int)], [n.times for n in lengths if isinstance(n, Rows)]
    if any(numbers) and rows:
        raise UnsupportedError("some of its lengths depend on the number of images, others do not")
    return Rows(sum(rows)) if rows else sum(numbers)


def split(model: ModelBuilder, item: int, x: Value, size: Length | Sequence[Length], dim: int = 0) -> Value:
    """Return one of the pieces of an axis, of equal or given lengths."""
    pieces = [size] * (item + 1) if isinstance(size, Length) else list(size)
    return slice_(model, x, dim, _together(pieces[:item]), _together(pieces[: item + 1]))


def chunk(model: ModelBuilder, item: int, x: Value, number: int, dim: int = 0) -> Value:
    """Return one of ``number`` pieces of an axis."""
    length = x.dims[dim]
    if length is None:
        raise UnsupportedError("it divides the batch axis")
    return split(model, item, x, -(-length // number), dim)


def tensor_split(model: ModelBuilder, item: int, x: Value, given: int | Sequence[int], dim: int = 0) -> Value:
    """Return one of the pieces of an axis, cut as by NumPy's ``array_split``: a number of pieces, or at indices."""
    pieces = np.array_split(np.arange(x.dims[dim] or 0), given)
    return taken(model, x, dim, pieces[item])


def concat(model: ModelBuilder, pieces: Sequence[Value], dim: int = 0) -> Value:
    """Concatenate along one axis."""
    return model.add("Concat", list(pieces), axis=dim)


def stack(model: ModelBuilder, pieces: Sequence[Value], dim: int = 0) -> Value:
    """Stack along a new axis."""
    return concat(model, [unsqueeze(model, x, dim) for x in pieces], dim)


def roll(model: ModelBuilder, x: Value, shifts: Sequence[int], dims: Sequence[int] = ()) -> Value:
    """Shift along some axes; numbers that leave at the end re-enter at the start."""
    if len(dims) != len(shifts):
        raise UnsupportedError("it rolls the flattened tensor; expected axes")
    for shift, dim in zip(shifts, dims, strict=True):
        length = x.dims[dim]
        if length is None:
            raise UnsupportedError("it rolls the batch axis")
        at = -shift % length
        x = concat(model, [slice_(model, x, dim, at), slice_(model, x, dim, 0, at)], dim)
    return x


def lengths(model: ModelBuilder, size: Sequence[Length]) -> Value:
    """Return lengths of axes as a tensor; it is constant unless the batch is among them."""
    if all(isinstance(n, int) for n in size):
        return model.integers([n for n in size if isinstance(n, int)])
    batch = model.batch()
    pieces = [
        model.integers([n]) if isinstance(n, int) else model.add("Mul", [batch, model.integers([n.times])])
        for n in size
    ]
    return model.add("Concat", pieces, axis=0)


def known(size: Sequence[Length]) -> list[int | None]:
    """Return lengths of axes, with None for the batch axis."""
    return [n if isinstance(n, int) else None for n in size]


def expand(model: ModelBuilder, x: Value, size: Sequence[Length], implicit: bool = False) -> Value:  # noqa: ARG001
    """Broadcast to a size, with new axes in front; -1 and an existing batch axis keep their lengths."""
    old = [*[1] * (len(size) - len(x.dims)), *x.dims]
    asked: list[Length] = [1 if n is None or s == -1 else s for n, s in zip(old, size, strict=True)]
    dims = [n if n is None or s == -1 else s for n, s in zip(old, known(size), strict=True)]
    return model.sized(model.add("Expand", [x, lengths(model, asked)]), dims)


def expand_as(model: ModelBuilder, x: Value, other: Value) -> Value:
    """Broadcast to the shape of another value."""
    return expand(model, x, _lengths(other))


def repeat(model: ModelBuilder, x: Value, times: Sequence[Length]) -> Value:
    """Tile a value along each axis, also along new ones in front."""
    new = len(times) - len(x.dims)
    if new > 0:
        x = model.add("Unsqueeze", [x, model.integers(range(new))])
    times = [*[1] * -new, *times]
    pairs = zip(x.dims, known(times), strict=True)
    dims = [None if n is None or t is None else n * t for n, t in pairs]
    return model.sized(model.add("Tile", [x, lengths(model, times)]), dims)


def full(model: ModelBuilder, size: Sequence[Length], number: float, *, dtype: DTypeLike = np.float32) -> Value:
    """Return a tensor filled with one number."""
    value = numpy_helper.from_array(np.array([number], bool if isinstance(number, bool) else dtype), "value")
    return model.sized(model.add("ConstantOfShape", [lengths(model, size)], value=value), known(size))


def new_full(model: ModelBuilder, x: Value, size: Sequence[Length], number: float) -> Value:
    """Return a tensor filled with one number, in the dtype of a value."""
    return full(model, size, number, dtype=model.dtype(x))


def full_like(model: ModelBuilder, x: Value, number: float) -> Value:
    """Return a tensor filled with one number, in the shape and dtype of a value."""
    return new_full(model, x, _lengths(x), number)


def placed(model: ModelBuilder, x: Value, box: Box, shape: Shape, ground: float) -> Value:
    """Return a value as a box of a larger one that is ``ground`` elsewhere."""
    if extent(box) == shape:
        return x
    ends = [*(lo for lo, _ in box), *(n - hi for (_, hi), n in zip(box, shape, strict=True))]
    axes, number = model.integers(range(1, len(x.dims))), np.array(ground, model.dtype(x))
    return model.add("Pad", [x, model.integers(ends), model.tensor(number), axes], mode="constant")


def laid(model: ModelBuilder, x: Value, axis: int, copies: int, by_copy: bool = False) -> Value:
    """Return a value in the layout of the whole model: batch on ``axis``, with ``copies`` rows per image.

    The rows are ordered by image, or with ``by_copy`` by copy: the first rows of all images, then the second ones.
    """
    if by_copy:
        x = moved(model, x, 0, 1)
    if copies > 1:
        x = replace(reshaped(model, x, [None, *x.dims[2:]]), rows=copies)
    return moved(model, x, 0, axis)


def unlaid(model: ModelBuilder, x: Value, axis: int, copies: int, by_copy: bool = False) -> Value:
    """Undo `laid`."""
    x = moved(model, x, axis, 0)
    if by_copy:
        return moved(model, reshaped(model, x, [copies, None, *x.dims[1:]]), 1, 0)
    return x if copies == 1 else reshaped(model, x, [None, copies, *x.dims[1:]])


def pad(
    model: ModelBuilder, x: Value, lengths: Sequence[int], mode: str = "constant", value: float | None = None
) -> Value:
    """Pad before and after each axis, from the last axis on, as ``torch.nn.functional.pad`` does."""
    names = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    axes = [len(x.dims) - 1 - i for i in range(len(lengths) // 2)]
    number = model.number(value or 0.0) if mode == "constant" else None
    ends = model.integers([*lengths[::2], *lengths[1::2]])
    return model.add("Pad", [x, ends, number, model.integers(axes)], mode=names[mode])


def constant_pad(model: ModelBuilder, x: Value, lengths: Sequence[int], value: float = 0) -> Value:
    """Pad with a constant, with the lengths of `pad`."""
    return pad(model, x, lengths, "constant", value)
