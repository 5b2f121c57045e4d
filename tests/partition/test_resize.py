"""Resizing, divided by rows, columns and tiles, computes what PyTorch computes of the whole map."""

from __future__ import annotations

from itertools import product
from math import floor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from cloven.graph.box import slices, whole
from cloven.graph.graph import Op
from cloven.graph.ops import KINDS
from cloven.partition.compiler import divide
from cloven.partition.data import Data
from cloven.partition.horizontal import Horizontal
from cloven.partition.strategy import Strategy
from cloven.runtime.capture import capture
from cloven.runtime.local import run
from cloven.runtime.torch_engine import RESIZE, apply, weights

MODES: dict[str, dict[str, Any]] = {
    "nearest": {"mode": "nearest"},
    "nearest-exact": {"mode": "nearest-exact"},
    "bilinear": {"mode": "bilinear", "align_corners": False},
    "bilinear, aligned": {"mode": "bilinear", "align_corners": True},
    "bicubic": {"mode": "bicubic", "align_corners": False},
    "bicubic, aligned": {"mode": "bicubic", "align_corners": True},
    "area": {"mode": "area"},
}
ANTIALIASED = [{"mode": "bilinear", "antialias": True}, {"mode": "bicubic", "antialias": True}]
"""Computed whole: tiles of them are refused."""

SIZES, SCALES = range(1, 13), [round(0.1 * tenths, 1) for tenths in range(3, 31)]
EVERY = [(size, scale) for size, scale in product(SIZES, SCALES) if floor(size * scale) >= 1]
COPIED = [(n, s) for n, s in EVERY if floor(n * s) in (n, 2 * n) and s not in (1.0, 2.0)]
"""Where PyTorch's kernels copy rows one to one, or each twice, although the scale says otherwise."""

STRATEGIES: dict[str, Strategy] = {
    "rows": Horizontal("rows"),
    "columns": Horizontal("columns"),
    "tiles": Data((2, 2), until="last"),
}


class Resized(nn.Module):
    """A convolution's map, resized in several ways at once, each with a convolution behind it."""

    def __init__(self, ways: list[dict[str, Any]]) -> None:
        super().__init__()
        self.ways, self.first, self.last = ways, nn.Conv2d(1, 2, 1), nn.Conv2d(2 * len(ways), 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, numbers)``."""
        y = self.first(x)
        made: Tensor = self.last(torch.cat([F.interpolate(y, **way) for way in self.ways], 1))
        return made.flatten(1)


def check(shape: tuple[int, int], ways: list[dict[str, Any]]) -> None:
    """Compare every strategy with the model itself."""
    torch.manual_seed(0)
    model, images = Resized(ways).eval(), torch.rand(2, 1, *shape)
    graph = capture(model, images[:1])
    with torch.inference_mode():
        expected = model(images)
    height, width = next(op.shape for op in graph.ops if op.name == "last")[1:]
    for name, strategy in STRATEGIES.items():
        if (height < 2 and name != "columns") or (width < 2 and name != "rows"):
            continue
        if name == "tiles" and any("antialias" in way for way in ways):
            continue
        devices = 4 if name == "tiles" else 2
        made = run(divide(graph, strategy, devices), images)
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-5, msg=name)


def ways(scale: Any) -> list[dict[str, Any]]:
    """Return all modes with a scale, which is used as it is or recomputed from the sizes."""
    recomputed = [{**mode, "recompute_scale_factor": True} for mode in MODES.values()]
    return [{**mode, "scale_factor": scale} for mode in (*MODES.values(), *recomputed)]


def test_a_scale_that_leaves_the_size_copies_every_row() -> None:
    """9 x 1.1 is rounded down to 9: PyTorch copies rows 0 1 2 .. 8; the scale alone would give 0 0 1 2 .. 7."""
    check((9, 9), ways(1.1))


def test_an_antialiased_resize_is_computed_whole() -> None:
    check((9, 8), [{**mode, "scale_factor": (1.1, 0.6)} for mode in ANTIALIASED])


@given(st.sampled_from(COPIED), st.sampled_from(EVERY))
@settings(max_examples=2)
def test_a_scale_that_leaves_or_doubles_the_size(rows: tuple[int, float], columns: tuple[int, float]) -> None:
    check((max(rows[0], 2), max(columns[0], 2)), ways((rows[1], columns[1])))


@given(st.sampled_from([n for n in SIZES if n > 1]), st.sampled_from([n for n in SIZES if n > 1]), st.data())
@settings(max_examples=2)
def test_a_size_instead_of_a_scale(height: int, width: int, data: st.DataObject) -> None:
    size = (data.draw(st.integers(1, 24)), data.draw(st.integers(1, 24)))
    check((height, width), [{**mode, "size": size} for mode in MODES.values()])


@pytest.mark.slow
@pytest.mark.parametrize("size", [n for n in SIZES if n > 1])
def test_every_size_and_scale_under_every_strategy(size: int) -> None:
    for scale in SCALES:
        if floor(size * scale) >= 1:
            check((size, size), ways(scale))


@pytest.mark.parametrize("cases", [EVERY[::11], pytest.param(EVERY, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("mode", RESIZE)
def test_a_part_is_that_of_the_whole_map_in_both_layouts(
    mode: str, layout: torch.memory_format, cases: list[tuple[int, float]]
) -> None:
    for size, scale in cases:
        columns, across = 5 + size % 3, (0.7, 1.1, 2.1)[size % 3]
        shape = (3, floor(size * scale), floor(columns * across))
        x = torch.rand(2, 3, size, columns).contiguous(memory_format=layout)
        for scales, align in product((None, (scale, across)), (False, not mode.startswith("nearest"))):
            attrs = {"mode": mode, "align": align, "scale": scales, "size": shape[1:]}
            op = Op("resize", "resize", ("input",), shape, attrs=attrs)
            everything = apply(KINDS["resize"].localise(op, (x.shape[1:],), whole(shape)), [x], {})
            for box in (((0, 3), (0, shape[1]), (1, shape[2])), ((1, 2), (shape[1] // 2, shape[1]), (0, shape[2]))):
                (need,) = KINDS["resize"].needs(op, (x.shape[1:],), box)
                assert need is not None
                local = KINDS["resize"].localise(op, (x.shape[1:],), box)
                made = apply(local, [x[slices(need)]], weights(local))
                allowed = 0.0 if mode.startswith("nearest") else 2e-6
                assert torch.allclose(made, everything[slices(box)], rtol=0, atol=allowed), (size, scale, attrs)
