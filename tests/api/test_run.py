"""`cloven.run`: a program's outputs, in this process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import cloven


def test_the_outputs_are_the_networks_to_the_bit(
    net: torch.nn.Module, program: cloven.Program, images: torch.Tensor
) -> None:
    assert torch.equal(cloven.run(program, images), net(images))


def test_arrays_are_answered_with_arrays(program: cloven.Program, images: torch.Tensor) -> None:
    expected = cloven.run(program, images).numpy()

    for kind in (np.float32, np.float64):
        outputs = cloven.run(program, images.numpy().astype(kind))
        assert isinstance(outputs, np.ndarray)
        assert outputs.dtype == np.float32
        assert np.array_equal(outputs, expected)


def test_arrays_that_pytorch_cannot_share_are_copied(program: cloven.Program, images: torch.Tensor) -> None:
    array = images.numpy()
    expected = cloven.run(program, array)
    fixed = array.copy()
    fixed.flags.writeable = False

    assert np.array_equal(cloven.run(program, array[::-1]), expected[::-1])
    assert np.array_equal(cloven.run(program, array.astype(">f4")), expected)
    assert np.array_equal(cloven.run(program, fixed), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch is 0; expected 1 or more"),
        ({"batch": -3}, "batch is -3; expected 1 or more"),
        ({"batch": 2.5}, "batch is 2.5; expected a whole number, 1 or more"),
        ({"tap": 3}, "tap is 3; expected a function of a transfer and a tensor"),
    ],
)
def test_wrong_options_are_answered_in_one_sentence(
    program: cloven.Program, images: torch.Tensor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(cloven.ClovenError) as caught:
        cloven.run(program, images, **options)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[0.5]], "images is a list; expected a tensor or an array (n, C, H, W)"),
        (
            torch.zeros(2, 3, 12, 12, dtype=torch.uint8),
            "the images are torch.uint8; expected floating point in [0, 1]: divide pixels by 255",
        ),
        (
            torch.zeros(3, 12, 12),
            "the images have shape (3, 12, 12); expected (n, 3, 12, 12), the input of the plan's model",
        ),
        (np.array(["a"]), "the images are an array of <U1; expected float32 in [0, 1]"),
        (
            torch.zeros(2, 3, 12, 12).to_sparse(),
            "the images are a tensor with layout torch.sparse_coo; expected a dense tensor: call to_dense()",
        ),
    ],
)
def test_wrong_images_are_answered_in_one_sentence(program: cloven.Program, given: Any, message: str) -> None:
    with pytest.raises(cloven.ClovenError) as caught:
        cloven.run(program, given)

    assert str(caught.value) == message


def test_a_graph_is_not_a_program(model: cloven.Graph, images: torch.Tensor) -> None:
    with pytest.raises(cloven.ClovenError, match="program is a Graph; expected the program that"):
        cloven.run(model, images)  # type: ignore[call-overload]
