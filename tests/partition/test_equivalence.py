"""A divided model computes the same as the whole one, and sends what its table of transfers lists."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cloven.graph.graph import Graph
from cloven.partition.compiler import Routing, divide
from cloven.partition.data import Data, tileable
from cloven.partition.division import everywhere
from cloven.partition.horizontal import Horizontal
from cloven.partition.program import Transfer
from cloven.partition.strategy import Strategy
from cloven.partition.vertical import Vertical
from cloven.runtime.capture import capture
from cloven.runtime.check import compare
from cloven.runtime.local import run
from cloven.zoo.models import build
from tests.partition.nets import (
    IMAGE,
    Dense,
    Excited,
    Halves,
    Inception,
    Next,
    Padded,
    Residual,
    drawn,
    networks,
    strategies,
    values_of,
)


@cache
def lenet(shape: tuple[int, int, int]) -> tuple[nn.Module, Graph]:
    torch.manual_seed(3)
    model = build("lenet5", shape=shape, classes=10).eval()
    return model, capture(model, torch.zeros(1, *shape), mean=[0.4] * shape[0], std=[0.3] * shape[0])


def whole(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.as_tensor(model((images - 0.4) / 0.3))


SHAPES = [(1, 28, 28), (3, 32, 32)]


@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data())
@settings(max_examples=60)
def test_every_plan_of_lenet5_computes_what_the_model_does(
    shape: tuple[int, int, int], data: st.DataObject
) -> None:
    model, graph = lenet(shape)
    strategy, devices = data.draw(strategies(graph))
    routing: Routing = data.draw(st.sampled_from(["direct", "star"]))
    images = torch.rand(3, *shape)
    sent: list[int] = []
    program = divide(graph, strategy, devices, routing=routing)

    made = run(program, images, tap=lambda transfer, tensor: sent.append(tensor.nbytes))
    expected = whole(model, images)

    if only_vertical(strategy):
        assert torch.equal(made, expected)
    assert torch.allclose(made, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))
    assert [n // len(images) for n in sent] == [t.bytes for t in program.transfers]


FIXED: dict[str, nn.Module] = {
    "squeeze and excite, option A": nn.Sequential(
        nn.ZeroPad2d((0, 2, 0, 0)), nn.Conv2d(2, 6, 3, padding=1), Excited(6, linear=True), Padded(6, 1),
        Excited(8, linear=False), Residual(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ),
    "dense, inception, ceil-mode pools": nn.Sequential(
        nn.ZeroPad2d((0, 1, 2, 0)), Dense(2, 3, 3), nn.MaxPool2d(3, 2, ceil_mode=True), Inception(11, 4),
        nn.AvgPool2d(2, 2, ceil_mode=True), nn.Flatten(), nn.Linear(11 * 16, 5),
    ),
    "shuffle, groups, dilation, larger maps": nn.Sequential(
        nn.Conv2d(2, 8, 3, stride=2, padding=2, dilation=2), nn.GroupNorm(4, 8), Halves(8), nn.SiLU(),
        nn.ConvTranspose2d(8, 8, 3, 2, padding=1, groups=2), nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(8, 16, 3, 2, padding=1, groups=8), nn.ChannelShuffle(4), nn.Conv2d(16, 4, 1),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 5),
    ),
    "linear layers over the channels of maps": nn.Sequential(
        nn.Conv2d(2, 6, 3, 2, padding=1), Next(6), nn.Conv2d(6, 4, 2, 2), Next(4),
        nn.ConvTranspose2d(4, 8, 3, 2, 1), nn.PixelShuffle(2), nn.InstanceNorm2d(2, affine=True),
        nn.Conv2d(2, 4, 3), Next(4), nn.AdaptiveAvgPool2d((3, 1)), nn.Flatten(), nn.Linear(12, 5),
    ),
}  # fmt: skip


@cache
def fixed(name: str) -> Graph:
    return capture(drawn(FIXED[name]), torch.zeros(1, *IMAGE))


@pytest.mark.parametrize("name", FIXED)
@given(data=st.data())
@settings(max_examples=100)
def test_every_plan_of_a_network_with_branches_computes_what_the_network_does(
    name: str, data: st.DataObject
) -> None:
    holds(fixed(name), data)


@given(networks(), st.data())
@settings(max_examples=12)
def test_every_plan_of_a_random_network_computes_what_the_network_does(
    model: nn.Module, data: st.DataObject
) -> None:
    graph = capture(drawn(model), torch.zeros(1, *IMAGE))
    for _ in range(6):
        holds(graph, data)


def holds(graph: Graph, data: st.DataObject) -> None:
    """Draw a plan and compare it with the whole model."""
    strategy, devices = data.draw(strategies(graph))
    routing: Routing = data.draw(st.sampled_from(["direct", "star"]))
    reuse = routing == "direct" or data.draw(st.booleans())
    images = torch.rand(2, *graph.input.shape, generator=torch.Generator().manual_seed(0))
    program = divide(graph, strategy, devices, routing=routing, reuse=reuse)

    found = compare(program, graph, images)

    assert found.equal, found.why()
    if only_vertical(strategy):
        assert found.max_difference == 0


def only_vertical(strategy: Strategy | tuple[Strategy, ...]) -> bool:
    """Return whether only whole layers are placed, so that the result equals the model's bit by bit."""
    stages = strategy if isinstance(strategy, tuple) else (strategy,)
    return all(isinstance(stage, Vertical) for stage in stages)


