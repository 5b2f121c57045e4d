"""MobileNet v1 (Howard et al., arXiv 1704.04861) with the layers and names of ``keras.applications``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from torch import nn

from cloven.errors import ClovenError

FIRST = 32
"""Channels of the first convolution at width 1."""

BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""The channels at width 1 and the stride of each of the 13 depthwise separable blocks."""


class MobileNetV1(nn.Sequential):
    """MobileNet v1: logits ``(n, classes)`` of images ``(n, channels, height, width)`` in [-1, 1], 32 x 32 or more.

    The layers run in the order of their names in Keras: ``conv1``, ``conv1_bn``, ``conv1_relu``,
    ``conv_dw_1``, ``conv_dw_1_bn``, ``conv_dw_1_relu``, ``conv_pw_1`` ... ``conv_pw_13_relu``,
    ``conv_preds``. Padding is TensorFlow's "same": 1 on each side at stride 1, but at stride 2 only 1 at the right
    and 1 at the bottom, by the layers ``conv_pad_2``, ``_4``, ``_6``, ``_12`` and ``conv1_pad``. Later versions of
    Keras do not have the last one, which matters only for images with odd sides. There is no softmax.

    Args:
        width: Keras' alpha: the fraction of the channels, rounded down, that each layer has.
        classes: The number of classes.
        channels: The channels of the images.

    Raises:
        ClovenError: if an argument is out of range.
    """

    def __init__(self, width: float = 1.0, classes: int = 1000, channels: int = 3) -> None:
        problems = []
        if not 1 / FIRST <= width <= 8:
            problems.append(f"mobilenet_v1: got width {width}, expected {1 / FIRST} to 8, e.g. 0.25 or 1")
        for what, number, least in (("classes", classes, 2), ("channels", channels, 1)):
            if number < least:
                problems.append(f"mobilenet_v1: got {number} {what}, expected at least {least}")
        if problems:
            raise ClovenError(problems)
        super().__init__(OrderedDict(_layers(width, classes, channels)))


def _layers(width: float, classes: int, channels: int) -> Iterator[tuple[str, nn.Module]]:
    inside = int(FIRST * width)
    yield "conv1_pad", _pad()
    yield from _activated("conv1", nn.Conv2d(channels, inside, 3, stride=2, bias=False))
    for number, (full, stride) in enumerate(BLOCKS, start=1):
        outside = int(full * width)
        if stride == 2:
            yield f"conv_pad_{number}", _pad()
        padding = 0 if stride == 2 else 1
        depthwise = nn.Conv2d(inside, inside, 3, stride, padding, groups=inside, bias=False)
        yield from _activated(f"conv_dw_{number}", depthwise)
        yield from _activated(f"conv_pw_{number}", nn.Conv2d(inside, outside, 1, bias=False))
        inside = outside
    yield "global_average_pooling2d", nn.AdaptiveAvgPool2d(1)
    yield "dropout", nn.Dropout(1e-3)
    yield "conv_preds", nn.Conv2d(inside, classes, 1)
    yield "reshape_2", nn.Flatten()


def _activated(name: str, convolution: nn.Conv2d) -> Iterator[tuple[str, nn.Module]]:
    yield name, convolution
    # Keras' momentum of 0.99 is 0.01 in PyTorch's reading of the word.
    yield f"{name}_bn", nn.BatchNorm2d(convolution.out_channels, eps=1e-3, momentum=0.01)
    yield f"{name}_relu", nn.ReLU6()


def _pad() -> nn.ZeroPad2d:
    return nn.ZeroPad2d((0, 1, 0, 1))
