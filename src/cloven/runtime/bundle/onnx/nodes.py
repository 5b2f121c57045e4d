"""Localised ops as ONNX nodes, one per op wherever ONNX has one: the counterpart of the torch engine's ``RUN``.

``NODES`` is the whole table. Nothing is folded: a batch norm remains a separate node after its convolution.
"""
# ruff: noqa: ARG001 - the functions of a table share one signature

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloven.graph.box import relative, without
from cloven.graph.graph import BATCH
from cloven.graph.ops import Local
from cloven.runtime.bundle.onnx import axes, calls, casts, layout, spatial
from cloven.runtime.bundle.onnx.builder import ModelBuilder, UnsupportedError, Value
from cloven.runtime.bundle.onnx.layout import Rows

Attrs = Mapping[str, Any]
Inputs = Sequence[Value]
Params = Mapping[str, NDArray[np.float32]]
Node = Callable[[ModelBuilder, Attrs, Inputs, Params], Value]


CAST = "aten._to_copy.default"
"""The op that represents every cast in a graph."""


def apply(model: ModelBuilder, local: Local, inputs: Inputs) -> Value:
    """Append the nodes of a localised op.

    Raises:
        UnsupportedError: if ONNX has none for it.
    """
    if local.kind not in NODES:
        raise UnsupportedError(f"there is no node for the kind {local.kind!r}")
    made = NODES[local.kind](model, local.attrs, inputs, local.params)
    return made if local.crop is None else layout.crop(model, made, local.crop)


def _tensor(model: ModelBuilder, params: Params, name: str) -> Value | None:
    return model.tensor(params[name]) if name in params else None


def _weights(model: ModelBuilder, params: Params) -> tuple[Value | None, Value | None]:
    return _tensor(model, params, "weight"), _tensor(model, params, "bias")


