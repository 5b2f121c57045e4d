"""ATen ops that have no rules of their own, as ONNX nodes: ``CALLS`` is the whole table.

A function takes a model and the op's arguments as its schema orders them. A tensor among them is a `Value`, a
length that is the batch is `Rows`. ``ITEMS`` holds ops that make several tensors: which one comes first.
"""
# ruff: noqa: ARG001 - a schema has arguments that mean nothing here

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from math import sqrt
from typing import Any

from cloven.runtime.onnx import axes, views, windows
from cloven.runtime.onnx.model import Model, UnsupportedError, Value

Operand = Value | float
Call = Callable[..., Value]


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise UnsupportedError(reason)


def _node(model: Model, *operands: Operand, kind: str) -> Value:
    """One node that takes the arguments as they are; numbers become tensors."""
    return model.add(kind, [x if isinstance(x, Value) else model.number(x) for x in operands])


# --- number by number -----------------------------------------------------------------------------------------


def _add(model: Model, x: Operand, y: Operand, *, alpha: float = 1, kind: str = "Add") -> Value:
    return _node(model, x, y if alpha == 1 else _node(model, y, alpha, kind="Mul"), kind=kind)


def _rsub(model: Model, x: Value, y: Operand, alpha: float = 1) -> Value:
    return _add(model, y, x, alpha=alpha, kind="Sub")


def _clamp(model: Model, x: Value, lower: Operand | None = None, upper: Operand | None = None) -> Value:
    if lower is not None:
        x = _node(model, x, lower, kind="Max")
    return x if upper is None else _node(model, x, upper, kind="Min")


def _clip(model: Model, x: Value, lower: float = -1, upper: float = 1) -> Value:
    return _node(model, x, lower, upper, kind="Clip")


def _hardsigmoid(model: Model, x: Value) -> Value:
    return model.add("HardSigmoid", [x], alpha=1 / 6, beta=0.5)


def _silu(model: Model, x: Value) -> Value:
    return _node(model, x, model.add("Sigmoid", [x]), kind="Mul")


def _sloped(model: Model, x: Value, alpha: float, *, kind: str) -> Value:
    return model.add(kind, [x], alpha=float(alpha))


