"""Measure how often a listener guesses the content of captured bytes, for trained models on real images.

    CLOVEN_DATA=FOLDER python -m benchmarks.shapes [--models NAME ...] [--images N] [--every K] [--misses]

Every K-th value of each model is converted to bytes in several ways: whole, in float16, with channels last, a part
of the channels or of the map, partial sums of convolutions, vectors, and noise of the same length. A guess is
right if the number type, the layout and the shape are; vectors must be called flat, and noise random. It prints
the number of right guesses as Markdown. CLOVEN_DATA contains MNIST/raw, cifar-10-batches-bin, imagenet-sample and
weights.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cloven.attacks.shapes import ShapeGuess, infer
from cloven.files import cache_dir
from cloven.graph.graph import Graph
from cloven.runtime.capture import capture
from cloven.runtime.torch_engine import evaluate
from cloven.zoo.datasets import load
from cloven.zoo.models import NORMALISATION
from cloven.zoo.named import make, usual
from cloven.zoo.training import seeded, trained

Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class Subject:
    """A model, its data set in CLOVEN_DATA, and its weights; LeNet-5, which has no file of weights, is trained."""

    model: str
    data: str
    weights: str | None = None
    values: int | None = None


SUBJECTS = {
    "lenet5": Subject("lenet5", "mnist:MNIST/raw"),
    "resnet20": Subject("resnet20", "cifar10:cifar-10-batches-bin", "resnet20-12fca82f.th"),
    "resnet56": Subject("resnet56", "cifar10:cifar-10-batches-bin", "resnet56-4bfd9763.th"),
    "mobilenet": Subject("mobilenet_v1_0.75", "folder:imagenet-sample", "mobilenet_v1_0.75_224_imagenet_f32.npz"),
    "resnet50 (random)": Subject("torchvision:resnet50", "folder:imagenet-sample", values=60),
    "vgg16 (random)": Subject("torchvision:vgg16", "folder:imagenet-sample", values=14),
}
"""The models; the last two have PyTorch's initial weights, and only their first layers are used."""

CHUNK = 6
"""The number of values that are in memory at a time."""


@dataclass(frozen=True)
class Case:
    """A message of several images, and the right guess; ``shape`` is None for noise."""

    view: str
    messages: NDArray[np.uint8]
    dtype: str
    layout: str
    shape: tuple[int, ...] | None

    def hit(self, guess: ShapeGuess) -> bool:
        """Return whether a guess is right; a map with one channel has no layout."""
        if self.shape is None or guess.random:
            return self.shape is None and guess.random
        layout = guess.layout if guess.shape[0] > 1 or guess.layout == "flat" else "chw"
        return (guess.dtype, layout, guess.shape) == (self.dtype, self.layout, self.shape)


def subject(name: str, folder: Path, images: int) -> tuple[Graph, Tensor]:
    """Return a model's graph and images that it was not trained on."""
    one = SUBJECTS[name]
    shape, classes = usual(one.model).shape, usual(one.model).classes
    kind, _, below = one.data.partition(":")
    photographs = load(f"{kind}:{folder / below}", shape=shape, limit=max(images, 2000 if kind == "mnist" else 1))
    shown = photographs.tensor()[-images:]
    if one.model == "lenet5":
        training = photographs.take(np.arange(len(photographs) - images))
        return capture(trained("lenet5", training, epochs=3, seed=0, cache=cache_dir()), shown[:1]), shown
    weights = folder / "weights" / one.weights if one.weights else None
    model = seeded(lambda: make(one.model, shape=shape, classes=classes, weights=weights), 0)
    if weights is None:
        _settle(model, shown)
    mean, std = NORMALISATION.get(one.model, (None, None))
    return capture(model, shown[:1], mean=mean, std=std), shown


