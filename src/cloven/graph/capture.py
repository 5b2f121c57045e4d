"""Capture a PyTorch model as a Graph through ``torch.export``.

The model is exported twice, for two batch sizes; integers that differ between the two are the batch, and stand
in the graph as the word ``batch``. In-place ops are made functional first.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from cloven.errors import ClovenError
from cloven.graph.box import Shape
from cloven.graph.graph import BATCH, Graph, Op

BATCHES = (2, 3)
"""The two batch sizes of the two exports."""

ELEMENTWISE = frozenset(
    "relu relu6 tanh sigmoid silu gelu hardtanh hardswish hardsigmoid leaky_relu elu selu celu mish softplus "
    "softsign log_sigmoid neg abs exp sqrt rsqrt reciprocal square clamp "
    "add sub mul div maximum minimum pow".split()
)
"""Ops that act number by number, on one tensor or on several that broadcast."""

VIEWS = frozenset("view reshape flatten _unsafe_view squeeze unsqueeze unflatten".split())
"""Ops that only change the axes' lengths."""

ALIASES = frozenset("clone alias detach detach_ contiguous dropout lift_fresh_copy _to_copy to".split())
"""Ops that change nothing in evaluation mode."""


def capture(
    model: nn.Module,
    example: Tensor,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Graph:
    """The graph of a model in evaluation mode.

    Args:
        model: takes one tensor ``(n, C, H, W)`` and returns one tensor ``(n, ...)``, in float32.
        example: one image ``(1, C, H, W)`` in [0, 1]; it gives the input's shape.
        mean: per channel, subtracted from the image before it enters the model.
        std: per channel, what the difference is then divided by. The two become the graph's first op, so that
            images are in [0, 1] everywhere outside.

    Raises:
        ClovenError: where the model cannot be captured, with the op or the module and the reason.
    """
    _check(model, example, mean, std)
    with _evaluation(model), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export deprecates parts of itself
        programs = [_export(model, example[:1].repeat(batch, 1, 1, 1)) for batch in BATCHES]
    return _Reader(*programs).graph(tuple(example.shape[1:]), mean, std)


def _check(model: nn.Module, example: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    problems = []
    if example.ndim != 4 or example.shape[0] < 1:
        problems.append(f"the example has shape {tuple(example.shape)}; expected one image (1, C, H, W)")
    elif min(example.shape[2:]) < 2:
        problems.append(f"the example is {tuple(example.shape)}: an image of one pixel; expected at least 2x2")
    if (mean is None) != (std is None):
        problems.append("mean and std belong together: give both or neither")
    for word, values in (("mean", mean), ("std", std)):
        if values is not None and example.ndim == 4 and len(values) != example.shape[1]:
            problems.append(f"{word} has {len(values)} numbers; the image has {example.shape[1]} channels")
    if std is not None and any(s <= 0 for s in std):
        problems.append(f"std is {list(std)}; expected positive numbers")
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.is_floating_point() and value.dtype != torch.float32:
            problems.append(f"{name} is {value.dtype}; cloven divides float32 models: call model.float() first")
            break
    if problems:
        raise ClovenError(problems)


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode, and back."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def _export(model: nn.Module, batch: Tensor) -> torch.export.ExportedProgram:
    try:
        exported: torch.export.ExportedProgram = torch.export.export(model, (batch,))
        functional: torch.export.ExportedProgram = exported.run_decompositions(_moves())  # none is in place
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ClovenError(
            f"{type(model).__name__} cannot be captured: torch.export says {type(error).__name__}: "
            f"{reason[0] if reason else 'nothing more'}. Models whose shapes or branches depend on the data "
            "cannot be divided."
        ) from error
    return functional


def _moves() -> dict[Any, Callable[..., Any]]:
    """Shuffles of channels and pixels as the reshapes and permutations that they are."""
    aten = torch.ops.aten
    table: dict[Any, Callable[..., Any]] = torch._decomp.get_decompositions(
        [aten.channel_shuffle, aten.pixel_shuffle, aten.pixel_unshuffle]
    )
    return table


class _Reader:
    """Walks two exports of one model side by side and makes ops."""

    def __init__(self, first: torch.export.ExportedProgram, second: torch.export.ExportedProgram) -> None:
        self.first, self.second = list(first.graph.nodes), list(second.graph.nodes)
        self.weights = _weights(first)
        self.values: dict[str, str] = {}  # fx node -> value
        self.ops: list[Op] = []
        calls = (n for n in self.first if n.op == "call_function" and n.target is not operator.getitem)
        self.paths = [_module(n) for n in calls]
        self.merged: set[str] = set()  # values whose batch axis also holds an axis of the image

    def graph(self, shape: Shape, mean: Sequence[float] | None, std: Sequence[float] | None) -> Graph:
        if len(self.first) != len(self.second):
            raise ClovenError(
                "the model runs other ops for batches of 2 and of 3 images; expected the same ops for any batch"
            )
        self.ops.append(Op("input", "input", (), shape))
        image = "input"
        if mean is not None and std is not None:
            params = {k: np.asarray(v, np.float32).reshape(-1, 1, 1) for k, v in (("mean", mean), ("std", std))}
            self.ops.append(Op("normalise", "normalise", ("input",), shape, params=params))
            image = "normalise"
        output = ""
        for a, b in zip(self.first, self.second, strict=True):
            if a.op == "placeholder" and a.name not in self.weights:
                self.values[a.name] = image
            elif a.op == "call_function":
                self.read(a, b)
            elif a.op == "output":
                output = self.output(a)
        return Graph(tuple(self.ops), output)

    def output(self, node: fx.Node) -> str:
        results = [leaf for leaf in _leaves(node.args) if isinstance(leaf, fx.Node)]
        if len(results) != 1:
            raise ClovenError(f"the model returns {len(results)} tensors; expected one (n, classes)")
        return self.values[results[0].name]

    def read(self, a: fx.Node, b: fx.Node) -> None:
        """Make the op of one node, from its two exports."""
        if a.meta.get("val") is None and not a.users:
            return  # a check of types or shapes, which the export itself has passed
        if a.target is not operator.getitem and not isinstance(a.meta.get("val"), Tensor):
            return  # several tensors: each that is used has a getitem, which is made an op
        call, call_b = (n.args[0] if n.target is operator.getitem else n for n in (a, b))
        assert isinstance(call, fx.Node)
        assert isinstance(call_b, fx.Node)
        name, where = _op_name(call), f"{call.target} in {_module(call) or 'the model'}"
        leaves = [n for n in _leaves(call.args, call.kwargs) if isinstance(n, fx.Node)]
        inputs = [n for n in leaves if n.name not in self.weights]
        if name in ALIASES and len(inputs) == 1 and a.meta["val"].dtype == torch.float32:
            self.values[a.name] = self.values[inputs[0].name]
            return
        if not inputs and a.meta["val"].shape == b.meta["val"].shape:
            self.weights[a.name] = self.constant(call, a)
            return
        shape, copies = _shape(a, b, where)
        # What depends on nothing but the batch size learns it from the image.
        sources = tuple(dict.fromkeys(self.values[n.name] for n in inputs)) or ("input",)
        item = a.args[1] if call is not a else None
        _refuse_batch_statistics(call, where)
        kind, attrs, params = self.called(call, call_b, item, sources, where)
        merged = [i for i, source in enumerate(sources) if source in self.merged]
        if copies > 1 or merged:
            made: Read = (kind, {**attrs, "merged": merged, "copies": copies}, params)
        else:
            made = self.known(name, call, item, shape, sources, attrs) or (kind, attrs, params)
        assert made is not None
        self.ops.append(Op(self.name(call), made[0], sources, shape, _module(call), made[1], made[2]))
        self.values[a.name] = self.ops[-1].name
        if copies > 1:
            self.merged.add(self.ops[-1].name)

    def constant(self, call: fx.Node, node: fx.Node) -> NDArray[Any]:
        """What an op makes of weights alone."""
        assert callable(call.target)
        args, kwargs = fx.node.map_arg(
            (call.args, dict(call.kwargs)), lambda n: torch.from_numpy(self.weights[n.name])
        )
        made = call.target(*args, **kwargs)
        return np.asarray((made if call is node else made[node.args[1]]).numpy())

    def known(
        self, name: str, node: fx.Node, item: Any, shape: Shape, sources: tuple[str, ...], call: dict[str, Any]
    ) -> Read:
        """The op of a node that the op table has an entry for, or None."""
        by_name = {op.name: op.shape for op in self.ops}
        shapes = [by_name[source] for source in sources]
        if name in ELEMENTWISE and all(len(s) == len(shape) for s in shapes):
            params = {n.name: self.weights[n.name] for n in node.all_input_nodes if n.name in self.weights}
            fits = all(p.ndim <= len(shape) or p.shape[0] == 1 for p in params.values())
            return ("elementwise", call, params) if fits and shapes else None
        if name == "cat":
            parts = list(_leaves(node.args[0]))
            axis = _axis(node.args[1] if len(node.args) > 1 else 0, len(shape))
            plain = len(parts) == len(sources) and axis >= 0
            return ("concat", {"axis": axis}, {}) if plain else None
        if len(sources) != 1:
            return None
        if name in ("split", "split_with_sizes", "chunk", "slice"):
            return _read_narrow(name, _Call(node, self.weights), item, shapes[0], shape)
        reader = READERS.get(name) if not item else None
        return None if reader is None else reader(_Call(node, self.weights), shape)

    def name(self, node: fx.Node) -> str:
        """A name for a value: the module's path where it makes one op, else the path and the op."""
        path = _module(node)
        inside = [p for p in self.paths if p == path or p.startswith(path + ".")]
        name = path if path and len(inside) == 1 else ".".join(filter(None, (path, _op_name(node))))
        taken = {op.name for op in self.ops} | (set(self.paths) - {path})
        candidate, number = name, 1
        while candidate in taken:
            number += 1
            candidate = f"{name}_{number}"
        return candidate

    def called(
        self, a: fx.Node, b: fx.Node, item: Any, sources: tuple[str, ...], where: str
    ) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Any other op: kept as the call that it is, with places for inputs, weights and the batch."""
        params: dict[str, NDArray[np.float32]] = {}

        def place(x: Any, y: Any) -> Any:
            if isinstance(x, fx.Node):
                if x.name in self.weights:
                    params[x.name] = self.weights[x.name]
                    return {"param": x.name}
                return {"input": sources.index(self.values[x.name])}
            if isinstance(x, list | tuple):
                return [place(p, q) for p, q in zip(x, y, strict=True)]
            if isinstance(x, int) and not isinstance(x, bool) and x != y and (times := _times((x, y))):
                return BATCH if times == 1 else {"batch": times}
            if x != y:
                raise ClovenError(
                    f"{where} has the argument {x} for {BATCHES[0]} images and {y} for {BATCHES[1]}: "
                    "images are mixed with the batch; such an op cannot be divided"
                )
            return x if isinstance(x, int | float | str | bool | None) else str(x)

        kwargs = {k: place(v, b.kwargs[k]) for k, v in a.kwargs.items() if k not in ("device", "layout")}
        args = place(list(a.args), list(b.args))
        # A view of what was laid out otherwise needs a copy; its layout here may differ from the export's.
        name = "aten.reshape.default" if _op_name(a) in ("view", "_unsafe_view") else str(a.target)
        return "opaque", {"op": name, "args": args, "kwargs": kwargs, "item": item}, params


def _weights(program: torch.export.ExportedProgram) -> dict[str, NDArray[Any]]:
    """Parameters, buffers and constants by the name of their placeholder."""
    signature = program.graph_signature
    found: dict[str, NDArray[Any]] = {}
    for table in (signature.inputs_to_parameters, signature.inputs_to_buffers):
        for node, target in table.items():
            value = program.state_dict.get(target, program.constants.get(target))
            assert isinstance(value, Tensor), target
            found[node] = value.detach().cpu().numpy().copy()
    for node, target in signature.inputs_to_lifted_tensor_constants.items():
        constant = program.constants[target]
        assert isinstance(constant, Tensor), target
        found[node] = constant.detach().cpu().numpy().copy()
    return found


def _leaves(*trees: Any) -> Iterator[Any]:
    for tree in trees:
        if isinstance(tree, Mapping):
            yield from _leaves(*tree.values())
        elif isinstance(tree, list | tuple):
            yield from _leaves(*tree)
        else:
            yield tree


def _module(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def _op_name(node: fx.Node) -> str:
    target = node.target
    assert isinstance(target, torch._ops.OpOverload), target
    return target._schema.name.split("::")[-1]


def _times(sizes: tuple[int, int]) -> int:
    """How many times the batch two sizes are; 0 where they are no multiple of it."""
    times, rest = divmod(sizes[0], BATCHES[0])
    return times if not rest and times * BATCHES[1] == sizes[1] else 0


def _shape(a: fx.Node, b: fx.Node, where: str) -> tuple[Shape, int]:
    """The shape of one image's value, and how many rows of the batch axis it takes.

    With more than one (windows of an image put along the batch), they are the shape's first axis.
    """
    first, second = tuple(a.meta["val"].shape), tuple(b.meta["val"].shape)
    copies = _times((first[0], second[0])) if first and second else 0
    if not copies or first[1:] != second[1:]:
        raise ClovenError(
            f"{where} makes {first} for {BATCHES[0]} images and {second} for {BATCHES[1]}; expected one value "
            "an image, along the first axis"
        )
    return (first[1:] if copies == 1 else (copies, *first[1:])), copies


def _refuse_batch_statistics(node: fx.Node, where: str) -> None:
    if "batch_norm" in _op_name(node) and _Call(node, {}).values.get("training"):
        raise ClovenError(
            f"{where} takes mean and variance from the batch, so that one image's result depends on the others; "
            "expected running statistics (track_running_stats=True), or a group or layer norm"
        )


class _Call:
    """The arguments of a node by the names of the op's schema, with its defaults."""

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
        """The weights in these arguments, or None where one of them is no weight."""
        given = {name: self.values.get(name) for name in names}
        if any(v is not None and getattr(v, "name", None) not in self._weights for v in given.values()):
            return None
        return {name: self._weights[v.name] for name, v in given.items() if v is not None}

    def pair(self, name: str, default: str = "") -> tuple[int, int]:
        """An argument of one or two integers as two; an empty one is another's."""
        value = self.values[name]
        if default and not value:
            value = self.values[default]
        items = [value] if isinstance(value, int) else list(value)
        return (items[0], items[-1])


Read = tuple[str, dict[str, Any], dict[str, NDArray[Any]]] | None


def _read_conv(call: _Call, shape: Shape) -> Read:
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


def _read_batch_norm(call: _Call, shape: Shape) -> Read:
    params = call.params("weight", "bias", "running_mean", "running_var")
    if params is None or "running_mean" not in params or call.values.get("training"):
        return None
    return "batch_norm", {"eps": call["eps"]}, params


def _axis(dim: Any, rank: int) -> int:
    """An axis of a tensor as one behind the batch; negative for the batch itself."""
    return int(dim) - 1 if dim >= 0 else rank + int(dim)


def _read_narrow(name: str, call: _Call, item: Any, source: Shape, shape: Shape) -> Read:
    """Some indices of one axis, evenly spaced: a slice, or one piece of a split."""
    axis = _axis(call["dim"], len(source))
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


def _read_linear(call: _Call, shape: Shape) -> Read:
    params = call.params("weight", "bias")
    return None if params is None else ("linear", {}, params)


def _pool_attrs(call: _Call) -> dict[str, Any]:
    height, width = call.pair("padding")
    return {
        "kernel": call.pair("kernel_size"),
        "stride": call.pair("stride", "kernel_size"),
        "pads": (height, height, width, width),
        "ceil": bool(call["ceil_mode"]),
    }


def _read_max_pool(call: _Call, shape: Shape) -> Read:
    return "max_pool2d", {**_pool_attrs(call), "dilation": call.pair("dilation")}, {}


def _read_avg_pool(call: _Call, shape: Shape) -> Read:
    more = {
        "dilation": (1, 1),
        "count_include_pad": bool(call["count_include_pad"]),
        "divisor": call["divisor_override"],
    }
    return "avg_pool2d", {**_pool_attrs(call), **more}, {}


def _read_adaptive(call: _Call, shape: Shape) -> Read:
    return "adaptive_avg_pool2d", {"size": shape[1:], "mode": "mean"}, {}


def _read_reshape(call: _Call, shape: Shape) -> Read:
    return "reshape", {}, {}


def _read_permute(call: _Call, shape: Shape) -> Read:
    dims = [d % (len(shape) + 1) for d in call["dims"]]
    return ("permute", {"order": tuple(d - 1 for d in dims[1:])}, {}) if dims[0] == 0 else None


def _read_transpose(call: _Call, shape: Shape) -> Read:
    order = list(range(-1, len(shape)))
    a, b = call["dim0"] % len(order), call["dim1"] % len(order)
    order[a], order[b] = order[b], order[a]
    return ("permute", {"order": tuple(order[1:])}, {}) if order[0] == -1 else None


def _read_pad(call: _Call, shape: Shape) -> Read:
    """Constant padding; the numbers are given from the last axis on, before and after each."""
    pads, rank = list(call["pad"]), len(shape)
    if call.values.get("mode", "constant") != "constant" or len(pads) > 2 * rank:
        return None
    before = [0] * (rank - len(pads) // 2) + pads[-2::-2]
    return "pad", {"before": tuple(before), "value": float(call["value"] or 0)}, {}


def _read_expand(call: _Call, shape: Shape) -> Read:
    return ("expand", {}, {}) if call["self"].meta["val"].ndim == len(shape) + 1 else None


def _read_mean(call: _Call, shape: Shape) -> Read:
    rank = call["self"].meta["val"].ndim - 1
    given = call.values.get("dim") or ()
    dims = [given] if isinstance(given, int) else list(given)
    axes = tuple(sorted(_axis(d, rank) for d in dims))
    plain = axes and axes[0] >= 0 and call.values.get("dtype") is None
    return ("mean", {"axes": axes, "keep": bool(call["keepdim"])}, {}) if plain else None


def _read_group_norm(call: _Call, shape: Shape) -> Read:
    params = call.params("weight", "bias")
    return None if params is None else ("group_norm", {"groups": call["num_groups"], "eps": call["eps"]}, params)


def _read_instance_norm(call: _Call, shape: Shape) -> Read:
    if not call["use_input_stats"]:
        return _read_batch_norm(call, shape)
    params = call.params("weight", "bias")
    return None if params is None else ("instance_norm", {"groups": shape[0], "eps": call["eps"]}, params)


def _read_layer_norm(call: _Call, shape: Shape) -> Read:
    params, axes = call.params("weight", "bias"), len(call["normalized_shape"])
    if params is None or axes > len(shape):
        return None
    return "layer_norm", {"axes": axes, "eps": call["eps"]}, params


def _read_prelu(call: _Call, shape: Shape) -> Read:
    params = call.params("weight")
    return ("prelu", {}, params) if params else None


def _read_transposed(call: _Call, shape: Shape) -> Read:
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


def _read_resize(call: _Call, shape: Shape, *, mode: str) -> Read:
    scales = call.values.get("scale_factors")
    if "scale_factors" not in call.values:
        scales = [call.values.get("scales_h"), call.values.get("scales_w")]
    scale = tuple(float(s) for s in scales) if scales and None not in scales else None
    align = bool(call.values.get("align_corners"))
    return "resize", {"mode": mode, "align": align, "scale": scale, "size": shape[1:]}, {}


READERS: Mapping[str, Callable[[_Call, Shape], Read]] = {
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
    "upsample_bilinear2d": partial(_read_resize, mode="linear"),
    **dict.fromkeys(VIEWS, _read_reshape),
}
