"""Casts between the types of numbers, and the types that ops compute in, as ONNX nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnx import TensorProto

from cloven.runtime.onnx.model import Model, Value

INTEGERS, FLOATS = ("uint8", "int8", "int16", "int32", "int64"), ("float16", "bfloat16", "float32", "float64")

TYPES: Mapping[str, int] = {
    **{name: getattr(TensorProto, name.upper()) for name in ("bool", *INTEGERS, "float16", "bfloat16")},
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
}

TOGETHER = frozenset("add sub rsub mul div maximum minimum pow clamp where gt ge lt le eq ne".split())
"""Ops that take all their arguments, but a condition, in one type."""

ALONE = frozenset("relu abs neg sqrt rsqrt exp square sigmoid tanh silu reciprocal round floor ceil sign".split())
"""Ops on one tensor that the runtime computes in floats only."""


def cast(model: Model, x: Value, name: str) -> Value:
    """Return a value in another type.

    A float becomes a narrow integer by way of int64: what lies beyond its range then wraps around, as in PyTorch on
    x86-64. What lies beyond int32 or int64 itself is undefined, in PyTorch too.
    """
    if str(model.dtype(x)) == name:
        return x
    if name in ("uint8", "int8", "int16") and str(model.dtype(x)) in FLOATS:
        x = model.add("Cast", [x], to=TensorProto.INT64)
    return model.add("Cast", [x], to=TYPES[name])


def operands(attrs: Mapping[str, Any]) -> str | None:
    """Return the type that an op's tensors and numbers are cast to; None where they stay as they are.

    Narrow types are computed in a wider one and cut to their own afterwards, as PyTorch does, and as the runtime
    has nodes for.
    """
    op = attrs["op"].split(".")[1]
    if "types" not in attrs or op not in TOGETHER | ALONE:
        return None
    taken: str = attrs["types"][0]
    if taken in INTEGERS:
        return "float64" if op in ALONE else "int64"
    return "float32" if taken in ("float16", "bfloat16") else taken
