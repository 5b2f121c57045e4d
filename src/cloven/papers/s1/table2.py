"""Table 2 as data: the attacker's decoder for each layer at which the paper listens, in sixteen rows.

The table does not state the padding. All its sizes hold for one reading only: a 3x3 convolution keeps the size, and
a transposed convolution with stride 2 doubles it exactly. `Conv` and `ConvT` follow this reading.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, prod

from cloven.attacks.layers import Chain, Conv, ConvT, Layer, ReLU, Up, View
from cloven.graph.box import Shape
from cloven.papers.points import MOBILENETS, resolve

MOBILENET, RESNET, LENET = MOBILENETS[0], "torchvision:resnet50", "lenet5"

PHOTO, CIFAR, MNIST = (3, 224, 224), (3, 32, 32), (1, 28, 28)
"""The paper's image shapes: channels, height, width."""

TILE = 1
"""The paper's Layer 1 of a divided input: a quarter of the image."""

CORRECTION = (
    "Table 2's row for LeNet-5 on CIFAR-10, Layer 5, ends at 16x16, and its last convolution expects 8 channels "
    "but gets 15; inserting one ConvT(15,8) with a ReLU before it corrects both."
)

FIVE = "Table 2's ConvT(120,64,4,2,1) is read in PyTorch's order: kernel 4, stride 2, padding 1."


@dataclass(frozen=True)
class DecoderRow:
    """One row of Table 2.

    Attributes:
        model: the model's name.
        number: the paper's number of the layer; 1 is a tile of the input.
        length: the number of values in the captured vector, as printed.
        captured: the shape of this vector, (C, H, W).
        image: the shape of the image, (C, H, W).
        layers: the decoder, from the captured tensor to the image.
        correction: the difference from the printed row and the reason for it, if any.
        reading: an ambiguity of the printed row and how it is resolved, if any.
    """

    model: str
    number: int
    length: int
    captured: Shape
    image: Shape
    layers: Chain
    correction: str = ""
    reading: str = ""

    @property
    def layer(self) -> str:
        """Return the layer's module path, ``input`` for a tile."""
        return "input" if self.number == TILE else resolve(self.model, f"s1:{self.number}")

    def scaled(self, image: Shape) -> Shape:
        """Return the captured shape (C, H, W) for another image size: in proportion to its side, rounded up."""
        channels, side, _ = self.captured
        scaled = ceil(side * image[1] / self.image[1])
        return (channels, scaled, scaled)

    def chain(self, captured: Shape, image: Shape) -> Chain:
        """Return the row's layers, adapted to the shape of the captured tensor and of the image.

        A slice of the feature map, or the map of a narrower model, takes the same chain with fewer input channels.
        A vector is reshaped to the height and width of the row's map, channels first.
        """
        layers = tuple(Up(*image[1:]) if isinstance(layer, Up) else layer for layer in self.layers)
        if len(captured) == 3:
            return _reading(captured[0], layers)
        _, height, width = self.scaled(image)
        channels = captured[0] // (height * width)
        return (View(channels, height, width), *_reading(channels, layers))

    def takes(self, image: Shape) -> bool:
        """Return whether the row applies to images of this shape (C, H, W).

        A row applies to its own image shape. A row for 224x224 also applies to smaller squares if its chain ends at
        the size of the image. LeNet-5's rows do not: its unpadded convolutions do not shrink the map in proportion
        to the image.
        """
        side = image[-1]
        smaller = self.image == PHOTO and image == (3, side, side) and side < PHOTO[-1]
        return image == self.image or (smaller and self.makes(self.scaled(image), image))

    def makes(self, captured: Shape, image: Shape) -> bool:
        """Return whether the row's chain maps the captured shape to the shape of the image."""
        return made(self.chain(captured, image), captured) == image


def _reading(channels: int, layers: Chain) -> Chain:
    """Return the chain with another number of input channels at its first convolution."""
    first, *others = layers
    if isinstance(first, Conv | ConvT):
        return (replace(first, inputs=channels), *others)
    return (first, *_reading(channels, tuple(others)))


def made(chain: Chain, shape: Shape) -> Shape | None:
    """Return the output shape of a chain for a map (C, H, W) or a vector (features,); None if they do not fit."""
    for layer in chain:
        after = _after(layer, shape)
        if after is None:
            return None
        shape = after
    return shape


def _after(layer: Layer, shape: Shape) -> Shape | None:
    match layer:
        case View(channels, height, width):
            return (channels, height, width) if channels * height * width == prod(shape) else None
        case Up(height, width):
            return (shape[0], height, width)
        case Conv(inputs, outputs):
            return (outputs, *shape[1:]) if inputs == shape[0] else None
        case ConvT(inputs, outputs, kernel, stride, padding, more):
            sides = ((side - 1) * stride - 2 * padding + kernel + more for side in shape[1:])
            return (outputs, *sides) if inputs == shape[0] else None
        case ReLU():
            return shape


RELU = ReLU()


def doubled(*channels: int) -> Chain:
    """Return transposed convolutions and ReLUs from each number of channels to the next; each doubles the sides."""
    return tuple(layer for a, b in pairwise(channels) for layer in (ConvT(a, b), RELU))


