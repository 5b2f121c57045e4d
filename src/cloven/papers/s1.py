"""The first paper: its layer names, its decoders, what it expects.

S1: Mehrafrooz, Siyadatzaadeh, Mentens, Stefanov, "A Security Analysis of CNN Partitioning Strategies for
Distributed Inference at the Edge".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from cloven.attack.layers import Chain, Conv, ConvT, ReLU, Up, View
from cloven.audit.summary import Expectation
from cloven.graph.box import Shape
from cloven.papers.points import MOBILENETS
from cloven.papers.points import resolve as resolve

COLLECTED: Mapping[str, tuple[int, ...]] = {
    "lenet5": (2, 3, 5),
    **dict.fromkeys(MOBILENETS, (2, 33, 72)),
    "torchvision:resnet50": (2, 33, 42),
}
"""The layers at which S1 listens, by their numbers (Sect. 5.2)."""

DEVICES = 4
"""The devices of S1's main experiment (Sect. 5.2)."""


def layers_of(model: str) -> dict[str, str]:
    """S1's collection points of a model, as module path -> label; empty for a model that S1 does not have."""
    return {resolve(model, f"s1:{number}"): f"Layer {number}" for number in COLLECTED.get(model, ())}


DECISIONS = (
    "S1 leaves open and this audit decides: mean squared error, learning rate 1e-3, batches of 64, "
    "nearest-neighbour enlarging; reconstructions are clipped to [0, 1] and rounded to 8 bits before the CNN "
    "sees them.",
    "S1 gives no decoder for horizontal slices: a slice takes its layer's decoder with fewer input channels.",
)


@dataclass(frozen=True)
class Row:
    """One row of Table 2: where it listens, what it gets (C, H, W), the image, and whether it had to be mended."""

    layer: str
    captured: Shape
    image: Shape
    mended: str = ""

    def chain(self, captured: Shape) -> Chain:
        """The row's layers for what is captured: a slice of the map takes the same chain with fewer channels.

        A vector is given the height and width of the row's map, channels first.
        """
        if len(captured) == 3:
            return _chain(self.layer, self.image, captured[0])
        _, height, width = self.captured
        channels = captured[0] // (height * width)
        return (View(channels, height, width), *_chain(self.layer, self.image, channels))


def _chain(layer: str, image: Shape, channels: int) -> Chain:
    colours, up = image[0], Up(image[1], image[2])
    if layer in ("input", "conv2"):
        hidden = 16 if (layer, colours) == ("input", 3) else 8
        return (up, Conv(channels, hidden), ReLU(), Conv(hidden, colours))
    if layer == "pool2":
        return (ConvT(channels, 16), ReLU(), up, Conv(16, 8), ReLU(), Conv(8, colours))
    if colours == 1:
        # The first is Table 2's ConvT(120, 64, 4, 2, 1), with five arguments.
        first = (ConvT(channels, 64, 4, 2, 1, 0), ReLU(), ConvT(64, 32), ReLU(), ConvT(32, 16), ReLU())
        return (*first, ConvT(16, 8), ReLU(), up, Conv(8, 1))
    doubled = [part for a, b in pairwise((channels, 60, 30, 15, 8)) for part in (ConvT(a, b), ReLU())]
    return (*doubled, Conv(8, 3))


MENDED = (
    "Table 2's row for LeNet-5 on CIFAR-10, Layer 5, ends at 16x16 and its last convolution expects 8 channels "
    "where 15 arrive; one ConvT(15,8) with its ReLU is put in before it, which mends both."
)

TABLE_2: tuple[Row, ...] = (
    Row("input", (3, 16, 16), (3, 32, 32)),
    Row("conv2", (16, 12, 12), (3, 32, 32)),
    Row("pool2", (16, 6, 6), (3, 32, 32)),
    Row("flatten", (120, 2, 2), (3, 32, 32), MENDED),
    Row("input", (1, 14, 14), (1, 28, 28)),
    Row("conv2", (16, 10, 10), (1, 28, 28)),
    Row("pool2", (16, 5, 5), (1, 28, 28)),
    Row("flatten", (120, 1, 1), (1, 28, 28)),
)
"""The eight rows of Table 2 for LeNet-5."""

MODEL = "lenet5"
"""The model of these rows."""


def row_for(model: str, layer: str, image: Shape) -> Row | None:
    """Table 2's row for a layer (a module path, or ``input`` for a tile), or None."""
    if model != MODEL:
        return None
    return next((row for row in TABLE_2 if row.layer == layer and row.image == image), None)


def decoder(model: str) -> Callable[[str, Shape, Shape], Chain | None]:
    """Table 2 for a model: a function of the layer, what is captured there and the image; None without a row."""

    def chain(layer: str, captured: Shape, image: Shape) -> Chain | None:
        row = row_for(model, layer, image)
        return None if row is None else row.chain(captured)

    return chain


def notes(model: str, image: Shape) -> tuple[str, ...]:
    """What was done otherwise than S1 prints it, or had to be decided."""
    mended = tuple(row.mended for row in TABLE_2 if model == MODEL and row.image == image and row.mended)
    return (*mended, *DECISIONS)


def expectations(model: str) -> tuple[Expectation, ...]:
    """S1-42 to S1-44 for a model: S1's order of the strategies, and its order of the layers."""
    points = list(layers_of(model).items())
    if not points:
        return ()
    first, label = points[0]
    sentence = f"At {label}, vertical leaks more than horizontal"
    found = [Expectation("S1-42", "S1, Sect. 5.2.1", sentence, ("vertical", first), ("horizontal", first))]
    for strategy in ("vertical", "horizontal"):
        for layer, name in points:
            sentence = f"Data leaks less than {strategy} at {name}"
            found.append(Expectation("S1-43", "S1, Sect. 5.2.1, 6", sentence, (strategy, layer), ("data", None)))
        for (above, a), (below, b) in pairwise(points):
            sentence = f"{strategy.capitalize()}: {a} leaks at least as much as {b}"
            found.append(Expectation("S1-44", "S1, Sect. 5.2.2", sentence, (strategy, above), (strategy, below)))
    return tuple(found)
