"""Fused tiles: what they compute twice and need of the image, against a closed form that knows only windows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from cloven.graph.box import count, hull, whole
from cloven.graph.graph import Graph
from cloven.graph.ops import macs
from cloven.partition.compiler import divide
from cloven.partition.data import Data
from cloven.partition.program import Compute, Program
from cloven.partition.usage import usage
from cloven.runtime.capture import capture
from cloven.runtime.check import compare
from cloven.zoo.libraries import torchvision

GRIDS = ((2, 2), (5, 5))


class Measured(NamedTuple):
    """The cost of tiles as a multiple of the undivided layers' MACs, and of the image."""

    macs: float
    image: float


def measured(graph: Graph, until: str, grid: tuple[int, int]) -> Measured:
    """Of a compiled program."""
    program = divide(graph, Data(grid, until=until))
    prefix = graph.ops[: graph.position[graph.find(until)] + 1]
    alone = sum(macs(op, graph.input_shapes(op)) for op in prefix)
    names = {op.name for op in prefix}
    steps = [s for part in program.parts.values() for s in part if isinstance(s, Compute)]
    image = sum(count(part) for part in pieces(program))
    return Measured(sum(s.macs for s in steps if s.value in names) / alone, image / count(whole(graph.input.shape)))


def pieces(program: Program) -> list[tuple[tuple[int, int], ...]]:
    """The part of the image that each device reads."""
    read = (
        [need for step in part if isinstance(step, Compute) for value, need in step.reads if value == "input"]
        for part in program.parts.values()
    )
    return [hull(needs) for needs in read]


# --- VGG-16 ---------------------------------------------------------------------------------------------------

