"""The memory that a device needs while it loads the weights of a segment."""

from __future__ import annotations

import torch
from torch import nn

import cloven
from cloven.cost.loading import WeightMemory, weights
from cloven.partition.segments import segments


def loaded(*layers: nn.Module) -> WeightMemory:
    """Return the memory of the weights of layers that take an image of three channels."""
    graph = cloven.capture(nn.Sequential(*layers).eval(), torch.zeros(1, 3, 8, 8))
    program = cloven.divide(graph, cloven.Vertical(), devices=1)
    (segment,) = segments(program, program.devices[0])
    return weights(segment.computes)


CONV, NORM, LINEAR = 4 * (5 * 27 + 5), 4 * 4 * 5, 4 * (320 * 7 + 7)


def test_a_convolution_is_rearranged_with_three_further_copies() -> None:
    assert loaded(nn.Conv2d(3, 5, 3)) == WeightMemory(CONV, 3 * CONV)


def test_the_weights_with_a_batch_norm_in_them_are_one_more_copy_until_all_are_rearranged() -> None:
    assert loaded(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)) == WeightMemory(CONV + NORM, 4 * CONV - NORM)


def test_convolutions_are_rearranged_one_after_another() -> None:
    small = 4 * (5 * 15 + 5)

    first = loaded(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 5, (3, 1)))
    last = loaded(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 5, (3, 1)))

    assert first == WeightMemory(CONV + small, 4 * CONV - (CONV + small))  # the second one is not rearranged yet
    assert last == WeightMemory(80 + small, 3 * small)


def test_linear_layers_are_rearranged_after_the_convolutions() -> None:
    conv, linear = 4 * (5 * 3 + 5), LINEAR

    assert loaded(nn.Conv2d(3, 5, 1), nn.Flatten(), nn.Linear(320, 7)) == WeightMemory(conv + linear, linear)


def test_layers_without_weights_need_nothing() -> None:
    assert loaded(nn.ReLU(), nn.MaxPool2d(2)) == WeightMemory(0, 0)
