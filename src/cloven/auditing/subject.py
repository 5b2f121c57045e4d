"""The subject of an audit: the model, images that it was not trained on, the attacker's images, a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cloven.auditing.executor import Progress
from cloven.auditing.material import ImageSets, refuse_few, refuse_overlap, without_copies
from cloven.auditing.selection import apart, wanted
from cloven.errors import ClovenError, tried
from cloven.graph.graph import Graph
from cloven.runtime.capture import capture
from cloven.zoo.datasets import load
from cloven.zoo.images import Images, split, spread, test_half, with_mirrored
from cloven.zoo.models import MODELS
from cloven.zoo.named import begun, is_own, make, normalisation
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
class ModelTraining:
    """How a model without weights is trained here: epochs over so many of the training images, or over all.

    ``start`` is a file of weights that training starts from; what depends on the number of classes is new.
    """

    epochs: int = EPOCHS
    images: int | None = None
    device: str = "cpu"
    start: Path | None = None


@dataclass(frozen=True)
class Subject:
    """A model, a data set and an attacker's images, by name.

    Attributes:
        model: a name of the zoo, ``torchvision:NAME``, ``timm:NAME`` or ``package.module:factory``.
        data: the data set.
        auxiliary: the attacker's images: a data set, or `SAME`.
        queries: how many of them; None for all that a recording has.
        victims: how many images are scored; None for all that are held out.
        weights: the model's, in a file. Without, a model of the zoo is trained as usual; any other is taken as it
            comes, unless ``training`` says how to train it.
        training: how to train it.
        shape: of one image; None for the data set's own.
        classes: how many the model tells apart; None for as many as it has outputs.
        mean: of the model's normalisation, by channel; None for what is known of the model.
        std: likewise.
        judge: a second classifier: `AUTO`, `NOBODY`, ``MODEL`` or ``MODEL=WEIGHTS``.
        seed: of the split and of the training.
        mirror: whether each auxiliary image is sent mirrored too: augmentation, at the price of twice the queries.
    """

    model: str
    data: str
    auxiliary: str
    queries: int | None
    victims: int | None = None
    weights: Path | None = None
    training: ModelTraining | None = None
    shape: Shape | None = None
    classes: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    judge: str = AUTO
    seed: int = 0
    mirror: bool = False


@dataclass(frozen=True, eq=False)
class SubjectImages:
    """The images of an audit.

    Attributes:
        training: images like the victims, none of them scored: what a model is trained on here, or a data set's
            own training images.
        victims: what is scored.
        auxiliary: the attacker's own.
        classes: how many the model tells apart.
        selection: more images of the attacker's, which train nothing; None where one attack is tried.
        copies: how many victim images were left out, since they are copies of others.
    """

    training: Images
    victims: Images
    auxiliary: Images
    classes: int
    selection: Images | None = None
    copies: int = 0

    @property
    def shape(self) -> Shape:
        """The shape of one image."""
        return self.victims.shape

    @property
    def sets(self) -> ImageSets:
        """The sets of images that the attacks need."""
        return ImageSets(self.auxiliary, self.victims, self.training, self.selection)


def is_trained_here(subject: Subject) -> bool:
    """Return whether the model has no weights and is the zoo's, or is to be trained."""
    return subject.weights is None and (subject.model in MODELS or subject.training is not None)


def load_images(subject: Subject, problems: Sequence[str] = (), *, several: bool = False) -> SubjectImages:
    """Return the images of an audit; ``several`` attacks take some that train none of them.

    Raises:
        ClovenError: with ``problems`` and all that is wrong with both sets: one that cannot be read, lacks labels
            that are needed, does not fit the model, or shares images with the other.
    """
    found, queries = list(problems), subject.queries or 0
    whole = tried(lambda: _whole(subject), found)
    shape = subject.shape or (whole.shape if whole is not None else ANY_SHAPE)
    own = subject.auxiliary == SAME
    named = subject.auxiliary
    other = None if own else tried(lambda: load(named, shape=shape, limit=max(queries, 2)), found)
    if found or whole is None:
        raise ClovenError(found)
    training, test = halves(subject, whole)
    victims, copies = without_copies(
        test if subject.victims is None else test.take(range(min(subject.victims, len(test))))
    )
    chosen = spread(training.labels, len(training), queries)
    auxiliary = training.take(chosen) if other is None else other
    auxiliary = with_mirrored(auxiliary) if subject.mirror else auxiliary
    refuse_overlap(auxiliary, victims)
    selection = None
    if several:
        if other is None:
            left = np.setdiff1d(np.arange(len(training)), chosen)
            labels = None if training.labels is None else training.labels[left]
            spare = training.take(left[spread(labels, len(left), 2 * wanted(queries))])
        else:
            more = tried(lambda: load(named, shape=shape, limit=queries + 2 * wanted(queries)), [])
            spare = auxiliary.take([]) if more is None else more
        kept, choosing = apart(auxiliary.digests(), spare.digests(), victims.digests())
        count = len(auxiliary)
        held_back = [i for i in choosing if i < count]
        selection = auxiliary.take(held_back) if held_back else spare.take([i - count for i in choosing])
        auxiliary = auxiliary.take(kept) if held_back else auxiliary
    return SubjectImages(training, victims, auxiliary, subject.classes or len(whole.classes), selection, copies)