def _normalise(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    centred = model.add("Sub", [inputs[0], model.tensor(params["mean"])])
    return model.add("Div", [centred, model.tensor(params["std"])])


def _batch_norm(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    mean = params["running_mean"]
    full = {"weight": np.ones_like(mean), "bias": np.zeros_like(mean), **params}
    names = ("weight", "bias", "running_mean", "running_var")
    tensors = [model.tensor(full[name]) for name in names]
    return model.add("BatchNormalization", [inputs[0], *tensors], epsilon=float(attrs["eps"]))


def _conv2d(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    top, bottom, left, right = attrs["pads"]
    return model.add(
        "Conv",
        [inputs[0], *_weights(model, params)],
        strides=attrs["stride"],
        pads=[top, left, bottom, right],
        dilations=attrs["dilation"],
        group=attrs["groups"],
    )


def _conv_transpose2d(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    weight, bias = model.tensor(params["weight"]), _tensor(model, params, "bias")
    more = (attrs["stride"], attrs["pads"][::2], attrs["output_padding"], attrs["groups"], attrs["dilation"])
    return spatial.conv_transpose(model, inputs[0], weight, bias, *more)


def _linear(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    return calls.linear(model, inputs[0], model.tensor(params["weight"]), _tensor(model, params, "bias"))


def _max_pool2d(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    return spatial.max_pool(model, inputs[0], attrs)


def _avg_pool2d(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    return spatial.avg_pool(model, inputs[0], attrs)


def _sum_pool2d(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    return spatial.sum_pool(model, inputs[0], attrs, params["counts"])


def _adaptive_avg_pool2d(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    return spatial.adaptive_avg_pool(model, inputs[0], attrs["size"])


def _resize(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    return spatial.resize(model, inputs[0], attrs["size"], attrs["mode"], attrs["align"], attrs["scale"])


def _picked(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    return spatial.picked(model, inputs[0], params["rows"], params["columns"])


def _separable(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    return spatial.separable(model, inputs[0], params["rows"], params["columns"])


def _group_norm(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    return axes.group_norm(model, inputs[0], attrs["groups"], *_weights(model, params), attrs["eps"])


def _instance_norm(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    channels = inputs[0].shape[0]
    full = {"weight": np.ones(channels, np.float32), "bias": np.zeros(channels, np.float32), **params}
    return model.add("InstanceNormalization", [inputs[0], *_weights(model, full)], epsilon=float(attrs["eps"]))


def _layer_norm(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    shape = inputs[0].shape[-attrs["axes"] :]
    return axes.layer_norm(model, inputs[0], shape, *_weights(model, params), attrs["eps"])


def _prelu(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    return calls.prelu(model, inputs[0], model.tensor(params["weight"]))


def _reshape(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    return layout.reshape(model, inputs[0], [Rows(), *attrs["shape"]])


def _permute(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    return layout.permute(model, inputs[0], [0, *(1 + axis for axis in attrs["order"])])


def _stride(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    return layout.slice_(model, inputs[0], 1 + attrs["axis"], step=attrs["step"])


def _expand(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    return layout.expand(model, inputs[0], [Rows(), *attrs["shape"]])


def _mean(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    return axes.reduced(model, inputs[0], [1 + axis for axis in attrs["axes"]], attrs["keep"], kind="ReduceMean")


def _reduce(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    return axes.reduced(model, inputs[0], [1 + axis for axis in attrs["axes"]], attrs["keep"], kind="ReduceSum")


def _concat(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    return layout.concat(model, inputs, 1 + attrs["axis"])


def _identity(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    return model.add("Identity", [inputs[0]])


def _sum(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    total = model.add("Sum", list(inputs))
    if "count" in attrs:
        total = model.add("Div", [total, model.number(attrs["count"])])
    return model.add("Add", [total, model.tensor(params["bias"])]) if "bias" in params else total


def _place(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    """Return the pieces placed on a constant background; where two pieces overlap, the later one wins."""
    shape, ground, at = attrs["shape"], attrs["value"], attrs["at"]
    placed = []
    for i, (x, box) in enumerate(zip(inputs, at, strict=True)):
        if box is not None:
            later = [other for other in at[i + 1 :] if other is not None]
            for part in without([box], later):
                piece = layout.crop(model, x, relative(part, box))
                placed.append(layout.placed(model, piece, part, shape, ground))
    if not placed:
        return layout.full(model, [Rows(), *shape], float(ground))
    if len(placed) > 1 and ground:
        raise UnsupportedError(f"several pieces are placed on a background of {ground}; expected 0")
    return model.add("Sum", placed) if len(placed) > 1 else placed[0]


def _sliced(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    pieces = [layout.crop(model, x, box) for x, box in zip(inputs, attrs["boxes"], strict=True)]
    return apply(model, attrs["of"], pieces)


def _call(model: ModelBuilder, attrs: Attrs, inputs: Inputs, params: Params) -> Value:
    """Return an op by its ATen name, on values in the layout of the whole model."""
    if attrs["op"] == CAST:
        return casts.cast(model, inputs[0], attrs["kwargs"]["dtype"]["dtype"])
    read = attrs.get("read", {})
    given = [layout.laid(model, x, *read[i]) if i in read else x for i, x in enumerate(inputs)]

    typed = casts.operands(attrs["op"].split(".")[1], attrs.get("types", (None,))[0])
    condition = attrs["args"][0] if attrs["op"].startswith("aten.where.") else None
    given = [x if {"input": i} == condition else typed.cast(model, x) for i, x in enumerate(given)]

    def fill(item: Any) -> Any:
        match item:
            case {"param": name}:
                weight = model.tensor(params[name])
                return typed.cast(model, casts.cast(model, weight, item.get("dtype", str(params[name].dtype))))
            case bool():
                return item
            case int() | float() if typed.numbers:
                return model.tensor(np.array(item, typed.numbers))
            case list():
                return [fill(part) for part in item]
            case {"input": index}:
                return given[index]
            case {"batch": times}:
                return Rows(times)
            case {"dtype": "float32"}:
                return None
            case {"dtype": name}:
                raise UnsupportedError(f"it computes in {name}")
        return Rows() if item == BATCH else item

    arguments = {key: fill(value) for key, value in attrs["kwargs"].items()}
    made = calls.call(model, attrs["op"], attrs["item"], fill(attrs["args"]), arguments)
    if "types" in attrs:
        made = casts.cast(model, made, attrs["types"][1])
    return layout.unlaid(model, made, *attrs.get("laid", (0, 1)))


NODES: Mapping[str, Node] = {
    "normalise": _normalise,
    "batch_norm": _batch_norm,
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "linear": _linear,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "sum_pool2d": _sum_pool2d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "resize": _resize,
    "picked": _picked,
    "separable": _separable,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "prelu": _prelu,
    "reshape": _reshape,
    "permute": _permute,
    "stride": _stride,
    "expand": _expand,
    "mean": _mean,
    "reduce": _reduce,
    "concat": _concat,
    "identity": _identity,
    "sum": _sum,
    "place": _place,
    "sliced": _sliced,
    "call": _call,
}
