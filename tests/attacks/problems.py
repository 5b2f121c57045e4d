"""Small problems that attacks can solve in a second, and tensors that teach nothing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cloven.attacks.pairs import Pairs, held


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(n: int, seed: int, channels: int = 1, side: int = 16) -> Tensor:
    """Smooth images: enlarged noise."""
    noise = torch.rand(n, channels, 4, 4, generator=generator(seed))
    return F.interpolate(noise, size=(side, side), mode="bilinear").clamp(0, 1)


WEIGHTS = torch.randn(6, 1, 3, 3, generator=generator(11))


def front(images: Tensor) -> list[Tensor]:
    """A small front of a network: a convolution with stride 2 and a ReLU."""
    return [F.relu(F.conv2d(images - 0.5, WEIGHTS, stride=2, padding=1))]


def classes(images: Tensor) -> Tensor:
    """What a service might answer: whether the left half is lighter."""
    half = images.shape[3] // 2
    return (images[..., :half].mean((1, 2, 3)) > images[..., half:].mean((1, 2, 3))).long()


def problem(n: int = 300, seed: int = 0) -> Pairs:
    """Pairs of `front`, with all that an attacker may know."""
    images = blobs(n, seed)
    return Pairs(held(*front(images)), images, seed=5, classes=classes(images), front=front)