VGG = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""The channels of each 3x3 convolution of VGG-16; 0 is a 2x2 pool."""


@cache
def vgg() -> Graph:
    """All of VGG-16 but its three linear layers."""
    torch.manual_seed(0)
    layers: list[tuple[str, nn.Module]] = []
    channels, pools = 3, 0
    for outputs in VGG:
        if outputs:
            number = len(layers)
            layers += [(f"conv{number}", nn.Conv2d(channels, outputs, 3, padding=1)), (f"relu{number}", nn.ReLU())]
            channels = outputs
        else:
            pools += 1
            layers.append((f"pool{pools}", nn.MaxPool2d(2)))
    head = [("mean", nn.AdaptiveAvgPool2d(1)), ("flat", nn.Flatten())]
    return capture(nn.Sequential(OrderedDict([*layers, *head])), torch.zeros(1, 3, 224, 224))


class Window(NamedTuple):
    """A layer along one axis; ``cost`` is how many MACs one number of one channel map costs (0 for a pool)."""

    kernel: int
    stride: int
    pad: int
    cost: int


def closed_form(windows: Sequence[Window], side: int, grid: tuple[int, int]) -> Measured:
    """The same by hand: from the last map back, an interval grows by its window and is clipped at the border.

    Rows and columns are independent, so that each layer's tiles together hold (sum of rows) x (sum of columns).
    """
    sides = [side]
    for window in windows:
        sides.append((sides[-1] + 2 * window.pad - window.kernel) // window.stride + 1)
    last = sides[-1]
    sums = []  # for each axis, how many rows all bands have of each map, the last map first
    for parts in grid:
        bands = [(i * last // parts, (i + 1) * last // parts) for i in range(parts)]
        rows = [last]
        for window, above in zip(reversed(windows), reversed(sides[:-1]), strict=True):
            bands = [
                (
                    max(lo * window.stride - window.pad, 0),
                    min((hi - 1) * window.stride - window.pad + window.kernel, above),
                )
                for lo, hi in bands
            ]
            rows.append(sum(hi - lo for lo, hi in bands))
        sums.append(rows)
    held = [a * b for a, b in zip(*sums, strict=True)][::-1]  # of the image, then of each layer's output
    cost = sum(window.cost * area for window, area in zip(windows, held[1:], strict=True))
    once = sum(window.cost * size * size for window, size in zip(windows, sides[1:], strict=True))
    return Measured(cost / once, held[0] / side**2)


def vgg_windows(pools: int) -> list[Window]:
    found, channels = [], 3
    for outputs in VGG:
        found.append(Window(3, 1, 1, 9 * channels * outputs) if outputs else Window(2, 2, 0, 0))
        channels = outputs or channels
        pools -= not outputs
        if pools == 0:
            break
    return found


@pytest.mark.parametrize(
    ("pool", "published"),
    [
        (2, (Measured(1.04, 1.11), Measured(1.16, 1.47))),
        (3, (Measured(1.16, 1.35), Measured(1.76, 2.70))),
        (5, (Measured(2.59, 3.25), Measured(10.2, 13.9))),
    ],
)
def test_tiles_of_vgg16_compute_and_need_no_more_than_their_windows(
    pool: int, published: tuple[Measured, Measured]
) -> None:
    for grid, expected in zip(GRIDS, published, strict=True):
        found = measured(vgg(), f"pool{pool}", grid)

        assert found == pytest.approx(closed_form(vgg_windows(pool), 224, grid))
        assert found == pytest.approx(expected, rel=6e-3)


@pytest.mark.parametrize("pool", [1, 4])
@pytest.mark.parametrize("grid", [(1, 3), (3, 2), (1, 1)])
def test_any_grid_of_vgg16_is_the_closed_form(pool: int, grid: tuple[int, int]) -> None:
    assert measured(vgg(), f"pool{pool}", grid) == pytest.approx(closed_form(vgg_windows(pool), 224, grid))


def test_what_usage_calls_computed_again_is_what_the_closed_form_has_too_much() -> None:
    graph = vgg()
    program = divide(graph, Data((2, 2), until="pool3"))
    alone = sum(macs(op, graph.input_shapes(op)) for op in graph.ops[: graph.position["pool3"] + 1])

    again = sum(device.recomputed_macs for device in usage(program))

    assert 1 + again / alone == pytest.approx(closed_form(vgg_windows(3), 224, (2, 2)).macs)


# --- ResNet-50 ------------------------------------------------------------------------------------------------


@cache
def resnet() -> Graph:
    """ResNet-50 up to the first block of its third stage."""
    models = torchvision().models
    torch.manual_seed(0)
    model = models.ResNet(models.resnet.Bottleneck, [3, 4, 1, 0], num_classes=5)
    model.layer4, model.fc = nn.Sequential(), nn.Linear(1024, 5)
    return capture(model, torch.zeros(1, 3, 224, 224))


STEM = [Window(7, 2, 3, 49 * 3 * 64), Window(3, 2, 1, 0)]


def bottleneck(inputs: int, inner: int, outputs: int) -> list[Window]:
    """The long way through a block at stride 1; a projection on the short way costs where its sum is."""
    projection = inputs * outputs if inputs != outputs else 0
    return [
        Window(1, 1, 0, inputs * inner),
        Window(3, 1, 1, 9 * inner * inner),
        Window(1, 1, 0, inner * outputs + projection),
    ]


STAGE = [*bottleneck(64, 64, 256), *bottleneck(256, 64, 256), *bottleneck(256, 64, 256)]


@pytest.mark.parametrize(
    ("until", "windows", "published"),
    [
        ("maxpool", STEM, (Measured(1.02, 1.06), Measured(1.07, 1.27))),
        ("layer1", [*STEM, *STAGE], None),
        (
            "layer2.0.conv1",
            [*STEM, *STAGE, Window(1, 1, 0, 256 * 128)],
            (Measured(1.10, 1.30), Measured(1.44, 2.41)),
        ),
    ],
)
def test_tiles_of_resnet50_compute_and_need_no_more_than_their_windows(
    until: str, windows: list[Window], published: tuple[Measured, Measured] | None
) -> None:
    """The published tiles of ``layer2.0`` end at its first convolution, before the block halves the sides."""
    for number, grid in enumerate(GRIDS):
        found = measured(resnet(), until, grid)

        assert found == pytest.approx(closed_form(windows, 224, grid))
        if published:
            assert found == pytest.approx(published[number], rel=6e-3)


@pytest.mark.slow
def test_tiles_of_resnet50_deeper_cost_what_is_published() -> None:
    found = [measured(resnet(), "layer3.0.conv1", grid) for grid in GRIDS]

    assert found[0] == pytest.approx(Measured(1.43, 1.88), rel=6e-3)
    assert found[1] == pytest.approx(Measured(3.28, 6.05), rel=6e-3)


@pytest.mark.slow
def test_a_tile_of_the_whole_block_needs_more_of_the_image_than_up_to_its_first_convolution() -> None:
    """layer2.0 halves the sides in a 3x3 convolution: a half needs 28 or 29 of 56 rows; the short way no more."""
    windows = [*STEM, *STAGE, Window(1, 1, 0, 0), Window(3, 2, 1, 0), Window(1, 1, 0, 0)]
    for grid in GRIDS:
        bound = closed_form([w._replace(cost=1) for w in windows], 224, grid).image
        assert measured(resnet(), "layer2.0", grid).image == pytest.approx(bound)


# --- what crosses besides the image ---------------------------------------------------------------------------


class Gated(nn.Module):
    """A squeeze-and-excite between two convolutions."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, channels, 3, padding=1)
        self.gate = torchvision().ops.SqueezeExcitation(channels, 4)
        self.two = nn.Conv2d(channels, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.two(self.gate(torch.relu(self.one(x)))).mean((2, 3)))
        return logits


