"""ATen ops that have no rules in the op table, as ONNX nodes: ``CALLS`` is the whole table.

A function takes a model and the op's arguments in the order of its schema. Tensors are `Value`, lengths that depend
on the batch are `Rows`. ``ITEMS`` holds ops that return several tensors; the index of the result comes first.
"""
# ruff: noqa: ARG001 - a schema has arguments that have no effect here

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from math import inf, log, sqrt
from typing import Any

import numpy as np

from cloven.runtime.bundle.onnx import axes, layout, spatial
from cloven.runtime.bundle.onnx.builder import ModelBuilder, UnsupportedError, Value
from cloven.runtime.bundle.onnx.layout import Rows

Operand = Value | float
Call = Callable[..., Value]


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise UnsupportedError(reason)


def _node(model: ModelBuilder, *operands: Operand, kind: str) -> Value:
    """Add one node that takes the arguments unchanged; numbers become tensors."""
    _require(not any(isinstance(x, Rows) for x in operands), "it computes with the number of images")
    return model.add(kind, [_tensor(model, x, operands) for x in operands])


def _tensor(model: ModelBuilder, x: Operand, beside: Sequence[Operand | None]) -> Value:
    """Return a tensor unchanged, and a number as float64 if one of the other tensors is, else as float32."""
    if isinstance(x, Value):
        return x
    doubles = any(isinstance(other, Value) and model.dtype(other) == np.float64 for other in beside)
    return model.number(x, np.float64 if doubles else np.float32)


# --- elementwise ----------------------------------------------------------------------------------------------


def _add(model: ModelBuilder, x: Operand, y: Operand, *, alpha: float = 1, kind: str = "Add") -> Value:
    return _node(model, x, y if alpha == 1 else _node(model, y, alpha, kind="Mul"), kind=kind)


def _rsub(model: ModelBuilder, x: Value, y: Operand, alpha: float = 1) -> Value:
    return _add(model, y, x, alpha=alpha, kind="Sub")


def _clamp(model: ModelBuilder, x: Value, lower: Operand | None = None, upper: Operand | None = None) -> Value:
    """Use Clip where possible: it keeps the sign of zero. Its default limits are finite, so pass infinities."""
    limits = [-inf if lower is None else lower, inf if upper is None else upper]
    tensors = [_tensor(model, limit, [x]) for limit in limits]
    if all(limit.dims == () for limit in tensors) and model.dtype(x).kind == "f":
        return model.add("Clip", [x, *tensors])
    for kind, limit, tensor in zip(("Max", "Min"), (lower, upper), tensors, strict=True):
        x = x if limit is None else model.add(kind, [x, tensor])
    return x


def _clamp_max(model: ModelBuilder, x: Value, upper: Operand) -> Value:
    return _clamp(model, x, None, upper)


def _clip(model: ModelBuilder, x: Value, lower: float = -1, upper: float = 1) -> Value:
    return _node(model, x, lower, upper, kind="Clip")


def _hardsigmoid(model: ModelBuilder, x: Value) -> Value:
    return model.add("HardSigmoid", [x], alpha=1 / 6, beta=0.5)


def _silu(model: ModelBuilder, x: Value) -> Value:
    return _node(model, x, model.add("Sigmoid", [x]), kind="Mul")


def _sloped(model: ModelBuilder, x: Value, alpha: float, *, kind: str) -> Value:
    return model.add(kind, [x], alpha=float(alpha))


