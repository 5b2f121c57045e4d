"""What the rules of a kind of op are: a few small functions over boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloven.graph.box import Box, Interval, Shape
from cloven.graph.graph import Op, Params

Shapes = tuple[Shape, ...]


@dataclass(frozen=True, eq=False)
class Local:
    """An op restricted to a box: what an engine runs on the boxes that ``needs`` named.

    ``crop`` is the part to keep of what the kind computes, or None for all of it.
    """

    kind: str
    attrs: Mapping[str, Any] = field(default_factory=dict)
    params: Params = field(default_factory=dict, repr=False)
    crop: Box | None = None


Needs = Callable[[Op, Shapes, Box], tuple[Box | None, ...]]
Localise = Callable[[Op, Shapes, Box], Local]
Macs = Callable[[Op, Shapes, Box], int]
Carry = Callable[[Op, Shapes, int, Box], Box | None]
Averaged = Callable[[Op, Shapes], tuple[int, ...]]


def _free(op: Op, inputs: Shapes, box: Box) -> int:
    """Return 0: the op has no multiply-accumulates."""
    return 0


def _nowhere(op: Op, inputs: Shapes, index: int, box: Box) -> Box | None:
    """Return None: ownership does not carry over."""
    return None


def _nothing(op: Op, inputs: Shapes) -> tuple[int, ...]:
    """Return no axes: none is averaged."""
    return ()


@dataclass(frozen=True)
class Kind:
    """The rules of one kind of op.

    - ``needs(op, inputs, box)``: for each input the box of it that ``box`` of the output depends on, or None;
    - ``localise(op, inputs, box)``: the op restricted to ``box``, to be run on just those inputs;
    - ``macs(op, inputs, box)``: multiply-accumulates of conv and dense layers (no bias, pooling or activation);
    - ``carry(op, inputs, index, box)``: the box of the output that a device which owns ``box`` of an input can
      own, or None where ownership does not carry over from that input;
    - ``averaged(op, inputs)``: the input's axes over which the op takes one mean, where it does nothing else:
      such an op can be a sum of local sums.

    Where an axis is taken whole, the whole input axis is needed and the op keeps its own padding: a divided op
    then runs the very kernel that the whole model runs.
    """

    needs: Needs
    localise: Localise
    macs: Macs = _free
    carry: Carry = _nowhere
    averaged: Averaged = _nothing
    gathers: bool = False
    """Whether the output is made of all inputs' shares together; else of those of one input."""


def is_whole(interval: Interval, size: int) -> bool:
    """Return whether an interval is all of an axis."""
    return interval == (0, size)


def rows(params: Params, interval: Interval) -> dict[str, NDArray[np.float32]]:
    """Return an interval of each weight's first axis.

    Copied, so that a slice is aligned as a whole weight is: MKL's results depend on it.
    """
    return {key: np.ascontiguousarray(p[interval[0] : interval[1]]) for key, p in params.items()}
