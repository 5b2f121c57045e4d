"""The CIFAR-10 ResNets: their numbers and names, their shortcut, and the published error of their weights."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cloven.errors import ClovenError
from cloven.graph.cuts import cuts
from cloven.runtime.capture import capture
from cloven.runtime.torch_engine import evaluate
from cloven.zoo.models import NORMALISATION, build
from cloven.zoo.resnet_cifar import BasicBlock, ResNetCIFAR
from cloven.zoo.training import accuracy
from cloven.zoo.weights import load_weights
from tests.models import logits_of


@pytest.mark.parametrize(("name", "layers", "parameters"), [("resnet20", 20, 269_722), ("resnet56", 56, 853_018)])
def test_layers_and_parameters(name: str, layers: int, parameters: int) -> None:
    """He et al., Table 6: 0.27 M and 0.85 M parameters; layers with weights give the name."""
    model = build(name, shape=(3, 32, 32), classes=10)

    assert sum(isinstance(part, nn.Conv2d | nn.Linear) for part in model.modules()) == layers
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_names_are_the_checkpoints() -> None:
    names = {name.rpartition(".")[0] for name in ResNetCIFAR(3).state_dict()}
    blocks = {f"layer{i}.{j}.{part}" for i in (1, 2, 3) for j in range(3) for part in "conv1 bn1 conv2 bn2".split()}

    assert names == {"conv1", "bn1", "linear"} | blocks


def test_each_stage_halves_the_sides_and_doubles_the_channels() -> None:
    graph = capture(ResNetCIFAR(3), torch.rand(1, 3, 32, 32))

    ends = [f"layer{stage}.2.conv2" for stage in (1, 2, 3)]
    assert [graph.by_name[end].shape for end in ends] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_multiply_accumulates() -> None:
    """40.55 M for ResNet-20, by hand: the first layer, then 6, 5 and 5 full layers and two that shrink."""
    graph = capture(ResNetCIFAR(3), torch.rand(1, 3, 32, 32))
    full = 9 * 16 * 16 * 32 * 32
    cut = cuts(graph)[0]

    assert cut.macs_before + cut.macs_after == 9 * 3 * 16 * 32 * 32 + 16 * full + 2 * full // 2 + 640 == 40_551_040


def test_the_shortcut_takes_every_second_pixel_and_pads_both_sides_with_zero_channels() -> None:
    block = BasicBlock(16, 32, 2).eval()
    nn.init.zeros_(block.bn2.weight)  # nothing is left of the residual
    x = torch.rand(2, 16, 7, 8)

    result = block(x)

    assert result.shape == (2, 32, 4, 4)
    assert torch.equal(result[:, 8:24], x[:, :, ::2, ::2])
    assert not result[:, :8].any()
    assert not result[:, 24:].any()


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (3, 17, 9)])
def test_the_captured_graph_computes_the_model(shape: tuple[int, int, int]) -> None:
    model = ResNetCIFAR(1, 7, shape[0])
    images = torch.rand(3, *shape)
    graph = capture(model, images[:1])

    result = evaluate(graph, images, [graph.output])[graph.output]

    assert result.shape == (3, 7)
    torch.testing.assert_close(result, logits_of(model, images))


def test_all_problems_at_once() -> None:
    with pytest.raises(ClovenError) as caught:
        ResNetCIFAR(0, 1, 0)

    assert caught.value.problems == (
        "resnet: got 0 blocks per stage, expected at least 1",
        "resnet: got 1 classes, expected at least 2",
        "resnet: got 0 channels, expected at least 1",
    )


def test_images_that_are_too_small() -> None:
    with pytest.raises(ClovenError, match="resnet56: got images of 32 x 7, expected at least 8 x 8; enlarge them"):
        build("resnet56", shape=(3, 32, 7), classes=10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file", "right"),
    [("resnet20", "resnet20-12fca82f.th", 9173), ("resnet56", "resnet56-4bfd9763.th", 9339)],
)
def test_the_published_accuracy(name: str, file: str, right: int) -> None:
    """8.27 and 6.61 % error on the 10,000 test images, as ``akamaster/pytorch_resnet_cifar10`` states."""
    if not (data := os.environ.get("CLOVEN_DATA")):
        pytest.skip("CLOVEN_DATA names no folder with CIFAR-10 and weights")
    records = np.fromfile(Path(data) / "cifar-10-batches-bin" / "test_batch.bin", np.uint8).reshape(-1, 3073)
    images = torch.tensor(records[:, 1:].reshape(-1, 3, 32, 32)).float() / 255
    model = build(name, shape=(3, 32, 32), classes=10)
    load_weights(model, Path(data) / "weights" / file)

    share = accuracy(logits_of(model, _normalised(images, name), batch=256), torch.tensor(records[:, 0]))

    assert round(share * len(records)) == right


def _normalised(images: Tensor, name: str) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in NORMALISATION[name])
    return (images - mean) / std
