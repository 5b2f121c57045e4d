"""The usage of each device: what it computes, holds and receives, compared with numbers computed by hand."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

from cloven.graph.graph import Graph
from cloven.graph.ops import macs
from cloven.partition.compiler import divide
from cloven.partition.data import Data
from cloven.partition.horizontal import Horizontal
from cloven.partition.observe import seen_on
from cloven.partition.program import Program
from cloven.partition.strategy import Strategy
from cloven.partition.usage import Usage, usage
from cloven.partition.vertical import Vertical
from cloven.runtime.capture import capture

CONV1, CONV2, LINEAR = 8 * 8 * 4 * 27, 8 * 8 * 6 * 36, 384 * 5
"""MACs of the layers of the net below, on an image of 3x8x8."""
WHOLE = CONV1 + CONV2 + LINEAR
WEIGHTS = 4 * ((4 * 27 + 4) + (6 * 36 + 6) + (384 * 5 + 5))
"""Bytes of all its weights."""


@cache
def net() -> Graph:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.Flatten(), nn.Linear(384, 5)
    )
    return capture(model, torch.zeros(1, 3, 8, 8))


def rows(program: Program) -> dict[str, Usage]:
    found = usage(program)
    assert [device.device for device in found] == list(program.devices)
    return {device.device: device for device in found}


def test_the_whole_model_on_one_device() -> None:
    (alone,) = usage(divide(net(), Vertical(), 1))

    # At most it holds conv2's 6x8x8 numbers twice: as a map, and flat.
    assert alone == Usage("edge0", WHOLE, 0, WEIGHTS, 4 * 2 * 384, 1.0)


def test_a_pipeline_of_two() -> None:
    found = rows(divide(net(), Vertical(("1",))))

    # edge0: the image and conv1's output, then that and its ReLU's. edge1: conv2's output, then that flat.
    assert found["edge0"] == Usage("edge0", CONV1, 0, 4 * 112, 4 * (256 + 256), 1.0)
    assert found["edge1"] == Usage("edge1", CONV2 + LINEAR, 0, WEIGHTS - 4 * 112, 4 * (384 + 384), 0.0)


def test_tiles_with_halo() -> None:
    """Four 4x4 tiles of conv2's output; each needs 5x5 of conv1's and 6x6 of the image."""
    found = rows(divide(net(), Data((2, 2), until="2")))
    tile = 25 * 4 * 27 + CONV2 // 4
    both = 4 * ((4 * 27 + 4) + (6 * 36 + 6))

    assert [device.macs for device in found.values()] == [tile + LINEAR, tile, tile, tile]
    # 5x5 tiles of conv1's 8x8 map overlap by 2: edge1 and edge2 share 5x2 with edge0, edge3 shares 16 with all.
    assert [device.recomputed_macs for device in found.values()] == [n * 4 * 27 for n in (0, 10, 10, 16)]
    assert [device.weight_bytes for device in found.values()] == [WEIGHTS, both, both, both]
    assert [device.raw_image for device in found.values()] == [1.0, 36 / 64, 36 / 64, 36 / 64]
    # A worker: its piece of the image and conv1's output. edge0: all of conv2's output twice, as a map and flat.
    assert {found[f"edge{i}"].memory_bytes for i in (1, 2, 3)} == {4 * (3 * 36 + 4 * 25)}
    assert found["edge0"].memory_bytes == 4 * (384 + 384)


def test_shares_of_channels() -> None:
    found = rows(divide(net(), Horizontal(), 2))

    assert [d.macs for d in found.values()] == [
        CONV1 // 2 + CONV2 // 2 + 384 * 2,
        CONV1 // 2 + CONV2 // 2 + 384 * 3,
    ]
    assert [d.weight_bytes for d in found.values()] == [
        4 * (2 * 28 + 3 * 37 + 2 * 385),
        4 * (2 * 28 + 3 * 37 + 3 * 385),
    ]
    assert [d.raw_image for d in found.values()] == [1.0, 1.0]


def test_shares_of_input_channels_give_a_worker_two_of_three_colours() -> None:
    found = rows(divide(net(), Horizontal("in_channels"), 2))

    assert found["edge1"].raw_image == pytest.approx(2 / 3)
    assert found["edge1"].macs == 64 * 4 * 2 * 9 + CONV2 // 2 + LINEAR // 2
    # Biases are added to the sums, by the first device alone.
    assert found["edge1"].weight_bytes == 4 * (4 * 2 * 9 + 6 * 2 * 9 + 192 * 5)


def test_shares_of_rows() -> None:
    found = rows(divide(net(), Horizontal("rows"), 2))

    assert found["edge1"].raw_image == 5 / 8
    assert found["edge1"].macs == CONV1 // 2 + CONV2 // 2 + 384 * 3


EVERY: list[tuple[Strategy, int]] = [
    (Vertical(), 3),
    (Horizontal(), 3),
    (Horizontal("in_channels"), 3),
    (Horizontal("in_channels", sums="scatter"), 2),
    (Horizontal("fused"), 2),
    (Horizontal("rows"), 3),
    (Horizontal(shares=(3, 1)), 2),
    (Data((2, 2), until="2"), 4),
    (Data((3, 2), until="1"), 6),
    (Data((2, 2), until="0"), 4),
]


@pytest.mark.parametrize(("strategy", "devices"), EVERY)
def test_macs_without_those_computed_again_are_the_models(strategy: Strategy, devices: int) -> None:
    found = usage(divide(net(), strategy, devices))

    assert sum(device.macs - device.recomputed_macs for device in found) == WHOLE
    assert sum(macs(op, net().input_shapes(op)) for op in net().ops) == WHOLE
    if not isinstance(strategy, Data):
        assert not any(device.recomputed_macs for device in found)
        assert sum(device.weight_bytes for device in found) >= WEIGHTS


def test_layers_that_every_device_runs_alike_are_computed_again_by_all_but_one() -> None:
    """All devices compute the ops after a layer whose own output is exchanged, but these cost no MACs."""
    found = usage(divide(net(), Horizontal(exchange="layer"), 2))

    assert sum(device.macs for device in found) == WHOLE
    assert [device.recomputed_macs for device in found] == [0, 0]


@pytest.mark.parametrize(
    ("strategy", "share"),
    # Below the first layer's lower half lie rows 8 to 16 of the image; two layers deep, columns 6 to 16.
    [(Horizontal(), 1), (Horizontal("rows"), 8 / 16), (Data((1, 2), until="2"), 10 / 16)],
)
def test_a_normalised_or_padded_image_is_still_the_image(strategy: Strategy, share: float) -> None:
    torch.manual_seed(0)
    layers = (nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 4, 3, padding=1))
    plain, normalised = (
        capture(nn.Sequential(*layers), torch.zeros(1, 3, 16, 16), mean=mean, std=mean)
        for mean in (None, [0.5, 0.5, 0.5])
    )

    found = [usage(divide(graph, strategy, 2))[1].raw_image for graph in (plain, normalised)]
    seen = [seen_on(divide(graph, strategy, 2), ("edge0", "edge1")).raw_image for graph in (plain, normalised)]

    assert [*found, *seen] == [share] * 4


def test_what_a_worker_returns_is_not_the_image() -> None:
    for device in ("edge1", "edge2"):
        assert seen_on(divide(net(), Horizontal(), 3), (device, "edge0")).raw_image == 0