@cache
def gated() -> Graph:
    torch.manual_seed(0)
    return capture(Gated().eval(), torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize("grid", [(1, 2), (2, 2), (3, 2)])
def test_of_a_squeeze_and_excite_only_sums_and_the_gate_cross(grid: tuple[int, int]) -> None:
    graph, workers, channels = gated(), grid[0] * grid[1] - 1, 8
    program = divide(graph, Data(grid, until="two"))
    gate = [op.name for op in graph.ops if op.module.startswith("gate") and op.shape == (channels, 1, 1)][-1]

    inside = [t for t in program.transfers if t.value not in ("input", "two")]
    sums = [t for t in inside if t.target == "edge0"]
    gates = [t for t in inside if t.source == "edge0"]
    assert len(inside) == len(sums) + len(gates) == 2 * workers
    assert {t.value for t in sums} == {f"gate.avgpool.partial@{i + 1}" for i in range(workers)}
    assert {t.value for t in gates} == {gate}
    assert {t.shape for t in inside} == {(channels, 1, 1)}
    assert sum(t.bytes for t in inside) == 2 * workers * channels * 4
    found = compare(program, graph, torch.rand(3, 3, 16, 16))
    assert found.equal, found.why()


def test_the_sums_of_a_gate_are_over_each_devices_own_tile_not_its_halo() -> None:
    program = divide(gated(), Data((2, 2), until="two"))
    taken = [op.attrs["box"] for op in program.graph.ops if op.kind == "partial"]

    assert sum(count(box) for box in taken) == 8 * 16 * 16
    assert [box[1:] for box in taken] == list(product([(0, 8), (8, 16)], repeat=2))
    # Yet each computes one row and one column more of what the sum is over, for the convolution behind the gate.
    (source,) = {op.inputs[0] for op in program.graph.ops if op.kind == "partial"}
    assert {count(box) for share in program.owners[source].values() for box in share} == {8 * 9 * 9}


class Shuffled(nn.Module):
    """Channels are shuffled between two convolutions in groups, and halves of them go two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.Conv2d(4, 4, 3, padding=1)
        self.shuffle = nn.ChannelShuffle(4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.shuffle(self.one(x)).chunk(2, 1)
        return torch.cat([a, self.two(b)], 1)


def test_a_shuffle_of_channels_inside_tiles_sends_nothing() -> None:
    torch.manual_seed(0)
    graph = capture(Shuffled(), torch.zeros(1, 4, 12, 12))
    program = divide(graph, Data((2, 3), until=graph.output))

    assert "permute" in {op.kind for op in graph.ops}
    assert {t.value for t in program.transfers} == {"input", graph.output}
    # Two 3x3 windows: two rows and columns more on every inner side.
    assert {t.shape for t in program.transfers if t.value == "input"} == {(4, 8, 8), (4, 8, 6)}
    found = compare(program, graph, torch.rand(3, 4, 12, 12))
    assert found.equal, found.why()


class Block(nn.Module):
    """A residual block that halves the sides, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.one, self.two = nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.short = nn.Conv2d(4, 8, 1, 2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = self.two(torch.relu(self.one(x))) + self.short(x)
        logits: Tensor = self.head(torch.relu(y).mean((2, 3)))
        return logits


@pytest.mark.parametrize(
    ("until", "crossing"),
    [("one", {"one", "relu"}), ("two", {"two", "relu"}), ("short", {"two", "short"}), ("add", {"add"})],
)
@pytest.mark.parametrize("grid", [(2, 2), (1, 4)])
def test_a_grid_may_end_inside_a_residual_block(until: str, crossing: set[str], grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    graph = capture(Block(), torch.zeros(1, 3, 16, 16))
    program = divide(graph, Data(grid, until=until))
    after = [t for t in program.transfers if t.value != "input"]

    assert {t.value for t in after} == crossing
    # All of a map but the first device's tile comes to the first device, each number once.
    for value in crossing:
        size = count(whole(graph.by_name[value].shape))
        held = sum(count(box) for box in program.owners[value]["edge0"])
        assert sum(t.bytes for t in after if t.value == value) == 4 * (size - held)
    found = compare(program, graph, torch.rand(3, 3, 16, 16))
    assert found.equal, found.why()
