"""Read a PyTorch model as a Graph through ``torch.export``.

The model is exported for two batch sizes. An integer that differs between the two exports is the batch size, and
becomes the word ``batch`` in the graph. In-place ops are made functional first. Nothing is run here:
`cloven.capture` checks that the graph computes the same as the model.
"""

from __future__ import annotations

import inspect
import io
import logging
import math
import operator
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.export.graph_signature import OutputKind

from cloven.errors import ClovenError, shown
from cloven.graph.box import Shape
from cloven.graph.graph import BATCH, SIZES, Graph, Op
from cloven.graph.readers import ANY_TYPE, CASTS, ELEMENTWISE, READERS, Call, Read, axis_of, read_narrow

BATCHES = (2, 3)
"""The two batch sizes of the two exports."""

FIRST = (0, 1)
"""The usual layout of the batch: the first axis, with one row per image."""

ALIASES = frozenset("clone alias detach detach_ contiguous dropout dropout_ lift_fresh_copy".split()) | CASTS
"""Ops that do nothing in evaluation mode, unless they change the element type."""

PLACEMENT = frozenset("device layout pin_memory memory_format".split())
"""Arguments that determine where and how a tensor is stored, but not its values."""

CREATORS = frozenset("new_zeros new_ones new_full".split())
"""Ops that use only the element type of their input."""


def trace(
    model: nn.Module,
    example: Tensor,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Graph:
    """Return the graph of a model in evaluation mode, without checking its results.

    The arguments and errors are those of `cloven.capture`, which also checks the graph.
    """
    _check(model, example, mean, std)
    return _Reader(*_exports(model, example)).graph(tuple(example.shape[1:]), mean, std)


def recorded(model: nn.Module, image: Tensor) -> Iterator[tuple[str, str, Tensor]]:
    """Run an exported model on a batch of copies of one image ``(1, C, H, W)``, and yield its values.

    Each item is the op and its module, the name of the value in the graph, and the value ``(n, ...)``. Values whose
    first axis is not the batch are left out. The image is normalised already.
    """
    first, program = _exports(model, image)
    reader = _Reader(first, program)
    reader.graph(tuple(image.shape[1:]), None, None)
    made: dict[fx.Node, Any] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            weight = reader.weights.get(node.name)
            made[node] = image.repeat(BATCHES[1], 1, 1, 1) if weight is None else torch.from_numpy(weight)
        elif node.op == "call_function":
            args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), made.__getitem__)
            made[node] = node.target(*args, **kwargs)
            if node.name in reader.values and reader.values[node.name] not in reader.laid:
                call = node.args[0] if node.target is operator.getitem else node
                yield f"{call.target} in {_module(call) or 'the model'}", reader.values[node.name], made[node]


def _exports(model: nn.Module, example: Tensor) -> list[torch.export.ExportedProgram]:
    with evaluation(model), torch.no_grad(), warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")  # torch.export deprecates parts of itself
        return [_export(model, example[:1].repeat(batch, 1, 1, 1)) for batch in BATCHES]


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the tracebacks and graphs that torch prints for a model that it cannot export."""
    log = logging.getLogger("torch")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(level)


def _check(model: nn.Module, example: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    problems = []
    if names := _required(model):
        problems.append(
            f"{type(model).__name__} takes {len(names)} inputs ({', '.join(names)}); expected one image tensor"
        )
    if example.ndim != 4 or example.shape[0] < 1:
        problems.append(f"the example has shape {tuple(example.shape)}; expected one image (1, C, H, W)")
    elif min(example.shape[2:]) < 2:
        problems.append(
            f"the example is {tuple(example.shape)}: images are one pixel high or wide; expected at least 2x2"
        )
    elif example.dtype != torch.float32 or example.layout != torch.strided:
        problems.append(f"the example is a tensor of {example.dtype}, {example.layout}; expected float32 in [0, 1]")
    if (mean is None) != (std is None):
        problems.append("mean requires std, and std requires mean: give both or neither")
    for word, values in (("mean", mean), ("std", std)):
        if values is not None and not all(map(math.isfinite, _numbers(values, word))):
            problems.append(f"{word} is {_numbers(values, word)}; expected finite numbers")
        if values is not None and example.ndim == 4 and len(values) != example.shape[1]:
            problems.append(f"{word} has {len(values)} numbers; expected {example.shape[1]}, one for each channel")
    if std is not None and any(s <= 0 for s in _numbers(std, "std")):
        problems.append(f"std is {list(std)}; expected positive numbers")
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.is_floating_point() and value.dtype != torch.float32:
            problems.append(f"{name} is {value.dtype}; expected a float32 model: call model.float() first")
            break
    if problems:
        raise ClovenError(problems)


def _numbers(values: object, word: str) -> list[float]:
    """Return the numbers of a mean or a standard deviation."""
    try:
        if isinstance(values, Sequence | Tensor | np.ndarray) and not isinstance(values, str | bytes):
            return [float(value) for value in values]
    except (TypeError, ValueError, RuntimeError):  # an element is text or a list
        pass
    raise ClovenError(f"{word} is {shown(values)}; expected one number for each channel")


def _required(model: nn.Module) -> tuple[str, ...]:
    """Return the required arguments of a model's forward, or none if it can be called with one image."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return ()
    try:
        signature.bind(None)
    except TypeError:
        return tuple(
            p.name for p in signature.parameters.values() if p.default is p.empty and p.kind not in _STARRED
        )
    return ()


