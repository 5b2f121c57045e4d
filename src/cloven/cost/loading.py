"""The memory of weights: what a device holds, and what it needs in addition while it loads them.

onnxruntime prepares the weights of a segment when it loads it, and holds several copies of them meanwhile:

1. A convolution that a batch norm follows gets new weights, with the batch norm in them.
2. The weights of convolutions are rearranged, one convolution after another, for the processor's vector registers.
   The weights as they were are freed after the last of them. The one that is rearranged has three further copies.
3. The weights of linear layers are rearranged as well; those as they were are freed after each of them.

In the end, one copy of the weights remains. This was observed with onnxruntime 1.31 on x86-64. Where convolutions
are not rearranged, less is needed: a profile has the measured share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cloven.partition.program import Compute

COPIES = 3
"""The further copies of the weights of a convolution while they are rearranged."""


class WeightMemory(NamedTuple):
    """The bytes of a segment's weights, and those that it needs in addition while it is loaded."""

    held: int
    loading: int


def weights(computes: Sequence[Compute]) -> WeightMemory:
    """Return the memory of the weights of a segment."""
    convolutions, linears, folded = {}, [], 0
    held = 0
    for step in computes:
        size = step.local.param_bytes
        held += size
        match step.local.kind:
            case "conv2d":
                convolutions[step.value] = size
            case "linear":
                linears.append(size)
            case "batch_norm":
                folded += convolutions.get(step.reads[0][0], 0)
    most = rearranged = 0
    for size in convolutions.values():
        rearranged += size
        most = max(most, folded + rearranged + COPIES * size)
    for size in linears:
        rearranged += size
        most = max(most, rearranged + size)
    return WeightMemory(held, max(0, most - held))
