"""Every strategy on models that people use, at 64 pixels: equal to the whole model, whatever its branches."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

from cloven.graph.capture import capture
from cloven.graph.graph import Graph
from cloven.partition.compiler import compile  # noqa: A004
from cloven.partition.data import Data
from cloven.partition.division import Strategy
from cloven.partition.horizontal import Horizontal
from cloven.partition.vertical import Vertical
from cloven.runtime.check import compare
from cloven.zoo.datasets import load
from cloven.zoo.libraries import from_torchvision
from cloven.zoo.training import seeded

MODELS = ("resnet50", "efficientnet_b0", "mobilenet_v2", "densenet121", "googlenet", "shufflenet_v2_x1_0")
STRATEGIES: tuple[tuple[Strategy, tuple[int, ...]], ...] = (
    (Vertical(), (2, 3, 4, 8)),
    (Horizontal(), (2, 3, 4, 8)),
    (Horizontal(exchange="layer"), (2, 3, 4, 8)),
    (Horizontal("rows"), (2, 3, 4)),
    (Horizontal("columns"), (2, 3, 4)),
    (Horizontal(shares=(2, 1, 1, 0.5)), (4,)),
    (Data((1, 2)), (2,)),
    (Data((2, 2)), (4,)),
)


@cache
def settled(name: str) -> tuple[nn.Module, Graph]:
    """A model whose batch norms have seen photographs: its values are then of the size of a trained one's."""
    model = seeded(lambda: _settled(name), 0)
    return model.eval(), capture(model, torch.zeros(1, 3, 64, 64))


def _settled(name: str) -> nn.Module:
    model = from_torchvision(name, (3, 64, 64), 10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    with torch.no_grad():
        model.train()(load("photos", shape=(3, 64, 64), limit=64).tensor())
    return model


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("index", range(len(STRATEGIES)))
def test_every_strategy_computes_what_the_model_does(name: str, index: int) -> None:
    strategy, numbers = STRATEGIES[index]
    devices = numbers[(index + MODELS.index(name)) % len(numbers)]
    _, graph = settled(name)
    images = load("photos", shape=(3, 64, 64), limit=66).tensor()[64:]
    program = compile(graph, strategy, devices)

    found = compare(program, graph, images)

    assert found.equal, found.why()
    assert found.max_difference == 0 or not isinstance(strategy, Vertical)


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_is_the_model(name: str) -> None:
    model, graph = settled(name)
    images = load("photos", shape=(3, 64, 64), limit=66).tensor()[64:]
    with torch.inference_mode():
        expected = model(images)

    assert torch.equal(compile_and_run(graph, images), expected)


def compile_and_run(graph: Graph, images: torch.Tensor) -> torch.Tensor:
    from cloven.runtime.local import run

    return run(compile(graph, Vertical(), 1), images)


@pytest.mark.parametrize("devices", [2, 3])
@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x1_0"])
def test_partial_sums_differ_from_the_model_by_rounding_only(name: str, devices: int) -> None:
    """Partial sums add in another order; the bound is what float32 itself costs the whole model, times four."""
    model, graph = settled(name)
    images = load("photos", shape=(3, 64, 64), limit=66).tensor()[64:]
    program = compile(graph, Horizontal("in_channels"), devices)

    found = compare(program, graph, images)
    with torch.inference_mode():
        rounding = float(
            (compile_and_run(graph, images) - seeded(lambda: _double(model), 0)(images.double())).abs().max()
        )

    assert found.decided_differently == 0
    assert found.max_difference <= max(4 * rounding, found.bound)


def _double(model: nn.Module) -> nn.Module:
    from copy import deepcopy

    return deepcopy(model).double()


@pytest.mark.parametrize("devices", [2, 4])
def test_partial_sums_send_what_the_closed_formula_says(devices: int) -> None:
    """Reference requirements: input shares M(N - 1)/N to the workers, full-size sums K(N - 1) back to the first."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 36, 5))
    graph = capture(model, torch.zeros(1, 8, 6, 6))
    program = compile(graph, Horizontal("in_channels"), devices)

    sent = {"out": 0, "back": 0}
    for transfer in program.transfers:
        sent["out" if transfer.source == "edge0" else "back"] += transfer.bytes // 4

    assert sent["out"] == (8 * 36 + 12 * 36) * (devices - 1) // devices
    assert sent["back"] == (12 * 36 + 5) * (devices - 1)
    assert compare(program, graph, torch.rand(2, 8, 6, 6)).equal
