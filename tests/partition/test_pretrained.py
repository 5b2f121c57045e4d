"""Trained models divided by every exact strategy predict the same class as the whole model for every image.

``pytest -m slow --log-cli-level=INFO`` shows each plan's accuracy, largest difference and time.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from cloven.graph.graph import Graph
from cloven.partition.compiler import divide
from cloven.partition.data import Data
from cloven.partition.horizontal import Horizontal
from cloven.partition.program import Transfer
from cloven.partition.strategy import Strategy
from cloven.partition.vertical import Vertical
from cloven.runtime.capture import capture
from cloven.runtime.check import TOLERANCE, WORST, compare
from cloven.runtime.local import run
from cloven.runtime.torch_engine import evaluate
from cloven.zoo.datasets import load
from cloven.zoo.images import test_half as half_for_tests
from cloven.zoo.named import make, normalisation, usual

DATA = Path(os.environ.get("CLOVEN_DATA", ""))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "CLOVEN_DATA" not in os.environ,
        reason="CLOVEN_DATA names no folder with CIFAR-10, imagenet-sample and weights",
    ),
]
log = logging.getLogger(__name__)


def cifar10() -> tuple[Tensor, Tensor]:
    """CIFAR-10's 10,000 test images and their classes."""
    images = half_for_tests(load(f"cifar10:{DATA}/cifar-10-batches-bin"))
    return images.tensor(), torch.tensor(images.labels)


def photographs() -> tuple[Tensor, Tensor]:
    """One photograph a class of ImageNet: the short side enlarged to 256 where smaller, 224 from the centre."""
    from PIL import Image

    entries = json.loads((DATA / "imagenet-sample" / "labels.json").read_text("utf-8"))
    pixels = np.empty((len(entries), 224, 224, 3), np.uint8)
    for i, entry in enumerate(entries):
        with Image.open(DATA / "imagenet-sample" / entry["synset"] / entry["file"]) as opened:
            picture = opened.convert("RGB")
        if (short := min(picture.size)) < 256:
            width, height = (round(side * (256 / short)) for side in picture.size)
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        left, top = ((side - 224) // 2 for side in picture.size)
        pixels[i] = np.asarray(picture)[top : top + 224, left : left + 224]
    classes = torch.tensor([entry["index"] for entry in entries])
    return torch.tensor(pixels).permute(0, 3, 1, 2).float().div_(255), classes


class Trained(NamedTuple):
    """The file of a model's weights, its images, how many it gets right, and a layer to tile up to.

    Decoders of JPEG differ in the last bit, so that photographs are allowed a few more or less.
    """

    weights: str
    images: Callable[[], tuple[Tensor, Tensor]]
    right: range
    tiles: str


MODELS = {
    "resnet20": Trained("resnet20-12fca82f.th", cifar10, range(9173, 9174), "layer2"),
    "resnet56": Trained("resnet56-4bfd9763.th", cifar10, range(9339, 9340), "layer2"),
    "mobilenet_v1_0.75": Trained(
        "mobilenet_v1_0.75_224_imagenet_f32.npz", photographs, range(834, 841), "conv_pw_5_relu"
    ),
}


def strategies(tiles: str) -> dict[str, tuple[Strategy | list[Strategy], int]]:
    """One plan of each exact strategy, with its number of devices."""
    return {
        "vertical": (Vertical(), 3),
        "output channels": (Horizontal(), 4),
        "input channels": (Horizontal("in_channels"), 4),
        "fused pairs": (Horizontal("fused"), 4),
        "rows": (Horizontal("rows"), 4),
        "2x2 tiles": (Data((2, 2)), 4),
        "2x2 tiles, then output channels": ([Data((2, 2), until=tiles), Horizontal()], 4),
    }


class Whole(NamedTuple):
    """A model's graph, its test images with their classes, and what it makes of them undivided."""

    graph: Graph
    images: Tensor
    classes: Tensor
    logits: Tensor


@cache
def whole(name: str) -> Whole:
    trained, (shape, classes) = MODELS[name], usual(name)
    model = make(name, shape=shape, classes=classes, weights=DATA / "weights" / trained.weights)
    wanted = normalisation(name, trained.weights)
    assert wanted is not None
    graph = capture(model, torch.zeros(1, *shape), mean=wanted[0], std=wanted[1])
    images, labels = trained.images()
    return Whole(graph, images, labels, evaluate(graph, images, [graph.output])[graph.output])


@pytest.mark.parametrize("name", MODELS)
def test_the_whole_model_has_its_published_accuracy(name: str) -> None:
    _, _, classes, logits = whole(name)

    assert int((logits.argmax(1) == classes).sum()) in MODELS[name].right


@pytest.mark.parametrize("plan", strategies(""))
@pytest.mark.parametrize("name", MODELS)
def test_every_exact_strategy_decides_every_image_as_the_whole_model_does(name: str, plan: str) -> None:
    graph, images, classes, logits = whole(name)
    strategy, devices = strategies(MODELS[name].tiles)[plan]
    program = divide(graph, strategy, devices)
    sent = 0

    def count(_: Transfer, tensor: Tensor) -> None:
        nonlocal sent
        sent += tensor.nbytes

    start = time.perf_counter()
    made = run(program, images, tap=count)
    taken = time.perf_counter() - start
    difference = (made - logits).abs().amax(1)
    right = int((made.argmax(1) == classes).sum())
    log.info("| %s | %s | %d of %d | %.1e | %.0f |", name, plan, right, len(classes), difference.max(), taken)

    assert torch.equal(made.argmax(1), logits.argmax(1))
    assert right in MODELS[name].right
    assert sent == len(images) * sum(transfer.bytes for transfer in program.transfers)
    if plan == "vertical":
        assert torch.equal(made, logits)
    if float(difference.max()) > TOLERANCE * max(1.0, float(logits.abs().max())):
        found = compare(program, graph, images[difference.topk(WORST).indices])
        assert found.equal, found.why()
