"""Decoders as data: chains of the layers of Table 2 of Mehrafrooz et al. (2025), and a rule for other shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from cloven.attacks.convolutions import Convolution, Transposed

Shape = tuple[int, ...]


@dataclass(frozen=True)
class View:
    """Read a captured vector as a map, channels first."""

    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class Up:
    """Upsample to a height and width (nearest; the paper does not state the mode)."""

    height: int
    width: int


@dataclass(frozen=True)
class Conv:
    """A 3x3 convolution that keeps the size, as the sizes in Table 2 require."""

    inputs: int
    outputs: int


@dataclass(frozen=True)
class ConvT:
    """A transposed convolution; by default one that doubles the size exactly (padding 1, output padding 1)."""

    inputs: int
    outputs: int
    kernel: int = 3
    stride: int = 2
    padding: int = 1
    output_padding: int = 1


@dataclass(frozen=True)
class ReLU:
    """A rectifier."""


Layer = View | Up | Conv | ConvT | ReLU
Chain = tuple[Layer, ...]


def rule(captured: Sequence[Shape], image: Shape) -> Chain:
    """Return the decoder for shapes that are not in the paper's Table 2.

    Captured tensors are resized to one size and concatenated along channels (`as_map`). Transposed convolutions
    then double the size and halve the channels (to 8 at least) as long as the image is not exceeded; an upsampling
    follows if the image's size is not reached exactly. Two convolutions with 8 to 16 channels between them give the
    image. `Decoder` adds the result to a linear reading of each pixel.

    Args:
        captured: shapes of the captured tensors of one image: (C, H, W), or (features,).
        image: (C, H, W).
    """
    channels, height, width = as_map(captured)
    chain: list[Layer] = []
    while height * 2 <= image[1] and width * 2 <= image[2]:
        halved = max(8, channels // 2)
        chain += [ConvT(channels, halved), ReLU()]
        channels, height, width = halved, height * 2, width * 2
    if (height, width) != tuple(image[1:]):
        chain.append(Up(image[1], image[2]))
    middle = min(max(8, channels // 2), 16)
    return (*chain, Conv(channels, middle), ReLU(), Conv(middle, image[0]))


def as_map(captured: Sequence[Shape]) -> tuple[int, int, int]:
    """Return the shape of captured tensors as one map: all channels, at the largest height and width among them.

    A vector is a map of 1x1 with its numbers as channels.
    """
    maps = [shape if len(shape) == 3 else (shape[0], 1, 1) for shape in captured]
    return sum(m[0] for m in maps), max(m[1] for m in maps), max(m[2] for m in maps)


def build(chain: Chain) -> nn.Sequential:
    """Return the chain as a network; initial weights come from torch's global generator."""
    return nn.Sequential(*(_module(layer) for layer in chain))


def _module(layer: Layer) -> nn.Module:
    match layer:
        case View():
            return nn.Sequential(nn.Flatten(), nn.Unflatten(1, (layer.channels, layer.height, layer.width)))
        case Up():
            return nn.Upsample(size=(layer.height, layer.width), mode="nearest")
        case Conv():
            return Convolution(layer.inputs, layer.outputs)
        case ConvT():
            return Transposed(
                layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.padding, layer.output_padding
            )
        case ReLU():
            return nn.ReLU(inplace=True)


def text(chain: Chain) -> str:
    """Return a chain in the notation of Table 2."""
    words = []
    for layer in chain:
        match layer:
            case View():
                words.append(f"View({layer.channels}x{layer.height}x{layer.width})")
            case Up():
                words.append(f"Up({layer.height}x{layer.width})")
            case Conv():
                words.append(f"Conv({layer.inputs},{layer.outputs})")
            case ConvT():
                shape = (layer.kernel, layer.stride, layer.padding, layer.output_padding)
                usual = "" if shape == (3, 2, 1, 1) else "," + ",".join(map(str, shape))
                words.append(f"ConvT({layer.inputs},{layer.outputs}{usual})")
            case ReLU():
                words.append("ReLU")
    return " ".join(words)
