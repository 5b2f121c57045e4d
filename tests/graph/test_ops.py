"""Every kind of op: a box that is computed from the inputs it needs equals that box of the whole output."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cloven.graph.box import Box, Shape, contains, count, intersect, slices, whole
from cloven.graph.graph import Graph
from cloven.graph.ops import KINDS
from cloven.runtime.capture import capture
from cloven.runtime.torch_engine import apply, evaluate, weights


class Calls(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return the function's result."""
        return self.function(x)


@st.composite
def windows(draw: st.DrawFn) -> nn.Module:
    """Convolutions and pools; some windows lie wholly in the padding."""
    kernel, stride, kind = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.sampled_from("ctma"))
    groups, dilation = draw(st.sampled_from([1, 2, 4])), draw(st.integers(1, 2))
    more: dict[str, Any] = {"dilation": dilation, "groups": groups, "bias": draw(st.booleans())}
    if kind == "c":
        pad = draw(st.sampled_from([0, 1, 2, 4]))
        return nn.Conv2d(4, draw(st.sampled_from([4, 8])), kernel, stride, pad, **more)
    if kind == "t":
        pad = draw(st.integers(0, dilation * (kernel - 1)))
        tail = draw(st.integers(0, max(stride, dilation) - 1))
        return nn.ConvTranspose2d(4, draw(st.sampled_from([4, 8])), kernel, stride, pad, tail, **more)
    pad, ceil = draw(st.integers(0, kernel // 2)), draw(st.booleans())
    if kind == "m":
        return nn.MaxPool2d(kernel, stride, pad, ceil_mode=ceil)
    return nn.AvgPool2d(kernel, stride, pad, ceil, draw(st.booleans()), draw(st.sampled_from([None, 3])))


@st.composite
def sizes(draw: st.DrawFn) -> nn.Module:
    """Resizing of every kind that has a rule, and adaptive pools."""
    size = (draw(st.integers(1, 14)), draw(st.integers(1, 14)))
    scale = draw(st.sampled_from([(2.0, 2.0), (1.7, 0.6), (3.0, 1.0)]))
    align = draw(st.booleans())
    return draw(
        st.sampled_from(
            [
                nn.AdaptiveAvgPool2d(size),
                nn.Upsample(size),
                nn.Upsample(scale_factor=scale),
                nn.Upsample(size, mode="bilinear", align_corners=align),
                nn.Upsample(scale_factor=scale, mode="bilinear", align_corners=align),
                nn.Upsample(scale_factor=scale, mode="bicubic", align_corners=align),
                nn.Upsample(scale_factor=scale, mode="nearest-exact"),
            ]
        )
    )


OTHERS: list[nn.Module] = [
    nn.ReLU(),
    nn.PReLU(),
    nn.PReLU(4),
    nn.BatchNorm2d(4),
    nn.GroupNorm(2, 4),
    nn.InstanceNorm2d(4, affine=True),
    nn.ChannelShuffle(2),
    nn.PixelShuffle(2),
    nn.PixelUnshuffle(2),
    nn.ZeroPad2d((1, 2, 0, 3)),
    nn.ConstantPad2d((-1, 2, 1, -2), 0.5),
    nn.Sequential(nn.Flatten(), nn.Linear(4 * 8 * 6, 6)),
    nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    Calls(lambda x: x.permute(0, 3, 1, 2)),
    Calls(lambda x: x.transpose(1, -1)),
    Calls(lambda x: nn.functional.layer_norm(x.permute(0, 2, 3, 1), (4,))),
    Calls(lambda x: nn.functional.pad(x[:, :, ::2, 1::3], (0, 0, 0, 0, 2, 1))),
    Calls(lambda x: torch.cat([x, x[:, 1:3], x.relu()], 1)),
    Calls(lambda x: torch.cat(x.chunk(3, 2)[::-1], 2)),
    Calls(lambda x: x * x.mean((2, 3), keepdim=True).expand_as(x)),
    Calls(lambda x: x.mean((-1,)) + x.mean(-1)),
    Calls(lambda x: x.reshape(len(x), 3, 8, 8)),
    Calls(lambda x: x.reshape(len(x), 2, 2, 4, 12).flatten(2)),
    Calls(lambda x: x.unsqueeze(1).squeeze(1) - x.flatten(2).unflatten(2, (2, 24)).flatten(1).reshape(x.shape)),
]
"""Modules for images of 4x8x6 that move, normalise or average values."""


def boxes_of(shape: Shape) -> st.SearchStrategy[Box]:
    """Return a strategy for boxes of a value, including the whole value."""
    edges = [st.tuples(st.integers(0, n - 1), st.integers(1, n)) for n in shape]
    inner = st.tuples(*(e.map(lambda p: (min(p), max(p[0] + 1, p[1]))) for e in edges))
    return st.one_of(inner, st.just(whole(shape)))


@cache
def captured(module: nn.Module) -> Graph:
    return capture(module.eval(), torch.rand(1, 4, 8, 6))


def check_every_box(module: nn.Module, data: st.DataObject) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 4, 8, 6)
    graph = captured(module)
    values = evaluate(graph, images, [op.name for op in graph.ops])
    with torch.inference_mode():
        assert torch.equal(values[graph.output], module(images))
    for op in graph.ops[1:]:
        shapes = graph.input_shapes(op)
        assert op.kind != "opaque", op
        for box in data.draw(st.lists(boxes_of(op.shape), min_size=4, max_size=8)):
            needs = KINDS[op.kind].needs(op, shapes, box)
            local = KINDS[op.kind].localise(op, shapes, box)
            pieces = [
                values[name][slices(need)].contiguous()
                for name, need in zip(op.inputs, needs, strict=True)
                if need is not None
            ]
            made = apply(local, pieces, weights(local))

            expected: Tensor = values[op.name][slices(box)]
            assert made.shape == expected.shape
            assert torch.allclose(made, expected, rtol=0, atol=4e-6), (op, box)


@given(windows(), st.data())
@settings(max_examples=8)
def test_a_box_of_a_window_from_what_it_needs_is_that_box_of_the_whole(
    module: nn.Module, data: st.DataObject
) -> None:
    check_every_box(module, data)


@given(sizes(), st.data())
@settings(max_examples=6)
def test_a_box_of_a_resized_map_from_what_it_needs_is_that_box_of_the_whole(
    module: nn.Module, data: st.DataObject
) -> None:
    check_every_box(module, data)


@pytest.mark.parametrize("module", OTHERS, ids=[f"{type(m).__name__}{i}" for i, m in enumerate(OTHERS)])
@given(st.data())
@settings(max_examples=7)
def test_a_box_from_what_it_needs_is_that_box_of_the_whole(module: nn.Module, data: st.DataObject) -> None:
    check_every_box(module, data)


@pytest.mark.parametrize("module", OTHERS, ids=[f"{type(m).__name__}{i}" for i, m in enumerate(OTHERS)])
@given(st.data())
@settings(max_examples=7)
def test_owners_of_bands_of_the_input_own_disjoint_boxes_of_the_output(
    module: nn.Module, data: st.DataObject
) -> None:
    graph = captured(module)
    for op in graph.ops[1:]:
        shapes = graph.input_shapes(op)
        axis = data.draw(st.integers(0, len(shapes[0]) - 1))
        cut = data.draw(st.integers(0, shapes[0][axis]))
        bands = [
            tuple((edge if a == axis else (0, n)) for a, n in enumerate(shapes[0]))
            for edge in ((0, cut), (cut, shapes[0][axis]))
        ]
        carried = [KINDS[op.kind].carry(op, shapes, 0, band) for band in bands if count(band)]
        owned = [box for box in carried if box is not None and count(box) > 0]
        for i, box in enumerate(owned):
            assert contains(whole(op.shape), box)
            assert all(intersect(box, other) is None for other in owned[:i])
