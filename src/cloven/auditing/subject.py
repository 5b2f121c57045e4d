"""The subject of an audit: the model, images that it was not trained on, the attacker's images, a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cloven.auditing.material import ImageSets, refuse_few, refuse_overlap, without_copies
from cloven.auditing.selection import apart, wanted
from cloven.errors import ClovenError, tried
from cloven.files import cache_dir
from cloven.graph.graph import Graph
from cloven.progress import Progress
from cloven.runtime.capture import capture
from cloven.zoo.datasets import has_windows, load
from cloven.zoo.images import Images, split, spread, test_half, with_mirrored
from cloven.zoo.models import MODELS
from cloven.zoo.named import begun, is_own, make, normalisation
from cloven.zoo.pixels import Shape
from cloven.zoo.training import EPOCHS, trained

SAME = "same"
"""The name of auxiliary images that are taken from the data set itself: those that are not scored."""
AUTO, NOBODY = "auto", "none"
"""The names of a judge that is a small CNN trained here, and of no judge."""
JUDGE_IMAGES = 10_000
"""The largest number of images on which the judge is trained."""
ANY_SHAPE = (3, 32, 32)
"""The size at which auxiliary images are checked if that of the data set is unknown."""


@dataclass(frozen=True)
class ModelTraining:
    """The training of a model without weights: the number of epochs, and of training images, None for all.

    ``start`` is a file of weights to start from; layers that depend on the number of classes are initialised anew.
    ``balanced`` gives each class the same weight, however many images it has.
    """

    epochs: int = EPOCHS
    images: int | None = None
    device: str = "cpu"
    start: Path | None = None
    balanced: bool = False


@dataclass(frozen=True)
class Subject:
    """A model, a data set and an attacker's images, by name.

    Attributes:
        model: a name of the zoo, ``torchvision:NAME``, ``timm:NAME`` or ``package.module:factory``.
        data: the data set.
        auxiliary: the attacker's images: a data set, or `SAME`.
        queries: the number of auxiliary images; None for all of a recording.
        victims: the number of images that are scored; None for all held-out images.
        weights: the file with the model's weights. Without it, a model of the zoo is trained with the default
            settings; any other model is used as its source makes it, unless ``training`` is given.
        training: the settings of the training.
        shape: the shape of one image; None for that of the data set.
        classes: the number of classes; None for the number of the model's outputs.
        mean: the mean of the model's normalisation, by channel; None for the one known for the model.
        std: the standard deviation of the normalisation, likewise.
        judge: a second classifier: `AUTO`, `NOBODY`, ``MODEL`` or ``MODEL=WEIGHTS``.
        seed: the seed of the split and of the training.
        mirror: whether the attacker also sends each auxiliary image mirrored, which doubles the queries.
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
        training: images like the victims, none of which is scored: those on which a model is trained here, or a
            data set's own training images.
        victims: the images that are scored.
        auxiliary: the attacker's own images.
        classes: the number of classes of the model.
        selection: the attacker's held-out images; None if there is only one attack.
        copies: the number of victim images that were left out as copies of others.
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
    """Return whether the model has no weights, and is one of the zoo or has settings for training."""
    return subject.weights is None and (subject.model in MODELS or subject.training is not None)


def how_trained(subject: Subject) -> ModelTraining:
    """Return the settings of the training of a subject; by default, windows of readings are balanced."""
    return subject.training or ModelTraining(balanced=has_windows(subject.data))


def load_images(subject: Subject, problems: Sequence[str] = (), *, several: bool = False) -> SubjectImages:
    """Return the images of an audit; for ``several`` attacks, some are held out to choose between them.

    Raises:
        ClovenError: with ``problems`` and every problem of the sets: one that cannot be read, lacks labels that are
            needed, does not fit the model, or shares images with another.
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
        raise ClovenError(
            f"{subject.data} has no labels, but the CNN is trained on them; sort its images into a folder per class"
        )
    if images.labels is not None and subject.classes is not None and len(images.classes) != subject.classes:
        if is_trained_here(subject):
            raise ClovenError(f"{subject.data} has {len(images.classes)} classes; the model has {subject.classes}")
        return unlabelled(images)  # its classes are not those of the model
    return images


def unlabelled(images: Images) -> Images:
    """Return the images without their labels."""
    return replace(images, labels=None, classes=())


def halves(subject: Subject, whole: Images) -> tuple[Images, Images]:
    """Return the images for training and those that are scored.

    For a model that is trained here they are split as by Mehrafrooz et al. (2025). For any other model, the data
    set's own test images are scored, or half of a set that has none; the rest is for baselines and a second
    classifier.
    """
    test = test_half(whole)
    if is_trained_here(subject):
        training, _, held_out = split(whole, seed=subject.seed)
        return training, held_out
    if len(test) == len(whole):
        training, _, held_out = split(whole, seed=subject.seed, parts=(0.5, 0.0, 0.5))
        return training, held_out
    scored = set(test.sources)
    return whole.take([i for i, source in enumerate(whole.sources) if source not in scored]), test


def unscored(subject: Subject, images: SubjectImages) -> Images:
    """Return the images of the data set that are not used: not scored, not the attacker's, not for training."""
    spare = images.training
    if is_trained_here(subject):
        _, spare, _ = split(_whole(subject), seed=subject.seed)
    selection = [] if images.selection is None else images.selection.digests()
    used = {*images.victims.digests(), *images.auxiliary.digests(), *selection}
    left = spare.take([i for i, digest in enumerate(spare.digests()) if digest not in used])
    return left if images.victims.labels is not None else unlabelled(left)


