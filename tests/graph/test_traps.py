"""What others' captures and splits get wrong: each trap that was found is a test."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from cloven.errors import ClovenError
from cloven.graph.box import Box, covers, whole
from cloven.graph.capture import capture
from cloven.graph.cuts import Cut, cuts
from cloven.graph.graph import Graph, Op
from cloven.graph.ops import KINDS
from cloven.partition.compiler import compile  # noqa: A004
from cloven.partition.data import Data
from cloven.partition.division import Strategy
from cloven.partition.horizontal import Horizontal
from cloven.partition.program import Compute, Program, Receive, Send, Transfer
from cloven.partition.vertical import Vertical
from cloven.runtime.local import Recorder, run
from cloven.runtime.torch_engine import apply, evaluate, paste, weights
from cloven.zoo.libraries import torchvision

EVERY: tuple[tuple[Strategy, int], ...] = (
    (Vertical(), 2),
    (Horizontal(), 3),
    (Horizontal("in_channels"), 2),
    (Horizontal("fused"), 2),
    (Horizontal("rows"), 3),
    (Horizontal("columns"), 2),
    (Data((2, 2)), 4),
)


class Net(nn.Module):
    """Layers, and a function of them and of the images."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def captured(model: nn.Module, *shape: int) -> Graph:
    return capture(model, torch.zeros(1, *shape))


def output(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.as_tensor(model.eval()(images))


def divided_everyhow(model: nn.Module, graph: Graph, images: Tensor) -> None:
    """Every strategy computes what the model does: vertical to the bit, the others up to rounding."""
    expected = output(model, images)
    scale = max(1.0, float(expected.abs().max()))
    for strategy, devices in EVERY:
        made = run(compile(graph, strategy, devices), images)
        if isinstance(strategy, Vertical):
            assert torch.equal(made, expected)
        assert float((made - expected).abs().max()) <= 1e-5 * scale, strategy


# --- 1. the batch size crosses no cut -------------------------------------------------------------------------


@cache
def shufflenet() -> tuple[nn.Module, Graph]:
    """A ShuffleNet of three stages of two units each, and its graph."""
    torch.manual_seed(0)
    made = torchvision().models.ShuffleNetV2([2, 2, 2], [8, 16, 32, 64, 32], num_classes=5).eval()
    return made, captured(made, 3, 64, 64)


def carrying_one(found: list[Cut]) -> int:
    return sum(len(cut.tensors) == 1 for cut in found)


def single_of_fx(model: nn.Module) -> int:
    """The cuts of torch.fx that carry one value, which may be a size."""
    nodes = list(fx.symbolic_trace(model).graph.nodes)
    place = {node: i for i, node in enumerate(nodes)}
    live = (
        [n for n in nodes[: i + 1] if n.op != "get_attr" and any(place[user] > i for user in n.users)]
        for i in range(len(nodes) - 1)
    )
    return sum(len(values) == 1 for values in live)


def test_no_cut_of_a_shufflenet_carries_a_size_and_no_single_tensor_cut_is_lost() -> None:
    model, graph = shufflenet()
    found = cuts(graph)

    # Stem (5 values), cat and three views of the shuffle in each of 6 units, the last convolution's 3, the mean.
    assert carrying_one(found) == 5 + 6 * 4 + 3 + 1
    assert carrying_one(found) >= single_of_fx(model)
    assert max(len(cut.tensors) for cut in found) == 2
    assert all(op.shape and min(op.shape) >= 1 for op in graph.ops)


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_a_shuffle_of_channels_is_the_same_for_any_batch(batch: int) -> None:
    model, graph = shufflenet()
    images = torch.rand(batch, 3, 64, 64)

    assert torch.equal(run(compile(graph, Vertical(), 3), images), output(model, images))


def test_a_resnet_has_as_many_single_tensor_cuts_as_with_fx() -> None:
    model, graph = residual()

    assert carrying_one(cuts(graph)) == single_of_fx(model) == 12


# --- 3, 4, 7, 12: residual networks ---------------------------------------------------------------------------


@cache
def residual() -> tuple[nn.Module, Graph]:
    """A ResNet of two blocks, the second of which halves the sides; its activations and sums are in place."""
    from torchvision.models.resnet import BasicBlock  # noqa: TID253

    torch.manual_seed(0)
    made = torchvision().models.ResNet(BasicBlock, [1, 1, 0, 0], num_classes=5)
    made.layer3 = made.layer4 = nn.Identity()
    made.fc = nn.Linear(128, 5)
    with torch.no_grad():
        made.train()(torch.rand(8, 3, 32, 32))
    return made.eval(), captured(made, 3, 32, 32)
