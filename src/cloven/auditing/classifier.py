"""The model that ran while a tap listened, made again, and the proof that it is the one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cloven.auditing.executor import Progress
from cloven.auditing.material import answers
from cloven.errors import ClovenError
from cloven.graph.graph import Graph
from cloven.runtime.capture import capture
from cloven.score.agreement import kappa
from cloven.zoo.images import Images, split
from cloven.zoo.named import make, normalisation
from cloven.zoo.prepared import prepared
from cloven.zoo.training import accuracy

ROUNDED = 0.01
"""The share of victim images that may get another class than was answered: what rounding explains."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """The model that ran: its graph, how well it does on images held out, and images of its domain.

    ``domain`` is the training split of the data set, less the victims; ``trained_on`` counts those victims.
    """

    graph: Graph
    weights: str
    tests: int
    accuracy: float
    kappa: float
    domain: Images
    trained_on: int


def classifier(
    name: str, whole: Images, victims: Images, *, weights: Path | None, data: str, seed: int, progress: Progress
) -> Classifier:
    """The model that `cloven run --data` runs.

    Args:
        name: the model's.
        whole: the labelled data set, at the size of the images that were sent.
        victims: the images that are scored.
        weights: a file, or None to train the model, or take it from the cache.
        data: the name of the data set.
        seed: of the split and of the training.
        progress: told of the training.

    Raises:
        ClovenError: for a model or weights that cannot be used.
    """
    shape, classes = whole.shape, len(whole.classes)
    ready = prepared(
        name, shape=shape, classes=classes, weights=weights, data=data, picture=None,
        seed=seed, progress=progress,
    )  # fmt: skip
    model = ready.model
    if model is None:
        model = make(name, shape=shape, classes=classes, weights=weights)
    mean, std = normalisation(name, str(weights) if weights else None) or (None, None)
    graph = capture(model, torch.zeros(1, *shape), mean=mean, std=std)
    training = split(whole, seed=seed)[0]
    theirs = set(victims.digests())
    others = [i for i, digest in enumerate(training.digests()) if digest not in theirs]
    labels = torch.tensor(np.asarray(ready.images.labels))
    said = answers(graph, ready.images.tensor())
    return Classifier(
        graph, ready.weights, len(labels), accuracy(said, labels), kappa(said, labels, classes),
        training.take(others), len(training) - len(others),
    )  # fmt: skip


def check_model(classes: Tensor, logits: Tensor) -> None:
    """Refuse a model that answers otherwise than was answered while the tap listened.

    Args:
        classes: ``(n,)``, what the model says of the victim images.
        logits: ``(n, classes)``, what was answered.

    Raises:
        ClovenError: where more classes differ than rounding explains, with how many.
    """
    differ, allowed = int((classes != logits.argmax(1)).sum()), int(ROUNDED * len(classes))
    if differ > allowed:
        raise ClovenError(
            f"of {len(classes)} victim images the model gives {differ} another class than was answered when they "
            f"were captured (rounding explains {allowed}): it is not the model that ran, or its plan had tiles "
            "without halo; give the MODEL, --data, --seed and --weights of the run"
        )
