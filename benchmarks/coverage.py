"""Measure the coverage of the intervals over seeds and images, by resampling pools of trained attacks.

    CLOVEN_DATA=FOLDER python -m benchmarks.coverage [--only NAME ...] [--seeds N] [--draws N] [--pool FOLDER]

Each pool is one attack on the published ResNet-20 with CIFAR-10, trained with N seeds (default: 60) and scored on
1,500 victims: a matrix (seeds, victims) for each score. The probe is deterministic; each of its seeds has other
pairs. The matrix is the population, and its mean the true value. A draw takes s seeds and n victims with
replacement, so that they are independent, as new seeds and victims would be. (Without replacement, 10 seeds of 60
would vary too little, and their intervals would cover too often.) A seed that is drawn twice counts twice.

It prints the share of draws whose interval contains the true value, and the share of the variance between seeds.
The exit code is 1 if that of three or more seeds lies outside 93 to 97 % by more than two standard errors of the
draws (0.7 % for 4,000). Two seeds are printed only: they say little about the variance between seeds. For scores
above 99 % a higher coverage is allowed, because Wilson's interval has a width even if all images are right.
CLOVEN_DATA holds cifar-10-batches-bin and weights/resnet20-12fca82f.th. ``--pool`` keeps the matrices.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.attacks import Subject, subject
from cloven.attacks.knowledge import Knowledge, LabelReader, Reconstructor, in_memory
from cloven.attacks.probe import Probe
from cloven.attacks.screen import Screen
from cloven.runtime.torch_engine import evaluate
from cloven.score.identification import identified
from cloven.score.intervals import Interval, of_mean, of_share, paired, unpaired
from cloven.score.similarity import psnr, quantise, ssim

PAIRS, VICTIMS = 6000, 1500
SEEDS, IMAGES = (2, 3, 5, 10), (100, 500)
LEAST, MOST = 0.93, 0.97


@dataclass(frozen=True)
class Situation:
    """An attack at a cut with a number of pairs; ``own`` says that each seed has other pairs."""

    cut: str
    attack: Screen | Probe
    pairs: int
    own: bool = False


SITUATIONS: Mapping[str, Situation] = {
    "images": Situation("layer1", Screen(epochs=2), 1000),
    "both": Situation("layer3", Screen(epochs=2), 1000),
    "seeds": Situation("layer1", Screen(epochs=2, learning_rate=1e-2), 300),
    "few pairs": Situation("layer3", Screen(epochs=3), 200),
    "labels": Situation("layer2", Probe(strengths=(100.0, 1000.0)), 500, own=True),
    "easy labels": Situation("layer3", Probe(strengths=(100.0, 1000.0)), 300, own=True),
}

COMPARED = (("images", "both"), ("seeds", "images"), ("both", "few pairs"), ("labels", "easy labels"))


def pool(situation: Situation, of: Subject, seeds: int) -> dict[str, Tensor]:
    """Return the scores ``(seeds, victims)`` of attacks trained with so many seeds."""
    images, victims = of.images.tensor(), of.victims.tensor()
    classes, truth = (classify(of, each) for each in (images, victims))
    captured, seen = (of.captured(situation.cut, each) for each in (images, victims))
    rows: dict[str, list[Tensor]] = {}
    for seed in range(seeds):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        chosen = order[: situation.pairs] if situation.own else torch.arange(situation.pairs)
        knowledge = Knowledge(
            tuple(images.shape[1:]),
            auxiliary=images[chosen],
            captured=in_memory(captured[chosen]),
            classes=classes[chosen],
            seed=seed,
        )
        learned = situation.attack.fit(knowledge, generator=torch.Generator().manual_seed(seed))
        for name, scores in scored(learned, seen, victims, truth, of, seed).items():
            rows.setdefault(name, []).append(scores)
    return {name: torch.stack(each).to(torch.float32) for name, each in rows.items()}


def classify(of: Subject, images: Tensor) -> Tensor:
    """Return the classes ``(n,)`` that the model gives."""
    return evaluate(of.graph, images, [of.graph.output])[of.graph.output].argmax(1)


def scored(
    learned: Reconstructor | LabelReader, seen: Tensor, victims: Tensor, truth: Tensor, of: Subject, seed: int
) -> dict[str, Tensor]:
    """Return the scores ``(n,)`` of each victim."""
    if isinstance(learned, LabelReader):
        return {"agreement": learned.classify([seen]) == truth}
    made = quantise(learned([seen]))
    return {
        "ssim": ssim(made, victims),
        "psnr": psnr(made, victims),
        "agreement": classify(of, made) == truth,
        "identified": identified(made, victims, seed=seed),
    }


def share_of_seeds(matrix: Tensor, seeds: int, images: int) -> float:
    """Return the share of the variance of a mean over so many seeds and images that is between seeds."""
    between, among = float(matrix.mean(1).var()) / seeds, float(matrix.mean(0).var()) / images
    return between / (between + among) if between else 0.0


def covered(matrix: Tensor, seeds: int, images: int, draws: int, interval: Callable[[Tensor], Interval]) -> float:
    """Return the share of draws whose interval holds the mean of the matrix."""
    generator, truth, hits = torch.Generator().manual_seed(seeds * 10_000 + images), float(matrix.mean()), 0
    for _ in range(draws):
        rows = torch.randint(len(matrix), (seeds,), generator=generator)
        columns = torch.randint(matrix.shape[1], (images,), generator=generator)
        found = interval(matrix[rows][:, columns])
        hits += found.low <= truth <= found.high
    return hits / draws


def differences(first: Tensor, second: Tensor, draws: int) -> Iterator[tuple[str, float]]:
    """Yield the coverage of differences of two attacks, with three seeds on 500 victims: the same, or others."""
    truth, hits = float(first.mean() - second.mean()), {"paired": 0, "unpaired": 0}
    generator = torch.Generator().manual_seed(0)
    for _ in range(draws):
        a, b = (each[torch.randint(len(each), (3,), generator=generator)] for each in (first, second))
        same, other = (torch.randint(first.shape[1], (500,), generator=generator) for _ in range(2))
        of_both = {"paired": paired(a[:, same], b[:, same]), "unpaired": unpaired(a[:, same], b[:, other])}
        for name, found in of_both.items():
            hits[name] += found.low <= truth <= found.high
    yield from ((name, count / draws) for name, count in hits.items())


def main() -> int:
    """Print how often the intervals cover, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=SITUATIONS, default=list(SITUATIONS))
    parser.add_argument("--seeds", type=int, default=60, help="of each pool, 40 or more")
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--pool", type=Path, help="a folder to keep the matrices in")
    given = parser.parse_args()
    torch.set_num_threads(1)
    of: Subject | None = None
    pools: dict[str, dict[str, Tensor]] = {}
    for name in given.only:
        kept = given.pool / f"{name.replace(' ', '-')}-{given.seeds}.safetensors" if given.pool else None
        if kept is not None and kept.exists():
            pools[name] = load_file(kept)
            continue
        of = of or subject(Path(os.environ["CLOVEN_DATA"]), PAIRS, VICTIMS)
        pools[name] = pool(SITUATIONS[name], of, given.seeds)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            save_file(pools[name], kept)
    missed, error = 0, 2 * math.sqrt(0.95 * 0.05 / given.draws)
    print("| pool | score | mean | victims | " + " | ".join(f"{s} seeds (between seeds)" for s in SEEDS) + " |")
    print("|---" * (4 + len(SEEDS)) + "|")
    for name, scores in pools.items():
        for metric, single in scores.items():
            matrix = single.double()
            interval = of_share if metric in ("agreement", "identified") else of_mean
            for images in IMAGES:
                cells: list[str] = []
                for seeds in SEEDS:
                    share = covered(matrix, seeds, images, given.draws, interval)
                    most = 1.0 if interval is of_share and float(matrix.mean()) > 0.99 else MOST
                    missed += seeds > 2 and not LEAST - error <= share <= most + error
                    cells.append(f"{share:.1%} ({share_of_seeds(matrix, seeds, images):.0%})")
                row = [name, metric, f"{float(matrix.mean()):.3f}", str(images), *cells]
                print(f"| {' | '.join(row)} |", flush=True)
    print("\n| difference of 3 seeds, 500 victims | score | covered |\n|---|---|---|")
    for first, second in COMPARED:
        for metric in pools.get(first, {}).keys() & pools.get(second, {}).keys():
            one, other = pools[first][metric].double(), pools[second][metric].double()
            for kind, share in differences(one, other, given.draws):
                missed += not LEAST - error <= share <= MOST + error
                print(f"| {kind}: {first}, {second} | {metric} | {share:.1%} |", flush=True)
    print(f"\n{missed} outside {LEAST:.0%} to {MOST:.0%}" if missed else "\nall within the bounds")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
