"""A small network of a user's own, its graph and a program."""

from __future__ import annotations

import pytest
import torch

import cloven


@pytest.fixture(scope="session")
def net() -> torch.nn.Module:
    """A CNN for images of 3 x 12 x 12 with 5 classes."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(6, 8, 3, padding=1, stride=2),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 6 * 6, 5),
    )


@pytest.fixture(scope="session")
def model(net: torch.nn.Module) -> cloven.Graph:
    return cloven.capture(net, torch.zeros(1, 3, 12, 12))


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    return torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def program(model: cloven.Graph) -> cloven.Program:
    """Three devices in a row."""
    return cloven.divide(model, cloven.Vertical(cuts=["1", "3"]), devices=3)
