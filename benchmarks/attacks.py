"""Measure how fast attacks train: `residual` against a plain loop, shared forward passes, one audit of all cuts.

    CLOVEN_DATA=FOLDER python -m benchmarks.attacks [--only NAME ...] [--pairs N] [--epochs N] [--rounds N]
                                                    [--before COMMIT]

The attacked model is the published ResNet-20 on CIFAR-10. There are five measurements:

residual  The attack and a plain PyTorch loop of the same network train in turns on the same batches, from the
          same weights and with the same loss, on one thread. The loop is written in the usual way: nearest
          upsampling before a convolution, NCHW, Muon one weight at a time, SSIM by convolutions, features
          computed for each batch. It prints CPU seconds per step over whole trainings, and the ratio if the plain
          loop had its features in memory. The scores must be equal to within 0.01.
reach     CPU seconds until `residual` reaches the SSIM on unseen images that the code of an older commit reaches
          in --epochs epochs. It is trained for 1 epoch, 2 epochs and so on, each from the start; the time is
          interpolated linearly. Both versions run in turns, each in its own process on one thread. Requires
          --before.
passes    The number of convolutions that are computed for the features of all four cuts: those of one forward pass.
study     Wall time of one audit of four cuts with `decoder`, and of four audits of one cut each.
screen    Images per CPU second on which `screen` trains, and the seconds of a whole cell; no bound.

The exit code is 1 if a bound is missed. CLOVEN_DATA holds cifar-10-batches-bin and weights/resnet20-12fca82f.th.
"""

from __future__ import annotations

import argparse
import copy
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from cloven.attacks.convolutions import FEW, Convolution, Doubled
from cloven.attacks.knowledge import Knowledge, Pairs, Reconstructor, in_memory
from cloven.attacks.muon import Muon
from cloven.attacks.networks import Sharpened
from cloven.attacks.residual import Residual
from cloven.attacks.screen import Screen
from cloven.attacks.ssim_loss import C1, C2, SIGMA, WINDOW, mixed
from cloven.attacks.trainer import CPU, Fitting, order, train
from cloven.auditing.features import features
from cloven.graph.graph import Graph
from cloven.runtime.capture import capture
from cloven.runtime.torch_engine import evaluate
from cloven.score import ssim
from cloven.zoo.datasets import load
from cloven.zoo.images import Images, test_half
from cloven.zoo.named import make, normalisation
from cloven.zoo.resnet_cifar import ResNetCIFAR

CUTS = ("conv1", "layer1", "layer2", "layer3")
TIMED = ("layer2", "layer1")
WEIGHTS = "resnet20-12fca82f.th"
REACHED = ("layer3", "layer2")
FASTER, EQUAL, STUDY, SOONER = 2.0, 0.01, 0.75, 1.3
"""The bounds: steps per second of `residual` over those of the plain loop; the difference of their SSIM; the
time of one audit over that of its parts; seconds of an older `residual` over those to reach the same score."""


@dataclass(frozen=True)
class Given:
    """The options."""

    only: tuple[str, ...]
    pairs: int
    victims: int
    epochs: int
    rounds: int
    before: str | None


@dataclass(frozen=True, eq=False)
class Subject:
    """The attacked network, its graph, and images: the attacker's own and unseen ones."""

    folder: Path
    network: ResNetCIFAR
    mean: Tensor
    deviation: Tensor
    graph: Graph
    images: Images
    victims: Images

    def captured(self, cut: str, images: Tensor) -> Tensor:
        """Return the features ``(n, ...)`` that cross a cut."""
        return evaluate(self.graph, images, [value := self.graph.find(cut)])[value]

    def front(self, cut: str, images: Tensor) -> Tensor:
        """Return the same features, computed with modules: normalise, then run them up to the cut."""
        x: Tensor = self.network.conv1((images - self.mean) / self.deviation)
        if cut == "conv1":
            return x
        x = F.relu(self.network.bn1(x))
        for name in CUTS[1 : CUTS.index(cut) + 1]:
            x = getattr(self.network, name)(x)
        return x


def subject(folder: Path, pairs: int, victims: int) -> Subject:
    """Return ResNet-20 with its published weights, and CIFAR-10."""
    weights = folder / "weights" / WEIGHTS
    network = make("resnet20", shape=(3, 32, 32), classes=10, weights=weights)
    usual = normalisation("resnet20", str(weights))
    assert isinstance(network, ResNetCIFAR)
    assert usual is not None
    network.requires_grad_(False)
    graph = capture(network, torch.zeros(1, 3, 32, 32), mean=usual[0], std=usual[1])
    every = load(f"cifar10:{folder / 'cifar-10-batches-bin'}")
    images = every.take([i for i, source in enumerate(every.sources) if not source.startswith("test")][:pairs])
    mean, deviation = (torch.tensor(values).view(-1, 1, 1) for values in usual)
    return Subject(folder, network, mean, deviation, graph, images, test_half(every).take(range(victims)))


