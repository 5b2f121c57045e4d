"""Gradient descent on an image, to match the captured tensors through the model's front (He et al. 2019, rMLE)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cloven.attacks.hyperparameters import COUNT, NUMBER, POSITIVE, check_fields
from cloven.attacks.knowledge import Front
from cloven.attacks.trainer import CPU, Machine, cycle

BATCH = 50
"""The number of images that are optimised at a time."""
COARSEST = 4
"""The least height or width of the coarsest scale."""
TINY = 1e-12
"""Added to divisors: the captured tensors of some images are all zeros."""


@dataclass(frozen=True)
class PixelDescent:
    """Adam on the image, with one cycle of the learning rate.

    The loss is the squared distance between the front's output and the captured tensors, relative to the square of
    each captured tensor, plus ``smoothness`` times the total variation of the image (He et al. 2019, Sect. 4.1).
    The weight of the latter falls to 0, with the square of the remaining steps. The image is a sum over scales,
    each half as fine as the one before, so that coarse properties, such as the mean colour, converge as fast as
    fine ones. The result of an image does not depend on the others in its batch.
    """

    steps: int
    learning_rate: float
    smoothness: float

    def __post_init__(self) -> None:
        check_fields(self, steps=COUNT, learning_rate=POSITIVE, smoothness=NUMBER)

    def __call__(self, front: Front, start: Tensor, captured: Sequence[Tensor], machine: Machine = CPU) -> Tensor:
        """Return the images ``(n, C, H, W)`` in [0, 1] at the end of a descent from ``start``."""
        tensors = [t.to(machine.device).split(BATCH) for t in (start, *captured)]
        return torch.cat([self._end(front, *chunk).cpu() for chunk in zip(*tensors, strict=True)])

    def _end(self, front: Front, start: Tensor, *captured: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            start, wanted = (
                start.clone(),
                [z.clone() for z in captured],
            )  # tensors from inference mode have no gradients
            weights = [1 / (distances(z, torch.zeros_like(z)) + TINY) for z in wanted]
            scales = [torch.zeros_like(start, requires_grad=True)]
            while min(scales[-1].shape[2:]) >= 2 * COARSEST:
                scales.append(torch.zeros_like(scales[-1][:, :, ::2, ::2], requires_grad=True))
            optimiser, rate = torch.optim.Adam(scales, fused=True), cycle(self.learning_rate, 0.1)
            for step in range(self.steps):
                left = 1 - step / self.steps
                optimiser.param_groups[0]["lr"] = rate(1 - left)
                optimiser.zero_grad()
                x = _sum(start, scales)
                apart = [w @ distances(a, b) for w, a, b in zip(weights, front(x), wanted, strict=True)]
                rough = [x.diff(dim=axis).square().add(1e-8).sqrt().mean((1, 2, 3)).sum() for axis in (2, 3)]
                sum(apart, start=self.smoothness * left**2 * (rough[0] + rough[1])).backward()
                optimiser.step()
            return _sum(start, scales).detach()

    def remaining(self, front: Front, made: Tensor, captured: Sequence[Tensor]) -> Tensor:
        """Return the relative distance ``(n,)`` between the front's output for images and captured tensors."""
        apart = zip(front(made), captured, strict=True)
        return torch.stack([distances(a, b) / (distances(b, torch.zeros_like(b)) + TINY) for a, b in apart]).sum(0)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean squared distance ``(n,)`` of the rows of two tensors ``(n, ...)``."""
    return (a - b).square().flatten(1).mean(1)


def _sum(start: Tensor, scales: Sequence[Tensor]) -> Tensor:
    """Return the image, clipped to [0, 1]; gradients pass clipped pixels too, so that they are not stuck."""
    x = start + scales[0]
    for coarse in scales[1:]:
        x = x + F.interpolate(coarse, x.shape[2:])
    return x + (x.clamp(0, 1) - x).detach()