_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode, and restore its mode afterwards.

    Raises:
        ClovenError: if the model cannot change its mode, such as the module of an exported program.
    """
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
    except NotImplementedError as error:
        raise ClovenError(
            f"{type(model).__name__} cannot be put in evaluation mode: {error}; pass the original nn.Module"
        ) from error
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def _export(model: nn.Module, batch: Tensor) -> torch.export.ExportedProgram:
    try:
        exported: torch.export.ExportedProgram = torch.export.export(model, (batch,))
        _refuse_random(exported)
        _drop_dropout(exported.graph_module)
        calls = [node for node in exported.graph.nodes if node.op == "call_function"]
        if all(map(_plain, calls)) and _rebindable(calls):
            for node in calls:
                _rebind(node)
            return exported
        functional: torch.export.ExportedProgram = exported.run_decompositions(_moves())  # makes ops functional
    except ClovenError:
        raise
    except Exception as error:
        raise ClovenError(_reason(model, batch, error)) from error
    return functional


DATA_DEPENDENT = frozenset(
    "GuardOnDataDependentSymNode DataDependentOutputException DynamicOutputShapeException UserError".split()
)
"""Errors that torch.export raises when Python code reads the values of a tensor."""


def _reason(model: nn.Module, batch: Tensor, error: Exception) -> str:
    """Return why a model could not be exported: the model itself fails, or torch.export does."""
    name, shape = type(model).__name__, tuple(batch.shape[1:])
    try:
        model(batch)
    except Exception as own:
        return f"{name} does not run on images of {shape}: {_said(own)}{_place(model, own)}"
    if type(error).__name__ in DATA_DEPENDENT:
        return (
            f"{name} cannot be captured: torch.export says {_said(error)}. Its shapes or branches depend on the "
            "values of an image's pixels; such a model cannot be divided"
        )
    return f"{name} cannot be captured: torch.export says {_said(error)}"


def _said(error: Exception) -> str:
    """Return an error's type and first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _place(model: nn.Module, error: Exception) -> str:
    """Return the innermost module that an error passed through, and its line of code."""
    names = {id(module): name or "the model" for name, module in model.named_modules()}
    frames = traceback.walk_tb(error.__traceback__), traceback.extract_tb(error.__traceback__)
    owners = [(id(frame.f_locals.get("self")), entry.line) for (frame, _), entry in zip(*frames, strict=True)]
    inside = [(names[owner], line) for owner, line in owners if owner in names]
    return f" in {inside[-1][0]} at `{inside[-1][1]}`" if inside else ""


def _refuse_random(program: torch.export.ExportedProgram) -> None:
    """Refuse ops that draw random numbers in evaluation mode, even if the export would make them constants."""
    for node in program.graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        if torch.Tag.nondeterministic_seeded not in node.target.tags:
            continue
        given = Call(node, {}).values
        resting = given.get("train", given.get("training")) is False
        if not resting and given.get("dropout_p", given.get("p", 1)) != 0:
            raise ClovenError(
                f"{node.target} in {_module(node) or 'the model'} draws random numbers in evaluation mode, so that "
                "each run gives a different result; expected a deterministic model, for example dropout with "
                "training=self.training"
            )


