"""The PyTorch engine: run localised ops on tensors, and evaluate whole graphs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cloven.graph.box import Box, Shape, contains, extent, intersect, relative, slices, whole
from cloven.graph.graph import BATCH, Graph, Op
from cloven.graph.ops import KINDS, Local
from cloven.rows import TensorRows, chunks
from cloven.runtime.inplace import FRESH, IN_PLACE

Inputs = Sequence[Tensor]
Params = Mapping[str, Tensor]


def weights(local: Local, precision: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return an op's weights as newly allocated tensors, with the same alignment as in a whole model.

    Float32 weights are converted to ``precision``; others keep their type.
    """
    made = {key: torch.tensor(value) for key, value in local.params.items()}
    return {key: w.to(precision) if w.dtype == torch.float32 else w for key, w in made.items()}


def in_precision(local: Local, precision: torch.dtype) -> Local:
    """Return an op whose casts to float32 become casts to another precision."""
    name = str(precision).removeprefix("torch.")
    asked = local.attrs.get("kwargs", {}).get("dtype")
    if "of" in local.attrs:
        return replace(local, attrs={**local.attrs, "of": in_precision(local.attrs["of"], precision)})
    if asked != {"dtype": "float32"} or name == "float32":
        return local
    return replace(local, attrs={**local.attrs, "kwargs": {**local.attrs["kwargs"], "dtype": {"dtype": name}}})


def apply(local: Local, inputs: Inputs, params: Params) -> Tensor:
    """Return the result of a localised op for the boxes that it needs; each tensor is ``(n, ...)``."""
    result = RUN[local.kind](local.attrs, inputs, params)
    if local.crop is None or local.crop == whole(tuple(result.shape[1:])):
        return result
    return result[slices(local.crop)]