@pytest.mark.parametrize("devices", [2, 4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_horizontal_sends_what_the_closed_formula_says(shape: tuple[int, int, int], devices: int) -> None:
    """All-gather: each split layer's input M goes to all but its owners, M(N - 1); the output's slices to one."""
    _, graph = lenet(shape)
    program = divide(graph, Horizontal(), devices)
    inputs = ["pool1", "pool2", "flatten", "dense1"]

    def sent(value: str) -> int:
        return sum(t.bytes for t in program.transfers if t.value == graph.find(value)) // 4

    # Channels are fewer than devices in the first layer for 8: two devices then have no filter and need no input.
    busy = min(devices, 6)
    assert sent("normalise") == values_of(graph, "input") * (busy - 1)
    for value in inputs:
        assert sent(value) == values_of(graph, graph.find(value)) * (devices - 1)
    owned = program.owners[graph.output][program.devices[0]][0][0]
    assert sent(graph.output) == 10 - (owned[1] - owned[0])
    assert {t.value for t in program.transfers} == {"normalise", *map(graph.find, inputs), graph.output}


@pytest.mark.parametrize("shape", SHAPES)
def test_vertical_sends_just_the_tensors_of_its_cuts(shape: tuple[int, int, int]) -> None:
    _, graph = lenet(shape)
    program = divide(graph, Vertical(("conv2", "pool2", "flatten")))

    assert [(t.link, t.value) for t in program.transfers] == [
        (("edge0", "edge1"), graph.find("conv2")),
        (("edge1", "edge2"), graph.find("pool2")),
        (("edge2", "edge3"), graph.find("flatten")),
    ]


@pytest.mark.parametrize("grid", [(1, 2), (2, 2), (2, 4)])
def test_tiles_are_fetched_with_their_halo_and_nothing_else_crosses_before_the_last_tiled_layer(
    grid: tuple[int, int],
) -> None:
    _, graph = lenet((1, 28, 28))
    program = divide(graph, Data(grid, until="pool1"))
    devices = grid[0] * grid[1]

    inputs = [t for t in program.transfers if t.value == "input"]
    assert {t.value for t in program.transfers} == {"input", "pool1"}
    assert len(inputs) == devices - 1
    # pool1 halves, conv1 is 5x5: a tile of 14/n rows takes twice as many, and two more on each inner side.
    for transfer, device in zip(inputs, program.devices[1:], strict=True):
        ((_, (top, bottom), (left, right)),) = program.owners["pool1"][device]
        assert transfer.share == (
            (0, 1),
            (max(2 * top - 2, 0), min(2 * bottom + 2, 28)),
            (max(2 * left - 2, 0), min(2 * right + 2, 28)),
        )


def test_without_halo_only_the_tiles_themselves_cross_and_the_result_is_not_the_models() -> None:
    model, graph = lenet((1, 28, 28))
    program = divide(graph, Data((2, 2), until="pool2", halo="none"))
    images = torch.rand(5, 1, 28, 28)
    expected = whole(model, images)

    tiles = [t.share for t in program.transfers if t.value == "input"]
    assert tiles == [
        ((0, 1), (0, 14), (14, 28)),
        ((0, 1), (14, 28), (0, 14)),
        ((0, 1), (14, 28), (14, 28)),
    ]
    assert not program.exact
    assert float((run(program, images) - expected).abs().max()) > 1e-3
    found = compare(program, graph, images)
    assert not found.equal
    assert "its tiles have no halo" in found.why()


def test_without_halo_a_tile_is_the_model_on_an_image_that_is_zero_elsewhere() -> None:
    _, graph = lenet((1, 28, 28))
    program = divide(graph, Data((2, 2), until="pool2", halo="none"))
    images = torch.rand(2, 1, 28, 28)
    seen: dict[str, Tensor] = {}

    def keep(transfer: Transfer, tensor: Tensor) -> None:
        if transfer.value.startswith("pool2@"):
            seen[transfer.source] = tensor.clone()

    run(program, images, tap=keep)

    from cloven.runtime.torch_engine import evaluate

    masked = torch.zeros_like(images)
    masked[:, :, 14:, :14] = images[:, :, 14:, :14]
    alone = evaluate(graph, masked, [graph.find("pool2")])[graph.find("pool2")]
    assert torch.allclose(seen["edge2"], alone[:, :, 2:, :2], rtol=0, atol=1e-6)


def test_tiles_go_as_deep_as_it_pays() -> None:
    _, graph = lenet((1, 28, 28))
    chosen = divide(graph, Data((2, 2)))
    loads = {
        until: max(divide(graph, Data((2, 2), until=until)).macs(d) for d in chosen.devices)
        for until in tileable(everywhere(graph, 4), (2, 2))
    }

    assert max(chosen.macs(d) for d in chosen.devices) == min(loads.values())


@pytest.mark.parametrize("devices", [2, 3, 4, 8])
def test_balanced_cuts_leave_the_slowest_part_as_few_macs_as_any_choice_of_cuts(devices: int) -> None:
    from itertools import combinations

    _, graph = lenet((1, 28, 28))
    program = divide(graph, Vertical(), devices)
    layers = ["conv1", "conv2", "conv3", "dense1", "dense2"]
    whole_cost = [117600, 240000, 48000, 10080, 840]
    best = min(
        max(sum(whole_cost[a:b]) for a, b in zip((0, *cuts), (*cuts, len(layers)), strict=True))
        for n in range(min(devices, len(layers)))
        for cuts in combinations(range(1, len(layers)), n)
    )

    assert max(program.macs(d) for d in program.devices) == best
    assert len(program.devices) == devices