# --- residual and the plain loop ------------------------------------------------------------------------------


class Enlarged(nn.Sequential):
    """The same function as `Doubled`, as two layers."""

    def __init__(self, like: Doubled) -> None:
        convolution = nn.Conv2d(like.in_channels, like.out_channels, 3, padding=1)
        convolution.load_state_dict(like.state_dict())
        super().__init__(nn.Upsample(scale_factor=2, mode="nearest"), convolution)


def usual(like: Convolution) -> nn.Conv2d:
    """Return PyTorch's convolution with the same weights."""
    found = nn.Conv2d(like.in_channels, like.out_channels, 3, like.stride, 1)  # type: ignore[arg-type]
    found.load_state_dict(like.state_dict())
    return found


class Plain(nn.Module):
    """The network of a `Sharpened` for one map, written in the usual way."""

    def __init__(self, like: Sharpened) -> None:
        super().__init__()
        own = copy.deepcopy(like)
        for module in list(own.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, Doubled):
                    setattr(module, name, Enlarged(child))
                elif isinstance(child, Convolution):
                    setattr(module, name, usual(child))
        self.network, self.linear, self.size = own.network, own.linear, own.size
        self.shift, self.scale = (own.adaptor.get_buffer(name) for name in ("shift0", "scale0"))
        for parameter in self.parameters():
            parameter.data = parameter.data.contiguous()

    def forward(self, captured: Tensor) -> Tensor:
        """Return images of features ``(n, C, H, W)``."""
        z = captured * self.scale + self.shift
        made: Tensor = self.network([z]) + F.interpolate(self.linear(z), self.size)
        return made


class PlainMuon:
    """Muon as published, one weight after another; Adam for all parameters but the weights of convolutions."""

    def __init__(self, network: nn.Module) -> None:
        self.weights = [p for p in network.parameters() if p.ndim == 4 and p.shape[0] > FEW]
        others = [p for p in network.parameters() if not any(p is weight for weight in self.weights)]
        self.adam = torch.optim.Adam(others)
        self.momenta = [torch.zeros_like(p) for p in self.weights]

    def zero_grad(self) -> None:
        """Reset the gradients."""
        self.adam.zero_grad()
        for weight in self.weights:
            weight.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update the parameters."""
        self.adam.param_groups[0]["lr"] = rate
        self.adam.step()
        for weight, momentum in zip(self.weights, self.momenta, strict=True):
            assert weight.grad is not None
            momentum.lerp_(weight.grad, 1 - Muon.MOMENTUM)
            x = weight.grad.lerp(momentum, Muon.MOMENTUM).flatten(1)
            size = 0.2 * max(x.shape) ** 0.5
            x = x / (x.norm() + 1e-12)  # the first gradients are 0
            for _ in range(3):
                a = x @ x.T
                x = 3.4445 * x + (2.0315 * a @ a - 4.7750 * a) @ x
            weight.sub_(x.view_as(weight), alpha=rate * size)


def likeness_loss(share: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the mean squared error plus ``share`` times 1 - SSIM, computed by convolutions as usual."""
    offset = torch.arange(WINDOW) - WINDOW // 2
    weight = torch.exp(-0.5 * (offset / SIGMA) ** 2)
    weight = (weight / weight.sum()).repeat(3, 1, 1, 1)

    def blur(t: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(t, weight, groups=3), weight.transpose(2, 3), groups=3)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        mean_a, mean_b = blur(a), blur(b)
        variance_a, variance_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
        covariance = blur(a * b) - mean_a * mean_b
        luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
        structure = (2 * covariance + C2) / (variance_a + variance_b + C2)
        return F.mse_loss(a, b) + share * (1 - (luminance * structure).mean())

    return loss


@dataclass(frozen=True)
class Beside:
    """CPU seconds per step, and the scores, of the attack and of the plain loop."""

    ours: float
    plain: float
    front: float
    ssim: tuple[float, float]

    @property
    def ratio(self) -> float:
        """The steps per second of the attack, over those of the plain loop."""
        return self.plain / self.ours

    @property
    def at_hand(self) -> float:
        """The same ratio without the time in which the plain loop computes its features."""
        return (self.plain - self.front) / self.ours


