"""ATen ops that go over some axes of a value - sums, softmax, norms - as ONNX nodes."""
# ruff: noqa: ARG001 - a schema has arguments that mean nothing here

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cloven.runtime.onnx import views
from cloven.runtime.onnx.model import Model, UnsupportedError, Value
from cloven.runtime.onnx.views import Length, Rows


def by_channel(model: Model, weight: Value, x: Value) -> Value:
    """A weight of one number a channel, shaped to meet a value."""
    ones = [1] * (len(x.dims) - 2)
    return model.add("Reshape", [weight, model.integers([-1, *ones])]) if ones else weight


def reduced(
    model: Model, x: Value, dim: int | Sequence[int] | None = None, keep: bool = False, *, kind: str
) -> Value:
    """A sum, mean, maximum or length over some axes."""
    axes = [dim] if isinstance(dim, int) else list(dim or range(1, len(x.dims)))
    return model.add(kind, [x, model.integers(axes)], keepdims=int(keep))


def length(model: Model, x: Value, order: float = 2, dim: Sequence[int] | None = None, keep: bool = False) -> Value:
    """The length of vectors, by the sum of their numbers or of their squares."""
    if order not in (1, 2):
        raise UnsupportedError(f"its order is {order}; expected 1 or 2")
    return reduced(model, x, dim, keep, kind=f"ReduceL{int(order)}")


def softmax(model: Model, x: Value, dim: int, half_to_float: bool = False, *, kind: str = "Softmax") -> Value:
    """Numbers as shares of one, or the logarithms of these."""
    return model.add(kind, [x], axis=dim)


def layer_norm(
    model: Model,
    x: Value,
    shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> Value:
    """A norm over the last axes, of that shape."""
    scale = weight or model.tensor(np.ones(tuple(shape), np.float32))
    return model.add("LayerNormalization", [x, scale, bias], axis=-len(shape), epsilon=float(eps))


def group_norm(
    model: Model,
    x: Value,
    groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> Value:
    """A norm over the channels of each group, then a weight and a bias by channel."""
    one, zero = (model.tensor(np.full(groups, number, np.float32)) for number in (1, 0))
    grouped = views.reshape(model, x, [Rows(), groups, x.count // groups])
    normed = model.add("InstanceNormalization", [grouped, one, zero], epsilon=float(eps))
    made = views.reshape(model, normed, [Rows(), *x.shape])
    for kind, factor in (("Mul", weight), ("Add", bias)):
        if factor is not None:
            made = model.add(kind, [made, by_channel(model, factor, x)])
    return made


def native_layer_norm(model: Model, item: int, x: Value, *rest: Any) -> Value:
    """The first of a norm's three results."""
    if item != 0:
        raise UnsupportedError("its mean and deviation are used")
    return layer_norm(model, x, *rest)


def native_group_norm(
    model: Model,
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
    """The first of a norm's three results."""
    if item != 0:
        raise UnsupportedError("its mean and deviation are used")
    return group_norm(model, x, groups, weight, bias, eps)