def _settle(model: nn.Module, images: Tensor) -> None:
    """Fit batch norms to the images, so that values have the magnitude of a trained model's."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        with torch.no_grad():
            model.train()(images)
    model.eval()


def values(graph: Graph, images: Tensor, names: Sequence[str]) -> Iterator[tuple[str, Numbers]]:
    """Return values of the graph by name, with partial sums over half of the input channels of convolutions."""
    for start in range(0, len(names), CHUNK):
        chosen = names[start : start + CHUNK]
        halves = [n for n in chosen if graph.by_name[n].kind == "conv2d" and graph.by_name[n].attrs["groups"] == 1]
        found = evaluate(graph, images, {*chosen, *(graph.by_name[n].inputs[0] for n in halves)}, batch=8)
        for name in chosen:
            yield name, found[name].numpy()
            if name in halves and (half := graph.by_name[name].params["weight"].shape[1] // 2):
                op = graph.by_name[name]
                top, bottom, left, right = op.attrs["pads"]
                given = F.pad(found[op.inputs[0]][:, :half], (left, right, top, bottom))
                weight = torch.tensor(op.params["weight"][:, :half])
                attrs = op.attrs
                made = F.conv2d(given, weight, None, attrs["stride"], 0, attrs["dilation"])
                yield f"partial {name}", made.numpy()


def views(name: str, value: Numbers) -> Iterator[Case]:
    """Yield the messages for a value and parts of it."""
    if value.ndim != 4 or value.shape[2:] == (1, 1):
        flat = value.reshape(len(value), -1)
        yield _case("vector", flat)
        yield _case("vector, float16", flat.astype(np.float16))
        return
    if name.startswith("partial "):
        yield _case("partial sums", value)
        return
    channels, height, width = value.shape[1:]
    yield _case("whole", value)
    yield _case("whole, float16", value.astype(np.float16))
    yield _case("whole, channels last", value.transpose(0, 2, 3, 1), last=True)
    yield _case("whole, channels last, float16", value.transpose(0, 2, 3, 1).astype(np.float16), last=True)
    if channels >= 8:
        yield _case("quarter of the channels", value[:, channels // 4 : channels // 2])
    if min(height, width) >= 8:
        quarter = height // 4
        band = value[:, :, quarter : 2 * quarter]
        yield _case("quarter of the rows", band)
        yield _case("quarter of the rows with a halo", value[:, :, quarter - 1 : 2 * quarter + 1])
        yield _case("quarter of the rows, channels last", band.transpose(0, 2, 3, 1), last=True)
        yield _case("quarter of the columns", value[:, :, :, : width // 4])
        yield _case("tile of 2x2", value[:, :, : height // 2, width // 2 :])
    noise = np.random.default_rng(0).integers(0, 256, (len(value), 4 * channels * height * width), np.uint8)
    yield Case("noise", noise, "uint8", "flat", None)


def _case(view: str, value: NDArray[np.float32] | NDArray[np.float16], *, last: bool = False) -> Case:
    messages = np.ascontiguousarray(value).view(np.uint8).reshape(len(value), -1)
    shape = value.shape[1:]
    if value.ndim == 4 and last and shape[2] > 1:
        return Case(view, messages, str(value.dtype), "hwc", (shape[2], *shape[:2]))
    shape = (shape[2], *shape[:2]) if last else shape
    return Case(view, messages, str(value.dtype), "chw" if value.ndim == 4 else "flat", shape)


def main() -> int:
    """Guess, count, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--misses", action="store_true", help="write each wrong guess to standard error")
    given = parser.parse_args()
    folder = os.environ.get("CLOVEN_DATA")
    if folder is None:
        print("CLOVEN_DATA is not set; set it to the folder with the data sets and weights", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    hits: Counter[tuple[str, str]] = Counter()
    cases: Counter[tuple[str, str]] = Counter()
    slowest = 0.0
    for model in given.models:
        graph, images = subject(model, Path(folder), given.images)
        ops = [op.name for op in graph.ops if len(op.shape) in (1, 3)]
        names = ops[: SUBJECTS[model].values : given.every]
        last = [] if SUBJECTS[model].values else ops[-3:]
        for name, value in values(graph, images, list(dict.fromkeys([*names, *last]))):
            for case in views(name, value):
                start = time.perf_counter()
                guess = infer(case.messages)
                slowest = max(slowest, time.perf_counter() - start)
                cases[case.view, model] += 1
                hits[case.view, model] += case.hit(guess)
                if given.misses and not case.hit(guess):
                    print(f"{model} {name} {case.view}: {case.shape}, guessed {guess}", file=sys.stderr)
    _table(hits, cases, given.models)
    print(f"\n{given.images} images; the slowest guess took {slowest:.1f} s.")
    return 0


def _table(hits: Counter[tuple[str, str]], cases: Counter[tuple[str, str]], models: Sequence[str]) -> None:
    print(f"| message | {' | '.join(models)} |\n|---|{'---:|' * len(models)}")
    for view in dict.fromkeys(view for view, _ in cases):
        counts = (f"{hits[view, m]}/{cases[view, m]}" if cases[view, m] else "" for m in models)
        print(f"| {view} | {' | '.join(counts)} |")


if __name__ == "__main__":
    sys.exit(main())
