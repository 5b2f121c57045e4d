"""Every kind of op: a box computed from what it needs equals that box of the whole."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cloven.graph.box import Box, Shape, slices, whole
from cloven.graph.capture import capture
from cloven.graph.ops import KINDS
from cloven.runtime.torch_engine import apply, evaluate, weights


@st.composite
def layers(draw: st.DrawFn) -> tuple[nn.Module, int, int, int]:
    """A layer with the channels, height and width that it is given; windows wholly in the padding among them."""
    height, width = draw(st.integers(4, 11)), draw(st.integers(4, 11))
    kernel, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["conv", "max", "avg", "adaptive", "relu", "flatten", "linear"]))
    if kind == "conv":
        groups = draw(st.sampled_from([1, 2, 4]))
        pad = draw(st.sampled_from([0, 1, 2, 4]))
        dilation = draw(st.integers(1, 2))
        more: dict[str, Any] = {"padding": pad, "dilation": dilation, "groups": groups, "bias": draw(st.booleans())}
        return nn.Conv2d(4, draw(st.sampled_from([4, 8])), kernel, stride, **more), 4, height, width
    if kind == "max":
        pad = draw(st.integers(0, kernel // 2))
        return nn.MaxPool2d(kernel, stride, pad, ceil_mode=draw(st.booleans())), 4, height, width
    if kind == "avg":
        pad = draw(st.integers(0, kernel // 2))
        divisor = draw(st.sampled_from([None, 3]))
        include = draw(st.booleans())
        return nn.AvgPool2d(kernel, stride, pad, draw(st.booleans()), include, divisor), 4, height, width
    if kind == "adaptive":
        return nn.AdaptiveAvgPool2d((draw(st.integers(1, 4)), draw(st.integers(1, 4)))), 4, height, width
    if kind == "relu":
        return nn.ReLU(), 4, height, width
    if kind == "flatten":
        return nn.Flatten(), 4, height, width
    return nn.Sequential(nn.Flatten(), nn.Linear(4 * height * width, 6)), 4, height, width


def boxes_of(shape: Shape) -> st.SearchStrategy[Box]:
    """Any box of a value, the whole among them."""
    edges = [st.tuples(st.integers(0, n - 1), st.integers(1, n)) for n in shape]
    inner = st.tuples(*(e.map(lambda p: (min(p), max(p[0] + 1, p[1]))) for e in edges))
    return st.one_of(inner, st.just(whole(shape)))


@given(layers(), st.data())
@settings(max_examples=40)
def test_a_box_from_what_it_needs_is_that_box_of_the_whole(
    layer: tuple[nn.Module, int, int, int], data: st.DataObject
) -> None:
    module, channels, height, width = layer
    torch.manual_seed(0)
    images = torch.randn(2, channels, height, width)
    graph = capture(module, torch.rand(1, channels, height, width))
    op = graph.by_name[graph.output]
    values = evaluate(graph, images, [*op.inputs, op.name])

    shapes = graph.input_shapes(op)
    assert op.kind != "opaque"
    for box in data.draw(st.lists(boxes_of(op.shape), min_size=4, max_size=8)):
        (need,) = KINDS[op.kind].needs(op, shapes, box)
        local = KINDS[op.kind].localise(op, shapes, box)
        assert need is not None
        made = apply(local, [values[op.inputs[0]][slices(need)].contiguous()], weights(local))

        expected: Tensor = values[op.name][slices(box)]
        assert made.shape == expected.shape
        assert torch.allclose(made, expected, rtol=0, atol=2e-6)
