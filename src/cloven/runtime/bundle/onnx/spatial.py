"""Convolutions, pooling and resizing as ONNX nodes, exactly as PyTorch computes them.

At the edge, ONNX and its runtime count the windows of a pool differently from PyTorch and divide by other numbers;
they also reject wide padding. Here, padding is always explicit, and averages divide by counts in closed form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from math import inf, nan, prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import helper

from cloven.graph.windows import mean_matrix, resize_matrix, resize_picks
from cloven.runtime.bundle.onnx.axes import may_be_nan, reduced
from cloven.runtime.bundle.onnx.builder import ModelBuilder, UnsupportedError, Value
from cloven.runtime.bundle.onnx.layout import Length, crop, flatten, known, lengths, moved, pad, taken

Attrs = Mapping[str, Any]
Numbers = int | Sequence[int]
"""One number per axis, or one for all axes."""
Ends = tuple[int, int]
"""Rows before and after an axis."""


# --- convolution ----------------------------------------------------------------------------------------------


def _all(numbers: Numbers, rank: int) -> list[int]:
    """Return one number per axis; a single number applies to all axes."""
    given = [numbers] if isinstance(numbers, int) else list(numbers)
    return given * rank if len(given) == 1 else given


def convolution(
    model: ModelBuilder,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    transposed: bool = False,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
) -> Value:
    """Convolve over as many axes as the weight has; ``padding`` is one number per axis."""
    axes = len(weight.dims) - 2
    dilations = _all(dilation, axes)
    if isinstance(padding, str):
        reach = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilations, weight.shape[2:], strict=True)]
        pads = [*(n // 2 for n in reach), *(n - n // 2 for n in reach)]
    else:
        pads = _all(padding, axes) * 2
    strides, tails = _all(stride, axes), _all(output_padding, axes)
    if transposed and any(tail >= s for tail, s in zip(tails, strides, strict=True)):
        x, pads, tails = _without_tails(model, x, strides, pads, tails)
    more = {"strides": strides, "dilations": dilations, "group": groups, "pads": pads}
    if transposed:
        return model.add("ConvTranspose", [x, weight, bias], output_padding=tails, **more)
    return model.add("Conv", [x, weight, bias], **more)


def _without_tails(
    model: ModelBuilder, x: Value, strides: list[int], pads: list[int], tails: list[int]
) -> tuple[Value, list[int], list[int]]:
    """Replace output padding by less padding at the end and, if none is left, by zeros after the input.

    The runtime accepts no output padding as long as a stride.
    """
    axes = len(strides)
    rows = [max(0, -(-(tail - end) // s)) for tail, end, s in zip(tails, pads[axes:], strides, strict=True)]
    ends = [end - tail + n * s for tail, end, n, s in zip(tails, pads[axes:], rows, strides, strict=True)]
    if any(rows):
        x = pad(model, x, [n for row in reversed(rows) for n in (0, row)])
    return x, [*pads[:axes], *ends], [0] * axes


def conv(
    model: ModelBuilder,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Value:
    """Return a convolution with the arguments of ``aten.conv2d``."""
    return convolution(model, x, weight, bias, stride, padding, dilation, groups=groups)


def conv_transpose(
    model: ModelBuilder,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Value:
    """Return a convolution with the arguments of ``aten.conv_transpose2d``."""
    return convolution(model, x, weight, bias, stride, padding, dilation, True, output_padding, groups)


# --- pools ----------------------------------------------------------------------------------------------------


def _windows(size: int, ends: Ends, attrs: Attrs, axis: int, limit: int) -> int:
    """Return the number of windows along an axis; none begins after ``limit``."""
    stride, span = attrs["stride"][axis], attrs["dilation"][axis] * (attrs["kernel"][axis] - 1) + 1
    number, rest = divmod(size + sum(ends) - span, stride)
    number += 1 + bool(attrs["ceil"] and rest)
    return int(number - 1 if attrs["ceil"] and (number - 1) * stride >= limit else number)


def _rims(x: Value, attrs: Attrs, *, own: bool) -> list[Ends]:
    """Return the padding of each axis, extended by what the last window needs.

    Padding that is not the op's ``own`` but was added around the input counts as input.
    """
    rims = []
    for axis, size in enumerate(x.shape[1:]):
        before, after = attrs["pads"][2 * axis : 2 * axis + 2]
        number = _windows(size, (before, after), attrs, axis, size + before + (0 if own else after))
        span = attrs["dilation"][axis] * (attrs["kernel"][axis] - 1) + 1
        end = (number - 1) * attrs["stride"][axis] + span
        rims.append((before, max(after, end - size - before)))
    return rims


def _pool(
    model: ModelBuilder, kind: str, x: Value, attrs: Attrs, rims: list[Ends], fill: float, **more: Any
) -> Value:
    """Pool over complete windows; padding as wide as a window, which the runtime rejects, becomes a pad node."""
    if any(max(rim) >= kernel for rim, kernel in zip(rims, attrs["kernel"], strict=True)):
        x = pad(model, x, [n for rim in reversed(rims) for n in rim], "constant", fill)
        rims = [(0, 0)] * len(rims)
    pads = [rim[side] for side in (0, 1) for rim in rims]
    return model.add(kind, [x], kernel_shape=attrs["kernel"], strides=attrs["stride"], pads=pads, **more)


def _own(attrs: Attrs, limit: Sequence[int] | None = None) -> bool:
    """Return whether the torch engine passes the padding to the pool itself."""
    before, after = attrs["pads"][::2], attrs["pads"][1::2]
    fits = limit is None or all(n <= size // 2 for n, size in zip(before, limit, strict=True))
    return bool(before == after and fits)


def max_pool(model: ModelBuilder, x: Value, attrs: Attrs) -> Value:
    """Return the maximum of each window, or NaN if it contains one.

    The runtime's maximum ignores NaN and is never -inf: a second pool over marks finds windows that contain NaN or
    only -inf.
    """
    rims = _rims(x, attrs, own=_own(attrs, attrs["kernel"]))

    def pooled(numbers: Value) -> Value:
        return _pool(model, "MaxPool", numbers, attrs, rims, -inf, dilations=attrs["dilation"])

    if not may_be_nan(model, x):
        return pooled(x)
    number = partial(model.number, dtype=model.dtype(x))
    elements = helper.np_dtype_to_tensor_dtype(model.dtype(x))
    above = model.add("Cast", [model.add("Greater", [x, number(-inf)])], to=elements)
    marks = pooled(model.add("Where", [model.add("IsNaN", [x]), number(2), above]))
    with_nan, with_some = (model.add("Greater", [marks, number(n)]) for n in (1, 0))
    factor = model.add("Where", [with_nan, number(nan), model.add("Where", [with_some, number(1), number(inf)])])
    return model.add("Mul", [pooled(x), factor])


def _mean_with_padding(model: ModelBuilder, x: Value, attrs: Attrs, rims: list[Ends]) -> Value:
    return _pool(model, "AveragePool", x, attrs, rims, 0.0, count_include_pad=1)


def _counts(attrs: Attrs, size: int, axis: int) -> NDArray[np.float32]:
    """Return the number of rows by which PyTorch divides each window of an average."""
    before, after = attrs["pads"][2 * axis : 2 * axis + 2]
    number = _windows(size, (before, after), attrs, axis, size + before)
    start = np.arange(number) * attrs["stride"][axis] - before
    end = np.minimum(start + attrs["kernel"][axis], size + after)
    if not attrs["count_include_pad"]:
        start, end = np.maximum(start, 0), np.minimum(end, size)
    counts: NDArray[np.float32] = (end - start).astype(np.float32)
    return counts


def avg_pool(model: ModelBuilder, x: Value, attrs: Attrs) -> Value:
    """Return the mean of each window of a whole map."""
    rims, pads = _rims(x, attrs, own=True), attrs["pads"]
    inside = rims == list(zip(pads[::2], pads[1::2], strict=True))
    if inside and not attrs["divisor"]:
        return _pool(model, "AveragePool", x, attrs, rims, 0.0, count_include_pad=int(attrs["count_include_pad"]))
    mean = _mean_with_padding(model, x, attrs, rims)
    counts = attrs["divisor"] or reduce(
        np.multiply.outer, (_counts(attrs, size, axis) for axis, size in enumerate(x.shape[1:]))
    )
    return _divided(model, mean, attrs, np.asarray(counts))


def _divided(model: ModelBuilder, mean: Value, attrs: Attrs, counts: NDArray[Any]) -> Value:
    """Return means over whole windows as sums divided by other counts."""
    return model.add("Mul", [mean, model.tensor((prod(attrs["kernel"]) / counts).astype(np.float32))])


def sum_pool(model: ModelBuilder, x: Value, attrs: Attrs, counts: NDArray[np.float32]) -> Value:
    """Return window sums of a part of a map, cropped and divided by the counts of the whole map."""
    mean = _mean_with_padding(model, x, attrs, _rims(x, attrs, own=False))
    return _divided(model, crop(model, mean, attrs["crop"]), attrs, counts)


def _pooled(x: Value, kernel: Numbers, stride: Numbers, padding: Numbers, ceil: bool, **more: Any) -> Attrs:
    """Return a pool's attributes from the arguments of an ATen op, which may give one number for all axes."""
    axes = len(x.dims) - 2
    pads = tuple(n for number in _all(padding, axes) for n in (number, number))
    return {
        "kernel": _all(kernel, axes),
        "stride": _all(stride or kernel, axes),
        "pads": pads,
        "ceil": ceil,
        **more,
    }


