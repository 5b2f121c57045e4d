"""Casts between dtypes, and the dtypes that ops compute in, as ONNX nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import TensorProto

from cloven.runtime.bundle.onnx.builder import ModelBuilder, Value

INTEGERS, FLOATS = ("uint8", "int8", "int16", "int32", "int64"), ("float16", "bfloat16", "float32", "float64")

HALVES = ("float16", "bfloat16")
NARROW = (*HALVES, *INTEGERS)

TYPES: Mapping[str, int] = {
    **{name: getattr(TensorProto, name.upper()) for name in ("bool", *INTEGERS, "float16", "bfloat16")},
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
}

TOGETHER = frozenset("add sub rsub mul div maximum minimum pow clamp where gt ge lt le eq ne".split())
"""Ops that take all their arguments except a condition in one dtype."""

ALONE = frozenset("relu abs neg sqrt rsqrt exp square sigmoid tanh silu reciprocal round floor ceil sign".split())
"""Ops on one tensor that the runtime computes for floats only."""


def cast(model: ModelBuilder, x: Value, name: str) -> Value:
    """Return a value in another dtype.

    A float becomes a narrow integer via int64, so that numbers out of range wrap around as in PyTorch on x86-64.
    Numbers beyond int32 or int64 are undefined, also in PyTorch.
    """
    if str(model.dtype(x)) == name:
        return x
    if name in ("uint8", "int8", "int16") and str(model.dtype(x)) in FLOATS:
        x = model.add("Cast", [x], to=TensorProto.INT64)
    return model.add("Cast", [x], to=TYPES[name])


@dataclass(frozen=True)
class Operands:
    """The dtypes that an op's tensors and numbers are cast to before it runs; None if they are kept.

    Narrow dtypes are computed in a wider one and cast back afterwards, as in PyTorch. The runtime has no kernels
    for most of them, and where it widens them itself, it omits the rounding to float16.
    """

    tensors: str | None
    numbers: str | None = None

    def cast(self, model: ModelBuilder, x: Value) -> Value:
        """Return a tensor in the dtype that the op takes."""
        own = str(model.dtype(x))
        together = self.numbers is not None or own in NARROW
        return cast(model, x, self.tensors) if self.tensors and together else x


def operands(op: str, taken: str | None) -> Operands:
    """Return the dtypes that an op such as ``add`` computes in, for arguments of the dtype ``taken``."""
    wide = "float32" if taken in HALVES else taken
    if op in TOGETHER and taken is not None:
        wide = "int64" if taken in INTEGERS else wide
        return Operands(wide, wide)
    if taken in INTEGERS:
        return Operands("float64") if op in ALONE else Operands(None)
    return Operands("float32") if taken in HALVES else Operands(None)