def batch_for(shape: Shape) -> int:
    """Return a batch size with which the feature maps of common models need less than a few gigabytes."""
    return max(1, min(256, 2**23 // prod(shape)))


def evaluate(
    graph: Graph,
    images: TensorRows,
    values: Collection[str],
    *,
    batch: int | None = None,
    device: str | None = None,
) -> dict[str, Tensor]:
    """Return some values of a graph for ``images`` ``(n, C, H, W)`` in [0, 1], in one pass: name -> ``(n, ...)``.

    The precision is that of the images, the device too unless another ``device`` is given.
    """
    kept: dict[str, list[Tensor]] = {value: [] for value in values}
    compute = forward(graph, values, images.dtype)
    with torch.inference_mode():
        for chunk in chunks(images, batch or batch_for(graph.input.shape)):
            made = compute(chunk if device is None else chunk.to(device))
            for value, parts in kept.items():
                parts.append(made[value].to(chunk.device))
    return {value: torch.cat(parts) for value, parts in kept.items()}


def forward(
    graph: Graph, values: Collection[str], dtype: torch.dtype = torch.float32, *, overwrite: bool = False
) -> Callable[[Tensor], dict[str, Tensor]]:
    """Return a function from images ``(n, C, H, W)`` to some values of a graph.

    It computes only the ops that the values depend on, on the device of the images. With ``overwrite``, activations
    overwrite inputs that nothing else reads: this saves memory traffic and does not change the results, but
    gradients are not available.
    """
    wanted, needed = set(values), set(values)
    for op in reversed(graph.ops):
        if op.name in needed:
            needed.update(op.inputs)
    steps = [prepared(graph, op, dtype) for op in graph.ops[1:] if op.name in needed]
    if overwrite:
        steps = [_overwriting(graph, wanted, step) for step in steps]
    last = {name: i for i, (_, _, inputs, _) in enumerate(steps) for name in inputs}

    @cache
    def on(device: torch.device) -> list[Prepared]:
        return [(name, local, inputs, _moved(params, device)) for name, local, inputs, params in steps]

    def compute(images: Tensor) -> dict[str, Tensor]:
        held = {graph.input.name: images}
        for i, (name, local, inputs, params) in enumerate(on(images.device)):
            held[name] = apply(local, [held[j] for j in inputs], params)
            for read in set(inputs):
                if last[read] == i and read not in wanted:
                    del held[read]
        return {value: held[value] for value in wanted}

    return compute


def _moved(params: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in params.items()}


Prepared = tuple[str, Local, tuple[str, ...], dict[str, Tensor]]
"""An op ready to be run: its name, the localised op, the names of its inputs, and its weights."""


def _overwriting(graph: Graph, wanted: Collection[str], step: Prepared) -> Prepared:
    """Return an activation in place if it is the only reader of its input, else the op itself."""
    name, local, inputs, params = step
    if local.kind != "call" or local.attrs.get("op") not in IN_PLACE or local.attrs["args"][0] != {"input": 0}:
        return step
    source = graph.by_name[inputs[0]]
    if source.kind not in FRESH or source.name in wanted or len(graph.users[source.name]) > 1:
        return step
    if source.dtype != graph.by_name[name].dtype:
        return step
    attrs = {**local.attrs, "op": IN_PLACE[local.attrs["op"]]}
    return name, replace(local, attrs=attrs), inputs, params


def prepared(graph: Graph, op: Op, dtype: torch.dtype) -> Prepared:
    """Return an op of a graph, ready to be run on the whole values of its inputs."""
    kind, shapes, everything = KINDS[op.kind], graph.input_shapes(op), whole(op.shape)
    needs = kind.needs(op, shapes, everything)
    # An op that needs only a part of an input (a mask, assembled tiles) receives only that part.
    local = kind.localise(op, shapes, everything)
    inputs = tuple(i for i, need in zip(op.inputs, needs, strict=True) if need is not None)
    boxes = [need for need in needs if need is not None]
    if any(box != whole(graph.by_name[i].shape) for i, box in zip(inputs, boxes, strict=True)):
        local = Local("sliced", {"of": local, "boxes": boxes}, local.params)
    return op.name, in_precision(local, dtype), inputs, weights(local, dtype)


def _sliced(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    pieces = [x[slices(box)] for x, box in zip(inputs, attrs["boxes"], strict=True)]
    return apply(attrs["of"], pieces, params)


def _input(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    raise AssertionError("the image is given, not computed")


def _normalise(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    return (inputs[0] - params["mean"]) / params["std"]


def _batch_norm(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    mean, var = params["running_mean"], params["running_var"]
    return F.batch_norm(inputs[0], mean, var, params.get("weight"), params.get("bias"), eps=attrs["eps"])


def _padding(attrs: Mapping[str, Any], limit: tuple[int, int] | None = None) -> tuple[int, int] | None:
    """Return the padding if PyTorch's op can apply it: symmetric, and within a pool's limit; else None."""
    top, bottom, left, right = attrs["pads"]
    if top != bottom or left != right:
        return None
    if limit is not None and (top > limit[0] // 2 or left > limit[1] // 2):
        return None
    return top, left


def _padded(x: Tensor, attrs: Mapping[str, Any], value: float) -> Tensor:
    top, bottom, left, right = attrs["pads"]
    return F.pad(x, (left, right, top, bottom), value=value)


def _conv2d(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    x, padding = inputs[0], _padding(attrs)
    if padding is None:
        x, padding = _padded(x, attrs, 0.0), (0, 0)
    return F.conv2d(
        x, params["weight"], params.get("bias"), attrs["stride"], padding, attrs["dilation"], attrs["groups"]
    )


def _max_pool2d(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    x, padding = inputs[0], _padding(attrs, attrs["kernel"])
    if padding is None:
        x, padding = _padded(x, attrs, float("-inf")), (0, 0)
    return F.max_pool2d(x, attrs["kernel"], attrs["stride"], padding, attrs["dilation"], attrs["ceil"])


def _avg_pool2d(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    padding = _padding(attrs)
    assert padding is not None
    return F.avg_pool2d(
        inputs[0],
        attrs["kernel"],
        attrs["stride"],
        padding,
        attrs["ceil"],
        attrs["count_include_pad"],
        attrs["divisor"],
    )


def _sum_pool2d(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    x = _padded(inputs[0], attrs, 0.0)
    sums = F.avg_pool2d(x, attrs["kernel"], attrs["stride"], ceil_mode=attrs["ceil"], divisor_override=1)
    return sums[slices(attrs["crop"])] / params["counts"]


def _adaptive_avg_pool2d(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    return F.adaptive_avg_pool2d(inputs[0], attrs["size"])


def _conv_transpose2d(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    w, bias, pads = params["weight"], params.get("bias"), attrs["pads"][::2]
    more = (attrs["stride"], pads, attrs["output_padding"], attrs["groups"], attrs["dilation"])
    return F.conv_transpose2d(inputs[0], w, bias, *more)


RESIZE = {
    "nearest": "aten.upsample_nearest2d.default",
    "nearest-exact": "aten._upsample_nearest_exact2d.default",
    "linear": "aten.upsample_bilinear2d.default",
    "cubic": "aten.upsample_bicubic2d.default",
}
"""The resizing ops, by mode."""


def _resize(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    align = [] if attrs["mode"].startswith("nearest") else [attrs["align"]]
    scales = attrs["scale"] or (None, None)
    resized: Tensor = _aten(RESIZE[attrs["mode"]])(inputs[0], attrs["size"], *align, *scales)
    return resized


def _picked(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    return inputs[0].index_select(2, params["rows"]).index_select(3, params["columns"])


def _separable(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    return _mapped(params["columns"], _mapped(params["rows"], inputs[0]).mT).mT


def _mapped(matrix: Tensor, x: Tensor) -> Tensor:
    """Return a matrix times maps; zeros of the matrix give 0 also for NaN and infinity."""
    if x.isfinite().all():
        return matrix @ x
    weights = matrix.unsqueeze(-1)
    return torch.where(weights != 0, weights * x.unsqueeze(-3), 0).sum(-2)


def _group_norm(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    return F.group_norm(inputs[0], attrs["groups"], params.get("weight"), params.get("bias"), attrs["eps"])


def _instance_norm(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    return F.instance_norm(inputs[0], weight=params.get("weight"), bias=params.get("bias"), eps=attrs["eps"])


def _layer_norm(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    x = inputs[0]
    shape = list(x.shape[x.ndim - attrs["axes"] :])
    return F.layer_norm(x, shape, params.get("weight"), params.get("bias"), attrs["eps"])


def _prelu(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    return F.prelu(inputs[0], params["weight"])


def _reshape(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    return inputs[0].reshape(len(inputs[0]), *attrs["shape"])


def _permute(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    return inputs[0].permute(0, *(1 + axis for axis in attrs["order"]))


def _stride(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    return inputs[0][(slice(None),) * (1 + attrs["axis"]) + (slice(None, None, attrs["step"]),)]


def _expand(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    return inputs[0].expand(len(inputs[0]), *attrs["shape"])


def _mean(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    return inputs[0].mean([1 + axis for axis in attrs["axes"]], attrs["keep"])


def _reduce(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    return inputs[0].sum([1 + axis for axis in attrs["axes"]], attrs["keep"])


def _linear(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    return F.linear(inputs[0], params["weight"], params.get("bias"))


def _aten(name: str) -> Callable[..., Any]:
    """Return the op with a name such as ``aten.relu.default``."""
    namespace, op, overload = name.split(".")
    found: Callable[..., Any] = getattr(getattr(getattr(torch.ops, namespace), op), overload)
    return found


def _concat(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    return torch.cat(list(inputs), 1 + attrs["axis"])


def _sum(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    total = inputs[0]
    for other in inputs[1:]:
        total = total + other
    if "count" in attrs:
        total = total / attrs["count"]
    return total + params["bias"] if "bias" in params else total


def _identity(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    return inputs[0]


def _place(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    canvas = inputs[0].new_full((len(inputs[0]), *attrs["shape"]), attrs["value"])
    for piece, box in zip(inputs, attrs["at"], strict=True):
        if box is not None:
            canvas[slices(box)] = piece
    return canvas


def _filled(item: Any, *, given: Inputs, params: Params, images: int) -> Any:
    """Return an argument with its placeholders replaced by tensors and sizes.

    This is not a closure: a recursive closure is a reference cycle, which keeps the tensors alive until garbage
    collection.
    """
    match item:
        case list():
            return [_filled(part, given=given, params=params, images=images) for part in item]
        case {"input": index}:
            return given[index]
        case {"param": name, "dtype": dtype}:
            return params[name].to(getattr(torch, dtype))
        case {"param": name}:
            return params[name]
        case {"batch": times}:
            return images * times
        case {"dtype": name}:
            return getattr(torch, name)
    return images if item == BATCH else item


def _call(attrs: Mapping[str, Any], inputs: Inputs, params: Params) -> Tensor:
    images, read = len(inputs[0]), attrs.get("read", {})
    given = [_laid(x, *read[i]) if i in read else x for i, x in enumerate(inputs)]
    fill = partial(_filled, given=given, params=params, images=images)
    arguments = {key: fill(value) for key, value in attrs["kwargs"].items()}
    made = _aten(attrs["op"])(*fill(attrs["args"]), **arguments)
    result: Tensor = made if attrs["item"] is None else made[attrs["item"]]
    axis, copies, *by_copy = attrs.get("laid", (0, 1))
    result = result.movedim(axis, 0) if axis else result
    if copies > 1:
        result = result.unflatten(0, (copies, images) if by_copy else (images, copies))
    return result.transpose(0, 1) if by_copy else result


def _laid(x: Tensor, axis: int, copies: int, by_copy: bool = False) -> Tensor:
    """Return a value in the layout of the whole model's op, with the rows of each image along the batch axis.

    The rows are ordered image by image, or copy by copy: the first rows of all images, then the second ones.
    """
    merged = x if copies == 1 else (x.transpose(0, 1) if by_copy else x).flatten(0, 1)
    return merged.movedim(0, axis) if axis else merged


RUN: Mapping[str, Callable[[Mapping[str, Any], Inputs, Params], Tensor]] = {
    "input": _input,
    "normalise": _normalise,
    "batch_norm": _batch_norm,
    "conv2d": _conv2d,
    "linear": _linear,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "sum_pool2d": _sum_pool2d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "conv_transpose2d": _conv_transpose2d,
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


def paste(pieces: Sequence[tuple[Box, Tensor]], box: Box) -> Tensor:
    """Return the tensor of a box, assembled from pieces that cover it."""
    for held, tensor in pieces:
        if held == box:
            return tensor
    for held, tensor in pieces:
        if contains(held, box):
            return tensor[slices(relative(box, held))].contiguous()
    first = pieces[0][1]
    canvas = first.new_empty((len(first), *extent(box)))
    for held, tensor in pieces:
        shared = intersect(held, box)
        if shared is not None:
            canvas[slices(relative(shared, box))] = tensor[slices(relative(shared, held))]
    return canvas
