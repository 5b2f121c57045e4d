"""Horizontal partitioning (S1 Fig. 1b; Stahl et al., S1's reference [10]): each layer's output is shared out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cloven.graph.box import shares, whole
from cloven.graph.graph import Graph, Op
from cloven.graph.ops import ANCHORS
from cloven.partition.division import Division, Owners, dealt, everything, spread


@dataclass(frozen=True)
class Horizontal:
    """Every convolution and linear layer is shared out by output channels (S1's LOP).

    Each device holds a share of the filters, needs the whole input and makes its share of the output. Pools,
    activations and flattens stay with the channels that they read. The remainder of an uneven split goes to the
    last device; with fewer channels than devices the others are idle in that layer.
    """

    axis: Literal["out_channels"] = "out_channels"

    def count(self, devices: int | None) -> int:
        """As many as asked for; 2 if left open."""
        return devices or 2

    def problems(self, graph: Graph, devices: int) -> list[str]:
        """Another axis than output channels; no device; more devices than any layer has channels."""
        found = []
        if self.axis != "out_channels":
            found.append(f"axis is {self.axis!r}; expected 'out_channels'")
        widest = max((_channels(op) for op in graph.ops if op.kind in ANCHORS), default=0)
        if not 1 <= devices <= widest:
            found.append(
                f"{devices} devices, but the widest layer has {widest} output channels; expected 1 to {widest}"
            )
        return found

    def divide(self, graph: Graph, devices: int) -> Division:
        """The first device holds the image and wants the output; every layer is dealt out by channels."""
        anchors = {op.name: _dealt_channels(op, devices) for op in graph.ops if op.kind in ANCHORS}
        anchors[graph.input.name] = everything(graph, graph.input.name, 0)
        return Division(graph, spread(graph, anchors), devices, sink=0)


def _axis(op: Op) -> int:
    """The axis of the output channels: the first of a map, the last of a linear layer's output."""
    return len(op.shape) - 1 if op.kind == "linear" else 0


def _channels(op: Op) -> int:
    return op.shape[_axis(op)]


def _dealt_channels(op: Op, devices: int) -> Owners:
    axis, box = _axis(op), whole(op.shape)
    return dealt((*box[:axis], share, *box[axis + 1 :]) for share in shares(_channels(op), devices))
