"""Whom an audit is about: the model, images that it was not trained on, the attacker's images, the second judge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cloven.auditing.executor import Progress
from cloven.auditing.material import refuse_overlap
from cloven.errors import ClovenError, tried
from cloven.graph.graph import Graph
from cloven.runtime.capture import capture
from cloven.zoo.datasets import load
from cloven.zoo.images import Images, split, spread, test_half, with_mirrored
from cloven.zoo.models import MODELS
from cloven.zoo.named import begun, make, normalisation
from cloven.zoo.pixels import Shape
from cloven.zoo.training import EPOCHS, cache_dir, trained

SAME = "same"
"""As the name of auxiliary images: the data set's own, those that are not scored."""
AUTO, NOBODY = "auto", "none"
"""As the name of a judge: a small CNN that is trained here; nobody."""
JUDGE_IMAGES = 10_000
"""How many images the second judge is trained on, at most."""
ANY_SHAPE = (3, 32, 32)
"""Auxiliary images are tried at this size where the data set's is not known."""


@dataclass(frozen=True)
class Training:
    """How a model without weights is trained here: epochs over so many of the training images, or over all.

    ``start`` is a file of weights that training starts from; what depends on the number of classes is new.
    """

    epochs: int = EPOCHS
    images: int | None = None
    device: str = "cpu"
    start: Path | None = None


@dataclass(frozen=True)
class Who:
    """A model, a data set and an attacker's images, by name.

    ``shape`` and ``classes`` are None where the data set's are taken. Without weights, a model of the zoo is
    trained as usual; one of a library is taken as it comes, unless ``training`` says how to train it.
    """

    model: str
    data: str
    auxiliary: str
    queries: int
    victims: int | None = None
    weights: Path | None = None
    training: Training | None = None
    shape: Shape | None = None
    classes: int | None = None
    judge: str = AUTO
    seed: int = 0
    mirror: bool = False
    """Whether each auxiliary image is sent mirrored too: augmentation, at the price of twice the queries."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """The images of an audit.

    Attributes:
        training: images like the victims, none of them scored: what a model is trained on here, or a data set's
            own training images.
        victims: what is scored.
        auxiliary: the attacker's own.
        classes: how many the model tells apart.
    """

    training: Images
    victims: Images
    auxiliary: Images
    classes: int

    @property
    def shape(self) -> Shape:
        """One image's shape."""
        return self.victims.shape


def is_trained_here(who: Who) -> bool:
    """Whether the model has no weights and is the zoo's, or is to be trained."""
    return who.weights is None and (who.model in MODELS or who.training is not None)


def load_images(who: Who, problems: list[str]) -> Loaded:
    """The images of an audit.

    Raises:
        ClovenError: with ``problems`` and all that is wrong with both sets: one that cannot be read, lacks labels
            that are needed, does not fit the model, or shares images with the other.
    """
    whole = tried(lambda: _whole(who), problems)
    shape = who.shape or (whole.shape if whole is not None else ANY_SHAPE)
    own = who.auxiliary == SAME
    other = None if own else tried(lambda: load(who.auxiliary, shape=shape, limit=max(who.queries, 2)), problems)
    if problems or whole is None:
        raise ClovenError(problems)
    training, test = _halves(who, whole)
    victims = test if who.victims is None else test.take(range(min(who.victims, len(test))))
    auxiliary = training.take(spread(training.labels, len(training), who.queries)) if other is None else other
    auxiliary = with_mirrored(auxiliary) if who.mirror else auxiliary
    refuse_overlap(auxiliary, victims)
    return Loaded(training, victims, auxiliary, who.classes or len(whole.classes))


def _whole(who: Who) -> Images:
    images = load(who.data, shape=who.shape)
    if images.labels is None and is_trained_here(who):
        raise ClovenError(f"{who.data} has no labels; the CNN cannot be trained: sort its images into folders")
    if images.labels is not None and who.classes is not None and len(images.classes) != who.classes:
        if is_trained_here(who):
            raise ClovenError(f"{who.data} has {len(images.classes)} classes; the model has {who.classes}")
        images = Images(images.name, images.pixels, None, (), images.sources)  # names that are not the model's
    return images


def _halves(who: Who, whole: Images) -> tuple[Images, Images]:
    """What a model may be trained on, and what is scored: S1's split, or the data set's own test images."""
    test = test_half(whole)
    if is_trained_here(who) or len(test) == len(whole):
        training, _, held_out = split(whole, seed=who.seed)
        return training, held_out
    scored = set(test.sources)
    return whole.take([i for i, source in enumerate(whole.sources) if source not in scored]), test


def untrained(who: Who, images: Loaded) -> Graph:
    """The model's graph before training: enough to find out what is wrong with a request."""
    return _captured(who, initial(who, images), images)


def initial(who: Who, images: Loaded) -> nn.Module:
    """The model before training, or as its weights say.

    Raises:
        ClovenError: for weights, or such to start from, that cannot be used.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if is_trained_here(who):
            start = who.training.start if who.training else None
            return begun(who.model, shape=images.shape, classes=images.classes, start=start)
        return make(who.model, shape=images.shape, classes=images.classes, weights=who.weights)


def ready(who: Who, images: Loaded, progress: Progress) -> Graph:
    """The model's graph, trained if need be, or from the cache."""
    if not is_trained_here(who):
        return untrained(who, images)
    return _captured(who, cnn(who, images, progress), images)


def cnn(who: Who, images: Loaded, progress: Progress) -> nn.Module:
    """The model that is trained here, or from the cache."""
    how = who.training or Training()
    own = images.training.take(spread(images.training.labels, len(images.training), how.images))
    return _trained(who.model, own, who.seed, how, "training the CNN", progress)


def _captured(who: Who, model: nn.Module, images: Loaded) -> Graph:
    """The graph; a model that is trained here takes images as they are in [0, 1]."""
    known = None if is_trained_here(who) else normalisation(who.model, str(who.weights) if who.weights else None)
    mean, std = known or (None, None)
    return capture(model, torch.zeros(1, *images.shape), mean=mean, std=std)


def _trained(name: str, images: Images, seed: int, how: Training, stage: str, progress: Progress) -> nn.Module:
    return trained(
        name, images, epochs=how.epochs, seed=seed, cache=cache_dir(), device=how.device, start=how.start,
        on_epoch=lambda epoch, _: progress(stage, epoch, how.epochs),
    )  # fmt: skip


def judge_of(who: Who, images: Loaded, progress: Progress) -> tuple[str, Graph] | None:
    """A second classifier, by ``MODEL=WEIGHTS``, or a small CNN trained on images like the victims; None if nobody.

    Raises:
        ClovenError: for a model or weights that cannot be used.
    """
    if who.judge == NOBODY or (who.judge == AUTO and images.training.labels is None):
        return None
    name, _, weights = who.judge.partition("=")
    if who.judge != AUTO and weights:
        other = Who(name, who.data, who.auxiliary, who.queries, weights=Path(weights))
        return name, untrained(other, images)
    if images.training.labels is None:
        raise ClovenError(f"the judge {name} has no weights and {who.data} no labels: give {name}=FILE, or none")
    name = "small" if who.judge == AUTO else name
    labels = images.training.labels
    own = images.training.take(spread(labels, len(labels), JUDGE_IMAGES))
    model = _trained(name, own, who.seed + 1, Training(), "training the second judge", progress)
    return name, capture(model, torch.zeros(1, *images.shape))


def labels_of(images: Images) -> torch.Tensor | None:
    """The labels ``(n,)``, if there are any."""
    return None if images.labels is None else torch.tensor(np.asarray(images.labels))
