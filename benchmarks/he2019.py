"""Measure the black-box attack of He et al. (ACSAC 2019) as its authors train it, and as cloven trains its decoder.

    CLOVEN_DATA=FOLDER python -m benchmarks.he2019 [--cuts NAME ...] [--images N] [--epochs N] [--full]

Both attack one CNN on CIFAR-10, cut after its first convolution, its fourth and its sixth, with one architecture of
the decoder on the same images. Theirs, rebuilt from the published description, computes the features for every
batch, and lets gradients flow on through the attacked CNN; cloven computes them once, and that time is counted.
Epochs of theirs and whole runs of cloven's take turns; images per CPU second are medians. Scores are of unseen
images.

At the second cut, `residual` is also trained on the same images, for 1 epoch, 2 epochs and so on, until it reaches
the SSIM of the recipe after all its epochs. The CPU seconds of that training and of its features are compared with
the seconds of all epochs of the recipe. The exit code is 1 if cloven trains less than 6 times as fast at the second
cut, or if `residual` takes more than a tenth of the recipe's time to reach its score.

--full uses all images and the 50 epochs of the paper, which takes hours. CLOVEN_DATA holds cifar-10-batches-bin;
the CNN is trained once and kept in cloven's cache.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measurement import Measurement, data_folder, measured, shown
from cloven.attacks.attack import BatchedAttack
from cloven.attacks.decoder import Decoder
from cloven.attacks.knowledge import Knowledge, Reconstructor, in_memory
from cloven.attacks.layers import Chain, ConvT, ReLU, build
from cloven.attacks.residual import Residual
from cloven.auditing.features import features
from cloven.files import cache_dir
from cloven.graph.graph import Graph
from cloven.process_memory import keep_freed
from cloven.rows import all_rows
from cloven.runtime.capture import capture
from cloven.runtime.torch_engine import evaluate
from cloven.score import psnr, ssim
from cloven.zoo.datasets import load
from cloven.zoo.images import Images, test_half
from cloven.zoo.training import fit, seeded

NAME = "he2019"
BOUNDED, BOUND = "relu22", 6.0
"""The cut with a bound, and the least ratio of images per second: those of cloven over those of the recipe."""
SOONER, LONGEST = 10.0, 10
"""The least ratio of CPU seconds until the recipe's SSIM is reached there, those of the recipe over those of
`residual`; and the most epochs of `residual`."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The mean and the deviation of each channel, by which images are normalised before they enter the CNN."""
VICTIMS = 500
BATCH = 32


@dataclass(frozen=True)
class Cut:
    """A layer to cut after, the decoder, and the PSNR (dB) and SSIM of the paper's Table 4 (same set)."""

    name: str
    decoder: Chain
    psnr: float
    ssim: float


def _last(channels: int) -> ConvT:
    return ConvT(channels, 3, stride=1, output_padding=0)


CUTS = {
    "conv11": Cut("conv11", (_last(64),), 49.88, 0.9993),
    "relu22": Cut("relu22", (ConvT(128, 64), ReLU(), _last(64)), 19.81, 0.6939),
    "relu32": Cut("relu32", (ConvT(128, 128), ReLU(), ConvT(128, 64), ReLU(), _last(64)), 15.42, 0.3124),
}


# --- the attacked CNN -----------------------------------------------------------------------------------------