def by_cloven(captured: Tensor, images: Tensor, seen: Tensor, epochs: int) -> tuple[float, Tensor]:
    """Return the CPU seconds per step of the attack, and its reconstructions of unseen images.

    It runs in its own process: cloven's memory settings would speed up the plain loop too.
    """
    torch.set_num_threads(1)
    knowledge = Knowledge(tuple(images.shape[1:]), images, in_memory(captured))
    trainee = Residual(epochs=epochs).begin(knowledge, torch.Generator().manual_seed(0), CPU)
    assert trainee.schedule is not None
    start = time.process_time()
    (learned,) = train([trainee])
    steps = epochs * -(-trainee.schedule.training(len(images)) // trainee.schedule.batch)
    assert isinstance(learned, Reconstructor)
    return (time.process_time() - start) / steps, learned([seen])


def by_hand(one: Subject, cut: str, plain: Plain, fitting: Fitting, epochs: int) -> tuple[float, float]:
    """Return the CPU seconds per step of the plain loop, and how many of them the attacked network takes."""
    images, attack = one.images.tensor(), Residual(epochs=epochs)
    loss, optimiser = likeness_loss(attack.likeness), PlainMuon(plain)
    seconds: dict[str, list[float]] = defaultdict(list)
    for epoch in range(epochs):
        batches = order(0, epoch, fitting.schedule.training(len(images))).split(attack.batch)
        for number, index in enumerate(batches):
            start = time.process_time()
            batch = images[index]
            with torch.no_grad():
                captured = one.front(cut, batch)
            seconds["front"].append(time.process_time() - start)
            optimiser.zero_grad()
            loss(plain(captured), batch).backward()
            optimiser.step(fitting.rate((epoch + number / len(batches)) / epochs))
            seconds["all"].append(time.process_time() - start)
    return sum(seconds["all"]) / len(seconds["all"]), sum(seconds["front"]) / len(seconds["front"])


def beside(one: Subject, cut: str, given: Given, apart: Executor) -> Beside:
    """Return the medians over rounds in which both train from the same weights on the same batches."""
    images, victims = one.images.tensor(), one.victims.tensor()
    captured, seen = one.captured(cut, images), one.captured(cut, victims)
    ours: list[float] = []
    hand: list[float] = []
    front: list[float] = []
    for _ in range(given.rounds):
        pairs = Pairs(in_memory(captured), images)
        knowledge = Knowledge(pairs.image, images, pairs.captured)
        fitting = Residual(epochs=given.epochs).begin(knowledge, torch.Generator().manual_seed(0), CPU)
        assert isinstance(fitting, Fitting)
        assert isinstance(fitting.network, Sharpened)
        plain = Plain(fitting.network)
        _alike(fitting, plain, pairs)
        seconds, made = apart.submit(by_cloven, captured, images, seen, given.epochs).result()
        ours.append(seconds)
        for name, value in zip((hand, front), by_hand(one, cut, plain, fitting, given.epochs), strict=True):
            name.append(value)
    with torch.inference_mode():
        other = torch.cat([plain.eval()(chunk) for chunk in seen.split(256)]).clamp(0, 1)
    a, b = (float(ssim(m, victims).mean()) for m in (made, other))
    return Beside(statistics.median(ours), statistics.median(hand), statistics.median(front), (a, b))


def _alike(fitting: Fitting, plain: Plain, pairs: Pairs) -> None:
    """Check that the outputs and losses of both networks are equal before the training."""
    captured, images = pairs.first(32)
    with torch.no_grad():
        ours, theirs = fitting.network.eval()(captured), plain.eval()(captured[0])
        share = Residual().likeness
        losses = [float(loss(ours, images)) for loss in (mixed(share, pairs.image), likeness_loss(share))]
    assert torch.allclose(ours, theirs, atol=1e-4), "the plain network differs"
    assert abs(losses[0] - losses[1]) < 1e-5, "the plain loss differs"
    plain.train()


def residual(one: Subject, given: Given) -> bool:
    """Return whether `residual` meets its bounds at all cuts in `TIMED`."""
    right = True
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        both = {cut: beside(one, cut, given, apart) for cut in TIMED}
    for cut, found in both.items():
        difference = abs(found.ssim[0] - found.ssim[1])
        right &= found.ratio >= FASTER and difference <= EQUAL
        print(
            f"residual {cut}: {found.ours * 1e3:.0f} ms per step, plain loop {found.plain * 1e3:.0f} ms: ratio "
            f"{found.ratio:.2f} (at least {FASTER:.1f}), {found.at_hand:.2f} with its features in memory; "
            f"SSIM {found.ssim[0]:.3f} and {found.ssim[1]:.3f} (difference at most {EQUAL})",
            flush=True,
        )
    return right


# --- residual and an older residual ---------------------------------------------------------------------------

TRAINING = """
import sys, time, torch
from cloven.attacks.knowledge import Knowledge, in_memory
from cloven.attacks.residual import Residual
torch.set_num_threads(1)
images, captured, seen = torch.load(sys.argv[1])
knowledge = Knowledge(tuple(images.shape[1:]), images, in_memory(captured))
start = time.process_time()
learned = Residual(epochs=int(sys.argv[2])).fit(knowledge, generator=torch.Generator().manual_seed(0))
print(time.process_time() - start)
torch.save(learned([seen]), sys.argv[3])
"""
"""A training that both versions of the code can run. Arguments: a file with images, their captured tensors and
those of unseen images; the number of epochs; the file for the result."""


HERE = Path(__file__).resolve().parents[1]


@contextmanager
def worktree(folder: Path, commit: str | None) -> Iterator[Path]:
    """Check a commit of this repository out in a folder, and remove it at the end."""
    git = ["git", "-C", str(HERE), "worktree"]
    subprocess.run([*git, "add", "--detach", str(folder), str(commit)], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True, capture_output=True)


def trained(source: Path, given: Path, epochs: int) -> tuple[float, Tensor]:
    """Return the CPU seconds of a training by the code of a folder, and its reconstructions."""
    made = given.with_name("made.pt")
    command = [sys.executable, "-c", TRAINING, str(given), str(epochs), str(made)]
    run = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(source / "src")}
    )
    return float(run.stdout), torch.load(made)