def _elu(model: ModelBuilder, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    _require(scale == input_scale == 1, f"its scales are {scale} and {input_scale}; expected 1")
    return _sloped(model, x, alpha, kind="Elu")


def _leaky_relu(model: ModelBuilder, x: Value, slope: float = 0.01) -> Value:
    return _sloped(model, x, slope, kind="LeakyRelu")


def _celu(model: ModelBuilder, x: Value, alpha: float = 1) -> Value:
    return _sloped(model, x, alpha, kind="Celu")


def _gelu(model: ModelBuilder, x: Value, *, approximate: str = "none") -> Value:
    return model.add("Gelu", [x], approximate=approximate)


def _softplus(model: ModelBuilder, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    if beta == 1 and threshold >= 15:
        return model.add("Softplus", [x])
    scaled = _node(model, x, beta, kind="Mul")
    curve = _node(model, model.add("Softplus", [scaled]), beta, kind="Div")
    return _node(model, _node(model, scaled, threshold, kind="Greater"), x, curve, kind="Where")


def _log_sigmoid(model: ModelBuilder, x: Value) -> Value:
    return model.add("Neg", [model.add("Softplus", [model.add("Neg", [x])])])


def _rsqrt(model: ModelBuilder, x: Value) -> Value:
    return model.add("Reciprocal", [model.add("Sqrt", [x])])


def _square(model: ModelBuilder, x: Value) -> Value:
    return model.add("Mul", [x, x])


def _log(model: ModelBuilder, x: Value, base: float) -> Value:
    return _node(model, model.add("Log", [x]), log(base), kind="Div")


def _log1p(model: ModelBuilder, x: Value) -> Value:
    """Compute log(1 + x) by Kahan's formula: for small x the rounding error of 1 + x cancels."""
    more = _node(model, x, 1, kind="Add")
    scale = model.add("Div", [model.add("Log", [more]), _node(model, more, 1, kind="Sub")])
    small = _node(model, model.add("Abs", [x]), 0.5, kind="Less")
    near = _node(model, _node(model, more, 1, kind="Equal"), x, model.add("Mul", [x, scale]), kind="Where")
    return model.add("Where", [small, near, model.add("Log", [more])])


def _expm1(model: ModelBuilder, x: Value) -> Value:
    """Compute exp(x) - 1 as tanh(x / 2) * (exp(x) + 1), which is accurate for small x."""
    more = _node(model, model.add("Exp", [x]), 1, kind="Add")
    return model.add("Mul", [model.add("Tanh", [_node(model, x, 0.5, kind="Mul")]), more])


def _hardshrink(model: ModelBuilder, x: Value, limit: float = 0.5) -> Value:
    return _node(model, _node(model, model.add("Abs", [x]), limit, kind="LessOrEqual"), 0, x, kind="Where")


def _softshrink(model: ModelBuilder, x: Value, limit: float = 0.5) -> Value:
    return model.add("Sub", [x, _clip(model, x, -limit, limit)])


def _sign(model: ModelBuilder, x: Value) -> Value:
    """Return the sign; PyTorch returns 0 for NaN."""
    made = model.add("Sign", [x])
    return _node(model, model.add("IsNaN", [x]), 0, made, kind="Where") if axes.may_be_nan(model, x) else made


def _pow(model: ModelBuilder, x: Operand, y: Operand) -> Value:
    """Use a square root for 0.5 and -0.5 as PyTorch does; the results for -inf and -0 differ from a power."""
    roots: Mapping[Operand, Call] = {0.5: partial(_node, kind="Sqrt"), -0.5: _rsqrt}
    return roots[y](model, x) if y in roots else _node(model, x, y, kind="Pow")


def _threshold(model: ModelBuilder, x: Value, limit: float, below: float) -> Value:
    return _node(model, _node(model, x, limit, kind="LessOrEqual"), below, x, kind="Where")


def _masked_fill(model: ModelBuilder, x: Value, mask: Value, number: Operand) -> Value:
    return _node(model, mask, number, x, kind="Where")


def _unequal(model: ModelBuilder, x: Operand, y: Operand) -> Value:
    return model.add("Not", [_node(model, x, y, kind="Equal")])


def _lerp(model: ModelBuilder, x: Value, y: Value, share: Operand) -> Value:
    """Interpolate from the nearer end, as PyTorch does, so that rounding y - x does not lose a small end."""
    apart = model.add("Sub", [y, x])
    from_x = _add(model, x, _node(model, apart, share, kind="Mul"))
    from_y = _add(model, y, _node(model, apart, _add(model, 1, share, kind="Sub"), kind="Mul"), kind="Sub")
    if not isinstance(share, Value):
        return from_x if abs(share) < 0.5 else from_y
    near = _node(model, model.add("Abs", [share]), 0.5, kind="Less")
    return model.add("Where", [near, from_x, from_y])


def _added(model: ModelBuilder, x: Value, a: Value, b: Value, *, value: float = 1, kind: str) -> Value:
    return _add(model, x, model.add(kind, [a, b]), alpha=value)


def _same(model: ModelBuilder, x: Value) -> Value:
    return x


def _type_as(model: ModelBuilder, x: Value, y: Value) -> Value:
    _require(model.dtype(x) == model.dtype(y), f"it converts {model.dtype(x)} to {model.dtype(y)}")
    return x


def _dropout(model: ModelBuilder, x: Value, share: float, train: bool) -> Value:
    _require(not train, "it draws random numbers")
    return x


def prelu(model: ModelBuilder, x: Value, slope: Value) -> Value:
    """Apply one slope for all channels, or one for each."""
    return model.add("PRelu", [x, slope if slope.dims == (1,) else axes.by_channel(model, slope, x)])


# --- products -------------------------------------------------------------------------------------------------


def linear(model: ModelBuilder, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """Apply a linear layer along the last axis."""
    if len(x.dims) == 2:
        return model.add("Gemm", [x, weight, bias], transB=1)
    product = model.add("MatMul", [x, layout.transpose(model, weight, 0, 1)])
    return product if bias is None else model.add("Add", [product, bias])


def _addmm(model: ModelBuilder, bias: Value, x: Value, y: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    return model.add("Gemm", [x, y, bias], alpha=float(alpha), beta=float(beta))


def _baddbmm(model: ModelBuilder, bias: Value, x: Value, y: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    return _add(model, _node(model, bias, beta, kind="Mul"), model.add("MatMul", [x, y]), alpha=alpha)


def _einsum(model: ModelBuilder, equation: str, operands: Sequence[Value], path: object = None) -> Value:
    return model.add("Einsum", list(operands), equation=equation)


def _attention(
    model: ModelBuilder,
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
    _require(not enable_gqa, "its heads are grouped")
    factor = scale or 1 / sqrt(query.shape[-1])
    weights = _node(model, model.add("MatMul", [query, layout.transpose(model, key, -2, -1)]), factor, kind="Mul")
    if causal:
        mask = model.tensor(np.tri(query.shape[-2], key.shape[-2], dtype=bool))
    if mask is not None and model.dtype(mask).kind == "b":
        mask = _node(model, mask, 0, -inf, kind="Where")
    if mask is not None:
        weights = model.add("Add", [weights, mask])
    made = model.add("MatMul", [model.add("Softmax", [weights], axis=-1), value])
    if mask is None or causal:
        return made
    # A query whose keys are all masked returns 0.
    nearest = model.add("ReduceMax", [weights, model.integers([-1])])
    return _node(model, _node(model, nearest, -inf, kind="Equal"), 0, made, kind="Where")


_RENAMED = {
    **{name: name.capitalize() for name in "relu sigmoid tanh mish selu neg abs exp log sqrt".split()},
    **{name: name.capitalize() for name in "reciprocal sin cos erf floor ceil div mul".split()},
    **dict.fromkeys(("matmul", "bmm", "mm"), "MatMul"),
    "maximum": "Max",
    "minimum": "Min",
    "hardswish": "HardSwish",
    **{name: name.capitalize() for name in "round tan asin acos atan sinh cosh softsign where".split()},
    "multiply": "Mul",
    "divide": "Div",
    "true_divide": "Div",
    "min": "Min",
    "max": "Max",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    "lt": "Less",
    "le": "LessOrEqual",
    "eq": "Equal",
    **dict.fromkeys(("logical_not", "bitwise_not"), "Not"),
    **dict.fromkeys(("logical_and", "bitwise_and", "__and__"), "And"),
    **dict.fromkeys(("logical_or", "bitwise_or", "__or__"), "Or"),
    **dict.fromkeys(("logical_xor", "bitwise_xor", "__xor__"), "Xor"),
}
_KERNELS = (
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d "
    "_upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d "
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa"
).split()
_REDUCED = {"mean": "ReduceMean", "sum": "ReduceSum", "amax": "ReduceMax", "amin": "ReduceMin"} | {
    "prod": "ReduceProd",
    "logsumexp": "ReduceLogSumExp",
}

CALLS: Mapping[str, Call] = {
    **{name: partial(_node, kind=kind) for name, kind in _RENAMED.items()},
    **{name: partial(axes.reduced, kind=kind) for name, kind in _REDUCED.items()},
    "add": _add,
    "sub": partial(_add, kind="Sub"),
    "rsub": _rsub,
    "relu6": partial(_clip, lower=0, upper=6),
    "sign": _sign,
    "pow": _pow,
    "hardtanh": _clip,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp_max,
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
    "log2": partial(_log, base=2),
    "log10": partial(_log, base=10),
    "log1p": _log1p,
    "expm1": _expm1,
    "hardshrink": _hardshrink,
    "softshrink": _softshrink,
    "threshold": _threshold,
    "masked_fill": _masked_fill,
    "ne": _unequal,
    "lerp": _lerp,
    "addcmul": partial(_added, kind="Mul"),
    "addcdiv": partial(_added, kind="Div"),
    **dict.fromkeys("contiguous clone alias detach lift_fresh_copy".split(), _same),
    "type_as": _type_as,
    **dict.fromkeys("dropout feature_dropout alpha_dropout feature_alpha_dropout".split(), _dropout),
    "linalg_vector_norm": axes.length,
    "norm": axes.norm,
    "var": axes.variance,
    "std": axes.deviation,
    "argmax": partial(axes.place, kind="ArgMax"),
    "argmin": partial(axes.place, kind="ArgMin"),
    "cumsum": axes.cumulated,
    "glu": axes.gated,
    "cosine_similarity": axes.cosine,
    "softmax": axes.softmax,
    "_softmax": axes.softmax,
    "log_softmax": partial(axes.softmax, kind="LogSoftmax"),
    "_log_softmax": partial(axes.softmax, kind="LogSoftmax"),
    "layer_norm": axes.layer_norm,
    "group_norm": axes.group_norm,
    "batch_norm": axes.batch_norm,
    "instance_norm": axes.instance_norm,
    "rms_norm": axes.rms_norm,
    "linear": linear,
    "addmm": _addmm,
    "baddbmm": _baddbmm,
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    "convolution": spatial.convolution,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), spatial.conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), spatial.conv_transpose),
    **{kernel: partial(spatial.resampled, kernel=kernel) for kernel in _KERNELS},
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), spatial.aten_max_pool),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), spatial.aten_avg_pool),
    **{f"adaptive_avg_pool{n}d": spatial.aten_adaptive_avg_pool for n in (1, 2, 3)},
    **dict.fromkeys(("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"), spatial.sampled),
    "affine_grid_generator": spatial.affine_grid,
    "im2col": spatial.im2col,
    "col2im": spatial.col2im,
    **dict.fromkeys(("reshape", "view", "_unsafe_view"), layout.reshape),
    **dict.fromkeys(("reshape_as", "view_as"), layout.reshape_as),
    "flatten": layout.flatten,
    "unflatten": layout.unflatten,
    "squeeze": layout.squeeze,
    "unsqueeze": layout.unsqueeze,
    "permute": layout.permute,
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), layout.transpose),
    **dict.fromkeys(("movedim", "moveaxis"), layout.moved),
    "slice": layout.slice_,
    "narrow": layout.narrowed,
    "flip": layout.flip,
    "select": layout.select,
    "index_select": layout.index_select,
    "index": layout.index,
    "gather": layout.gather,
    "take_along_dim": layout.take_along_dim,
    "repeat_interleave": layout.repeat_interleave,
    "unfold": layout.sliding,
    **dict.fromkeys(("cat", "concat", "concatenate"), layout.concat),
    "stack": layout.stack,
    "roll": layout.roll,
    **dict.fromkeys(("expand", "broadcast_to"), layout.expand),
    "expand_as": layout.expand_as,
    **dict.fromkeys(("repeat", "tile"), layout.repeat),
    "full": layout.full,
    "zeros": partial(layout.full, number=0),
    "ones": partial(layout.full, number=1),
    "new_full": layout.new_full,
    "new_zeros": partial(layout.new_full, number=0),
    "new_ones": partial(layout.new_full, number=1),
    "full_like": layout.full_like,
    "zeros_like": partial(layout.full_like, number=0),
    "ones_like": partial(layout.full_like, number=1),
    "pad": layout.pad,
    "constant_pad_nd": layout.constant_pad,
}

