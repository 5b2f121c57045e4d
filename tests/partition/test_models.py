"""Every strategy on common models at 64 pixels: equal to the whole model, whatever its branches.

Here are the models that are a chain, or add; those that concatenate are in ``test_models_that_concatenate``.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from benchmarks.equivalence import CASES, images, settled
from torch import nn

from cloven.partition.compiler import divide
from cloven.partition.data import Data
from cloven.partition.horizontal import Horizontal
from cloven.partition.vertical import Vertical
from cloven.runtime.capture import capture
from cloven.runtime.check import compare
from cloven.runtime.local import run
from tests.partition.product import SIZE, every_strategy, holds

MODELS = ("lenet5", "resnet20", "mobilenet_v1", "mobilenet_v2")
LARGE = ("resnet50", "resnet56", "efficientnet_b0")


@pytest.mark.slow
@pytest.mark.parametrize(("model", "case", "devices"), every_strategy(LARGE))
def test_every_strategy_computes_what_a_large_model_does(model: str, case: int, devices: int) -> None:
    holds(model, case, devices)


@pytest.mark.parametrize(("model", "case", "devices"), every_strategy(MODELS))
def test_every_strategy_computes_what_the_model_does(model: str, case: int, devices: int) -> None:
    holds(model, case, devices)


@pytest.mark.parametrize("model", MODELS)
def test_the_graph_is_the_model(model: str) -> None:
    module, graph = settled(model, SIZE)
    some = images(model, SIZE, 2)
    with torch.inference_mode():
        expected = module(some)

    assert torch.equal(run(divide(graph, Vertical(), 1), some), expected)


@pytest.mark.parametrize("model", MODELS)
def test_what_is_missing_from_a_map_is_more_than_what_counts_as_rounding(model: str) -> None:
    """The comparison can fail: it detects tiles whose neighbours' rows are zero."""
    _, graph = settled(model, SIZE)
    program = divide(graph, Data((1, 2), halo="none"))

    found = compare(replace(program, halo=True), graph, images(model, SIZE, 2))

    assert found.max_difference > 10 * found.bound
    assert not found.equal


def test_what_counts_as_rounding_is_what_the_model_itself_loses() -> None:
    """Partial sums add in another order; beyond 1e-5, four times float32's own error is the bound."""
    module, graph = settled("mobilenet_v2", SIZE)
    some = images("mobilenet_v2", SIZE, 2)
    found = compare(divide(graph, Horizontal("in_channels"), 3), graph, some)
    with torch.inference_mode():
        whole = module(some)
        exact = module.double()(some.double())
    module.float()

    assert found.max_difference > 1e-5 * float(whole.abs().max())
    assert found.rounding == pytest.approx(float((whole - exact).abs().max()), rel=1e-6)
    assert found.rounding is not None
    assert found.bound == 4 * found.rounding
    assert found.equal


def test_every_number_of_devices_of_every_strategy_has_its_turn() -> None:
    drawn = {(CASES[p.values[1]].title, p.values[2]) for p in every_strategy((*MODELS, *LARGE))}

    assert drawn == {(case.title, number) for case in CASES for number in case.numbers}


@pytest.mark.parametrize("devices", [2, 4])
def test_partial_sums_send_what_the_closed_formula_says(devices: int) -> None:
    """Input shares M(N - 1)/N go to the workers, and full-size sums K(N - 1) back to the first device."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 36, 5))
    graph = capture(model, torch.zeros(1, 8, 6, 6))
    program = divide(graph, Horizontal("in_channels"), devices)

    sent = {"out": 0, "back": 0}
    for transfer in program.transfers:
        sent["out" if transfer.source == "edge0" else "back"] += transfer.bytes // 4

    assert sent["out"] == (8 * 36 + 12 * 36) * (devices - 1) // devices
    assert sent["back"] == (12 * 36 + 5) * (devices - 1)
    assert compare(program, graph, torch.rand(2, 8, 6, 6)).equal
