"""A small trained model and images, for audits that take a second."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from cloven.graph.graph import Graph
from cloven.partition.compiler import divide
from cloven.partition.observe import Observation, seen_on
from cloven.partition.program import Program
from cloven.partition.vertical import Vertical
from cloven.runtime.capture import capture
from cloven.zoo.datasets import load
from cloven.zoo.images import Images, split
from cloven.zoo.training import fit, seeded


@dataclass(frozen=True, eq=False)
class Small:
    """LeNet-5 on digits, cut in two places."""

    graph: Graph
    program: Program
    training: Images
    victims: Images
    auxiliary: Images

    def seen(self, link: int = 0) -> Observation:
        return seen_on(self.program, (f"edge{link}", f"edge{link + 1}"))


@cache
def small() -> Small:
    from cloven.zoo.models import build

    training, _, test = split(load("digits", limit=900), seed=0)
    model = seeded(lambda: build("lenet5", shape=(1, 28, 28), classes=10), 0)
    fit(model, training, epochs=6, seed=0)
    graph = capture(model, torch.zeros(1, 1, 28, 28))
    program = divide(graph, Vertical(("conv1", "conv2")), 3)
    return Small(graph, program, training, test.take(range(60)), load("photos", shape=(1, 28, 28), limit=120))
