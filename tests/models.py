"""Models that several test files divide, captured when they are first used; and a tap."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from cloven.graph.graph import Graph
from cloven.partition.program import Link, Transfer
from cloven.runtime.capture import capture
from cloven.zoo.models import build


@cache
def lenet5() -> Graph:
    """Return LeNet-5 for digits, with random weights."""
    torch.manual_seed(0)
    return capture(build("lenet5", shape=(1, 28, 28), classes=10), torch.zeros(1, 1, 28, 28))


def logits_of(model: nn.Module, images: Tensor, *, batch: int = 512) -> Tensor:
    """Return a model's logits ``(n, classes)`` of images ``(n, channels, height, width)``, in eval mode."""
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(some) for some in images.split(batch)])


@dataclass
class Recorder:
    """A tap that copies everything that crosses a link; ``tensors()`` returns it in the order of the link."""

    link: Link

    def __post_init__(self) -> None:
        self._kept: dict[int, list[Tensor]] = {}

    def __call__(self, transfer: Transfer, tensor: Tensor) -> None:
        """Keep a copy, because a later op may overwrite the tensor."""
        if transfer.link == self.link:
            self._kept.setdefault(transfer.id, []).append(tensor.clone())

    def tensors(self) -> list[Tensor]:
        """Return one tensor ``(n, ...)`` for each transfer."""
        return [torch.cat(self._kept[key]) for key in sorted(self._kept)]
