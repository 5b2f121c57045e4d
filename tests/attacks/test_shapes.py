"""Guesses from captured bytes alone: number type, layout, shape; noise, vectors, and broken messages."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from cloven.attacks.formats import SIZES, Format, decoded, recognised
from cloven.attacks.shapes import Map, ShapeGuess, infer, maps
from cloven.errors import ClovenError
from cloven.zoo.datasets import load

Bytes = NDArray[np.uint8]


@cache
def digits() -> dict[str, NDArray[np.float32]]:
    """Values of a small CNN with random weights on real digits."""
    return _values(1, load("digits", limit=24).tensor())


@cache
def photos() -> dict[str, NDArray[np.float32]]:
    """The same on photographs."""
    return _values(3, load("photos", shape=(3, 48, 48), limit=24).tensor())


def _values(channels: int, images: torch.Tensor) -> dict[str, NDArray[np.float32]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU())
        second = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(16, 24, 3, padding=1), nn.ReLU())
        third = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(24, 32, 3, padding=1), nn.ReLU())
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 40))
    found, value = {"image": images.numpy()}, images
    with torch.inference_mode():
        for name, layer in {"first": first, "second": second, "third": third, "head": head}.items():
            value = layer(value)
            found[name] = value.numpy()
    return found


def as_bytes(values: NDArray[np.float32] | NDArray[np.float16] | NDArray[np.float64]) -> Bytes:
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)


def bfloat16(values: NDArray[np.float32]) -> Bytes:
    rounded = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy()
    return np.ascontiguousarray(rounded).view(np.uint8).reshape(len(values), -1)


def read(messages: Bytes, guess: ShapeGuess) -> NDArray[np.float32]:
    """The numbers of messages as a guess has them, channels first."""
    numbers = decoded(messages, Format(guess.dtype, guess.big_endian))
    if guess.layout == "flat":
        return numbers
    channels, height, width = guess.shape
    if guess.layout == "chw":
        return numbers.reshape(-1, channels, height, width)
    return numbers.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)


def noise(images: int, length: int) -> Bytes:
    return np.random.default_rng(3).integers(0, 256, (images, length), np.uint8)


@pytest.mark.parametrize("layer", ["image", "first", "second", "third"])
@pytest.mark.parametrize("source", [digits, photos])
def test_maps_of_real_images_are_found_exactly_and_read_back(source: object, layer: str) -> None:
    assert callable(source)
    value = source()[layer]
    messages = as_bytes(value)
    guess = infer(messages)

    assert (guess.dtype, guess.layout, guess.shape) == ("float32", "chw", value.shape[1:])
    assert not guess.random
    assert 0 <= guess.score <= 1
    assert np.array_equal(read(messages, guess), value)


@pytest.mark.parametrize("layer", ["image", "first", "second", "third"])
def test_channels_last_are_told_from_channels_first_and_put_first(layer: str) -> None:
    value = photos()[layer]
    messages = as_bytes(value.transpose(0, 2, 3, 1))
    guess = infer(messages)

    assert (guess.layout, guess.shape) == ("hwc", value.shape[1:])
    assert np.array_equal(read(messages, guess), value)


@pytest.mark.parametrize(
    ("name", "part"),
    {
        "band": np.s_[:, :, 12:24],
        "band with a halo": np.s_[:, :, 11:25],
        "columns": np.s_[:, :, :, :12],
        "tile": np.s_[:, :, :24, 24:],
        "channels": np.s_[:, 4:8],
    }.items(),
)
def test_parts_of_a_map_are_found(name: str, part: tuple[slice, ...]) -> None:
    value = photos()["first"][part]

    assert infer(as_bytes(value)).shape == value.shape[1:], name


@pytest.mark.parametrize("layer", ["image", "second", "head"])
def test_every_kind_of_number_is_recognised_in_either_byte_order(layer: str) -> None:
    value = photos()[layer]
    written = {
        Format("float32"): as_bytes(value),
        Format("float16"): as_bytes(value.astype(np.float16)),
        Format("float64"): as_bytes(value.astype(np.float64)),
        Format("bfloat16"): bfloat16(value),
    }
    for form, messages in written.items():
        assert recognised(messages) == form
        swapped = messages.reshape(len(messages), -1, SIZES[form.dtype])[:, :, ::-1].reshape(messages.shape)
        assert recognised(swapped) == Format(form.dtype, True)
        assert np.array_equal(decoded(swapped, Format(form.dtype, True)), decoded(messages, form))
        assert np.allclose(decoded(messages, form), value.reshape(len(value), -1), rtol=2**-7, atol=1e-6)


def test_pixels_of_one_byte_are_told_signed_or_not() -> None:
    pixels = np.round(photos()["image"] * 255).astype(np.uint8).reshape(24, -1)
    guess = infer(pixels)

    assert (guess.dtype, guess.shape) == ("uint8", (3, 48, 48))
    assert np.array_equal(read(pixels, guess).reshape(24, -1), pixels)
    normal = np.random.default_rng(0).normal(0, 30, (8, 999)).clip(-127, 127).astype(np.int8)
    assert recognised(normal.view(np.uint8)) == Format("int8")


def test_vectors_are_flat() -> None:
    value = digits()["head"]
    messages = as_bytes(value)
    guess = infer(messages)

    assert (guess.dtype, guess.layout, guess.shape) == ("float32", "flat", (40,))
    assert np.array_equal(read(messages, guess), value)
    slow = np.cumsum(np.random.default_rng(0).normal(size=(24, 400)), 1).astype(np.float32)
    assert infer(as_bytes(slow)).layout == "flat", "near neighbours alone make no map"


@pytest.mark.parametrize("length", [4, 64, 1000, 4001, 3 * 2**16])
def test_a_ciphertext_is_noise(length: int) -> None:
    messages = noise(24, length)

    assert infer(messages) == ShapeGuess("uint8", "flat", (length,), 1.0, random=True)
    assert read(messages, infer(messages)).shape == (24, length)


def test_constants_zeros_and_nan_are_survived() -> None:
    zeros = np.zeros((5, 64), np.uint8)
    assert infer(zeros) == ShapeGuess("float32", "flat", (16,), 1.0, random=False)
    assert infer(zeros[:, :63]).dtype == "uint8"
    for number in (1.0, np.nan, np.inf, -3e38, 1e-42):
        assert not infer(as_bytes(np.full((5, 48), number, np.float32))).random
    value = photos()["first"].copy()
    value[3, 2, 5:7, 5] = np.nan
    value[4, 0, 0, 0] = np.inf
    guess = infer(as_bytes(value))
    assert guess.shape == value.shape[1:]
    assert np.isnan(read(as_bytes(value), guess)).sum() == 2


@pytest.mark.parametrize("length", [1, 2, 3, 5, 7, 9, 13])
def test_any_length_is_taken(length: int) -> None:
    for messages in (noise(9, length), noise(1, length), np.full((2, length), 7, np.uint8)):
        guess = infer(messages)
        assert read(messages, guess).size == messages.size // SIZES[guess.dtype]


def test_one_image_is_enough_for_a_large_map() -> None:
    value = photos()["first"][:1]

    assert infer(as_bytes(value)).shape[1:] == value.shape[2:]


def test_the_same_bytes_give_the_same_guess() -> None:
    messages = as_bytes(photos()["second"])

    assert infer(messages) == infer(messages.copy())


def test_candidates_are_all_maps_that_fit() -> None:
    found = set(maps(24))

    assert Map("chw", (1, 4, 6)) in found
    assert Map("hwc", (6, 2, 2)) in found
    assert all(np.prod(m.shape) == 24 and min(m.shape[1:]) > 1 for m in found)
    assert not list(maps(7))


@pytest.mark.parametrize(
    "messages",
    [np.zeros((0, 4), np.uint8), np.zeros((4, 0), np.uint8), np.zeros(4, np.uint8), np.zeros((2, 4), np.float32)],
)
def test_what_is_no_message_is_refused_with_what_to_do(messages: Bytes) -> None:
    with pytest.raises(ClovenError, match=r"expected bytes \(uint8\) of shape \(images, bytes\).*stack"):
        infer(messages)


@pytest.mark.slow
@pytest.mark.skipif("CLOVEN_DATA" not in os.environ, reason="CLOVEN_DATA names no folder with CIFAR-10 and weights")
def test_nearly_all_values_of_a_trained_resnet_are_found() -> None:
    from cloven.runtime.capture import capture
    from cloven.runtime.torch_engine import evaluate
    from cloven.zoo.models import NORMALISATION
    from cloven.zoo.named import make

    folder = Path(os.environ["CLOVEN_DATA"])
    images = load(f"cifar10:{folder / 'cifar-10-batches-bin'}", limit=16).tensor()
    weights = folder / "weights" / "resnet20-12fca82f.th"
    mean, std = NORMALISATION["resnet20"]
    model = make("resnet20", shape=(3, 32, 32), classes=10, weights=weights)
    graph = capture(model, images[:1], mean=mean, std=std)
    values = evaluate(graph, images, [op.name for op in graph.ops if len(op.shape) == 3 and op.shape[1] > 1])
    hits = [infer(as_bytes(v.numpy())).shape == tuple(v.shape[1:]) for v in values.values()]

    assert np.mean(hits) > 0.95
