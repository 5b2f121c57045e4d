"""Measure the agreement and the CPU seconds of the label readers.

    CLOVEN_DATA=FOLDER python -m benchmarks.labels [--cuts NAME ...] [--pairs N] [--victims N]

The attacked model is the published ResNet-20 on CIFAR-10; one thread. For each cut and label reader it prints the
share of victim images whose class it reads, with Wilson's interval; the paired difference from `probe`, the linear
reader, with its interval; the CPU seconds of training and reading.

The exit code is 1 if the best reader is below its bound. CLOVEN_DATA holds cifar-10-batches-bin and
weights/resnet20-12fca82f.th.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import torch

from benchmarks.attacks import CUTS, subject
from cloven.attacks.attack import BatchedAttack
from cloven.attacks.conv_probe import ConvProbe
from cloven.attacks.knn import KNN
from cloven.attacks.knowledge import Knowledge, in_memory
from cloven.attacks.mlp_probe import MLPProbe
from cloven.attacks.probe import Probe
from cloven.attacks.trainer import over
from cloven.runtime.torch_engine import evaluate
from cloven.score.intervals import Interval, of_share, paired

READERS: tuple[BatchedAttack, ...] = (Probe(), KNN(), MLPProbe(), ConvProbe())
BOUNDS = {"layer2": 0.83, "layer3": 0.975}
"""The least agreement of the best reader, from 6,000 pairs on 1,500 victims."""


def shown(found: Interval, sign: str = "") -> str:
    """Return the text of an interval, with three decimals."""
    return f"{found.mean:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


def main() -> int:
    """Measure, print, and return 1 where a bound is missed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cuts", nargs="+", choices=CUTS, default=["layer2", "layer3"])
    options.add_argument("--pairs", type=int, default=6000)
    options.add_argument("--victims", type=int, default=1500)
    given = options.parse_args()
    torch.set_num_threads(1)
    attacked = subject(Path(os.environ["CLOVEN_DATA"]), given.pairs, given.victims)
    own, victims = attacked.images.tensor(), attacked.victims.tensor()
    output = attacked.graph.output
    classes, truth = (evaluate(attacked.graph, x, [output])[output].argmax(1) for x in (own, victims))
    missed = False
    for cut in given.cuts:
        known = Knowledge((3, 32, 32), own, in_memory(attacked.captured(cut, own)), classes)
        seen = in_memory(attacked.captured(cut, victims))
        right: dict[str, torch.Tensor] = {}
        for reader in READERS:
            start = time.process_time()
            learned = reader.fit(known, generator=torch.Generator().manual_seed(0))
            right[reader.name] = over(seen, learned.classify) == truth
            seconds = time.process_time() - start
            difference = paired(right[reader.name][None], right["probe"][None])
            print(
                f"{cut}  {reader.name:10}  {shown(of_share(right[reader.name][None]))}  "
                f"less probe {shown(difference, '+')}  {seconds:5.1f} CPU s",
                flush=True,
            )
        missed |= max(float(hits.double().mean()) for hits in right.values()) < BOUNDS.get(cut, 0.0)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
