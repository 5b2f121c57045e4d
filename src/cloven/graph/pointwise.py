"""The rules of elementwise ops and of ops over one axis: normalisations, activations, sums, means, linear."""

from __future__ import annotations

from math import ceil

import numpy as np

from cloven.graph.box import Box, Interval, count, whole
from cloven.graph.graph import Op
from cloven.graph.kinds import Kind, Local, Shapes, is_whole, rows
from cloven.graph.views import broadcast


def _same_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return (box,)


def _same_carry(op: Op, inputs: Shapes, index: int, box: Box) -> Box | None:
    return box


def _channelwise_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    one = all(len(value) == 1 for value in op.params.values())  # a PReLU with one slope for all channels
    return Local(op.kind, op.attrs, op.params if one else rows(op.params, box[0]))


CHANNELWISE = Kind(_same_needs, _channelwise_localise, carry=_same_carry)
"""Ops whose weights have one number per channel: the image's normalisation, batch norm, PReLU."""


# --- elementwise ----------------------------------------------------------------------------------------------


def _elementwise_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return tuple(broadcast(shape, box) for shape in inputs)


def _elementwise_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    params = {}
    for key, value in op.params.items():
        axes = value.shape[value.ndim - min(value.ndim, len(box)) :]
        kept = broadcast(axes, box[len(box) - len(axes) :])
        lead = (slice(None),) * (value.ndim - len(axes))
        # Not ascontiguousarray: it turns a scalar into a vector, for which type promotion differs.
        params[key] = np.array(value[(*lead, *(slice(lo, hi) for lo, hi in kept))], order="C")
    return Local("call", op.attrs, params)


def _elementwise_carry(op: Op, inputs: Shapes, index: int, box: Box) -> Box | None:
    return box if inputs[index] == op.shape else None


ELEMENTWISE = Kind(_elementwise_needs, _elementwise_localise, carry=_elementwise_carry)


# --- norms over groups of channels and over the last axes -----------------------------------------------------


def _covering(op: Op, channels: Interval) -> tuple[int, int, int]:
    """Return the range of groups (first, end) that covers an interval of channels, and the channels per group."""
    per_group = op.shape[0] // int(op.attrs["groups"])
    return channels[0] // per_group, ceil(channels[1] / per_group), per_group


def _group_norm_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    first, last, size = _covering(op, box[0])
    return (((first * size, last * size), *whole(inputs[0][1:])),)


def _group_norm_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    first, last, size = _covering(op, box[0])
    channels = (first * size, last * size)
    kept = (box[0][0] - channels[0], box[0][1] - channels[0])
    return Local(op.kind, {**op.attrs, "groups": last - first}, rows(op.params, channels), (kept, *box[1:]))


def _group_norm_carry(op: Op, inputs: Shapes, index: int, box: Box) -> Box | None:
    return box if box[1:] == whole(op.shape)[1:] else None


def _layer_norm_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    kept = len(box) - op.attrs["axes"]
    return ((*box[:kept], *whole(op.shape)[kept:]),)


def _layer_norm_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    kept = len(box) - op.attrs["axes"]
    outer = tuple((0, hi - lo) for lo, hi in box[:kept])
    return Local("layer_norm", op.attrs, op.params, (*outer, *box[kept:]))


def _layer_norm_carry(op: Op, inputs: Shapes, index: int, box: Box) -> Box | None:
    kept = len(box) - op.attrs["axes"]
    return box if box[kept:] == whole(op.shape)[kept:] else None


GROUP_NORM = Kind(_group_norm_needs, _group_norm_localise, carry=_group_norm_carry)
LAYER_NORM = Kind(_layer_norm_needs, _layer_norm_localise, carry=_layer_norm_carry)


# --- means, and the sums that replace them in a rewritten graph -----------------------------------------------


def _unreduced(op: Op, taken: Box, box: Box) -> Box:
    """Return the input box that is summed into a box of the output: ``taken`` along the axes that are summed."""
    axes = op.attrs["axes"]
    rest = iter(i for axis, i in enumerate(box) if not op.attrs["keep"] or axis not in axes)
    return tuple(interval if axis in axes else next(rest) for axis, interval in enumerate(taken))


def _mean_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return (_unreduced(op, whole(inputs[0]), box),)


def _mean_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    return Local("mean", op.attrs)


def _mean_carry(op: Op, inputs: Shapes, index: int, box: Box) -> Box | None:
    axes, keep = op.attrs["axes"], op.attrs["keep"]
    if any(not is_whole(box[axis], inputs[0][axis]) for axis in axes):
        return None
    return tuple((0, 1) if axis in axes else i for axis, i in enumerate(box) if keep or axis not in axes)


def _mean_averaged(op: Op, inputs: Shapes) -> tuple[int, ...]:
    axes: tuple[int, ...] = op.attrs["axes"]
    return axes


def _partial_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return (_unreduced(op, op.attrs["box"], box),)


def _partial_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    return Local("reduce", {"axes": op.attrs["axes"], "keep": op.attrs["keep"]})


def _sum_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return tuple(box for _ in inputs)


def _sum_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    axis = op.attrs.get("axis", 0)
    shape = tuple(-1 if i == axis else 1 for i in range(len(box)))
    return Local("sum", op.attrs, {k: v.reshape(shape) for k, v in rows(op.params, box[axis]).items()})


MEAN = Kind(_mean_needs, _mean_localise, carry=_mean_carry, averaged=_mean_averaged)
PARTIAL = Kind(_partial_needs, _partial_localise)
"""The sum over one box of a value: one device's contribution to a mean."""
SUM = Kind(_sum_needs, _sum_localise)
"""The total of partial sums, followed by the bias of the original op or the division of its mean."""


# --- linear ---------------------------------------------------------------------------------------------------


def _linear_needs(op: Op, inputs: Shapes, box: Box) -> tuple[Box | None, ...]:
    return ((*box[:-1], (0, inputs[0][-1])),)


def _linear_localise(op: Op, inputs: Shapes, box: Box) -> Local:
    return Local("linear", op.attrs, rows(op.params, box[-1]))


def _linear_macs(op: Op, inputs: Shapes, box: Box) -> int:
    return count(box) * inputs[0][-1]


LINEAR = Kind(_linear_needs, _linear_localise, _linear_macs)