def untrained(subject: Subject, images: SubjectImages) -> Graph:
    """Return the model's graph before training, which is enough to check a request."""
    return _captured(subject, initial(subject, images), images)


def initial(subject: Subject, images: SubjectImages) -> nn.Module:
    """Return the model before training, or with its weights.

    Raises:
        ClovenError: for weights, or weights to start from, that cannot be used.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if is_trained_here(subject):
            start = subject.training.start if subject.training else None
            return begun(subject.model, shape=images.shape, classes=images.classes, start=start)
        return make(subject.model, shape=images.shape, classes=images.classes, weights=subject.weights)


def ready(subject: Subject, images: SubjectImages, progress: Progress) -> Graph:
    """Return the graph of the model, which is trained here or read from the cache if it needs training."""
    if not is_trained_here(subject):
        return untrained(subject, images)
    return _captured(subject, cnn(subject, images, progress), images)


def cnn(subject: Subject, images: SubjectImages, progress: Progress) -> nn.Module:
    """Return the model after training it here, or from the cache."""
    how = how_trained(subject)
    own = images.training.take(spread(images.training.labels, len(images.training), how.images))
    return trained_model(subject.model, own, subject.seed, how, "training the CNN", progress)


def normalised(subject: Subject) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the mean and standard deviation of the model's normalisation; None if it takes images in [0, 1].

    A model that is trained here takes images in [0, 1].
    """
    if subject.mean is not None and subject.std is not None:
        return subject.mean, subject.std
    if is_trained_here(subject):
        return None
    return normalisation(subject.model, str(subject.weights) if subject.weights else None)


def fitted(subject: Subject, images: SubjectImages, graph: Graph) -> SubjectImages:
    """Return the images with as many classes as the model has outputs; labels of other classes are removed.

    Raises:
        ClovenError: if the given number of classes is not that of the model, if labels do not fit a user's own
            model, or if there are too few victims.
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
            "images that the model was trained for, or images without labels"
        )
    training, victims = unlabelled(images.training), unlabelled(images.victims)
    return replace(images, training=training, victims=victims, classes=outputs)


def _captured(subject: Subject, model: nn.Module, images: SubjectImages) -> Graph:
    mean, std = normalised(subject) or (None, None)
    return capture(model, torch.zeros(1, *images.shape), mean=mean, std=std)


def trained_model(
    name: str, images: Images, seed: int, how: ModelTraining, stage: str, progress: Progress
) -> nn.Module:
    """Return a model trained on these images as described, or from the cache; ``stage`` names the progress."""
    return trained(
        name,
        images,
        epochs=how.epochs,
        seed=seed,
        cache=cache_dir(),
        device=how.device,
        start=how.start,
        balanced=how.balanced,
        on_epoch=lambda epoch, _: progress(stage, epoch, how.epochs),
    )


def judge_of(subject: Subject, images: SubjectImages, progress: Progress) -> tuple[str, Graph] | None:
    """Return a second classifier: ``MODEL=WEIGHTS``, or a model that is trained on images like the victims.

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
            f"the judge {name} has no weights, and {subject.data} has no labels to train it; give --judge "
            f"{name}=FILE, or --judge none"
        )
    name = "small" if subject.judge == AUTO else name
    labels = images.training.labels
    own = images.training.take(spread(labels, len(labels), JUDGE_IMAGES))
    model = trained_model(name, own, subject.seed + 1, ModelTraining(), "training the second judge", progress)
    return name, capture(model, torch.zeros(1, *images.shape))


def labels_of(images: Images) -> torch.Tensor | None:
    """Return the labels ``(n,)``; None if there are none."""
    return None if images.labels is None else torch.tensor(np.asarray(images.labels))
