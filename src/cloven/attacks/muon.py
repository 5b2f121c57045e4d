"""Muon: gradient descent with orthogonalised updates of a convolution's weights."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cloven.attacks.convolutions import FEW


class Muon(torch.optim.Optimizer):
    """Muon for the weights of convolutions with more than a few outputs; Adam for all other parameters.

    The momentum of a weight, as a matrix with one row per output, is replaced by the nearest orthogonal matrix
    (Jordan et al. 2024). Its entries are scaled to the size of a usual step of Adam (Liu et al. 2025,
    arXiv 2502.16982, Sect. 2.2), so that one learning rate serves both.
    """

    MOMENTUM = 0.95

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(list(parameters), {"lr": lr})
        every: list[nn.Parameter] = self.param_groups[0]["params"]
        self.matrices = [p for p in every if p.ndim == 4 and p.shape[0] > FEW]
        chosen = {id(p) for p in self.matrices}
        self.adam = torch.optim.Adam([p for p in every if id(p) not in chosen], lr=lr, fused=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the parameters by their gradients."""
        rate: float = self.param_groups[0]["lr"]
        self.adam.state = self.state  # one state for both, which is saved and loaded as a whole
        self.adam.param_groups[0]["lr"] = rate
        self.adam.step()
        alike: dict[tuple[int, ...], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for p in self.matrices:
            if p.grad is not None:
                if p not in self.state:
                    self.state[p]["momentum"] = torch.zeros_like(p)
                momentum = self.state[p]["momentum"]
                momentum.lerp_(p.grad, 1 - self.MOMENTUM)
                alike[tuple(p.shape)].append((p, p.grad.lerp(momentum, self.MOMENTUM)))
        for shape, members in alike.items():
            # Channels are last in memory, so that a matrix is a view.
            rows = torch.stack([change.movedim(1, 3).flatten(1) for _, change in members])
            size = 0.2 * math.sqrt(max(rows.shape[1:]))
            for (p, _), made in zip(members, orthogonal(rows), strict=True):
                p.sub_(made.unflatten(1, (*shape[2:], shape[1])).movedim(3, 1), alpha=rate * size)


def orthogonal(matrices: Tensor, steps: int = 3) -> Tensor:
    """Return approximately the nearest orthogonal matrices to ``(n, rows, columns)``: singular values near 1.

    It uses Newton-Schulz iterations with the coefficients of Jordan et al. 2024.
    """
    x: Tensor = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-12)
    if wide := x.shape[1] > x.shape[2]:
        x = x.mT
    for _ in range(steps):
        square = x @ x.mT
        x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x
    return x.mT if wide else x