def reached(target: float, curve: Sequence[tuple[float, float]]) -> float | None:
    """Return the seconds until a curve of (seconds, score) reaches a score; None if it does not."""
    for (second, low), (later, high) in pairwise([(0.0, -math.inf), *curve]):
        if high >= target:
            return later if low == -math.inf else second + (later - second) * (target - low) / (high - low)
    return None


def reach(one: Subject, given: Given) -> bool:
    """Return whether `residual` reaches the older score fast enough at all cuts in `REACHED`."""
    right = True
    images, victims = one.images.tensor(), one.victims.tensor()
    with tempfile.TemporaryDirectory() as name, worktree(Path(name) / "older", given.before) as before:
        folder = Path(name)
        for cut in REACHED:
            torch.save((images, one.captured(cut, images), one.captured(cut, victims)), folder / "given.pt")
            seconds: dict[int, list[float]] = defaultdict(list)
            scores: dict[int, float] = {}
            for _ in range(given.rounds):
                for epochs in range(given.epochs + 1):  # 0: the older code
                    code = (HERE, epochs) if epochs else (before, given.epochs)
                    taken, made = trained(code[0], folder / "given.pt", code[1])
                    seconds[epochs].append(taken)
                    scores[epochs] = float(ssim(made, victims).mean())
            (older, target), *curve = ((statistics.median(seconds[n]), scores[n]) for n in range(given.epochs + 1))
            soon = reached(target, curve)
            ratio = 0.0 if soon is None else older / soon
            right &= ratio >= SOONER
            print(
                f"reach {cut}: older {older:.1f} s to SSIM {target:.4f}; now "
                + ", ".join(f"{taken:.1f} s to {score:.4f}" for taken, score in curve)
                + (": not reached, " if soon is None else f": reached in {soon:.1f} s, ")
                + f"ratio {ratio:.2f} (at least {SOONER})",
                flush=True,
            )
    return right


# --- the other measurements -----------------------------------------------------------------------------------


class Convolutions(TorchFunctionMode):
    """Counts the convolutions that are computed within its context."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count the call if it is a convolution, and make it."""
        self.number += func is F.conv2d
        return func(*args, **(kwargs or {}))


def passes(one: Subject, _: Given) -> bool:
    """Return whether the features of all cuts take the convolutions of one forward pass."""
    names = {one.graph.find(cut): cut for cut in CUTS}
    sets = {"victims": one.victims.tensor()[:16]}  # one batch, not several passes
    counted = Convolutions()
    with counted:
        found = features(
            {one.graph: names},
            sets,
            budget=10**9,
            precision="float32",
            shelf=None,
            others={one.graph: {one.graph.output: "logits"}},
        )
    assert len(found[0].kept) == len(CUTS)
    computed = counted.number
    needed = sum(op.kind == "conv2d" for op in one.graph.ops)
    print(f"passes: {computed} convolutions for {len(CUTS)} cuts; one forward pass has {needed}", flush=True)
    return computed == needed


