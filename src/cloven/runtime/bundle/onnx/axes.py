"""ATen ops that run over some axes of a value - sums, softmax, norms - as ONNX nodes."""
# ruff: noqa: ARG001 - a schema has arguments that have no effect here

from __future__ import annotations

from collections.abc import Sequence
from math import nan, prod
from typing import Any

import numpy as np
from onnx import TensorProto

from cloven.runtime.bundle.onnx import layout
from cloven.runtime.bundle.onnx.builder import ModelBuilder, UnsupportedError, Value
from cloven.runtime.bundle.onnx.layout import Length


def by_channel(model: ModelBuilder, weight: Value, x: Value) -> Value:
    """Return a weight of one number per channel, reshaped to broadcast against a value."""
    ones = [1] * (len(x.dims) - 2)
    return model.add("Reshape", [weight, model.integers([-1, *ones])]) if ones else weight


def _of_images(x: Value, dim: int | Sequence[int] | None) -> list[int]:
    """Return the axes that an op runs over; the batch axis must not be among them."""
    axes = [dim] if isinstance(dim, int) else list(dim or range(len(x.dims)))
    if any(x.dims[axis] is None for axis in axes):
        raise UnsupportedError("it runs over the batch axis")
    return axes


def reduced(
    model: ModelBuilder, x: Value, dim: int | Sequence[int] | None = None, keep: bool = False, *, kind: str
) -> Value:
    """Return a sum, mean, maximum or norm over some axes."""
    axes = model.integers(_of_images(x, dim))
    made = model.add(kind, [x, axes], keepdims=int(keep))
    if kind not in ("ReduceMax", "ReduceMin") or not may_be_nan(model, x):
        return made
    found = model.add("ReduceMax", [nans(model, x), axes], keepdims=int(keep))
    return model.add(
        "Where", [model.add("Cast", [found], to=TensorProto.BOOL), model.number(nan, model.dtype(x)), made]
    )


def may_be_nan(model: ModelBuilder, x: Value) -> bool:
    """Return whether a value can contain NaN or infinity."""
    return not x.finite and model.dtype(x).kind == "f"


def nans(model: ModelBuilder, x: Value) -> Value:
    """Return 1 where a value is NaN, and 0 elsewhere."""
    return model.add("Cast", [model.add("IsNaN", [x])], to=TensorProto.FLOAT)


def extreme(model: ModelBuilder, item: int, x: Value, dim: int, keep: bool = False, *, kind: str) -> Value:
    """Return the largest or smallest number along an axis, or its index."""
    if item == 0:
        return reduced(model, x, dim, keep, kind=f"Reduce{kind}")
    return place(model, x, dim, keep, kind=f"Arg{kind}")


def place(model: ModelBuilder, x: Value, dim: int, keep: bool = False, *, kind: str) -> Value:
    """Return the index of the largest or smallest number along an axis, or of its first NaN."""
    (axis,), keepdims = _of_images(x, dim), int(keep)
    made = model.add(kind, [x], axis=axis, keepdims=keepdims)
    if not may_be_nan(model, x):
        return made
    marks = nans(model, x)
    found = model.add("ReduceMax", [marks, model.integers([axis])], keepdims=keepdims)
    first = model.add("ArgMax", [marks], axis=axis, keepdims=keepdims)
    return model.add("Where", [model.add("Cast", [found], to=TensorProto.BOOL), first, made])


def _moments(
    model: ModelBuilder, x: Value, dim: int | Sequence[int] | None, given: bool | float | None, keep: bool
) -> tuple[Value, Value]:
    """Return the variance and the mean over some axes; ``given`` is subtracted from the count of the numbers."""
    axes = _of_images(x, dim)
    number = prod(x.dims[axis] or 1 for axis in axes)
    correction = 1 if given is None else float(given)
    if correction >= number:
        raise UnsupportedError(
            f"it is the variance of {number} numbers with correction {correction:g}; expected more numbers"
        )
    mean = reduced(model, x, axes, True, kind="ReduceMean")
    apart = model.add("Sub", [x, mean])
    squares = reduced(model, model.add("Mul", [apart, apart]), axes, keep, kind="ReduceMean")
    variance = model.add("Mul", [squares, model.number(number / (number - correction))])
    return variance, mean if keep else layout.squeeze(model, mean, axes)