MAKERS = frozenset(
    "conv2d linear batch_norm relu hardtanh sigmoid silu hardswish hardsigmoid max_pool2d avg_pool2d "
    "adaptive_avg_pool2d mean pad add mul cat".split()
)
"""Ops without side effects whose result has its own memory; they are read as they are exported."""

WRITERS = frozenset("relu_ hardtanh_ silu_ hardswish_ add_ mul_".split())
"""The in-place variants of `MAKERS`, which overwrite their first input."""

PLAIN = MAKERS | WRITERS | {"flatten", "slice", "dropout_"}
"""The ops of most models. A model of these alone is not made functional, which makes its capture three times as
fast."""


def _drop_dropout(module: fx.GraphModule) -> None:
    """Remove inactive dropout: made functional, it would be a copy that misses later in-place writes."""
    dropouts = module.graph.find_nodes(op="call_function", target=torch.ops.aten.dropout.default)
    for node in dropouts:
        if not Call(node, {})["train"] and all(user.op == "call_function" for user in node.users):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.recompile()


def _plain(node: fx.Node) -> bool:
    return _op_name(node) in PLAIN and not (_op_name(node) == "dropout_" and Call(node, {})["train"])


def _rebindable(calls: Sequence[fx.Node]) -> bool:
    """Return whether no overwritten value has a view, so that later readers can read the new value."""
    place = {node: i for i, node in enumerate(calls)}
    last = {_maker(node): i for node, i in place.items() if _op_name(node) in WRITERS}

    def unseen(node: fx.Node, until: int) -> bool:
        return all(u in place and (_op_name(u) in MAKERS | WRITERS or place[u] > until) for u in node.users)

    makers = all(maker in place and _op_name(maker) in MAKERS for maker in last)
    return makers and all(unseen(node, last[_maker(node)]) for node in calls if _maker(node) in last)


def _maker(node: fx.Node) -> fx.Node:
    """Return the node that allocated the memory of a node's result, following in-place ops back."""
    while node.op == "call_function" and _op_name(node) in WRITERS:
        written = node.args[0]
        assert isinstance(written, fx.Node)
        node = written
    return node


def _rebind(node: fx.Node) -> None:
    """Replace an in-place op by one that returns a new value, and let later nodes read that value."""
    written, target = node.args[0], node.target
    if _op_name(node) not in WRITERS or not isinstance(written, fx.Node):
        return
    assert isinstance(target, torch._ops.OpOverload)
    node.target = getattr(getattr(torch.ops.aten, _op_name(node)[:-1]), target._overloadname)
    order = {other: i for i, other in enumerate(node.graph.nodes)}
    written.replace_all_uses_with(node, delete_user_cb=lambda user: order[user] > order[node])


def _moves() -> dict[Any, Callable[..., Any]]:
    """Return the decompositions of channel and pixel shuffles into reshapes and permutations."""
    aten = torch.ops.aten
    table: dict[Any, Callable[..., Any]] = torch._decomp.get_decompositions(
        [aten.channel_shuffle, aten.pixel_shuffle, aten.pixel_unshuffle]
    )
    return table


