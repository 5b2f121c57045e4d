"""Compute what the divisions of the paper's models send, and the sizes of the decoders in its Table 2.

    python -m benchmarks.s1_divisions > docs/papers/s1/divisions.json

Nothing is trained or attacked: the numbers follow from the shapes of the models' tensors alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

import torch

from cloven.documents import Document
from cloven.graph.box import Shape
from cloven.graph.graph import Graph
from cloven.papers.s1.capacity import parameters
from cloven.papers.s1.experiments import hybrids
from cloven.papers.s1.setup import DEVICES, layers_of
from cloven.papers.s1.table2 import CIFAR, LENET, MNIST, MOBILENET, PHOTO, RESNET, TABLE_2
from cloven.partition import plan as plans
from cloven.partition.compiler import divide
from cloven.partition.data import Data
from cloven.partition.division import device_names
from cloven.partition.horizontal import Horizontal
from cloven.partition.observe import seen_on, slices_of
from cloven.partition.plan import Plan
from cloven.partition.program import Program
from cloven.partition.strategy import Strategy
from cloven.partition.vertical import Vertical, further
from cloven.runtime.capture import capture
from cloven.zoo.named import make

MODELS: tuple[tuple[str, tuple[int, int, int]], ...] = (
    (MOBILENET, PHOTO),
    (RESNET, PHOTO),
    (f"{MOBILENET}_0.75", CIFAR),
    (RESNET, CIFAR),
    (LENET, MNIST),
    (LENET, CIFAR),
)
"""The paper's models at its image sizes, and those of the desk scale."""

OTHERS: Mapping[str, Strategy] = {
    "horizontal": Horizontal(),
    "horizontal, exchange layer": Horizontal(exchange="layer"),
    "data": Data(),
    "data, no halo": Data(halo="none"),
}
"""Some of the divisions, by name; without a name for it, the exchange is local and the halo exact."""


class CrossingSlices(Document):
    """The number of slices of one of the paper's layers, and of those that a link carries whole."""

    layer: str
    slices: int
    sent: int


class SentRow(Document):
    """A divided model: the bytes for one image on all links, and on the link that carries most.

    ``image_least`` and ``image_most`` are the shares of the image's pixels on the links that carry some of them, 0
    if none does. ``slices`` is empty for divisions with tiles and for hybrids, in which the paper counts no slices.
    """

    model: str
    image: Shape
    division: str
    devices: int
    bytes: int
    busiest: int
    image_least: float
    image_most: float
    slices: tuple[CrossingSlices, ...]


class DecoderSize(Document):
    """A decoder of Table 2: the layer that it attacks, and the number of its weights."""

    model: str
    image: Shape
    layer: str
    weights: int


class DivisionsTable(Document):
    """The divisions of each model, and the decoders."""

    sent: tuple[SentRow, ...]
    decoders: tuple[DecoderSize, ...]


def programs(model: str, graph: Graph) -> Iterator[tuple[str, Program]]:
    """Yield the name and the program of each division of a model."""
    yield "vertical", divide(graph, Vertical(further(graph, list(layers_of(model)), DEVICES)), DEVICES)
    for name, strategy in OTHERS.items():
        yield name, divide(graph, strategy, DEVICES)
    for name, division in hybrids(model).items():
        plan = Plan.model_validate({"devices": device_names(DEVICES), **division}, strict=False)
        yield name, plans.compile(graph, plan)


def rows(model: str, image: tuple[int, int, int]) -> Iterator[SentRow]:
    """Yield a row for each division of a model for images of a shape (C, H, W)."""
    graph = capture(make(model, shape=image, classes=10), torch.zeros(1, *image))
    for name, program in programs(model, graph):
        counted = layers_of(model) if name.startswith(("vertical", "horizontal")) else {}
        shares = [share for link in program.links if (share := seen_on(program, link).raw_image)]
        sizes = [sum(t.bytes for t in program.transfers if t.link == link) for link in program.links]
        yield SentRow(
            model=model,
            image=image,
            division=name,
            devices=DEVICES,
            bytes=sum(sizes),
            busiest=max(sizes),
            image_least=min(shares, default=0.0),
            image_most=max(shares, default=0.0),
            slices=tuple(_slices(program, path, label) for path, label in counted.items()),
        )


def _slices(program: Program, path: str, label: str) -> CrossingSlices:
    seen = list(slices_of(program, path))
    return CrossingSlices(layer=label, slices=len(seen), sent=sum(one.crosses for one in seen))


def decoders() -> Iterator[DecoderSize]:
    """Yield the size of each decoder of Table 2."""
    for row in TABLE_2:
        weights = parameters(row.chain(row.captured, row.image))
        yield DecoderSize(model=row.model, image=row.image, layer=f"Layer {row.number}", weights=weights)


def main() -> None:
    """Print the document."""
    sent = [row for model, image in MODELS for row in rows(model, image)]
    sys.stdout.write(DivisionsTable(sent=tuple(sent), decoders=tuple(decoders())).text())


if __name__ == "__main__":
    main()
