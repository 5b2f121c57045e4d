"""`cloven.capture`: a network becomes a graph."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

import cloven


def test_a_network_becomes_a_graph_that_prints_as_one_line(net: torch.nn.Module) -> None:
    model = cloven.capture(net, torch.zeros(1, 3, 12, 12))

    assert isinstance(model, cloven.Graph)
    assert repr(model) == "Graph of 7 ops: images of 3x12x12, outputs of 5, 8,212 bytes of weights"
    assert "images of 3x12x12" in model._repr_html_()


def test_the_normalisation_is_part_of_the_model(net: torch.nn.Module, images: torch.Tensor) -> None:
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    model = cloven.capture(net, images[:1], mean=mean, std=std)

    logits = cloven.run(cloven.divide(model, cloven.Vertical(), devices=2), images)

    shaped = [torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (mean, std)]
    assert torch.equal(logits, net((images - shaped[0]) / shaped[1]))


def test_two_networks_have_two_fingerprints(net: torch.nn.Module, model: cloven.Graph) -> None:
    other = cloven.capture(torch.nn.Sequential(net, torch.nn.ReLU()), torch.zeros(1, 3, 12, 12))

    assert cloven.capture(net, torch.zeros(1, 3, 12, 12)).fingerprint == model.fingerprint
    assert other.fingerprint != model.fingerprint


@pytest.mark.parametrize(
    ("given", "example", "message"),
    [
        ("net", None, "model is 'net'; expected a torch.nn.Module"),
        (torch.nn.ReLU, None, "model is the class ReLU; expected a torch.nn.Module"),
        (None, (torch.zeros(1, 3, 12, 12),), "example is a tuple; expected one image as a tensor (1, C, H, W)"),
        (None, np.zeros((1, 3, 12, 12)), "example is a ndarray; expected one image as a tensor (1, C, H, W)"),
        (
            None,
            torch.zeros(1, 3, 12, 12, dtype=torch.uint8),
            "the example is a tensor of torch.uint8, torch.strided; expected float32 in [0, 1]",
        ),
        (None, torch.zeros(3, 12, 12), "the example has shape (3, 12, 12); expected one image (1, C, H, W)"),
    ],
)
def test_a_wrong_type_is_answered_in_one_sentence(
    net: torch.nn.Module, given: Any, example: Any, message: str
) -> None:
    with pytest.raises(cloven.ClovenError) as caught:
        cloven.capture(given or net, torch.zeros(1, 3, 12, 12) if example is None else example)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("mean", "message"),
    [
        ([0.5, float("nan"), 0.5], "mean is [0.5, nan, 0.5]; expected finite numbers"),
        ("abc", "mean is 'abc'; expected one number for each channel"),
        (["a", "b", "c"], "mean is a list; expected one number for each channel"),
        (torch.tensor(0.5), "mean is a Tensor; expected one number for each channel"),
    ],
)
def test_a_wrong_mean_is_answered_in_one_sentence(net: torch.nn.Module, mean: Any, message: str) -> None:
    with pytest.raises(cloven.ClovenError) as caught:
        cloven.capture(net, torch.zeros(1, 3, 12, 12), mean=mean, std=[0.5, 0.5, 0.5])

    assert str(caught.value) == message


def test_a_network_that_does_not_run_logs_no_traceback(
    net: torch.nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(cloven.ClovenError, match="does not run on images of"):
        cloven.capture(net, torch.zeros(1, 3, 16, 16))

    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_one_mean_for_all_channels_is_refused(net: torch.nn.Module) -> None:
    with pytest.raises(cloven.ClovenError, match=r"mean is 0\.5; expected one number for each channel"):
        cloven.capture(net, torch.zeros(1, 3, 12, 12), mean=0.5, std=0.5)  # type: ignore[arg-type]
