"""Models that several files of tests divide; each is captured when it is first asked for."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from cloven.graph.graph import Graph
from cloven.runtime.capture import capture
from cloven.zoo.models import build


@cache
def lenet5() -> Graph:
    """LeNet-5 for digits, with random weights."""
    torch.manual_seed(0)
    return capture(build("lenet5", shape=(1, 28, 28), classes=10), torch.zeros(1, 1, 28, 28))


def logits_of(model: nn.Module, images: Tensor, *, batch: int = 512) -> Tensor:
    """Return a model's logits ``(n, classes)`` of images ``(n, channels, height, width)``, in eval mode."""
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(some) for some in images.split(batch)])
