"""The residual networks for CIFAR-10 of He et al., "Deep Residual Learning", CVPR 2016, Sect. 4.2."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from cloven.errors import ClovenError

WIDTHS = (16, 32, 64)
"""The channels of the three stages."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without weights (option A).

    If the block halves the sides, the shortcut takes every second row and column, and is padded with zero channels
    before and after its own.
    """

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.stride, self.extra = stride, (outside - inside) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return maps ``(n, outside, h / stride, w / stride)``, sides rounded up, of ``(n, inside, h, w)``."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra, self.extra))
        return F.relu(y + x)


class ResNetCIFAR(nn.Module):
    """A ResNet of ``6 * blocks + 2`` layers: ResNet-20 has 3 blocks per stage, ResNet-56 has 9.

    The weights have the names of the checkpoints of ``akamaster/pytorch_resnet_cifar10``. The sides of images are
    halved twice, and must be 8 or more. There is no softmax: the outputs are logits.

    Raises:
        ClovenError: if an argument is out of range.
    """

    def __init__(self, blocks: int, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        least = (("blocks per stage", blocks, 1), ("classes", classes, 2), ("channels", channels, 1))
        if problems := [f"resnet: got {n} {what}, expected at least {m}" for what, n, m in least if n < m]:
            raise ClovenError(problems)
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], 1, blocks)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], 2, blocks)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], 2, blocks)
        self.linear = nn.Linear(WIDTHS[2], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(n, classes)`` of normalised images ``(n, channels, height, width)``."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def _stage(inside: int, outside: int, stride: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(inside, outside, stride), *(BasicBlock(outside, outside, 1) for _ in range(blocks - 1))
    )
