"""Build an ONNX model node by node; the shape of each result is inferred at once, weights go to one file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import TensorProto, TypeProto, helper, numpy_helper, shape_inference

OPSET, IR = 20, 10
"""The versions that onnxruntime 1.20 and later can load."""

ALIGNMENT = 64
"""Weights begin at multiples of this offset in the file, in bytes."""

INLINE = 512
"""The largest tensor that is stored in the model itself, in bytes: shapes, axes, single numbers."""

Array = NDArray[Any]


class UnsupportedError(Exception):
    """An op, or one of its arguments, cannot be written as ONNX; the message is the reason."""


Dims = Sequence[int | None]
"""The lengths of a tensor's axes; None for the one that depends on the batch."""


@dataclass(frozen=True)
class Value:
    """A tensor of a model: a weight, or a value with a batch axis, which is None in ``dims``.

    ``rows`` is the number of rows on that axis per image. ``finite`` means that no number is NaN or infinite,
    whatever the image; see `cloven.runtime.bundle.onnx.finite`.
    """

    name: str
    dims: tuple[int | None, ...]
    rows: int = 1
    finite: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the lengths of all axes but the batch's."""
        return tuple(n for n in self.dims if n is not None)

    @property
    def count(self) -> int:
        """Return the number of elements per image."""
        return self.rows * prod(self.shape)


class Weights:
    """The weights of all segments of a device, one after another; equal ones are stored once."""

    def __init__(self) -> None:
        self._arrays: list[NDArray[np.float32]] = []
        self._places: dict[tuple[bytes, tuple[int, ...]], int] = {}
        self._end = 0

    def place(self, array: NDArray[np.float32]) -> int:
        """Return the offset of an array in the file, in bytes."""
        array = np.ascontiguousarray(array, "<f4")
        key = (hashlib.sha256(array.data).digest(), array.shape)
        if key not in self._places:
            self._places[key] = -(-self._end // ALIGNMENT) * ALIGNMENT
            self._end = self._places[key] + array.nbytes
            self._arrays.append(array)
        return self._places[key]

    def write(self, path: Path) -> None:
        """Write the file: raw little-endian float32."""
        with path.open("wb") as file:
            for array in self._arrays:
                file.write(bytes(-file.tell() % ALIGNMENT))
                array.tofile(file)


class ModelBuilder:
    """Builds an ONNX model.

    Large tensors go to ``weights``; ``location`` is the name of their file, beside the model.
    """

    def __init__(self, name: str, weights: Weights, location: str) -> None:
        self._graph = onnx.GraphProto(name=name)
        self._weights, self._location = weights, location
        self._types: dict[str, TypeProto] = {}
        self._small: dict[str, TensorProto] = {}
        self._constants: dict[str, Array] = {}
        self._scope, self._number = "", 0

    def scope(self, name: str) -> None:
        """Set the prefix for the names of the following nodes."""
        self._scope, self._number = name, 0

    def input(self, name: str, shape: Sequence[int]) -> Value:
        """Add an input of the model: float32 ``(batch, *shape)``."""
        info = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
        self._graph.input.append(info)
        self._types[name] = info.type
        return _value(name, info.type)

    def output(self, value: Value, shape: Sequence[int]) -> None:
        """Make a value an output of the model: float32 ``(batch, *shape)``."""
        info = helper.make_tensor_value_info(value.name, TensorProto.FLOAT, ["batch", *shape])
        self._graph.output.append(info)

    def tensor(self, array: Array) -> Value:
        """Add a weight or a constant."""
        name = self._fresh()
        if array.nbytes <= INLINE or array.dtype != np.float32:
            proto = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
            self._small[name] = proto
        else:
            entries = {"location": self._location, "offset": self._weights.place(array), "length": array.nbytes}
            proto = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape)
            proto.data_location = TensorProto.EXTERNAL
            for key, entry in entries.items():
                proto.external_data.add(key=key, value=str(entry))
        self._graph.initializer.append(proto)
        self._constants[name] = array
        self._types[name] = helper.make_tensor_type_proto(proto.data_type, array.shape)
        return _value(name, self._types[name])

    def constant(self, value: Value) -> Array:
        """Return the content of a constant.

        Raises:
            UnsupportedError: if the value depends on the image.
        """
        if value.name not in self._constants:
            raise UnsupportedError("an argument depends on the image; expected a constant")
        return self._constants[value.name]

    def dtype(self, value: Value) -> np.dtype[Any]:
        """Return the dtype of a value."""
        return helper.tensor_dtype_to_np_dtype(self._types[value.name].tensor_type.elem_type)

    def batch(self) -> Value:
        """Return the number of images, as an int64 tensor ``(1,)``."""
        image = self._graph.input[0].name
        return self.add("Shape", [_value(image, self._types[image])], start=0, end=1)

    def number(self, number: float, dtype: DTypeLike = np.float32) -> Value:
        """Return a scalar constant."""
        return self.tensor(np.array(number, dtype))

    def integers(self, numbers: Sequence[int]) -> Value:
        """Return a constant int64 list: axes, lengths, pads."""
        return self.tensor(np.array(numbers, np.int64))

    def sized(self, value: Value, dims: Dims) -> Value:
        """Set a value's lengths if ONNX cannot infer them because an argument of its node depends on the batch."""
        tensor = self._types[value.name].tensor_type
        self._types[value.name] = helper.make_tensor_type_proto(tensor.elem_type, dims)
        return _value(value.name, self._types[value.name])

    def add(self, kind: str, inputs: Sequence[Value | None], **attrs: Any) -> Value:
        """Append a node with one output; None is an omitted input.

        Raises:
            UnsupportedError: if the node does not accept the inputs or attributes.
        """
        names = [x.name if x else "" for x in inputs]
        while not names[-1]:
            names.pop()  # onnxruntime crashes on a bias that is named ""
        name = self._fresh()
        node = helper.make_node(kind, names, [name], name=name, **attrs)
        try:
            made = shape_inference.infer_node_outputs(
                onnx.defs.get_schema(kind, OPSET, ""),
                node,
                {x: self._types[x] for x in names if x},
                {x: self._small[x] for x in names if x in self._small},
                opset_imports=[helper.make_opsetid("", OPSET)],
                ir_version=IR,
            )
        except (RuntimeError, onnx.checker.ValidationError) as error:
            raise UnsupportedError(f"ONNX's {kind} does not accept these arguments ({error})") from error
        self._types[name] = made[name]
        self._graph.node.append(node)
        return _value(name, made[name])

    def called(self, value: Value, name: str) -> Value:
        """Return a value under another name."""
        nodes = self._graph.node
        if not nodes or nodes[-1].output[0] != value.name or not value.name.startswith(f"{self._scope}/"):
            value = self.add("Identity", [value])
        nodes[-1].output[0] = nodes[-1].name = name
        self._types[name] = self._types.pop(value.name)
        return Value(name, value.dims)

    def finish(self) -> onnx.ModelProto:
        """Return the model without its large weights and unused constants."""
        read = {name for node in self._graph.node for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in read]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)
        return helper.make_model(
            self._graph,
            ir_version=IR,
            opset_imports=[helper.make_opsetid("", OPSET)],
            producer_name="cloven",
        )

    def _fresh(self) -> str:
        self._number += 1
        return f"{self._scope}/{self._number}"


def _value(name: str, made: TypeProto) -> Value:
    dims = made.tensor_type.shape.dim
    return Value(name, tuple(d.dim_value if d.HasField("dim_value") else None for d in dims))
