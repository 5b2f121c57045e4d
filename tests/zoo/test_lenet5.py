"""LeNet-5 as Table 2 of Mehrafrooz et al. (2025) implies it, and models by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cloven.errors import ClovenError
from cloven.zoo.models import LeNet5, build

LAYERS = ("conv1", "pool1", "conv2", "pool2", "conv3", "flatten", "dense1", "dense2")
MNIST = ((6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (120, 1, 1), (120,), (84,), (10,))
KNOWN = "lenet5, mobilenet_v1, mobilenet_v1_0.25, mobilenet_v1_0.5, mobilenet_v1_0.75, resnet20, resnet56, small"
CIFAR = ((6, 32, 32), (6, 16, 16), (16, 12, 12), (16, 6, 6), (120, 2, 2), (480,), (84,), (10,))


@pytest.mark.parametrize(("shape", "expected"), [((1, 28, 28), MNIST), ((3, 32, 32), CIFAR)])
def test_shapes(shape: tuple[int, int, int], expected: tuple[tuple[int, ...], ...]) -> None:
    """The k-th layer has the shape of the paper's Layer k, and running the layers in order is the model."""
    model = build("lenet5", shape=shape, classes=10)
    image = value = torch.rand(2, *shape)
    seen = []
    for _, layer in model.named_children():
        value = layer(value)
        seen.append(tuple(value.shape[1:]))

    assert tuple(name for name, _ in model.named_children()) == LAYERS
    assert tuple(seen) == expected
    assert torch.equal(value, model(image))


@pytest.mark.parametrize(("shape", "expected"), [((1, 28, 28), 61_706), ((3, 32, 32), 92_246)])
def test_parameters(shape: tuple[int, int, int], expected: int) -> None:
    """The model has as many parameters as the paper's layers."""
    model = build("lenet5", shape=shape, classes=10)

    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_activations_belong_to_their_layers() -> None:
    """The outputs of conv1, conv2, conv3 and dense1 are those of a ReLU; the logits are not bounded."""
    model = LeNet5(1, 10, 28)

    for name in ("conv1", "conv2", "conv3", "dense1"):
        assert isinstance(model.get_submodule(name)[-1], nn.ReLU)  # type: ignore[index]
    assert type(model.dense2) is nn.Linear
    assert isinstance(model.pool1, nn.MaxPool2d)


def test_larger_images() -> None:
    """Any square of at least 28 x 28 pixels is accepted."""
    assert LeNet5(3, 7, 64)(torch.rand(1, 3, 64, 64)).shape == (1, 7)


def test_all_problems_at_once() -> None:
    """All wrong arguments are reported at once, each with the value and what was expected."""
    with pytest.raises(ClovenError) as caught:
        LeNet5(0, 1, 27)

    assert caught.value.problems == (
        "lenet5: got 0 channels, expected at least 1",
        "lenet5: got 1 classes, expected at least 2",
        "lenet5: got images of 27 x 27, expected at least 28 x 28; enlarge them",
    )


def test_not_square() -> None:
    """Images that are not square are refused."""
    with pytest.raises(ClovenError, match="lenet5: got images of 28 x 32, expected square ones"):
        build("lenet5", shape=(1, 28, 32), classes=10)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lenet", f"unknown model 'lenet'; did you mean lenet5? choose from {KNOWN}"),
        ("vgg16", f"unknown model 'vgg16'; choose from {KNOWN}"),
        ("resnet50", f"unknown model 'resnet50'; did you mean resnet56? choose from {KNOWN}"),
    ],
)
def test_unknown_name(name: str, message: str) -> None:
    """The error for an unknown name lists the known ones, and suggests the most similar one."""
    with pytest.raises(ClovenError) as caught:
        build(name, shape=(1, 28, 28), classes=10)

    assert str(caught.value) == message
