"""The Graph: a CNN as ops in topological order, each of which computes one value. It does not need torch."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloven.errors import ClovenError
from cloven.graph.box import Shape
from cloven.tables import html_table

Params = Mapping[str, NDArray[np.float32]]

SIZES: Mapping[str, int] = {
    **dict.fromkeys(("bool", "uint8", "int8"), 1),
    **dict.fromkeys(("int16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "float32"), 4),
    **dict.fromkeys(("int64", "float64", "complex64"), 8),
    "complex128": 16,
}
"""The supported element types, with the bytes per element."""

BATCH = "batch"
"""Stands for the batch size in an op's attributes, so that it never crosses a cut."""


@dataclass(frozen=True, eq=False)
class Op:
    """An op and the value that it computes; the value has the op's name.

    ``shape`` is the value's shape for one image, without the batch axis. ``module`` is the path of the module that
    contains the op (as in ``named_modules()``), empty at the top. ``params`` are the op's own weights. ``dtype`` is
    the value's element type: a key of `SIZES`.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: Shape
    module: str = ""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    params: Params = field(default_factory=dict, repr=False)
    dtype: str = "float32"

    @property
    def modules(self) -> tuple[str, ...]:
        """The paths of the modules around the op, outer before inner."""
        steps = self.module.split(".") if self.module else []
        return tuple(".".join(steps[:depth]) for depth in range(1, len(steps) + 1))

    @property
    def param_bytes(self) -> int:
        """Bytes of the op's weights."""
        return sum(p.nbytes for p in self.params.values())

    @property
    def bytes(self) -> int:
        """Bytes of one image's value in its own type."""
        return SIZES[self.dtype] * prod(self.shape)


@dataclass(frozen=True, eq=False, repr=False)
class Graph:
    """A model: ops in topological order, the first of kind ``input``, and the name of the output value."""

    ops: tuple[Op, ...]
    output: str

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for op in self.ops:
            assert op.name not in seen, f"two ops are named {op.name}"
            assert seen.issuperset(op.inputs), f"{op.name} uses a value before it is made"
            seen.add(op.name)
        assert self.output in seen

    @cached_property
    def by_name(self) -> Mapping[str, Op]:
        """The ops by name."""
        return {op.name: op for op in self.ops}

    @cached_property
    def position(self) -> Mapping[str, int]:
        """The position of each value in the order of the ops."""
        return {op.name: i for i, op in enumerate(self.ops)}

    @cached_property
    def users(self) -> Mapping[str, tuple[str, ...]]:
        """The ops that read each value."""
        users: dict[str, list[str]] = {op.name: [] for op in self.ops}
        for op in self.ops:
            for name in dict.fromkeys(op.inputs):
                users[name].append(op.name)
        return {name: tuple(readers) for name, readers in users.items()}

    @cached_property
    def last_read(self) -> Mapping[str, int]:
        """The position of the last op that reads each value; for the output, a position after all ops."""
        found = dict(self.position)
        for i, op in enumerate(self.ops):
            found |= dict.fromkeys(op.inputs, i)
        return {**found, self.output: len(self.ops)}

    @cached_property
    def live(self) -> tuple[tuple[str, ...], ...]:
        """For each position, the values that cross a cut after it: made by ops up to it and read by later ones."""
        found: list[tuple[str, ...]] = []
        for i, op in enumerate(self.ops):
            before = found[-1] if found else ()
            found.append(tuple(name for name in (*before, op.name) if self.last_read[name] > i))
        return tuple(found)

    @cached_property
    def alone(self) -> frozenset[str]:
        """The values through which alone later ops depend on earlier ones."""
        return frozenset(op.name for op, live in zip(self.ops, self.live, strict=True) if live == (op.name,))

    @cached_property
    def _input_shapes(self) -> Mapping[str, tuple[Shape, ...]]:
        """The shapes of each op's inputs."""
        return {op.name: tuple([self.by_name[name].shape for name in op.inputs]) for op in self.ops}

    @property
    def input(self) -> Op:
        """The op that stands for the image."""
        return self.ops[0]

    @property
    def fingerprint(self) -> str:
        """A hash of the model's ops, their attributes and weights."""
        return self.fingerprints[self.output]

    def input_shapes(self, op: Op) -> tuple[Shape, ...]:
        """Return the shapes of an op's inputs, without the batch axis."""
        return self._input_shapes[op.name]

    def find(self, name: str) -> str:
        """Return the value with a name: that of an op, or the last value of the module with that path.

        Raises:
            ClovenError: if no op or module has that name; the message lists the nearest names.
        """
        if name in self.by_name:
            return name
        if name in self._outputs:
            return self._outputs[name]
        known = dict.fromkeys([*self.layers(), *self.by_name])
        near = difflib.get_close_matches(name, known, n=5) or list(known)[:12]
        raise ClovenError(
            f"no layer or op is named {name!r}; the nearest names are {', '.join(near)} "
            "(`cloven inspect MODEL` lists all)"
        )

    @cached_property
    def _outputs(self) -> Mapping[str, str]:
        """The last value that each module's path makes, outer before inner, in order."""
        found: dict[str, str] = {}
        for op in self.ops:
            found |= dict.fromkeys(op.modules, op.name)
        return found

    @cached_property
    def _layers(self) -> Mapping[str, str]:
        """The outermost layer of each value that is a layer's output."""
        return {value: path for path, value in reversed(list(self._outputs.items()))}

    def layers(self) -> Iterator[str]:
        """Yield the paths of the modules that contain ops, in order, outer modules before inner ones."""
        yield from self._outputs

    def layer_of(self, value: str) -> str:
        """Return the outermost layer whose output a value is; the value's own name where there is none."""
        return self._layers.get(value, value)

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
        """A hash for each value of all ops that it depends on, with their attributes and weights.

        Equal values in different plans and in rewritten graphs have equal fingerprints.
        """
        prints: dict[str, str] = {}
        for op in self.ops:
            attrs = json.dumps(dict(op.attrs), sort_keys=True, default=str)
            head = json.dumps([op.kind, attrs, list(op.shape), [prints[i] for i in op.inputs]])
            digest = hashlib.sha256(head.encode())
            for key in sorted(op.params):
                value = op.params[key]
                digest.update(f"{key}{value.shape}{value.dtype}".encode())
                digest.update(np.ascontiguousarray(value).tobytes())
            prints[op.name] = digest.hexdigest()
        return prints

    def __repr__(self) -> str:
        image, output = ("x".join(map(str, op.shape)) for op in (self.input, self.by_name[self.output]))
        weights = sum(op.param_bytes for op in self.ops)
        return f"Graph of {len(self.ops)} ops: images of {image}, outputs of {output}, {weights:,} bytes of weights"

    def _repr_html_(self) -> str:
        return html_table(repr(self))


def total_bytes(graph: Graph, values: Iterable[str]) -> int:
    """Return the total bytes of several values of one image, each in its own type."""
    return sum(graph.by_name[v].bytes for v in values)
