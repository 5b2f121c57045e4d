"""Readers that turn a call of an exported model into an op of the table: its kind, attributes and weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from numpy.typing import NDArray
from torch import fx

from cloven.graph.box import Shape

ELEMENTWISE = frozenset(
    "relu relu6 tanh sigmoid silu gelu hardtanh hardswish hardsigmoid leaky_relu elu selu celu mish softplus "
    "softsign log_sigmoid neg abs exp sqrt rsqrt reciprocal square clamp "
    "add sub mul div maximum minimum pow round floor ceil trunc sign gt ge lt le eq ne where "
    "logical_and logical_or logical_not logical_xor __and__ __or__ bitwise_and bitwise_or bitwise_not".split()
)
"""Elementwise ops, on one tensor or on several that broadcast."""

CASTS = frozenset("to _to_copy type_as".split())
"""Ops that change at most the element type of their first argument."""

ANY_TYPE = frozenset("elementwise concat reshape permute narrow expand pad".split())
"""Kinds that accept elements of any type; the others are recognised only if all elements are float32."""

VIEWS = frozenset("view reshape flatten _unsafe_view squeeze unsqueeze unflatten".split())
"""Ops that change the shape only."""


class Call:
    """The arguments of a node by their names in the op's schema, with its defaults."""

    def __init__(self, node: fx.Node, weights: Mapping[str, NDArray[Any]]) -> None:
        self._weights = weights
        schema = node.target._schema  # type: ignore[union-attr]
        self.values: dict[str, Any] = {
            argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()
        }
        for argument, value in zip(schema.arguments, node.args, strict=False):
            self.values[argument.name] = value
        self.values.update(node.kwargs)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def params(self, *names: str) -> dict[str, NDArray[Any]] | None:
        """Return the weights in these arguments, or None if one of them is not a weight."""
        given = {name: self.values.get(name) for name in names}
        if any(v is not None and getattr(v, "name", None) not in self._weights for v in given.values()):
            return None
        return {name: self._weights[v.name] for name, v in given.items() if v is not None}

    def pair(self, name: str, default: str = "") -> tuple[int, int]:
        """Return an argument of one or two integers as two; an empty one takes the value of ``default``."""
        value = self.values[name]
        if default and not value:
            value = self.values[default]
        items = [value] if isinstance(value, int) else list(value)
        return (items[0], items[-1])


Read = tuple[str, dict[str, Any], dict[str, NDArray[Any]]] | None


