"""The types of the rules for a kind of op: a few small functions over boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloven.graph.box import Box, Interval, Shape
from cloven.graph.graph import Op, Params

Shapes = tuple[Shape, ...]


@dataclass(frozen=True, eq=False)
class Local:
    """An op restricted to a box of its output: an engine runs it on the boxes that ``needs`` returns.

    ``crop`` is the part of the result to keep, or None for all of it.
    """

    kind: str
    attrs: Mapping[str, Any] = field(default_factory=dict)
    params: Params = field(default_factory=dict, repr=False)
    crop: Box | None = None

    @cached_property
    def param_bytes(self) -> int:
        """Bytes of the weights."""
        return sum(p.nbytes for p in self.params.values())


Needs = Callable[[Op, Shapes, Box], tuple[Box | None, ...]]
Localise = Callable[[Op, Shapes, Box], Local]
Macs = Callable[[Op, Shapes, Box], int]
Carry = Callable[[Op, Shapes, int, Box], Box | None]
Averaged = Callable[[Op, Shapes], tuple[int, ...]]


def _free(op: Op, inputs: Shapes, box: Box) -> int:
    """Return 0: the op has no multiply-accumulates."""
    return 0


def _nowhere(op: Op, inputs: Shapes, index: int, box: Box) -> Box | None:
    """Return None: ownership of the input does not carry over to the output."""
    return None


def _nothing(op: Op, inputs: Shapes) -> tuple[int, ...]:
    """Return no axes: the op takes no mean."""
    return ()


@dataclass(frozen=True)
class Kind:
    """The rules of one kind of op.

    - ``needs(op, inputs, box)``: for each input, its box that ``box`` of the output depends on, or None;
    - ``localise(op, inputs, box)``: the op restricted to ``box``, to be run on the boxes from ``needs``;
    - ``macs(op, inputs, box)``: the multiply-accumulates of convolutions and dense layers (bias, pooling and
      activation are not counted);
    - ``carry(op, inputs, index, box)``: the box of the output that the owner of ``box`` of an input can own, or
      None if ownership does not carry over from that input;
    - ``averaged(op, inputs)``: the input axes over which the op takes a mean, if it does nothing else; such an op
      can be rewritten as a sum of local sums.

    Along an axis that is taken whole, the op needs the whole input axis and keeps its own padding. The divided op
    then runs the same kernel as the whole model.
    """

    needs: Needs
    localise: Localise
    macs: Macs = _free
    carry: Carry = _nowhere
    averaged: Averaged = _nothing
    gathers: bool = False
    """True if ownership of the output comes from all inputs together, False if from one of them."""


def is_whole(interval: Interval, size: int) -> bool:
    """Return whether an interval covers a whole axis."""
    return interval == (0, size)


def rows(params: Params, interval: Interval) -> dict[str, NDArray[np.float32]]:
    """Return views of an interval of each weight's first axis; engines copy weights when they load them."""
    return {key: p[slice(*interval)] for key, p in params.items()}
