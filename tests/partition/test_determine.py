"""Relations between observations: the graph determines, box by box, which one follows from another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cloven.graph.box import whole
from cloven.graph.graph import Graph
from cloven.partition.compiler import divide
from cloven.partition.data import Data
from cloven.partition.determine import determines, ops_behind
from cloven.partition.horizontal import Horizontal
from cloven.partition.observe import Observation, Seen, seen_on
from cloven.partition.transform import Transform
from cloven.partition.vertical import Vertical
from cloven.runtime.capture import capture


class Skipping(nn.Module):
    """Two convolutions, and a way around the second."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.dense = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        x = x + self.b(x)
        logits: Tensor = self.dense(x.mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    return capture(Skipping(), torch.zeros(1, 1, 12, 12))


def seen(graph: Graph, *values: str, transform: str = "none") -> Observation:
    names = [graph.find(value) for value in values]
    parts = tuple(Seen(n, whole(graph.by_name[n].shape), transform=Transform.parse(transform)) for n in names)
    return Observation(parts, "full", True, (), graph)


def test_the_shallower_determines_the_deeper_and_not_the_other_way(graph: Graph) -> None:
    assert determines(seen(graph, "a"), seen(graph, "b"))
    assert determines(seen(graph, "a"), seen(graph, "dense"))
    assert not determines(seen(graph, "b"), seen(graph, "a"))
    assert not determines(seen(graph, "dense"), seen(graph, "b"))
    assert determines(seen(graph, "a"), seen(graph, "a"))


def test_a_way_around_breaks_it(graph: Graph) -> None:
    """The sum behind b needs what goes around it too."""
    relu = graph.by_name[graph.find("b")].inputs[0]
    around = Observation((Seen(relu, whole(graph.by_name[relu].shape)),), "full", True, (), graph)

    assert not determines(seen(graph, "b"), seen(graph, "dense"))
    assert determines(around, seen(graph, "dense"))


def test_a_share_determines_what_its_boxes_reach(graph: Graph) -> None:
    value = graph.find("a")

    def rows(name: str, low: int, high: int) -> Observation:
        return Observation((Seen(name, ((0, 4), (low, high), (0, 12))),), "full", True, (), graph)

    deeper = graph.find("b")
    assert determines(rows(value, 0, 7), rows(deeper, 0, 6))
    assert not determines(rows(value, 0, 6), rows(deeper, 0, 6))  # the halo is missing
    assert not determines(rows(value, 0, 7), seen(graph, "b"))


def test_what_was_rounded_or_never_seen_determines_nothing(graph: Graph) -> None:
    nothing = Observation((), "full", False, (), graph)

    assert not determines(seen(graph, "a", transform="int8"), seen(graph, "b"))
    assert determines(seen(graph, "a"), seen(graph, "b", transform="int8"))
    assert not determines(nothing, seen(graph, "b"))
    assert determines(seen(graph, "a"), nothing)


def test_observations_of_different_plans_of_one_model_compare(graph: Graph) -> None:
    vertical = seen_on(divide(graph, Vertical(("a",)), 2), ("edge0", "edge1"))
    horizontal = divide(graph, Horizontal(), 2)
    tiles = divide(graph, Data((1, 2)), 2)
    image = seen_on(horizontal, ("edge0", "edge1"))

    assert determines(image, vertical)  # horizontal sends the image itself
    assert not determines(vertical, image)
    assert not determines(seen_on(tiles, ("edge0", "edge1")), vertical)  # half of the image, with halo


def test_a_deep_model_is_no_trouble() -> None:
    deep = capture(nn.Sequential(*[nn.Conv2d(1, 1, 1) for _ in range(120)], nn.Flatten()), torch.zeros(1, 1, 4, 4))

    assert determines(seen(deep, "0"), seen(deep, "119"))
    assert not determines(seen(deep, "119"), seen(deep, "0"))


def test_the_output_follows_from_all_of_a_layer_and_from_no_part_of_it(graph: Graph) -> None:
    a, output = graph.find("a"), graph.output

    def part(low: int, high: int) -> Seen:
        return Seen(a, ((low, high), (0, 12), (0, 12)))

    halves = Observation((part(0, 3), part(2, 4)), "full", True, (), graph)
    behind = ops_behind(seen(graph, "a"))
    assert behind is not None
    assert output in behind
    assert a not in behind
    assert ops_behind(halves) == behind
    assert ops_behind(seen(graph, "dense")) == frozenset()
    assert ops_behind(Observation((part(0, 3),), "full", True, (), graph)) is None
    assert ops_behind(seen(graph, "b")) is None, "the sum behind b needs what goes around it too"
    assert ops_behind(Observation((), "full", True, (), graph)) is None