# fmt: off
TABLE_2: tuple[DecoderRow, ...] = (
    DecoderRow(MOBILENET, 1, 37_632, (3, 112, 112), PHOTO, (Up(224, 224), Conv(3, 16), RELU, Conv(16, 3))),
    DecoderRow(MOBILENET, 2, 401_408, (32, 112, 112), PHOTO,
        (Up(224, 224), Conv(32, 64), RELU, Conv(64, 32), RELU, Conv(32, 3))),
    DecoderRow(MOBILENET, 33, 200_704, (256, 28, 28), PHOTO, (*doubled(256, 128, 64, 32), Conv(32, 3))),
    DecoderRow(MOBILENET, 72, 100_352, (512, 14, 14), PHOTO, (*doubled(512, 256, 128, 64, 32), Conv(32, 3))),

    DecoderRow(RESNET, 1, 37_632, (3, 112, 112), PHOTO, (Up(224, 224), Conv(3, 16), RELU, Conv(16, 3))),
    DecoderRow(RESNET, 2, 802_816, (64, 112, 112), PHOTO, (Up(224, 224), Conv(64, 32), RELU, Conv(32, 3))),
    DecoderRow(RESNET, 33, 200_704, (64, 56, 56), PHOTO, (*doubled(64, 32, 16), Conv(16, 3))),
    DecoderRow(RESNET, 42, 100_352, (128, 28, 28), PHOTO, (*doubled(128, 64, 32, 16), Conv(16, 3))),

    DecoderRow(LENET, 1, 768, (3, 16, 16), CIFAR, (Up(32, 32), Conv(3, 16), RELU, Conv(16, 3))),
    DecoderRow(LENET, 2, 2_304, (16, 12, 12), CIFAR, (Up(32, 32), Conv(16, 8), RELU, Conv(8, 3))),
    DecoderRow(LENET, 3, 576, (16, 6, 6), CIFAR, (*doubled(16, 16), Up(32, 32), Conv(16, 8), RELU, Conv(8, 3))),
    DecoderRow(LENET, 5, 480, (120, 2, 2), CIFAR,
        (*doubled(120, 60, 30, 15), *doubled(15, 8), Conv(8, 3)), correction=CORRECTION),

    DecoderRow(LENET, 1, 196, (1, 14, 14), MNIST, (Up(28, 28), Conv(1, 8), RELU, Conv(8, 1))),
    DecoderRow(LENET, 2, 1_600, (16, 10, 10), MNIST, (Up(28, 28), Conv(16, 8), RELU, Conv(8, 1))),
    DecoderRow(LENET, 3, 400, (16, 5, 5), MNIST, (*doubled(16, 16), Up(28, 28), Conv(16, 8), RELU, Conv(8, 1))),
    DecoderRow(LENET, 5, 120, (120, 1, 1), MNIST,
        (ConvT(120, 64, 4, 2, 1, 0), RELU, *doubled(64, 32, 16, 8), Up(28, 28), Conv(8, 1)), reading=FIVE),
)
# fmt: on
"""The rows in the order of the paper."""


def printed(model: str) -> tuple[DecoderRow, ...]:
    """Return the rows for a model; those of MobileNet apply to each of its widths."""
    name = MOBILENET if model in MOBILENETS else model
    return tuple(row for row in TABLE_2 if row.model == name)


def row_for(model: str, layer: str, image: Shape) -> DecoderRow | None:
    """Return Table 2's row for a layer (a module path, or ``input`` for a tile) and an image (C, H, W), or None."""
    return next((row for row in printed(model) if row.layer == layer and row.takes(image)), None)


def decoder(model: str) -> Callable[[str, Shape, Shape], Chain | None]:
    """Return a function that gives Table 2's decoder of a model for a layer, a captured shape and an image shape.

    The function returns None if there is no row, or if the row's chain does not map the captured shape to the image
    shape, as for some rows of a feature map.
    """

    def chain(layer: str, captured: Shape, image: Shape) -> Chain | None:
        row = row_for(model, layer, image)
        return row.chain(captured, image) if row is not None and row.makes(captured, image) else None

    return chain


def changes(model: str, image: Shape) -> tuple[str, ...]:
    """Return the differences from Table 2 for a model and an image (C, H, W), and readings of ambiguous rows."""
    rows = [row for row in printed(model) if row.takes(image)]
    found = [note for row in rows for note in (row.correction, row.reading) if note]
    if rows and rows[0].image != image:
        found.append(_resized(image, [row.number for row in printed(model) if row not in rows]))
    if rows and rows[0].model != model:
        found.append(f"Table 2 has MobileNet at full width; {model} takes its decoders with fewer input channels.")
    return tuple(found)


def _resized(image: Shape, left: list[int]) -> str:
    layers = ", ".join(map(str, left))
    except_for = f", except for Layer {layers}, where they do not end at this size" if left else ""
    return (
        f"The paper's images are 224x224, these are {image[1]}x{image[2]}: Table 2's decoders are used at this size"
        f"{except_for}."
    )