class Normalised(nn.Module):
    """Images in [0, 1] less the channels' means, over their deviations."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised images ``(n, 3, H, W)``."""
        return (x - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(DEVIATION).view(-1, 1, 1)


def cnn() -> nn.Sequential:
    """Return the paper's CNN for CIFAR-10: six convolutions, three pools, two dense layers; random weights."""
    layers: dict[str, nn.Module] = {}
    inputs = 3
    for group, outputs in enumerate((64, 128, 128), 1):
        for number in (1, 2):
            layers[f"conv{group}{number}"] = nn.Conv2d(inputs, outputs, 3, padding=1)
            layers[f"relu{group}{number}"] = nn.ReLU()
            inputs = outputs
        layers[f"pool{group}"] = nn.MaxPool2d(2)
    layers |= {"flatten": nn.Flatten(), "fc1": nn.Linear(2048, 512), "sigmoid": nn.Sigmoid()}
    network = nn.Sequential()
    for name, layer in {**layers, "fc2": nn.Linear(512, 10)}.items():
        network.add_module(name, layer)
    return network


def attacked(images: Images, epochs: int) -> nn.Sequential:
    """Return the CNN, trained on the images or read from the cache; see `cloven.zoo.training.fit`."""
    network = seeded(cnn, 0)
    file = cache_dir() / f"he2019-{images.fingerprint()[:16]}-{epochs}.safetensors"
    if file.exists():
        network.load_state_dict(load_file(file))
        return network.eval()
    fit(nn.Sequential(Normalised(), network), images, epochs=epochs)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), file)
    return network.eval()


# --- the two trainings ----------------------------------------------------------------------------------------


class Recipe:
    """The attack as its authors train it, an epoch at a time.

    Mean squared error in normalised space, Adam (1e-3, eps 1e-3, amsgrad, halved every 10 epochs), batches of 32
    in the data set's order. The attacked CNN's weights get gradients that nobody uses and nobody sets to zero.
    """

    def __init__(self, network: nn.Sequential, cut: Cut) -> None:
        names = [name for name, _ in network.named_children()]
        self.front = network[: names.index(cut.name) + 1]
        self.decoder = seeded(lambda: build(cut.decoder), 0)
        self.optimiser = torch.optim.Adam(self.decoder.parameters(), lr=1e-3, eps=1e-3, amsgrad=True)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimiser, 10, 0.5)

    def epoch(self, images: Tensor) -> float:
        """Train on images ``(n, 3, H, W)`` in [0, 1], and return the number of images per CPU second."""
        start = time.process_time()
        for batch in images.split(BATCH):
            wanted = Normalised()(batch)
            loss = F.mse_loss(self.decoder(self.front(wanted)), wanted)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
        self.schedule.step()
        return len(images) / (time.process_time() - start)

    def rebuilt(self, images: Tensor) -> Tensor:
        """Return the reconstructions of images, ``(n, 3, H, W)`` in [0, 1]."""
        with torch.inference_mode():
            made: Tensor = self.decoder(self.front(Normalised()(images)))
        return (made * torch.tensor(DEVIATION).view(-1, 1, 1) + torch.tensor(MEAN).view(-1, 1, 1)).clamp(0, 1)


def ours(graph: Graph, cut: Cut, images: Tensor, attack: BatchedAttack) -> tuple[float, Reconstructor]:
    """Compute features once and train; return the CPU seconds and the reconstructor.

    It runs in its own process: cloven's memory settings would speed up the recipe too.
    """
    start = time.process_time()
    keep_freed()
    values, sets = {graph: {graph.find(cut.name): "z"}}, {"auxiliary": images}
    found, _ = features(values, sets, budget=2**60, precision="float32", shelf=None, others={})
    captured = all_rows(found.kept["z/auxiliary"])
    knowledge = Knowledge(tuple(images.shape[1:]), images, in_memory(captured))
    learned = attack.fit(knowledge, generator=torch.Generator().manual_seed(0))
    assert isinstance(learned, Reconstructor)
    return time.process_time() - start, learned