def _whole(subject: Subject) -> Images:
    images = load(subject.data, shape=subject.shape)
    if images.labels is None and is_trained_here(subject):
        raise ClovenError(f"{subject.data} has no labels; the CNN cannot be trained: sort its images into folders")
    if images.labels is not None and subject.classes is not None and len(images.classes) != subject.classes:
        if is_trained_here(subject):
            raise ClovenError(f"{subject.data} has {len(images.classes)} classes; the model has {subject.classes}")
        return unlabelled(images)  # names that are not the model's
    return images


def unlabelled(images: Images) -> Images:
    """Return the images without their labels."""
    return Images(images.name, images.pixels, None, (), images.sources)


def halves(subject: Subject, whole: Images) -> tuple[Images, Images]:
    """Return what a model may be trained on, and what is scored: S1's split, or the data set's own test images."""
    test = test_half(whole)
    if is_trained_here(subject) or len(test) == len(whole):
        training, _, held_out = split(whole, seed=subject.seed)
        return training, held_out
    scored = set(test.sources)
    return whole.take([i for i, source in enumerate(whole.sources) if source not in scored]), test


def untrained(subject: Subject, images: SubjectImages) -> Graph:
    """Return the model's graph before training: enough to find out what is wrong with a request."""
    return _captured(subject, initial(subject, images), images)


def initial(subject: Subject, images: SubjectImages) -> nn.Module:
    """Return the model before training, or as its weights say.

    Raises:
        ClovenError: for weights, or such to start from, that cannot be used.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if is_trained_here(subject):
            start = subject.training.start if subject.training else None
            return begun(subject.model, shape=images.shape, classes=images.classes, start=start)
        return make(subject.model, shape=images.shape, classes=images.classes, weights=subject.weights)


def ready(subject: Subject, images: SubjectImages, progress: Progress) -> Graph:
    """Return the model's graph, trained if need be, or from the cache."""
    if not is_trained_here(subject):
        return untrained(subject, images)
    return _captured(subject, cnn(subject, images, progress), images)


def cnn(subject: Subject, images: SubjectImages, progress: Progress) -> nn.Module:
    """Return the model that is trained here, or from the cache."""
    how = subject.training or ModelTraining()
    own = images.training.take(spread(images.training.labels, len(images.training), how.images))
    return _trained(subject.model, own, subject.seed, how, "training the CNN", progress)


def normalised(subject: Subject) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the mean and deviation that the model wants; None for images as they are in [0, 1].

    A model that is trained here takes images as they are.
    """
    if subject.mean is not None and subject.std is not None:
        return subject.mean, subject.std
    if is_trained_here(subject):
        return None
    return normalisation(subject.model, str(subject.weights) if subject.weights else None)


def fitted(subject: Subject, images: SubjectImages, graph: Graph) -> SubjectImages:
    """Return the images with as many classes as the model has outputs; labels of other classes are left out.

    Raises:
        ClovenError: where the number of classes that was given is not the model's, where labels do not fit a
            person's own model, and for too few victims.
    """
    refuse_few(len(images.victims), images.copies)
    outputs = graph.by_name[graph.output].shape[0]
    if subject.classes is not None and subject.classes != outputs:
        raise ClovenError(
            f"{subject.model} has {outputs:,} outputs, got {subject.classes:,} classes; give the number of outputs "
            "(--classes, or classes in the plan's [model])"
        )
    labelled = len(images.victims.classes)
    if images.victims.labels is None or labelled == outputs:
        return replace(images, classes=outputs)
    if is_own(subject.model):
        raise ClovenError(
            f"{subject.model} has {outputs:,} outputs, but {subject.data} has {labelled:,} classes; give the "
            "images that the model was made for, or images without labels"
        )
    training, victims = unlabelled(images.training), unlabelled(images.victims)
    return replace(images, training=training, victims=victims, classes=outputs)


def _captured(subject: Subject, model: nn.Module, images: SubjectImages) -> Graph:
    mean, std = normalised(subject) or (None, None)
    return capture(model, torch.zeros(1, *images.shape), mean=mean, std=std)


def _trained(name: str, images: Images, seed: int, how: ModelTraining, stage: str, progress: Progress) -> nn.Module:
    return trained(
        name,
        images,
        epochs=how.epochs,
        seed=seed,
        cache=cache_dir(),
        device=how.device,
        start=how.start,
        on_epoch=lambda epoch, _: progress(stage, epoch, how.epochs),
    )


def judge_of(subject: Subject, images: SubjectImages, progress: Progress) -> tuple[str, Graph] | None:
    """Return a second classifier, by ``MODEL=WEIGHTS``, or a small CNN trained on images like the victims.

    Raises:
        ClovenError: for a model or weights that cannot be used.
    """
    if subject.judge == NOBODY or (subject.judge == AUTO and images.training.labels is None):
        return None
    name, _, weights = subject.judge.partition("=")
    if subject.judge != AUTO and weights:
        other = Subject(name, subject.data, subject.auxiliary, subject.queries, weights=Path(weights))
        return name, untrained(other, images)
    if images.training.labels is None:
        raise ClovenError(
            f"the judge {name} has no weights and {subject.data} no labels: give {name}=FILE, or none"
        )
    name = "small" if subject.judge == AUTO else name
    labels = images.training.labels
    own = images.training.take(spread(labels, len(labels), JUDGE_IMAGES))
    model = _trained(name, own, subject.seed + 1, ModelTraining(), "training the second judge", progress)
    return name, capture(model, torch.zeros(1, *images.shape))


def labels_of(images: Images) -> torch.Tensor | None:
    """Return the labels ``(n,)``, if there are any."""
    return None if images.labels is None else torch.tensor(np.asarray(images.labels))
