"""cloven's own models by name."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial

from torch import Tensor, nn

from cloven.errors import ClovenError
from cloven.zoo.mobilenet import MobileNetV1
from cloven.zoo.pixels import Shape
from cloven.zoo.resnet_cifar import ResNetCIFAR
from cloven.zoo.small import SmallCNN

SMALLEST = 28
"""The smallest side of an image for which LeNet-5's third convolution has an input."""


class LeNet5(nn.Module):
    """LeNet-5 as Table 2 of Mehrafrooz et al. (2025) implies it; the indices are those of a Keras ``Sequential``.

    ======  =======  ===============================  ==========  ==========
    index   name     layer                            28x28x1     32x32x3
    ======  =======  ===============================  ==========  ==========
    0       conv1    5x5, same padding, 6 channels    28x28x6     32x32x6
    1       pool1    2x2                              14x14x6     16x16x6
    2       conv2    5x5, no padding, 16 channels     10x10x16    12x12x16
    3       pool2    2x2                              5x5x16      6x6x16
    4       conv3    5x5, no padding, 120 channels    1x1x120     2x2x120
    5       flatten                                   120         480
    6       dense1   84                               84          84
    7       dense2   one logit for each class         10          10
    ======  =======  ===============================  ==========  ==========

    The shapes are the paper's. It states neither the kind of pooling nor the activations: here the pools take the
    maximum, and conv1, conv2, conv3 and dense1 end in a ReLU, so that a layer's output is its activation, as in a
    Keras ``Conv2D(activation=...)``. There is no softmax: the outputs are logits.
    """

    def __init__(self, channels: int, classes: int, size: int) -> None:
        super().__init__()
        problems = []
        if channels < 1:
            problems.append(f"lenet5: got {channels} channels, expected at least 1")
        if classes < 2:
            problems.append(f"lenet5: got {classes} classes, expected at least 2")
        if size < SMALLEST:
            wanted = f"expected at least {SMALLEST} x {SMALLEST}; enlarge them"
            problems.append(f"lenet5: got images of {size} x {size}, {wanted}")
        if problems:
            raise ClovenError(problems)
        side = (size // 2 - 4) // 2 - 4
        self.conv1 = nn.Sequential(nn.Conv2d(channels, 6, 5, padding=2), nn.ReLU())
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Sequential(nn.Conv2d(6, 16, 5), nn.ReLU())
        self.pool2 = nn.MaxPool2d(2)
        self.conv3 = nn.Sequential(nn.Conv2d(16, 120, 5), nn.ReLU())
        self.flatten = nn.Flatten()
        self.dense1 = nn.Sequential(nn.Linear(120 * side * side, 84), nn.ReLU())
        self.dense2 = nn.Linear(84, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(n, classes)`` of images ``(n, channels, size, size)`` in [0, 1]."""
        for layer in self.children():
            images = layer(images)
        return images


def build(name: str, *, shape: Shape, classes: int) -> nn.Module:
    """Return the model with a name, for images of a shape, with PyTorch's initial weights."""
    if name not in MODELS:
        raise ClovenError(unknown(name))
    return MODELS[name](shape, classes)


def unknown(name: str) -> str:
    """Return the error message for an unknown model."""
    close = get_close_matches(name, MODELS, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"unknown model {name!r}; {hint}choose from {', '.join(sorted(MODELS))}"


def _lenet5(shape: Shape, classes: int) -> nn.Module:
    channels, height, width = shape
    if height != width:
        raise ClovenError(f"lenet5: got images of {height} x {width}, expected square ones; resize them")
    return LeNet5(channels, classes, height)


def _resnet(shape: Shape, classes: int, *, blocks: int) -> nn.Module:
    _at_least(f"resnet{6 * blocks + 2}", shape, 8)
    return ResNetCIFAR(blocks, classes, shape[0])


def _mobilenet(shape: Shape, classes: int, *, width: float) -> nn.Module:
    _at_least("mobilenet_v1" if width == 1 else f"mobilenet_v1_{width}", shape, 32)
    return MobileNetV1(width, classes, shape[0])


def _small(shape: Shape, classes: int) -> nn.Module:
    _at_least("small", shape, 8)
    return SmallCNN(shape[0], classes)


def _at_least(name: str, shape: Shape, side: int) -> None:
    """Refuse images so small that the last layers would only see padding."""
    _, height, width = shape
    if min(height, width) < side:
        raise ClovenError(
            f"{name}: got images of {height} x {width}, expected at least {side} x {side}; enlarge them"
        )


resnet20 = partial(_resnet, blocks=3)
resnet56 = partial(_resnet, blocks=9)
mobilenet_v1 = partial(_mobilenet, width=1.0)

MODELS: dict[str, Callable[[Shape, int], nn.Module]] = {
    "lenet5": _lenet5,
    "resnet20": resnet20,
    "resnet56": resnet56,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v1_0.75": partial(_mobilenet, width=0.75),
    "mobilenet_v1_0.5": partial(_mobilenet, width=0.5),
    "mobilenet_v1_0.25": partial(_mobilenet, width=0.25),
    "small": _small,
}
"""The factory of each model, which takes the shape of its images and the number of classes."""

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

NORMALISATION: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "resnet20": _IMAGENET,
    "resnet56": _IMAGENET,
    **{name: _HALF for name in MODELS if name.startswith("mobilenet_v1")},
}
"""The mean and std of red, green and blue (in [0, 1]) with which a model's trained weights expect images to be
normalised; models that are not listed expect images in [0, 1]."""