def study(one: Subject, given: Given) -> bool:
    """Return whether one audit of all cuts takes less time than an audit of each."""
    singles, together = [], []
    for _ in range(given.rounds):
        together.append(_audit(one.folder, CUTS, given))
        singles.append(sum(_audit(one.folder, (cut,), given) for cut in CUTS))
    ratio = statistics.median(a / b for a, b in zip(together, singles, strict=True))
    print(
        f"study: {statistics.median(together):.1f} s for {len(CUTS)} cuts, {statistics.median(singles):.1f} s for "
        f"each alone: ratio {ratio:.2f} (at most {STUDY}); {given.pairs} pairs, {given.epochs} epochs, one process",
        flush=True,
    )
    return ratio <= STUDY


def _audit(folder: Path, cuts: tuple[str, ...], given: Given) -> float:
    """Return the wall seconds of `cloven audit`."""
    with tempfile.TemporaryDirectory() as out:
        command = [
            str(Path(sys.executable).with_name("cloven")),
            "audit",
            "resnet20",
            "--weights",
            str(folder / "weights" / WEIGHTS),
            "--data",
            f"cifar10:{folder / 'cifar-10-batches-bin'}",
            "--auxiliary",
            "same",
            "--queries",
            str(given.pairs),
            "--victims",
            str(given.victims),
            "--strategies",
            "vertical",
            "--layers",
            ",".join(cuts),
            "--view",
            "full",
            "--links",
            "all",
            "--epochs",
            str(given.epochs),
            "--attacks",
            "decoder",
            "--judge",
            "none",
            "--jobs",
            "1",
            "--out",
            str(Path(out) / "run"),
        ]
        start = time.perf_counter()
        run = subprocess.run(command, check=False, capture_output=True, text=True)
        taken = time.perf_counter() - start
    if run.returncode not in (0, 1):
        raise SystemExit(f"cloven audit ended with {run.returncode}:\n{run.stderr[-2000:]}")
    return taken


def screen(one: Subject, _: Given) -> bool:
    """Print how fast `screen` is; return whether its SSIM falls from each cut to the next deeper one."""
    images, victims = one.images.tensor(), one.victims.tensor()
    scores = []
    for cut in CUTS:
        knowledge = Knowledge(tuple(images.shape[1:]), images, in_memory(one.captured(cut, images)))
        attack = Screen()
        start = time.process_time()
        attack.begin(knowledge, torch.Generator().manual_seed(0), CPU)
        middle = time.process_time()
        learned = attack.fit(knowledge, generator=torch.Generator().manual_seed(0))
        seconds = time.process_time() - middle
        assert isinstance(learned, Reconstructor)
        speed = attack.epochs * len(images) / (seconds - (middle - start))
        scores.append(float(ssim(learned([one.captured(cut, victims)]), victims).mean()))
        print(f"screen {cut}: {speed:.0f} images/s, {seconds:.1f} s a cell; SSIM {scores[-1]:.3f}", flush=True)
    return scores == sorted(scores, reverse=True)


MEASUREMENTS = {"passes": passes, "screen": screen, "residual": residual, "reach": reach, "study": study}


def main() -> int:
    """Measure, print, and return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=list(MEASUREMENTS), help="default: all; reach requires --before"
    )
    parser.add_argument("--pairs", type=int, default=6000)
    parser.add_argument("--victims", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1, help="of the trainings, and of the study and its parts")
    parser.add_argument("--before", metavar="COMMIT", help="the older code of `reach`")
    options = parser.parse_args()
    if options.only and "reach" in options.only and not options.before:
        parser.error("reach requires --before")
    only = options.only or [name for name in MEASUREMENTS if name != "reach" or options.before]
    numbers = (options.pairs, options.victims, options.epochs, options.rounds)
    given = Given(tuple(only), *numbers, options.before)
    folder = os.environ.get("CLOVEN_DATA")
    if folder is None:
        print("CLOVEN_DATA does not name a folder with the data set and the weights; set it", file=sys.stderr)
        return 2
    os.environ["OMP_NUM_THREADS"] = "1"  # of the audits, too
    torch.set_num_threads(1)
    one = subject(Path(folder), given.pairs, given.victims)
    print(f"{given.pairs} pairs, {given.epochs} epochs, {given.victims} victims, one thread")
    kept = [MEASUREMENTS[name](one, given) for name in given.only]
    return int(not all(kept))


if __name__ == "__main__":
    sys.exit(main())