def aten_max_pool(
    model: ModelBuilder,
    x: Value,
    kernel: Numbers,
    stride: Numbers = (),
    padding: Numbers = 0,
    dilation: Numbers = 1,
    ceil: bool = False,
) -> Value:
    """Return a pool with the arguments of ``aten.max_pool2d``, over any number of axes."""
    return max_pool(model, x, _pooled(x, kernel, stride, padding, ceil, dilation=_all(dilation, len(x.dims) - 2)))


def max_pool_with_indices(model: ModelBuilder, item: int, x: Value, *rest: Any) -> Value:
    """Return the first of a pool's two results."""
    if item != 0:
        raise UnsupportedError("the indices of its maxima are used")
    return aten_max_pool(model, x, *rest)


def aten_avg_pool(
    model: ModelBuilder,
    x: Value,
    kernel: Numbers,
    stride: Numbers = (),
    padding: Numbers = 0,
    ceil: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Value:
    """Return a pool with the arguments of ``aten.avg_pool2d``, over any number of axes."""
    more = {"dilation": [1] * (len(x.dims) - 2), "count_include_pad": count_include_pad, "divisor": divisor}
    return avg_pool(model, x, _pooled(x, kernel, stride, padding, ceil, **more))


def adaptive_max_pool(model: ModelBuilder, item: int, x: Value, size: Numbers) -> Value:
    """Return the maximum of each of ``size`` windows, for a map of any size, one axis after another."""
    if item != 0:
        raise UnsupportedError("the indices of its maxima are used")
    for axis, (length, out) in enumerate(zip(x.shape[1:], _all(size, len(x.dims) - 2), strict=True), 2):
        starts, ends = np.arange(out) * length // out, -(-np.arange(1, out + 1) * length // out)
        # Windows shorter than the longest repeat their last row.
        places = np.minimum(starts[:, None] + np.arange((ends - starts).max()), ends[:, None] - 1)
        windows = replace(taken(model, x, axis, places), finite=x.finite)
        x = replace(reduced(model, windows, axis + 1, kind="ReduceMax"), finite=x.finite)
    return x


# --- windows as columns ---------------------------------------------------------------------------------------


def im2col(
    model: ModelBuilder, x: Value, kernel: Numbers, dilation: Numbers, padding: Numbers, stride: Numbers
) -> Value:
    """Return each window of a map as a column: ``(n, C, H, W)`` to ``(n, C * kernel, windows)``."""
    height, width = _all(padding, 2)
    x = pad(model, x, [width, width, height, height])
    rows, columns = (
        np.arange(k)[:, None] * d + np.arange(0, size - d * (k - 1), s)
        for size, k, d, s in zip(x.shape[1:], _all(kernel, 2), _all(dilation, 2), _all(stride, 2), strict=True)
    )
    places = rows[:, None, :, None] * x.shape[2] + columns[None, :, None, :]
    number = len(rows) * len(columns)
    picked = taken(model, flatten(model, x, 2), 2, places.reshape(number, -1))
    return flatten(model, picked, 1, 2)


def col2im(
    model: ModelBuilder,
    x: Value,
    size: Sequence[int],
    kernel: Numbers,
    dilation: Numbers,
    padding: Numbers,
    stride: Numbers,
) -> Value:
    """Sum columns into a map: ``(n, C * kernel, windows)`` to ``(n, C, H, W)``."""
    attrs = {"dilations": _all(dilation, 2), "pads": _all(padding, 2) * 2, "strides": _all(stride, 2)}
    block = model.integers(_all(kernel, 2))
    return model.add("Col2Im", [x, model.integers(size), block], **attrs)


# --- resizing: a linear map along each axis -------------------------------------------------------------------


def mapped(
    model: ModelBuilder, x: Value, axis: int, matrix: NDArray[np.float32], read: NDArray[np.bool_] | None = None
) -> Value:
    """Apply a matrix ``(out, size)`` along one axis.

    An output depends only on the numbers with a nonzero weight, or on those marked in ``read``; other numbers have
    no effect even if they are infinite.
    """
    if not x.finite:
        return _weighed(model, x, axis, matrix, matrix != 0 if read is None else read)
    if axis % len(x.dims) == len(x.dims) - 2:
        made = model.add("MatMul", [model.tensor(matrix), x])
    else:
        product = model.add("MatMul", [moved(model, x, axis, -1), model.tensor(np.ascontiguousarray(matrix.T))])
        made = moved(model, product, -1, axis)
    return replace(made, finite=True)


def _weighed(
    model: ModelBuilder, x: Value, axis: int, matrix: NDArray[np.float32], read: NDArray[np.bool_]
) -> Value:
    """Return weighted sums of the numbers that are read; a row that reads fewer repeats its last."""
    counts = read.sum(1)
    ranks = np.minimum(np.arange(counts.max()), counts[:, None] - 1)
    places = np.take_along_axis(np.argsort(~read, axis=1, kind="stable"), ranks, 1)
    shares = np.where(ranks == counts[:, None] - 1, counts.max() - counts[:, None] + 1, 1)
    weights = (np.take_along_axis(matrix, places, 1) / shares).astype(np.float32)
    lengths = [*weights.shape, *[1] * (len(x.dims) - 1 - axis)]
    products = model.add("Mul", [taken(model, x, axis, places), model.tensor(weights.reshape(lengths))])
    return reduced(model, products, axis + 1, kind="ReduceSum")


def separable(model: ModelBuilder, x: Value, rows: NDArray[np.float32], columns: NDArray[np.float32]) -> Value:
    """Apply a matrix along the height, and one along the width."""
    return mapped(model, mapped(model, x, 2, rows), 3, columns)


def aten_adaptive_avg_pool(model: ModelBuilder, x: Value, size: Numbers) -> Value:
    """Return the mean of ``size`` windows, along any number of axes."""
    for axis, (length, out) in enumerate(zip(x.shape[1:], _all(size, len(x.dims) - 2), strict=True), 2):
        x = mapped(model, x, axis, mean_matrix(length, out))
    return x


def resampled(model: ModelBuilder, x: Value, size: Sequence[int] | None, *rest: Any, kernel: str) -> Value:
    """Return a map resized by any of PyTorch's kernels, with the arguments of either of its overloads.

    The matrix of an axis is the kernel's result for an identity along it. ``rest`` holds align_corners, if the
    kernel has it, then the scale factors: one list, separate numbers, or none.
    """
    align = [] if "nearest" in kernel else [bool(rest[0])]
    given = [f for each in rest[len(align) :] for f in (each if isinstance(each, list) else [each])]
    factors = given if any(given) else [None] * (len(x.dims) - 2)
    if size is None:
        size = [int(n * f) for n, f in zip(x.shape[1:], factors, strict=True)]
    for axis, (length, out, factor) in enumerate(zip(x.shape[1:], size, factors, strict=True)):
        ones = [1] * (len(size) - 1)
        identity = torch.eye(length).reshape(1, length, *ones, length)
        lengths, more = [*ones, out], [None] * len(ones) + [factor]
        matrix, infinite = (
            getattr(torch.ops.aten, kernel).default(places, lengths, *align, *more).reshape(length, out).T.numpy()
            for places in (identity, identity.where(identity == 0, inf))
        )
        if "nearest" in kernel:
            x = taken(model, x, axis + 2, matrix.argmax(1))
        else:
            x = mapped(model, x, axis + 2, np.ascontiguousarray(matrix), ~np.isfinite(infinite))
    return x


def adaptive_avg_pool(model: ModelBuilder, x: Value, size: Sequence[int]) -> Value:
    """Return the mean of ``size`` windows, for a map of any size."""
    height, width = x.shape[1:]
    if tuple(size) == (1, 1):
        return model.add("GlobalAveragePool", [x])
    if height % size[0] == 0 and width % size[1] == 0:
        kernel = [height // size[0], width // size[1]]
        return model.add("AveragePool", [x], kernel_shape=kernel, strides=kernel)
    return separable(model, x, mean_matrix(height, size[0]), mean_matrix(width, size[1]))


def picked(model: ModelBuilder, x: Value, rows: NDArray[Any], columns: NDArray[Any]) -> Value:
    """Return some rows and columns of a map, by their indices."""
    for axis, places in ((2, rows), (3, columns)):
        x = model.add("Gather", [x, model.tensor(places.astype(np.int64))], axis=axis)
    return x


def resize(
    model: ModelBuilder, x: Value, size: Sequence[int], mode: str, align: bool, scale: Sequence[float] | None
) -> Value:
    """Resize a map as PyTorch does; ``scale`` is the factor that was passed to PyTorch, if any."""
    pairs = list(zip(x.shape[1:], size, strict=True))
    scales = [float(s) for s in scale] if scale else [None, None]
    whole = all(out % n == 0 and s in (None, out // n) for (n, out), s in zip(pairs, scales, strict=True))
    if whole and mode in ("nearest", "linear"):
        place = "align_corners" if align else "half_pixel"
        rounding = {} if mode == "linear" else {"nearest_mode": "floor"}
        how = "asymmetric" if mode == "nearest" else place
        sizes = model.integers(size)
        return model.add(
            "Resize",
            [x, None, None, sizes],
            axes=[2, 3],
            mode=mode,
            coordinate_transformation_mode=how,
            **rounding,
        )
    lengths = [(n, out, s) for (n, out), s in zip(pairs, scales, strict=True)]
    if mode.startswith("nearest"):
        exact = mode == "nearest-exact"
        return picked(model, x, *(resize_picks(n, out, exact=exact, scale=s) for n, out, s in lengths))
    if not x.finite:
        return resampled(model, x, size, align, *scales, kernel=f"upsample_bi{mode}2d")
    rows, columns = (resize_matrix(n, out, mode, align=align, scale=s) for n, out, s in lengths)
    return separable(model, x, rows, columns)


# --- sampling on a grid ---------------------------------------------------------------------------------------


def affine_grid(model: ModelBuilder, theta: Value, size: Sequence[Length], align: bool) -> Value:
    """Return the sampling grid of affine transforms, for a map of this size."""
    batch, _, *spatial = known(size)
    dims = [batch, *spatial, len(spatial)]
    made = model.add("AffineGrid", [theta, lengths(model, size)], align_corners=int(align))
    return model.sized(made, dims)


def sampled(model: ModelBuilder, x: Value, grid: Value, mode: int, padding: int, align: bool) -> Value:
    """Return a map sampled at the points of a grid."""
    modes, paddings = ("linear", "nearest", "cubic"), ("zeros", "border", "reflection")
    return model.add(
        "GridSample", [x, grid], mode=modes[mode], padding_mode=paddings[padding], align_corners=int(align)
    )