ITEMS: Mapping[str, Call] = {
    "split": layout.split,
    "split_with_sizes": layout.split,
    "chunk": layout.chunk,
    "tensor_split": layout.tensor_split,
    "unbind": layout.unbind,
    "max": partial(axes.extreme, kind="Max"),
    "min": partial(axes.extreme, kind="Min"),
    "var_mean": axes.variance_and_mean,
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool3d_with_indices"), spatial.max_pool_with_indices),
    **{f"adaptive_max_pool{n}d": spatial.adaptive_max_pool for n in (1, 2, 3)},
    "_native_batch_norm_legit_no_training": axes.native_batch_norm,
    "native_layer_norm": axes.native_layer_norm,
    "native_group_norm": axes.native_group_norm,
}


def call(
    model: ModelBuilder, name: str, item: int | None, args: Sequence[Any], kwargs: Mapping[str, object]
) -> Value:
    """Add the nodes of an op such as ``aten.relu.default``.

    Raises:
        UnsupportedError: if the table does not have the op, or the op has no node for these arguments.
    """
    found = (CALLS if item is None else ITEMS).get(name.split(".")[1])
    if found is None or not name.startswith("aten."):
        raise UnsupportedError("there is no node for this op")
    given = {key: value for key, value in kwargs.items() if value is not None}
    lead = [model] if item is None else [model, item]
    try:
        signature(found).bind(*lead, *args, **given)
    except TypeError as error:
        raise UnsupportedError(f"there is no node for these arguments ({error})") from error
    return found(*lead, *args, **given)