class _Reader:
    """Walks through two exports of one model in parallel and makes the ops of its graph."""

    def __init__(self, first: torch.export.ExportedProgram, second: torch.export.ExportedProgram) -> None:
        self.programs = (first, second)
        self.first, self.second = list(first.graph.nodes), list(second.graph.nodes)
        self.weights = _weights(first)
        self.outputs = first.graph_signature.output_specs
        self.bfloat16: set[str] = set()  # weights of type bfloat16, stored as float32
        self.values: dict[str, str] = {}  # fx node -> value
        self.ops: list[Op] = []
        calls = (n for n in self.first if n.op == "call_function" and n.target is not operator.getitem)
        self.paths = [_module(n) for n in calls]
        self.laid: dict[str, tuple[int, int]] = {}  # the batch's layout in values where it is not FIRST

    def graph(self, shape: Shape, mean: Sequence[float] | None, std: Sequence[float] | None) -> Graph:
        if len(self.first) != len(self.second):
            raise ClovenError(
                "the model runs different ops for batches of 2 and of 3 images; expected the same ops for any batch"
            )
        _refuse_changing_constants(*self.programs)
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
        # If a model writes to its input image, torch.export lists the image as an output too.
        results = [
            leaf
            for leaf, spec in zip(_leaves(node.args), self.outputs, strict=True)
            if spec.kind is OutputKind.USER_OUTPUT and isinstance(leaf, fx.Node)
        ]
        if len(results) != 1:
            raise ClovenError(f"the model returns {len(results)} tensors; expected one (n, classes)")
        value = self.values[results[0].name]
        if (dtype := _type(results[0], "the model")) != "float32":
            raise ClovenError(f"the model returns {dtype} values; expected float32: end it with .float()")
        if value in self.laid:
            raise ClovenError(
                f"the model returns {tuple(results[0].meta['val'].shape)} for {BATCHES[0]} images; "
                "expected one row per image: (n, classes)"
            )
        return value

    def read(self, a: fx.Node, b: fx.Node) -> None:
        """Append the op of a node, given its two exports ``a`` and ``b``."""
        if a.meta.get("val") is None and not a.users:
            return  # a check of types or shapes; the export has passed it
        if a.target is not operator.getitem and not isinstance(a.meta.get("val"), Tensor):
            return  # several tensors: each one that is used has a getitem, which becomes an op
        call, call_b = (n.args[0] if n.target is operator.getitem else n for n in (a, b))
        assert isinstance(call, fx.Node)
        assert isinstance(call_b, fx.Node)
        name, where = _op_name(call), f"{call.target} in {_module(call) or 'the model'}"
        leaves = [n for n in _leaves(call.args, call.kwargs) if isinstance(n, fx.Node)]
        if name in CASTS:
            leaves = leaves[:1]  # type_as uses only the type of its second tensor
        inputs = [n for n in leaves if n.name not in self.weights]
        dtype = _type(a, where)
        if name in ALIASES and len(inputs) == 1 and _type(inputs[0], where) == dtype:
            self.values[a.name] = self.values[inputs[0].name]
            return
        if (not inputs or name in CREATORS) and a.meta["val"].shape == b.meta["val"].shape:
            for x, y in zip(_leaves(call.args, call.kwargs), _leaves(call_b.args, call_b.kwargs), strict=True):
                if not isinstance(x, fx.Node) and repr(x) != repr(y):  # by repr, because NaN != NaN
                    raise _unequal(where, x, y)
            self.weights[a.name] = self.constant(call, a)
            return
        shape, laid = _shape(a, b, where)
        # An op that depends on the batch size only takes it from the image.
        sources = tuple(dict.fromkeys(self.values[n.name] for n in inputs)) or ("input",)
        item = a.args[1] if call is not a else None
        _refuse_batch_statistics(call, where)
        made: Read = _cast(dtype) if name in CASTS else self.called(call, call_b, item, sources, where)
        assert made is not None
        kind, attrs, params = made
        types = {dtype, *(_type(n, where) for n in leaves)}
        if types != {"float32"}:
            attrs = {**attrs, "types": (_computed(call, dtype), dtype)}
            made = (kind, attrs, params)
        read = {i: self.laid[source] for i, source in enumerate(sources) if source in self.laid}
        if laid != FIRST or read:
            # The engine restores the layout that the call expects, and moves the batch first afterwards.
            made = (kind, {**attrs, "read": read, "laid": laid}, params)
        elif inputs and (known := self.known(name, call, item, shape, sources, attrs)) is not None:
            made = known if types == {"float32"} or known[0] in ANY_TYPE else made
        self.ops.append(Op(self.name(call), made[0], sources, shape, _module(call), made[1], made[2], dtype))
        self.values[a.name] = self.ops[-1].name
        if laid != FIRST:
            self.laid[self.ops[-1].name] = laid

    def constant(self, call: fx.Node, node: fx.Node) -> NDArray[Any]:
        """Return the value of an op whose inputs are all weights."""
        assert callable(call.target)
        args, kwargs = fx.node.map_arg((call.args, dict(call.kwargs)), self.example)
        made = call.target(*args, **kwargs)
        result: Tensor = made if call is node else made[node.args[1]]
        if result.dtype == torch.bfloat16:  # numpy has no bfloat16; float32 represents it exactly
            self.bfloat16.add(node.name)
            result = result.float()
        return np.asarray(result.numpy())

    def example(self, node: fx.Node) -> Tensor:
        """Return a weight, or zeros in place of a value, of which only the type is used."""
        if node.name in self.weights:
            weight = torch.from_numpy(self.weights[node.name])
            return weight.bfloat16() if node.name in self.bfloat16 else weight
        return torch.zeros(node.meta["val"].shape, dtype=node.meta["val"].dtype)

    def known(
        self, name: str, node: fx.Node, item: Any, shape: Shape, sources: tuple[str, ...], call: dict[str, Any]
    ) -> Read:
        """Return a node's op if the op table has rules for it, else None."""
        by_name = {op.name: op.shape for op in self.ops}
        shapes = [by_name[source] for source in sources]
        if name in ELEMENTWISE | CASTS and all(len(s) == len(shape) for s in shapes):
            params = {n.name: self.weights[n.name] for n in node.all_input_nodes if n.name in self.weights}
            fits = all(p.ndim <= len(shape) or p.shape[0] == 1 for p in params.values())
            return ("elementwise", call, params) if fits and shapes else None
        if name == "cat":
            parts = list(_leaves(node.args[0]))
            axis = axis_of(node.args[1] if len(node.args) > 1 else 0, len(shape))
            plain = len(parts) == len(sources) and axis >= 0
            return ("concat", {"axis": axis}, {}) if plain else None
        if len(sources) != 1:
            return None
        if name in ("split", "split_with_sizes", "chunk", "slice"):
            return read_narrow(name, Call(node, self.weights), item, shapes[0], shape)
        reader = READERS.get(name) if not item else None
        return None if reader is None else reader(Call(node, self.weights), shape)

    def name(self, node: fx.Node) -> str:
        """Return a name for a value: the module's path if the module has one op, else the path and the op."""
        path = _module(node)
        inside = [p for p in self.paths if p == path or p.startswith(path + ".")]
        op = "batch_norm" if "batch_norm" in _op_name(node) else _op_name(node)
        name = path if path and len(inside) == 1 else ".".join(filter(None, (path, op)))
        taken = {op.name for op in self.ops} | (set(self.paths) - {path})
        candidate, number = name, 1
        while candidate in taken:
            number += 1
            candidate = f"{name}_{number}"
        return candidate

    def called(
        self, a: fx.Node, b: fx.Node, item: Any, sources: tuple[str, ...], where: str
    ) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Return an op without rules as its call, with placeholders for inputs, weights and the batch size."""
        params: dict[str, NDArray[np.float32]] = {}

        def place(x: Any, y: Any) -> Any:
            if isinstance(x, fx.Node):
                if x.name in self.weights:
                    params[x.name] = self.weights[x.name]
                    return {"param": x.name} | ({"dtype": "bfloat16"} if x.name in self.bfloat16 else {})
                return {"input": sources.index(self.values[x.name])}
            if isinstance(x, list | tuple):
                return [place(p, q) for p, q in zip(x, y, strict=True)]
            if isinstance(x, int) and not isinstance(x, bool) and x != y and (times := _times((x, y))):
                return BATCH if times == 1 else {"batch": times}
            if repr(x) != repr(y):
                raise _unequal(where, x, y)
            if isinstance(x, torch.dtype):
                return {"dtype": str(x).removeprefix("torch.")}
            return x if isinstance(x, int | float | str | bool | None) else str(x)

        kwargs = {k: place(v, b.kwargs[k]) for k, v in a.kwargs.items() if k not in PLACEMENT}
        args = place(list(a.args), list(b.args))
        # The memory layout may differ from that in the export, and then a view is impossible without a copy.
        name = "aten.reshape.default" if _op_name(a) in ("view", "_unsafe_view") else str(a.target)
        return "opaque", {"op": name, "args": args, "kwargs": kwargs, "item": item}, params


def _weights(program: torch.export.ExportedProgram) -> dict[str, NDArray[Any]]:
    """Return parameters, buffers and constants by placeholder name."""
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


def _refuse_changing_constants(first: torch.export.ExportedProgram, second: torch.export.ExportedProgram) -> None:
    """Refuse constants that the forward computes outside PyTorch and that differ between two exports."""
    nodes = {node.name: node for node in first.graph.nodes}
    others = second.graph_signature.inputs_to_lifted_tensor_constants
    for name, target in first.graph_signature.inputs_to_lifted_tensor_constants.items():
        a, b = first.constants[target], second.constants[others[name]]
        assert isinstance(a, Tensor)
        assert isinstance(b, Tensor)
        if a.shape != b.shape or not torch.equal(a.nan_to_num(), b.nan_to_num()):
            user = next(iter(nodes[name].users), nodes[name])
            raise ClovenError(
                f"{user.target} in {_module(user) or 'the model'} reads a constant that differs between two "
                "exports of the model; expected a constant that depends neither on the batch size nor on chance"
            )


def _unequal(where: str, first: Any, second: Any) -> ClovenError:
    return ClovenError(
        f"{where} has the argument {first} for {BATCHES[0]} images and {second} for {BATCHES[1]}; such an op "
        "cannot be divided: expected a constant or a multiple of the batch size, and nothing drawn at random"
    )


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
    if not isinstance(target, torch._ops.OpOverload):
        raise ClovenError(
            f"{target} in {_module(node) or 'the model'} is not an op on tensors; expected a forward without "
            "torch.autocast, torch.enable_grad and torch.cond"
        )
    return target._schema.name.split("::")[-1]


def _type(node: fx.Node, where: str) -> str:
    """Return the element type of a node's value.

    Raises:
        ClovenError: if engines do not support the type, or the node reinterprets the bits of another type.
    """
    name = str(node.meta["val"].dtype).removeprefix("torch.")
    if name not in SIZES:
        raise ClovenError(f"{where} has a value of type {name}; expected one of {', '.join(SIZES)}")
    if node.op == "call_function" and node.target is torch.ops.aten.view.dtype:
        raise ClovenError(f"{where} reinterprets bits as {name}; expected a cast, such as x.to(torch.{name})")
    return name


def _computed(call: fx.Node, dtype: str) -> str:
    """Return the type that an op computes in: that of its result, or the arguments' common type in a comparison."""
    if dtype != "bool" or len(call.args) < 2:
        return dtype
    first, second = (x.meta["val"] if isinstance(x, fx.Node) else x for x in call.args[:2])
    if not isinstance(first, Tensor) or not isinstance(second, Tensor | int | float):
        return dtype
    return str(torch.result_type(first, second)).removeprefix("torch.")


