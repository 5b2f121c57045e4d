"""Small problems that attacks can solve in a second, and tensors that teach nothing."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from cloven.attacks.knowledge import CapturedTensors, Front, Knowledge, Pairs, QueryResult, SharePlace, in_memory


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
    """Return a service's possible answers: whether the left half is lighter."""
    half = images.shape[3] // 2
    return (images[..., :half].mean((1, 2, 3)) > images[..., half:].mean((1, 2, 3))).long()


def paired(
    captured: CapturedTensors,
    images: Tensor,
    *,
    seed: int = 0,
    classes: Tensor | None = None,
    front: Front | None = None,
    places: tuple[SharePlace, ...] | None = None,
) -> Knowledge:
    """The knowledge of an attacker with pairs."""
    image = tuple(images.shape[1:])
    return Knowledge(image, images, captured, classes, front=front, places=places, seed=seed)


def pairs_of(knowledge: Knowledge) -> Pairs:
    """The pairs, which there are."""
    assert knowledge.pairs is not None
    return knowledge.pairs


def problem(n: int = 300, seed: int = 0) -> Knowledge:
    """Pairs of `front`, with all that an attacker may know."""
    images = blobs(n, seed)
    known = paired(in_memory(*front(images)), images, seed=5, classes=classes(images), front=front)
    return replace(known, query=lambda asked: QueryResult(front(asked), classes(asked)))
