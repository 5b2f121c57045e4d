"""Find the values of a model that are never NaN or infinite: ops on them need fewer nodes.

Onnxruntime's maximum, argmax and max pooling ignore NaN, and a matrix times infinity is NaN everywhere. Extra nodes
reproduce PyTorch's results but cost time; an ordinary CNN, whose values are finite, needs none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cloven.graph.graph import Graph, Op

ORDINARY = frozenset(
    """
    relu relu6 hardtanh leaky_relu elu celu selu silu mish gelu softplus sigmoid log_sigmoid tanh hardswish
    hardsigmoid softsign abs neg clamp clamp_min clamp_max add sub rsub mul maximum minimum softmax _softmax
    linear matmul conv1d conv2d conv3d convolution layer_norm native_layer_norm group_norm native_group_norm
    batch_norm _native_batch_norm_legit_no_training instance_norm max_pool2d max_pool2d_with_indices avg_pool2d
    adaptive_avg_pool2d adaptive_max_pool2d mean sum amax amin cat stack reshape view _unsafe_view flatten
    unflatten squeeze unsqueeze permute transpose slice narrow select split split_with_sizes chunk unbind expand
    repeat roll flip pad constant_pad_nd contiguous clone alias detach dropout upsample_nearest2d
    upsample_bilinear2d upsample_bicubic2d
    """.split()
)
"""ATen ops that return finite numbers for finite inputs, unless sums or products overflow float32."""


def finite(graph: Graph) -> frozenset[str]:
    """Return the names of values that are finite for every image, unless sums or products overflow float32."""
    found: set[str] = set()
    for op in graph.ops:
        if found.issuperset(op.inputs) and _keeps_finite(op):
            found.add(op.name)
    return frozenset(found)


def _keeps_finite(op: Op) -> bool:
    known = "op" not in op.attrs or str(op.attrs["op"]).split(".")[1] in ORDINARY
    positive = np.all(op.params["running_var"] + op.attrs["eps"] > 0) if op.kind == "batch_norm" else True
    numbers = all(np.isfinite(np.asarray(x)).all() for x in [*op.params.values(), *_numbers(op.attrs)])
    return bool(known and positive and numbers and op.dtype == "float32")


def _numbers(item: Any) -> Iterator[float]:
    match item:
        case float():
            yield item
        case Mapping():
            for part in item.values():
                yield from _numbers(part)
        case list() | tuple():
            for part in item:
                yield from _numbers(part)