def compared(
    network: nn.Sequential, graph: Graph, cut: Cut, sets: tuple[Tensor, Tensor], given: Given, apart: Executor
) -> Iterator[Measurement]:
    """Yield the measurements of both trainings; cloven's runs whole, between epochs of the recipe."""
    images, victims = sets
    recipe = Recipe(network, cut)
    theirs: list[float] = []
    own: list[float] = []
    learned: Reconstructor | None = None
    for epoch in range(given.epochs):
        theirs.append(recipe.epoch(images))
        if epoch in given.turns():
            attack = Decoder(epochs=given.epochs, batch=BATCH, layers=cut.decoder)
            taken, learned = apart.submit(ours, graph, cut, images, attack).result()
            own.append(given.epochs * len(images) / taken)
    assert learned is not None
    captured = evaluate(graph, victims, [value := graph.find(cut.name)])[value]
    row = partial(measured, NAME, better="higher")
    bounded = cut.name == BOUNDED
    size = f"{cut.name}, {len(images)} pairs, {given.epochs} epochs"
    yield row(f"{size}: images per CPU second, recipe", theirs, "images/s")
    speed = [one / statistics.median(theirs) for one in own]
    yield row(f"{size}: images per CPU second, decoder / recipe", speed, "x", goal=BOUND if bounded else None)
    made = {"recipe": recipe.rebuilt(victims), "decoder": learned([captured])}
    scores = {name: float(ssim(one, victims).mean()) for name, one in made.items()}
    for name, one in made.items():
        yield row(f"{size}: PSNR, {name}", [float(psnr(one, victims).mean())], "dB")
        yield row(f"{size}: SSIM, {name}", [scores[name]], "SSIM")
    if not bounded:
        return
    for epochs in range(1, LONGEST + 1):
        taken, learned = apart.submit(ours, graph, cut, images, Residual(epochs=epochs)).result()
        more = float(ssim(learned([captured]), victims).mean()) - scores["recipe"]
        if more >= 0:
            break
    whole = sum(len(images) / speed for speed in theirs)
    yield row(f"{size}: SSIM, residual after {epochs} epochs less recipe", [more], "SSIM", goal=0)
    case = f"{size}: CPU time, recipe / residual of equal score"
    yield row(case, [whole / taken], "x", goal=SOONER)


# --- the script -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """The options."""

    cuts: tuple[str, ...]
    images: int | None
    epochs: int
    target_images: int
    target_epochs: int
    threads: int

    def turns(self) -> set[int]:
        """Return the epochs of the recipe after which cloven trains: three, or one for many images."""
        if self.images is None:
            return {self.epochs // 2}
        return {self.epochs // 6, self.epochs // 2, self.epochs * 5 // 6}


def options() -> Given:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", nargs="+", choices=list(CUTS), default=["relu22", "conv11", "relu32"])
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--target-images", type=int, default=3000)
    parser.add_argument("--target-epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--full", action="store_true")
    given = parser.parse_args()
    images, epochs = (None, 50) if given.full else (given.images, given.epochs)
    target = (given.target_images, given.target_epochs)
    return Given(tuple(given.cuts), images, epochs, *target, given.threads)


def rows(given: Given, folder: Path) -> Iterator[Measurement]:
    """Yield the measurements of every cut."""
    every = load(f"cifar10:{folder / 'cifar-10-batches-bin'}")
    apart = test_half(every)
    training = every.take([i for i, source in enumerate(every.sources) if not source.startswith("test")])
    network = attacked(training.take(range(given.target_images)), given.target_epochs)
    images = training.tensor()[: given.images]
    graph = capture(network, torch.zeros(1, *images.shape[1:]), mean=MEAN, std=DEVIATION)
    sets = (images, apart.tensor()[:VICTIMS])
    start = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, start, torch.set_num_threads, (given.threads,)) as process:
        for name in given.cuts:
            yield from compared(network, graph, CUTS[name], sets, given, process)


def measure() -> Iterator[Measurement]:
    """Yield the measurements of the second cut."""
    torch.set_num_threads(1)
    return rows(Given((BOUNDED,), 640, 10, 3000, 2, 1), data_folder())


def main() -> int:
    """Measure, print, and return 1 if a bound is missed."""
    given = options()
    torch.set_num_threads(given.threads)
    return shown(rows(given, data_folder()))


if __name__ == "__main__":
    sys.exit(main())