def _cast(dtype: str) -> Read:
    """Return the op that casts its one input."""
    call = {"op": "aten._to_copy.default", "args": [{"input": 0}], "kwargs": {"dtype": {"dtype": dtype}}}
    return "opaque", {**call, "item": None}, {}


def _times(sizes: tuple[int, int]) -> int:
    """Return the multiple of the batch size that both sizes are, or 0 if they are not the same multiple."""
    times, rest = divmod(sizes[0], BATCHES[0])
    return times if not rest and times * BATCHES[1] == sizes[1] else 0


def _shape(a: fx.Node, b: fx.Node, where: str) -> tuple[Shape, tuple[int, int]]:
    """Return the shape of one image's value, and the batch's layout: its axis, and the rows per image.

    Several rows per image (such as windows of an image along the batch axis) become the shape's first axis.
    """
    first, second = tuple(a.meta["val"].shape), tuple(b.meta["val"].shape)
    if not all(isinstance(n, int) for n in (*first, *second)):
        raise ClovenError(
            f"{where} returns a value whose shape {first} depends on the image's pixels; such a model cannot be "
            "divided: expected the same shape for every image"
        )
    differ = [axis for axis, (n, m) in enumerate(zip(first, second, strict=False)) if n != m]
    copies = _times((first[differ[0]], second[differ[0]])) if len(differ) == 1 else 0
    if not copies or len(first) != len(second):
        raise ClovenError(
            f"{where} returns {first} for {BATCHES[0]} images and {second} for {BATCHES[1]}; expected one value "
            "per image, along one axis"
        )
    axis = differ[0]
    rest = (*first[:axis], *first[axis + 1 :])
    return (rest if copies == 1 else (copies, *rest)), (axis, copies)


def _refuse_batch_statistics(node: fx.Node, where: str) -> None:
    if "batch_norm" in _op_name(node) and Call(node, {}).values.get("training"):
        raise ClovenError(
            f"{where} takes mean and variance from the batch, so that an image's result depends on the others; "
            "expected running statistics (track_running_stats=True), or a group or layer norm"
        )
