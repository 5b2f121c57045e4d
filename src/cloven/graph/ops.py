"""The op table, ``KINDS``: the rules for each kind of op (see `Kind`).

An op without rules is of kind ``opaque``: it is computed whole from whole inputs, and the result is sliced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cloven.graph import pointwise, views, windows
from cloven.graph.box import Box, extent, intersect, relative, whole
from cloven.graph.graph import Op
from cloven.graph.kinds import Carry, Kind, Local, Shapes
from cloven.remembered import remembered

__all__ = ["ANCHORS", "KINDS", "SPATIAL", "Carry", "Kind", "Local", "Piece", "Shapes", "macs", "piece"]

# --- the image, and the fallback ------------------------------------------------------------------------------


def _no_inputs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return ()


def _given(op: Op, inputs: Shapes, box: Box) -> Local:
    return Local(op.kind)


def _whole_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return tuple(whole(shape) for shape in inputs)


def _opaque_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    return Local("call", op.attrs, op.params, box)


# --- kinds that occur in rewritten graphs only ----------------------------------------------------------------


def _mask_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    keep: Box = op.attrs["keep"]
    # For a box that lies wholly outside, one element is read: the engine takes the batch size from it.
    return (intersect(box, keep) or tuple((lo, lo + 1) for lo, _ in keep),)


def _mask_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    inner = intersect(box, op.attrs["keep"])
    return Local("place", {"shape": extent(box), "at": (relative(inner, box) if inner else None,), "value": 0.0})


def _assemble_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return tuple(intersect(box, part) for part in op.attrs["parts"])


def _assemble_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    places = [intersect(box, part) for part in op.attrs["parts"]]
    return Local("place", {"shape": extent(box), "at": tuple(relative(p, box) for p in places if p), "value": 0.0})


def _join_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return (box,)


def _join_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    return Local("identity")


KINDS: Mapping[str, Kind] = {
    "input": Kind(_no_inputs, _given),
    "normalise": pointwise.CHANNELWISE,
    "batch_norm": pointwise.CHANNELWISE,
    "prelu": pointwise.CHANNELWISE,
    "conv2d": windows.CONV2D,
    "conv_transpose2d": windows.CONV_TRANSPOSE2D,
    "linear": pointwise.LINEAR,
    "max_pool2d": windows.MAX_POOL2D,
    "avg_pool2d": windows.AVG_POOL2D,
    "adaptive_avg_pool2d": windows.ADAPTIVE_AVG_POOL2D,
    "resize": windows.RESIZE,
    "group_norm": pointwise.GROUP_NORM,
    "instance_norm": pointwise.GROUP_NORM,
    "layer_norm": pointwise.LAYER_NORM,
    "elementwise": pointwise.ELEMENTWISE,
    "mean": pointwise.MEAN,
    "reshape": views.RESHAPE,
    "permute": views.PERMUTE,
    "narrow": views.NARROW,
    "concat": views.CONCAT,
    "pad": views.PAD,
    "expand": views.EXPAND,
    "opaque": Kind(_whole_needs, _opaque_localise),
    # These occur in rewritten graphs only.
    "sum": pointwise.SUM,
    "partial": pointwise.PARTIAL,
    "mask": Kind(_mask_needs, _mask_localise),
    "assemble": Kind(_assemble_needs, _assemble_localise),
    "join": Kind(_join_needs, _join_localise),
}

ANCHORS = frozenset({"conv2d", "conv_transpose2d", "linear"})
"""The kinds that a strategy places; ownership of the others follows from what they read."""


SPATIAL = frozenset(
    "normalise batch_norm prelu conv2d conv_transpose2d linear max_pool2d avg_pool2d adaptive_avg_pool2d resize "
    "layer_norm elementwise permute narrow concat pad".split()
)
"""The kinds that can be computed for a piece of a feature map, and so divided into a grid of tiles."""


def macs(op: Op, inputs: Shapes, box: Box | None = None) -> int:
    """Return the multiply-accumulates for a box of an op's output (default: all of it), for one image."""
    return KINDS[op.kind].macs(op, inputs, whole(op.shape) if box is None else box)


class Piece(NamedTuple):
    """An op restricted to a box of its output: the boxes that it reads, what an engine runs, and its MACs."""

    reads: tuple[tuple[str, Box], ...]
    local: Local
    macs: int


@remembered
def piece(op: Op, inputs: Shapes, box: Box) -> Piece:
    """Return an op restricted to a box of its output."""
    kind = KINDS[op.kind]
    needs = kind.needs(op, inputs, box)
    reads = tuple((value, need) for value, need in zip(op.inputs, needs, strict=True) if need is not None)
    return Piece(reads, kind.localise(op, inputs, box), kind.macs(op, inputs, box))
