"""A small CNN that trains in a minute: a second judge of reconstructions, with a different architecture."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

LARGEST = 64
"""The side to which larger images are averaged down first."""


class SmallCNN(nn.Module):
    """Three batch-normalised convolutions, two of them with stride 2, a global mean and a linear layer."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        sizes = ((channels, 24, 2), (24, 48, 2), (48, 96, 1))
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
                for i, o, stride in sizes
            )
        )
        self.dense = nn.Linear(96, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(n, classes)`` of images ``(n, channels, H, W)`` in [0, 1]."""
        if max(images.shape[2:]) > LARGEST:
            images = F.adaptive_avg_pool2d(images, (LARGEST, LARGEST))
        features: Tensor = self.layers(images)
        logits: Tensor = self.dense(features.mean((2, 3)))
        return logits