def _read_conv(call: Call, shape: Shape) -> Read:
    params = call.params("weight", "bias")
    if params is None or params["weight"].ndim != 4:
        return None
    kernel, stride, dilation = params["weight"].shape[2:], call.pair("stride"), call.pair("dilation")
    padding = call["padding"]
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        pads = tuple(side for total in totals for side in (total // 2, total - total // 2))
    else:
        height, width = (0, 0) if padding == "valid" else call.pair("padding")
        pads = (height, height, width, width)
    attrs = {"kernel": kernel, "stride": stride, "dilation": dilation, "pads": pads, "groups": call["groups"]}
    return "conv2d", attrs, params


def _read_batch_norm(call: Call, shape: Shape) -> Read:
    params = call.params("weight", "bias", "running_mean", "running_var")
    if params is None or "running_mean" not in params or call.values.get("training"):
        return None
    return "batch_norm", {"eps": call["eps"]}, params


def axis_of(dim: Any, rank: int) -> int:
    """Return the number of an axis counted after the batch axis; negative for the batch axis itself."""
    return int(dim) - 1 if dim >= 0 else rank + int(dim)


def read_narrow(name: str, call: Call, item: Any, source: Shape, shape: Shape) -> Read:
    """Read evenly spaced indices of one axis: a slice, or one piece of a split."""
    axis = axis_of(call["dim"], len(source))
    if axis < 0 or len(shape) != len(source):
        return None
    size = source[axis]
    if name == "slice":
        start = min(max(call["start"] or 0, -size), size)
        start, step = start + size if start < 0 else start, call["step"]
    elif name == "split_with_sizes":
        start, step = sum(call["split_sizes"][:item]), 1
    else:
        length = call["split_size"] if name == "split" else -(-size // call["chunks"])
        start, step = length * item, 1
    return "narrow", {"axis": axis, "start": start, "step": step}, {}


def _read_linear(call: Call, shape: Shape) -> Read:
    params = call.params("weight", "bias")
    return None if params is None else ("linear", {}, params)


def _pool_attrs(call: Call) -> dict[str, Any]:
    height, width = call.pair("padding")
    return {
        "kernel": call.pair("kernel_size"),
        "stride": call.pair("stride", "kernel_size"),
        "pads": (height, height, width, width),
        "ceil": bool(call["ceil_mode"]),
    }


def _read_max_pool(call: Call, shape: Shape) -> Read:
    return "max_pool2d", {**_pool_attrs(call), "dilation": call.pair("dilation")}, {}


def _read_avg_pool(call: Call, shape: Shape) -> Read:
    more = {
        "dilation": (1, 1),
        "count_include_pad": bool(call["count_include_pad"]),
        "divisor": call["divisor_override"],
    }
    return "avg_pool2d", {**_pool_attrs(call), **more}, {}


def _read_adaptive(call: Call, shape: Shape) -> Read:
    return "adaptive_avg_pool2d", {"size": shape[1:], "mode": "mean"}, {}


def _read_reshape(call: Call, shape: Shape) -> Read:
    return "reshape", {}, {}


def _read_permute(call: Call, shape: Shape) -> Read:
    dims = [d % (len(shape) + 1) for d in call["dims"]]
    return ("permute", {"order": tuple(d - 1 for d in dims[1:])}, {}) if dims[0] == 0 else None


def _read_transpose(call: Call, shape: Shape) -> Read:
    order = list(range(-1, len(shape)))
    a, b = call["dim0"] % len(order), call["dim1"] % len(order)
    order[a], order[b] = order[b], order[a]
    return ("permute", {"order": tuple(order[1:])}, {}) if order[0] == -1 else None


def _read_pad(call: Call, shape: Shape) -> Read:
    """Read constant padding, which PyTorch gives as (before, after) for each axis from the last one on."""
    pads, rank = list(call["pad"]), len(shape)
    if call.values.get("mode", "constant") != "constant" or len(pads) > 2 * rank:
        return None
    before = [0] * (rank - len(pads) // 2) + pads[-2::-2]
    return "pad", {"before": tuple(before), "value": float(call["value"] or 0)}, {}


def _read_expand(call: Call, shape: Shape) -> Read:
    return ("expand", {}, {}) if call["self"].meta["val"].ndim == len(shape) + 1 else None


def _read_mean(call: Call, shape: Shape) -> Read:
    rank = call["self"].meta["val"].ndim - 1
    given = call.values.get("dim") or ()
    dims = [given] if isinstance(given, int) else list(given)
    axes = tuple(sorted(axis_of(d, rank) for d in dims))
    plain = axes and axes[0] >= 0 and call.values.get("dtype") is None
    return ("mean", {"axes": axes, "keep": bool(call["keepdim"])}, {}) if plain else None


def _read_group_norm(call: Call, shape: Shape) -> Read:
    params = call.params("weight", "bias")
    return None if params is None else ("group_norm", {"groups": call["num_groups"], "eps": call["eps"]}, params)


def _read_instance_norm(call: Call, shape: Shape) -> Read:
    if not call["use_input_stats"]:
        return _read_batch_norm(call, shape)
    params = call.params("weight", "bias")
    return None if params is None else ("instance_norm", {"groups": shape[0], "eps": call["eps"]}, params)


def _read_layer_norm(call: Call, shape: Shape) -> Read:
    params, axes = call.params("weight", "bias"), len(call["normalized_shape"])
    if params is None or axes > len(shape):
        return None
    return "layer_norm", {"axes": axes, "eps": call["eps"]}, params


def _read_prelu(call: Call, shape: Shape) -> Read:
    params = call.params("weight")
    return ("prelu", {}, params) if params else None


def _read_transposed(call: Call, shape: Shape) -> Read:
    params = call.params("weight", "bias")
    if params is None or params["weight"].ndim != 4:
        return None
    height, width = call.pair("padding")
    attrs = {
        "kernel": params["weight"].shape[2:],
        "stride": call.pair("stride"),
        "dilation": call.pair("dilation"),
        "pads": (height, height, width, width),
        "output_padding": call.pair("output_padding"),
        "groups": call["groups"],
    }
    return "conv_transpose2d", attrs, params


def _read_resize(call: Call, shape: Shape, *, mode: str) -> Read:
    scales = call.values.get("scale_factors")
    if "scale_factors" not in call.values:
        scales = [call.values.get("scales_h"), call.values.get("scales_w")]
    scale = tuple(float(s) for s in scales) if scales and None not in scales else None
    align = bool(call.values.get("align_corners"))
    return "resize", {"mode": mode, "align": align, "scale": scale, "size": shape[1:]}, {}


READERS: Mapping[str, Callable[[Call, Shape], Read]] = {
    "conv2d": _read_conv,
    "linear": _read_linear,
    "batch_norm": _read_batch_norm,
    "_native_batch_norm_legit_no_training": _read_batch_norm,
    "max_pool2d": _read_max_pool,
    "avg_pool2d": _read_avg_pool,
    "adaptive_avg_pool2d": _read_adaptive,
    "permute": _read_permute,
    "transpose": _read_transpose,
    "pad": _read_pad,
    "constant_pad_nd": _read_pad,
    "expand": _read_expand,
    "mean": _read_mean,
    "group_norm": _read_group_norm,
    "instance_norm": _read_instance_norm,
    "layer_norm": _read_layer_norm,
    "prelu": _read_prelu,
    "conv_transpose2d": _read_transposed,
    "upsample_nearest2d": partial(_read_resize, mode="nearest"),
    "_upsample_nearest_exact2d": partial(_read_resize, mode="nearest-exact"),
    "upsample_bilinear2d": partial(_read_resize, mode="linear"),
    "upsample_bicubic2d": partial(_read_resize, mode="cubic"),
    **dict.fromkeys(VIEWS, _read_reshape),
}
