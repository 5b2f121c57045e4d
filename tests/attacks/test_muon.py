"""Muon: what a step changes."""

from __future__ import annotations

import torch
from torch import nn

from cloven.attacks.muon import Muon, orthogonal
from tests.attacks.problems import generator


def stepped(gradient: torch.Tensor, rate: float = 0.1) -> torch.Tensor:
    weight, bias = nn.Parameter(torch.zeros_like(gradient)), nn.Parameter(torch.zeros(3))
    weight.grad = gradient
    Muon([weight, bias], rate).step()
    return weight.detach()


def test_all_directions_of_a_convolution_change_about_alike() -> None:
    gradient = torch.diag_embed(torch.logspace(0, -1, 16)) @ torch.randn(16, 144, generator=generator())
    changed = stepped(gradient.view(16, 16, 3, 3)).flatten(1)
    before, after = (float(v.max() / v.min()) for v in map(torch.linalg.svdvals, (gradient, changed)))

    assert after < 2.5 < 6 < before


def test_the_size_of_the_gradient_does_not_count() -> None:
    gradient = torch.randn(16, 8, 3, 3, generator=generator())

    assert torch.allclose(stepped(gradient), stepped(1000 * gradient), atol=1e-6)


def test_other_parameters_are_left_to_adam() -> None:
    gradient = torch.randn(16, generator=generator())
    weight = nn.Parameter(torch.zeros(16))
    weight.grad = gradient
    torch.optim.Adam([weight], lr=0.1, fused=True).step()

    assert torch.equal(stepped(gradient), weight.detach())


def test_tall_and_wide_matrices_become_orthogonal() -> None:
    for shape in ((3, 5, 20), (3, 20, 5)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=generator()), steps=6))

        assert values.shape == (3, 5)
        assert 0.6 < float(values.min()) < float(values.max()) < 1.3
