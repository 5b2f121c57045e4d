"""Every strategy on models whose blocks concatenate or shuffle, and on VGG-16, whose linear layers are large."""

from __future__ import annotations

import pytest
import torch
from benchmarks.equivalence import images, settled

from cloven.partition.compiler import divide
from cloven.partition.vertical import Vertical
from cloven.runtime.local import run
from tests.partition.product import SIZE, every_strategy, holds

MODELS, LARGE = ("shufflenet_v2_x1_0",), ("googlenet", "densenet121", "vgg16")


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
