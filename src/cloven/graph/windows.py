"""The rules of convolutions, pools and resizing: windows over height and width."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloven.graph.box import Box, Interval, count, whole
from cloven.graph.graph import Op
from cloven.graph.kinds import Kind, Local, Shapes, is_whole, rows


class Window(NamedTuple):
    """The input that an interval of a windowed op's output needs along one axis.

    ``need`` is the interval of the input, ``pad`` the padding before and after it, and ``skip`` the number of
    results to drop at the start.
    """

    need: Interval
    pad: tuple[int, int]
    skip: int = 0


def window(out: Interval, size: int, kernel: int, stride: int, pad: int, dilation: int) -> Window:
    """Return the window of ``out`` over an input axis of ``size``; ``pad`` is the op's own padding at the start.

    If all windows lie in the padding, one row of the input is taken nevertheless, and the results that it adds are
    skipped.
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


def _spatial(op: Op, inputs: Shapes, box: Box) -> list[Window]:
    """Return the windows of a 2-d op along height and width, with the op's own padding if an axis is whole."""
    a, found = op.attrs, []
    for axis in (0, 1):
        size, out = inputs[0][1 + axis], box[1 + axis]
        before, after = a["pads"][2 * axis : 2 * axis + 2]
        if is_whole(out, op.shape[1 + axis]):
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
    """Return the groups of a convolution that cover an interval of its output channels."""
    per_group = op.shape[0] // int(op.attrs["groups"])
    return channels[0] // per_group, ceil(channels[1] / per_group)


def _conv_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    per_group = inputs[0][0] // int(op.attrs["groups"])
    first, last = _groups(op, box[0])
    return (((first * per_group, last * per_group), *(w.need for w in _spatial(op, inputs, box))),)


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
    return Local("conv2d", attrs, rows(op.params, computed), _crop(kept, windows, box))


def _conv_macs(op: Op, inputs: Shapes, box: Box) -> int:
    return count(box) * prod(op.params["weight"].shape[1:])


CONV2D = Kind(_conv_needs, _conv_localise, _conv_macs)


# --- transposed convolution -----------------------------------------------------------------------------------