def variance(
    model: ModelBuilder,
    x: Value,
    dim: int | Sequence[int] | None = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Value:
    """Return the variance over some axes."""
    return _moments(model, x, dim, unbiased if correction is None else correction, keepdim)[0]


def deviation(model: ModelBuilder, x: Value, *args: Any, **kwargs: Any) -> Value:
    """Return the standard deviation over some axes."""
    return model.add("Sqrt", [variance(model, x, *args, **kwargs)])


def variance_and_mean(
    model: ModelBuilder,
    item: int,
    x: Value,
    dim: int | Sequence[int] | None = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Value:
    """Return the variance over some axes, or the mean."""
    return _moments(model, x, dim, unbiased if correction is None else correction, keepdim)[item]


def cumulated(model: ModelBuilder, x: Value, dim: int) -> Value:
    """Return the cumulative sums along an axis."""
    (axis,) = _of_images(x, dim)
    return model.add("CumSum", [x, model.tensor(np.array(axis, np.int64))])


def gated(model: ModelBuilder, x: Value, dim: int = -1) -> Value:
    """Return the first half of an axis times the sigmoid of the second."""
    first, second = (layout.chunk(model, half, x, 2, dim) for half in (0, 1))
    return model.add("Mul", [first, model.add("Sigmoid", [second])])


def cosine(model: ModelBuilder, x: Value, y: Value, dim: int = 1, eps: float = 1e-8) -> Value:
    """Return the cosine of the angle between vectors; lengths below ``eps`` count as ``eps``."""
    units = []
    for vectors in (x, y):
        norm = model.add("Max", [length(model, vectors, 2, [dim], True), model.number(eps)])
        units.append(model.add("Div", [vectors, norm]))
    return reduced(model, model.add("Mul", units), dim, kind="ReduceSum")


def length(
    model: ModelBuilder, x: Value, order: float = 2, dim: Sequence[int] | None = None, keep: bool = False
) -> Value:
    """Return the L1 or L2 norm of vectors."""
    if order not in (1, 2):
        raise UnsupportedError(f"its order is {order}; expected 1 or 2")
    return reduced(model, x, dim, keep, kind=f"ReduceL{int(order)}")


def norm(model: ModelBuilder, x: Value, order: float | None, dim: Sequence[int], keep: bool = False) -> Value:
    """Return the norm of vectors, with the arguments of ``aten.norm``."""
    return length(model, x, 2 if order is None else order, dim, keep)


def softmax(
    model: ModelBuilder, x: Value, dim: int, half_to_float: bool = False, *, kind: str = "Softmax"
) -> Value:
    """Return the softmax along an axis, or its logarithm."""
    return model.add(kind, [x], axis=_of_images(x, dim)[0])


def rms_norm(
    model: ModelBuilder, x: Value, shape: Sequence[int], weight: Value | None = None, eps: float | None = None
) -> Value:
    """Divide by the root mean square over the last axes, which have that shape, and multiply by a weight."""
    last = range(-len(shape), 0)
    squares = reduced(model, model.add("Mul", [x, x]), list(last), True, kind="ReduceMean")
    padded = model.add("Add", [squares, model.number(2**-23 if eps is None else eps)])
    normed = model.add("Div", [x, model.add("Sqrt", [padded])])
    return normed if weight is None else model.add("Mul", [normed, weight])


def batch_norm(
    model: ModelBuilder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    var: Value,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> Value:
    """Normalise by running statistics per channel, then apply a weight and a bias."""
    if training:
        raise UnsupportedError("it uses statistics of the batch")
    given = (
        weight or model.tensor(np.ones(mean.shape, np.float32)),
        bias or model.tensor(np.zeros(mean.shape, np.float32)),
    )
    return model.add("BatchNormalization", [x, *given, mean, var], epsilon=float(eps))


def native_batch_norm(
    model: ModelBuilder,
    item: int,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    var: Value,
    momentum: float,
    eps: float,
) -> Value:
    """Return the first of a norm's three results."""
    if item != 0:
        raise UnsupportedError("its mean and deviation are used")
    return batch_norm(model, x, weight, bias, mean, var, eps=eps)


def instance_norm(
    model: ModelBuilder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    var: Value | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn: bool = True,
) -> Value:
    """Normalise by statistics per channel and image, or by running ones, then apply a weight and a bias."""
    if not use_input_stats and mean is not None and var is not None:
        return batch_norm(model, x, weight, bias, mean, var, eps=eps)
    return group_norm(model, x, x.shape[0], weight, bias, eps)


def layer_norm(
    model: ModelBuilder,
    x: Value,
    shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> Value:
    """Normalise over the last axes, which have that shape."""
    scale = weight or model.tensor(np.ones(tuple(shape), np.float32))
    return model.add("LayerNormalization", [x, scale, bias], axis=-len(shape), epsilon=float(eps))


def group_norm(
    model: ModelBuilder,
    x: Value,
    groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> Value:
    """Normalise over the channels of each group, then apply a weight and a bias per channel."""
    one, zero = (model.tensor(np.full(groups, number, np.float32)) for number in (1, 0))
    grouped = layout.reshaped(model, x, [None, groups, prod(x.shape) // groups])
    normed = model.add("InstanceNormalization", [grouped, one, zero], epsilon=float(eps))
    made = layout.reshaped(model, normed, x.dims)
    for kind, factor in (("Mul", weight), ("Add", bias)):
        if factor is not None:
            made = model.add(kind, [made, by_channel(model, factor, x)])
    return made


def native_layer_norm(model: ModelBuilder, item: int, x: Value, *rest: Any) -> Value:
    """Return the first of a norm's three results."""
    if item != 0:
        raise UnsupportedError("its mean and deviation are used")
    return layer_norm(model, x, *rest)


def native_group_norm(
    model: ModelBuilder,
    item: int,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    batch: Length,
    channels: int,
    pixels: int,
    groups: int,
    eps: float,
) -> Value:
    """Return the first of a norm's three results."""
    if item != 0:
        raise UnsupportedError("its mean and deviation are used")
    return group_norm(model, x, groups, weight, bias, eps)