def _elu(model: Model, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    _require(scale == input_scale == 1, f"its scales are {scale} and {input_scale}; expected 1")
    return _sloped(model, x, alpha, kind="Elu")


def _leaky_relu(model: Model, x: Value, slope: float = 0.01) -> Value:
    return _sloped(model, x, slope, kind="LeakyRelu")


def _celu(model: Model, x: Value, alpha: float = 1) -> Value:
    return _sloped(model, x, alpha, kind="Celu")


def _gelu(model: Model, x: Value, *, approximate: str = "none") -> Value:
    return model.add("Gelu", [x], approximate=approximate)


def _softplus(model: Model, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    _require(threshold >= 15, f"it is a line from {threshold} on; expected 15 or more")
    if beta == 1:
        return model.add("Softplus", [x])
    return _node(model, model.add("Softplus", [_node(model, x, beta, kind="Mul")]), beta, kind="Div")


def _log_sigmoid(model: Model, x: Value) -> Value:
    return model.add("Neg", [model.add("Softplus", [model.add("Neg", [x])])])


def _rsqrt(model: Model, x: Value) -> Value:
    return model.add("Reciprocal", [model.add("Sqrt", [x])])


def _square(model: Model, x: Value) -> Value:
    return model.add("Mul", [x, x])


def _unequal(model: Model, x: Operand, y: Operand) -> Value:
    return model.add("Not", [_node(model, x, y, kind="Equal")])


def prelu(model: Model, x: Value, slope: Value) -> Value:
    """One slope for all channels, or one a channel."""
    return model.add("PRelu", [x, slope if slope.dims == (1,) else axes.by_channel(model, slope, x)])


# --- products -------------------------------------------------------------------------------------------------


def linear(model: Model, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """Along the last axis."""
    if len(x.dims) == 2:
        return model.add("Gemm", [x, weight, bias], transB=1)
    product = model.add("MatMul", [x, views.transpose(model, weight, 0, 1)])
    return product if bias is None else model.add("Add", [product, bias])


def _addmm(model: Model, bias: Value, x: Value, y: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    return model.add("Gemm", [x, y, bias], alpha=float(alpha), beta=float(beta))


def _einsum(model: Model, equation: str, operands: Sequence[Value], path: object = None) -> Value:
    return model.add("Einsum", list(operands), equation=equation)


def _attention(
    model: Model,
    query: Value,
    key: Value,
    value: Value,
    mask: Value | None = None,
    dropout: float = 0,
    causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    _require(not causal and not enable_gqa, "it is causal or grouped")
    factor = scale or 1 / sqrt(query.shape[-1])
    weights = _node(model, model.add("MatMul", [query, views.transpose(model, key, -2, -1)]), factor, kind="Mul")
    if mask is not None:
        weights = model.add("Add", [weights, mask])
    return model.add("MatMul", [model.add("Softmax", [weights], axis=-1), value])


# --- resizing -------------------------------------------------------------------------------------------------


def _upsample(model: Model, x: Value, size: Sequence[int] | None, *rest: Any, mode: str) -> Value:
    """Both overloads: factors as one list, or one by one, or none; bilinear ones begin with align_corners."""
    align, factors = (bool(rest[0]), rest[1:]) if mode == "linear" else (False, rest)
    given = [f for each in factors for f in (each if isinstance(each, list) else [each]) if f is not None]
    if size is None:
        size = [int(n * f) for n, f in zip(x.shape[1:], given, strict=True)]
    return windows.resize(model, x, size, mode, align, given or None)


_RENAMED = {
    **{name: name.capitalize() for name in "relu sigmoid tanh mish selu neg abs exp log sqrt".split()},
    **{name: name.capitalize() for name in "reciprocal sin cos erf floor ceil div mul pow".split()},
    **dict.fromkeys(("matmul", "bmm", "mm"), "MatMul"),
    "maximum": "Max",
    "minimum": "Min",
    "hardswish": "HardSwish",
}
_COMPARED = {
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    "lt": "Less",
    "le": "LessOrEqual",
    "eq": "Equal",
    "where": "Where",
    **dict.fromkeys(("logical_and", "bitwise_and", "__and__"), "And"),
    **dict.fromkeys(("logical_or", "bitwise_or", "__or__"), "Or"),
    "logical_xor": "Xor",
    "logical_not": "Not",
    "bitwise_not": "Not",
    "round": "Round",
    "sign": "Sign",
}
_REDUCED = {"mean": "ReduceMean", "sum": "ReduceSum", "amax": "ReduceMax", "amin": "ReduceMin"}

CALLS: Mapping[str, Call] = {
    **{name: partial(_node, kind=kind) for name, kind in _RENAMED.items()},
    **{name: partial(axes.reduced, kind=kind) for name, kind in _REDUCED.items()},
    "add": _add,
    "sub": partial(_add, kind="Sub"),
    "rsub": _rsub,
    "relu6": partial(_clip, lower=0, upper=6),
    "hardtanh": _clip,
    "clamp": _clamp,
    "clamp_min": partial(_node, kind="Max"),
    "clamp_max": partial(_node, kind="Min"),
    "silu": _silu,
    "elu": _elu,
    "celu": _celu,
    "leaky_relu": _leaky_relu,
    "hardsigmoid": _hardsigmoid,
    "gelu": _gelu,
    "softplus": _softplus,
    "log_sigmoid": _log_sigmoid,
    "rsqrt": _rsqrt,
    "square": _square,
    "prelu": prelu,
    "linalg_vector_norm": axes.length,
    "softmax": axes.softmax,
    "_softmax": axes.softmax,
    "log_softmax": partial(axes.softmax, kind="LogSoftmax"),
    "_log_softmax": partial(axes.softmax, kind="LogSoftmax"),
    "layer_norm": axes.layer_norm,
    "group_norm": axes.group_norm,
    "linear": linear,
    "addmm": _addmm,
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    "convolution": windows.convolution,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), windows.conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), windows.conv_transpose),
    "upsample_nearest2d": partial(_upsample, mode="nearest"),
    "upsample_bilinear2d": partial(_upsample, mode="linear"),
    "reshape": views.reshape,
    "view": views.reshape,
    "flatten": views.flatten,
    "squeeze": views.squeeze,
    "unsqueeze": views.unsqueeze,
    "permute": views.permute,
    "transpose": views.transpose,
    "slice": views.slice_,
    "select": views.select,
    "index_select": views.index_select,
    "cat": views.concat,
    "stack": views.stack,
    "roll": views.roll,
    "expand": views.expand,
    "repeat": views.repeat,
    "pad": views.pad,
    "constant_pad_nd": views.constant_pad,
    **{name: partial(_node, kind=kind) for name, kind in _COMPARED.items()},
    "ne": _unequal,
}

ITEMS: Mapping[str, Call] = {
    "split": views.split,
    "split_with_sizes": views.split,
    "chunk": views.chunk,
    "unbind": views.unbind,
    "native_layer_norm": axes.native_layer_norm,
    "native_group_norm": axes.native_group_norm,
}


def call(model: Model, name: str, item: int | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Value:
    """The nodes of an op such as ``aten.relu.default``.

    Raises:
        UnsupportedError: where the table has no such op, or the op no node for these arguments.
    """
    found = (CALLS if item is None else ITEMS).get(name.split(".")[1])
    if found is None or not name.startswith("aten."):
        raise UnsupportedError("there is no node for this op")
    given = {key: value for key, value in kwargs.items() if value is not None}
    lead = [model] if item is None else [model, item]
    try:
        signature(found).bind(*lead, *args, **given)
    except TypeError as error:
        raise UnsupportedError(f"{error}") from error
    return found(*lead, *args, **given)