def _reached(op: Op, size: int, axis: int, out: Interval) -> Interval:
    """Return the input rows that contribute to an interval of the output, or one row if none does."""
    a = op.attrs
    stride, pad, reach = a["stride"][axis], a["pads"][2 * axis], a["dilation"][axis] * (a["kernel"][axis] - 1)
    # If the stride leaves gaps between contributions, take the row before a gap, where the result starts.
    lo = min(max(min(ceil((out[0] + pad - reach) / stride), (out[0] + pad) // stride), 0), size - 1)
    return lo, max(min((out[1] - 1 + pad) // stride + 1, size), lo + 1)


def _transposed_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    first, last = _groups(op, box[0])
    per_group = inputs[0][0] // int(op.attrs["groups"])
    spatial = (
        (0, size) if is_whole(out, op.shape[1 + axis]) else _reached(op, size, axis, out)
        for axis, (size, out) in enumerate(zip(inputs[0][1:], box[1:], strict=True))
    )
    return (((first * per_group, last * per_group), *spatial),)


@dataclass(frozen=True)
class _Spread:
    """The padding and output padding of a divided transposed convolution along one axis, and the part to keep."""

    pad: int
    tail: int
    keep: Interval


def _spread(op: Op, axis: int, need: Interval, out: Interval) -> _Spread:
    a = op.attrs
    stride, pad = a["stride"][axis], a["pads"][2 * axis]
    if is_whole(out, op.shape[1 + axis]):
        return _Spread(pad, a["output_padding"][axis], out)
    made = (need[1] - need[0] - 1) * stride + a["dilation"][axis] * (a["kernel"][axis] - 1) + 1
    start = out[0] + pad - need[0] * stride
    end = start + out[1] - out[0]
    return _Spread(0, max(end - made, 0), (start, end))


def _transposed_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    (need,) = _transposed_needs(op, inputs, box)
    assert need is not None
    spread = [_spread(op, axis, need[1 + axis], box[1 + axis]) for axis in (0, 1)]
    first, last = _groups(op, box[0])
    per_group = op.shape[0] // int(op.attrs["groups"])
    alone = op.attrs["groups"] == 1
    computed = box[0] if alone else (first * per_group, last * per_group)
    weight = op.params["weight"][slice(*need[0])]
    params = {"weight": weight[:, slice(*computed)] if alone else weight}
    if "bias" in op.params:
        params["bias"] = op.params["bias"][slice(*computed)]
    more = {
        "groups": last - first,
        "pads": tuple(s.pad for s in spread for _ in range(2)),
        "output_padding": tuple(s.tail for s in spread),
    }
    crop = ((box[0][0] - computed[0], box[0][1] - computed[0]), *(s.keep for s in spread))
    return Local("conv_transpose2d", {**op.attrs, **more}, params, crop)


def _transposed_macs(op: Op, inputs: Shapes, box: Box) -> int:
    (need,) = _transposed_needs(op, inputs, box)
    assert need is not None
    height, width = op.attrs["kernel"]
    rows_in, columns_in = (hi - lo for lo, hi in need[1:])
    products = rows_in * columns_in * int(height) * int(width)
    return products * (box[0][1] - box[0][0]) * inputs[0][0] // int(op.attrs["groups"])


CONV_TRANSPOSE2D = Kind(_transposed_needs, _transposed_localise, _transposed_macs)


# --- pooling --------------------------------------------------------------------------------------------------


def _pool_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return ((box[0], *(w.need for w in _spatial(op, inputs, box))),)


def _kept(op: Op, windows: list[Window], box: Box) -> Box:
    return _crop((0, box[0][1] - box[0][0]), windows, box)


def _max_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    windows = _spatial(op, inputs, box)
    return Local("max_pool2d", {**op.attrs, "pads": _pads(windows)}, crop=_kept(op, windows, box))


def _divisors(op: Op, size: int, axis: int, out: Interval) -> NDArray[np.float32]:
    """Return the divisor of the average over each window of ``out`` along one axis."""
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
    spatial_whole = all(is_whole(i, n) for i, n in zip(box[1:], op.shape[1:], strict=True))
    attrs = {**op.attrs, "pads": _pads(windows)}
    if spatial_whole:
        return Local("avg_pool2d", attrs, crop=_kept(op, windows, box))
    rows, columns = (_divisors(op, inputs[0][1 + axis], axis, box[1 + axis]) for axis in (0, 1))
    divisor = op.attrs["divisor"]
    counts = np.full((len(rows), len(columns)), divisor, np.float32) if divisor else np.outer(rows, columns)
    return Local("sum_pool2d", {**attrs, "crop": _kept(op, windows, box)}, {"counts": counts})


def _scaled(interval: Interval, size: int, out: int) -> Interval:
    """Return the interval of an output axis at the same relative position as an interval of the input axis."""
    return interval[0] * out // size, interval[1] * out // size


def _pool_carry(op: Op, inputs: Shapes, index: int, box: Box) -> Box | None:
    scaled = [_scaled(i, n, m) for i, n, m in zip(box[1:], inputs[0][1:], op.shape[1:], strict=True)]
    return (box[0], *scaled)


def _avg_averaged(op: Op, inputs: Shapes) -> tuple[int, ...]:
    alone = tuple(op.attrs["kernel"]) == inputs[0][1:] and not any(op.attrs["pads"]) and not op.attrs["divisor"]
    return (1, 2) if alone and op.shape[1:] == (1, 1) else ()


MAX_POOL2D = Kind(_pool_needs, _max_localise, carry=_pool_carry)
AVG_POOL2D = Kind(_pool_needs, _avg_localise, carry=_pool_carry, averaged=_avg_averaged)


# --- resizing: a linear map along each axis -------------------------------------------------------------------


def mean_matrix(size: int, out: int) -> NDArray[np.float32]:
    """Return the weights ``(out, size)`` of the input rows in each output row of an adaptive average pool."""
    matrix = np.zeros((out, size), np.float32)
    for row in range(out):
        lo, hi = row * size // out, -(-(row + 1) * size // out)
        matrix[row, lo:hi] = 1 / (hi - lo)
    return matrix


def resize_picks(size: int, out: int, *, exact: bool, scale: float | None) -> NDArray[np.int64]:
    """Return the input row (of ``size``) that each of ``out`` rows copies, for ``nearest`` or ``nearest-exact``.

    As in PyTorch's kernels, ``nearest`` ignores the ``scale`` factor if the size is unchanged or doubled.
    """
    places = np.arange(out)
    if not exact and out in (size, 2 * size):
        return places * size // out
    at = (places.astype(np.float32) + np.float32(0.5 * exact)) * _step(size, out, align=False, scale=scale)
    return np.minimum(at.astype(np.int64), size - 1)


def resize_matrix(size: int, out: int, mode: str, *, align: bool, scale: float | None) -> NDArray[np.float32]:
    """Return the weights ``(out, size)`` of the input rows in each output row, as in PyTorch's kernels.

    Args:
        size: rows of the input.
        out: rows of the output.
        mode: ``linear`` or ``cubic``; ``linear`` ignores ``scale`` if the size is unchanged.
        align: whether the centres of the corner pixels are aligned (``align_corners``).
        scale: the scale factor that was passed to PyTorch, or None.
    """
    if out == size and mode == "linear":
        return np.eye(size, dtype=np.float32)
    step, places = _step(size, out, align=align, scale=scale), np.arange(out, dtype=np.float32)
    at = places * step if align else (places + np.float32(0.5)) * step - np.float32(0.5)
    at = np.clip(at, 0, size - 1) if mode == "linear" else at
    lower, matrix = np.floor(at), np.zeros((out, size), np.float32)
    for tap in (0, 1) if mode == "linear" else (-1, 0, 1, 2):
        distance = np.abs(at - lower - tap)
        weights = 1 - distance if mode == "linear" else _cubic(distance)
        np.add.at(matrix, (np.arange(out), np.clip(lower.astype(int) + tap, 0, size - 1)), weights)
    return matrix


def _step(size: int, out: int, *, align: bool, scale: float | None) -> np.float32:
    """Return the distance of two output rows in units of input rows, in float32 as PyTorch computes it."""
    if align:
        return np.float32((size - 1) / (out - 1) if out > 1 else 0)
    return np.float32(1 / scale) if scale else np.float32(size) / np.float32(out)


def _cubic(distance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return Keys' cubic weights for distances below 2, with PyTorch's parameter a = -0.75."""
    a, d = np.float32(-0.75), distance
    near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d < 1, near, far)


def _matrix(op: Op, size: int, axis: int) -> NDArray[np.float32]:
    """Return the weights ``(output, size)`` of the input rows in each of an op's output rows."""
    a, out = op.attrs, op.shape[1 + axis]
    if a["mode"] == "mean":
        return mean_matrix(size, out)
    scale = a["scale"][axis] if a["scale"] else None
    return resize_matrix(size, out, a["mode"], align=a["align"], scale=scale)


def _picks(op: Op, size: int, axis: int) -> NDArray[np.int64]:
    """Return the input row that each of an op's output rows copies."""
    scale = op.attrs["scale"][axis] if op.attrs["scale"] else None
    return resize_picks(size, op.shape[1 + axis], exact=op.attrs["mode"] == "nearest-exact", scale=scale)


def _copies(op: Op) -> bool:
    return str(op.attrs["mode"]).startswith("nearest")


def _along(op: Op, size: int, axis: int, out: Interval) -> Interval:
    """Return the interval of an input axis of ``size`` that an interval of the output depends on."""
    if is_whole(out, op.shape[1 + axis]):
        return 0, size
    used = _picks(op, size, axis) if _copies(op) else np.flatnonzero(_matrix(op, size, axis)[slice(*out)].any(0))
    used = used[slice(*out)] if _copies(op) else used
    return int(used[0]), int(used[-1]) + 1


def _resize_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    spatial = (_along(op, size, axis, box[1 + axis]) for axis, size in enumerate(inputs[0][1:]))
    return ((box[0], *spatial),)


def _resize_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    """Return the whole op, or a table of its rows and columns: a resize of the piece would use another scale."""
    if box[1:] == whole(op.shape)[1:]:
        return Local(op.kind, op.attrs)
    (need,) = _resize_needs(op, inputs, box)
    assert need is not None
    tables: dict[str, NDArray[Any]] = {}
    for axis, name in enumerate(("rows", "columns")):
        size, out, (first, last) = inputs[0][1 + axis], slice(*box[1 + axis]), need[1 + axis]
        if _copies(op):
            tables[name] = _picks(op, size, axis)[out] - first
        else:
            tables[name] = np.ascontiguousarray(_matrix(op, size, axis)[out, first:last])
    return Local("picked" if _copies(op) else "separable", {}, tables)


def _adaptive_averaged(op: Op, inputs: Shapes) -> tuple[int, ...]:
    return (1, 2) if op.shape[1:] == (1, 1) else ()


RESIZE = Kind(_resize_needs, _resize_localise, carry=_pool_carry)
ADAPTIVE_AVG_POOL2D = Kind(_resize_needs, _resize_localise, carry=_pool_carry, averaged=_adaptive_averaged)
