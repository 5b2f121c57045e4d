"""The material of an audit, which its cells share: images, the values that listeners see, models and baselines."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TypeVar

import torch
from torch import Tensor

from cloven.attacks.knowledge import SharePlace
from cloven.auditing.captured import LEAST, Capture, Observed, digest
from cloven.auditing.classifier import Classifier, WholeModel, classes_of
from cloven.auditing.features import BATCH, BUDGET, Features, Part, Precision, Shares, Shelf, Values, features
from cloven.auditing.readings import Readings
from cloven.auditing.selection import distinct
from cloven.errors import ClovenError
from cloven.graph.box import Shape
from cloven.graph.graph import Graph
from cloven.partition.observe import Observation
from cloven.process_memory import keep_freed
from cloven.rows import TensorRows, chunks
from cloven.score.baselines import Baseline, constant_guesses, guess_baselines
from cloven.threads import one_thread, repeatable
from cloven.zoo.images import Images

AnyImages = TypeVar("AnyImages", Images, Tensor, Images | Tensor)

SHOWN = 5
"""The number of entries of a long list that an error message shows."""

SINGULAR = {"victims": "victim"}
"""The singular of the names of sets of images, for use before "images"."""

SETS = ("auxiliary", "victims", "selection")
"""The sets of images for which values are captured; the last exists only if several attacks are compared."""


@dataclass(frozen=True, eq=False)
class ImageSets:
    """The sets of images of an audit; a set that is a tensor is ``(n, C, H, W)`` in [0, 1].

    Attributes:
        auxiliary: the images that attacks are trained on.
        victims: the images that are scored.
        domain: images like the victims, for the baseline of the domain's mean image; None for the victims
            themselves, which makes that baseline a little higher than an attacker could reach.
        selection: held-out images, by which the strongest of several attacks is chosen.
    """

    auxiliary: Images | Tensor
    victims: Images | Tensor
    domain: Images | Tensor | None = None
    selection: Images | Tensor | None = None

    def rows(self) -> dict[str, TensorRows]:
        """Return each set that is not None; ``domain`` is always among them."""
        domain = self.victims if self.domain is None else self.domain
        sets = {"auxiliary": self.auxiliary, "victims": self.victims, "selection": self.selection, "domain": domain}
        return {name: image_rows(one) for name, one in sets.items() if one is not None}


@dataclass(frozen=True, eq=False)
class Judge:
    """A second classifier, which is not the attacked model, with its classes of the victims and its baselines."""

    name: str
    classifier: Classifier
    classes: Tensor
    baselines: tuple[Baseline, ...]


@dataclass(frozen=True, eq=False)
class Material:
    """The images of an audit, the values that listeners see of them, and the attacked model.

    ``images`` holds ``auxiliary`` and ``victims`` ``(n, C, H, W)`` in [0, 1]; ``classes`` ``(n,)`` the classes that
    the model gives them. If several attacks are compared, both also hold ``selection``, the pairs that choose
    between them. ``hashes`` identify the model and the images that attacks are trained and scored on. ``readings``
    are those of which the victim images are windows; None for pictures.
    """

    classifier: Classifier
    images: Mapping[str, TensorRows]
    classes: Mapping[str, Tensor]
    features: Features
    baselines: tuple[Baseline, ...]
    hashes: Mapping[str, str]
    judge: Judge | None = None
    readings: Readings | None = None

    def captured(self, observed: Observed, of: str, recorded: str = "") -> Shares:
        """Return the shares that a listener receives for one of `SETS`.

        ``recorded`` names the run in which they were recorded, where they cannot be computed from the graph.
        """
        return Shares(self.features, of, _parts(observed, recorded), len(self.images[of]))


def _parts(observed: Observed, recorded: str) -> tuple[Part, ...]:
    if isinstance(observed, Capture):
        return tuple(Part(name, None, s.shape) for name, s in zip(observed.prints, observed.seen, strict=True))
    shapes = [shape for _, shape in _read(observed)]
    if recorded:
        return tuple(
            Part(n, None, shape) for n, shape in zip(recorded_names(observed, recorded), shapes, strict=True)
        )
    prints = observed.graph.fingerprints
    return tuple(Part(prints[s.value], s.share, shape) for s, shape in zip(observed.seen, shapes, strict=True))


def recorded_names(observed: Observed, run: str) -> tuple[str, ...]:
    """Return the names of the tensors that were recorded for an observation in a run."""
    return tuple(f"{run}-{observed.fingerprint}-{i}" for i in range(len(observed.seen)))


def places(observed: Observed) -> tuple[SharePlace, ...] | None:
    """Return the place of each share in its value; None for a capture, whose places are unknown."""
    if isinstance(observed, Capture) or not observed.seen:
        return None
    return tuple(place for place, _ in _read(observed))


def _read(observed: Observation) -> Iterator[tuple[SharePlace, Shape]]:
    """Yield the place of each share and the shape in which it is read; a flattened map is read as a map."""
    for seen in observed.seen:
        start, shape = tuple(low for low, _ in seen.share), seen.shape
        op = observed.graph.by_name[seen.value]
        source = observed.graph.by_name[op.inputs[0]].shape if op.kind == "reshape" else op.shape
        area = prod(source[1:])
        if len(op.shape) == 1 and len(source) == 3 and area > 1 and not (start[0] % area or shape[0] % area):
            yield SharePlace(seen.value, (start[0] // area, 0, 0), source), (shape[0] // area, *source[1:])
        else:
            yield SharePlace(seen.value, start, op.shape), shape


def prepare(
    model: Classifier,
    observations: Iterable[Observed],
    images: ImageSets,
    *,
    answers: Mapping[str, Tensor] | None = None,
    judge: tuple[str, Classifier] | None = None,
    recorded: Mapping[str, TensorRows] | None = None,
    shelf: Shelf | None = None,
    budget: int = BUDGET,
    precision: Precision = "float32",
    device: str = "cpu",
    readings: Readings | None = None,
) -> Material:
    """Return everything that the cells of an audit share, from one forward pass of each graph over each set.

    Args:
        model: the attacked model; one that is not a `WholeModel` requires ``answers``.
        observations: the observations; a capture brings its own values.
        images: the sets of images.
        answers: the classes ``(n,)`` that the model gave to each set, if they are known.
        judge: a second classifier, and its name.
        recorded: tensors by ``NAME/SET`` that were recorded in a run; see `Material.captured`.
        shelf: the folder for features; None for memory.
        budget: the largest number of bytes of features to keep; beyond it, they are computed for each batch.
        precision: the precision of features.
        device: the device that computes features and classes.
        readings: the readings in the victim images, if these are windows of telemetry.

    Raises:
        ClovenError: if images do not have the shape that the model takes, are fewer than two or lie outside [0, 1];
            or if an image is in both sets.
    """
    graph = model.graph if isinstance(model, WholeModel) else None
    if graph is not None and len(graph.by_name[graph.output].shape) != 1:
        made = ("n", *graph.by_name[graph.output].shape)
        raise ClovenError(
            f"the model returns ({', '.join(map(str, made))}); an audit needs a classifier, which returns "
            "(n, classes)"
        )
    every = images.rows()
    given = {name: t for name, t in every.items() if name != "domain" or images.domain is not None}
    problems = [p for name, t in given.items() for p in image_problems(name, t, model.shape)]
    if problems:
        raise ClovenError(problems)
    refuse_overlap(images.auxiliary, images.victims)
    if images.selection is not None:
        refuse_overlap(images.selection, images.victims)
    keep_freed()
    with one_thread(), repeatable():
        observed = list(observations)
        sets = {name: every[name] for name in SETS if name in every}
        found, logits = features(
            _values(graph, observed),
            sets,
            budget=budget,
            precision=precision,
            shelf=shelf,
            others={graph: {graph.output: "logits"}} if answers is None and graph is not None else {},
            device=device,
        )
        extra = {k: v for h in observed if isinstance(h, Capture) for k, v in h.values().items()} | dict(
            recorded or {}
        )
        wrong = {name: _not_finite(rows) for name, rows in extra.items()}
        known = {name: share for name, share in {**found.broken, **wrong}.items() if share}
        found = replace(found, kept=_with(found.kept, extra), broken=known)
        classes = answers or {of: classes_of(logits[f"logits/{of}"]) for of in sets}
        guesses = constant_guesses(every["auxiliary"], every["domain"])
        hashes = _hashes(model, every)
        material = Material(model, sets, classes, found, (), hashes)
        victims = every["victims"]
        baselines = guess_baselines(victims, classes["victims"], guesses=guesses, classify=model.classify)
        second = _judge(*judge, victims, guesses) if judge else None
        if second is not None:
            hashes = hashes | {"judge": second.classifier.fingerprint}
        if readings is not None:
            hashes = hashes | {"readings": readings.fingerprint}
    shown: Mapping[str, TensorRows] = sets
    if shelf is not None:
        shown = Shelf(shelf.folder / "images")
        for name, rows in sets.items():
            shown.put(name, rows)
    seen = replace(found, images=shown)
    return replace(
        material, baselines=baselines, judge=second, hashes=hashes, images=shown, features=seen, readings=readings
    )


def _not_finite(rows: TensorRows) -> float:
    """Return the share of numbers that are NaN or infinite."""
    wrong = sum(int((~chunk.isfinite()).sum()) for chunk in chunks(rows, BATCH))
    return wrong / max(1, prod(rows.shape))


def _with(kept: Mapping[str, TensorRows], extra: Mapping[str, TensorRows]) -> Mapping[str, TensorRows]:
    """Return the kept tensors with further ones; a shelf is extended in place, except by rows of other files."""
    if not isinstance(kept, Shelf):
        return {**kept, **extra}
    for name, rows in extra.items():
        if isinstance(rows, Tensor) and name not in kept:
            kept.put(name, rows)
    others = {name: rows for name, rows in extra.items() if not isinstance(rows, Tensor)}
    return {**kept, **others} if others else kept


def _judge(name: str, second: Classifier, victims: TensorRows, guesses: Mapping[str, Tensor]) -> Judge:
    classes = second.classify(victims)
    return Judge(
        name, second, classes, guess_baselines(victims, classes, guesses=guesses, classify=second.classify)
    )


def _values(graph: Graph | None, observed: Iterable[Observed]) -> Values:
    """Return the observed values by graph, each once; those that the whole model has are taken from its graph."""
    own = {} if graph is None else {fingerprint: value for value, fingerprint in graph.fingerprints.items()}
    wanted: dict[Graph, dict[str, str]] = {}
    seen: set[str] = set()
    for one in observed:
        if isinstance(one, Capture):
            continue
        for share in one.seen:
            fingerprint = one.graph.fingerprints[share.value]
            if fingerprint in seen or not share.transform.exact:
                continue
            seen.add(fingerprint)
            if graph is not None and fingerprint in own:
                wanted.setdefault(graph, {})[own[fingerprint]] = fingerprint
            else:
                wanted.setdefault(one.graph, {})[share.value] = fingerprint
    return wanted


def without_copies(victims: AnyImages) -> tuple[AnyImages, int]:
    """Return the distinct victim images, in order, and the number of copies, which are not independent."""
    kept = distinct(pixel_digests(victims))
    copies = len(victims) - len(kept)
    return (taken(victims, kept), copies) if copies else (victims, 0)


def refuse_few(victims: int, copies: int) -> None:
    """Refuse a number of different victim images that is too small for an interval.

    Raises:
        ClovenError: if there are fewer than ``LEAST["victim"]``; the message says how many there are.
    """
    if victims < LEAST["victim"]:
        but = f", {copies} of them copies of others" if copies else ""
        raise ClovenError(
            f"there are {victims + copies} victim images{but}; expected {LEAST['victim']} different ones or more"
        )


def refuse_overlap(auxiliary: Images | Tensor, victims: Images | Tensor) -> None:
    """Refuse images that are in both sets: an attack is never scored on images that it was trained on.

    Raises:
        ClovenError: if there are any; the message has their number and the first few.
    """
    theirs = dict(_named(victims))
    both = [(name, theirs[digest]) for digest, name in _named(auxiliary) if digest in theirs]
    if both:
        shown = "; ".join(f"{a} = {b}" for a, b in both[:SHOWN])
        raise ClovenError(
            f"{len(both)} auxiliary images are also victim images ({shown}{', ...' if len(both) > SHOWN else ''}); "
            "an attack must not be scored on images that it was trained on: choose other auxiliary images"
        )


def pixel_digests(images: Images | Tensor) -> list[str]:
    """Return the hash of each image's 8-bit pixels."""
    return [digest for digest, _ in _named(images)]


def taken(images: AnyImages, indices: Sequence[int]) -> AnyImages:
    """Return the images at these indices, in this order."""
    return images.take(indices) if isinstance(images, Images) else images[list(indices)]


def fingerprint(images: Images | Tensor | None) -> str | None:
    """Return a hash of all images of a set, and of their labels if they have any; None if there is no set."""
    if images is None:
        return None
    return images.fingerprint() if isinstance(images, Images) else digest(images)


def _named(images: Images | Tensor) -> Iterator[tuple[str, str]]:
    """Yield the hash of each image's 8-bit pixels, and the image's source."""
    if isinstance(images, Images):
        yield from zip(images.digests(), images.sources, strict=True)
        return
    pixels = (images * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    shape = repr(pixels.shape[1:]).encode()
    for i, image in enumerate(pixels):
        yield hashlib.sha256(shape + image.tobytes()).hexdigest(), f"image {i}"


def image_rows(images: Images | Tensor) -> TensorRows:
    """Return a set of images as rows in [0, 1]."""
    return images.rows() if isinstance(images, Images) else images


def image_problems(name: str, images: TensorRows, shape: tuple[int, ...], least: int = 2) -> Iterator[str]:
    """Yield what is wrong with a set of ``least`` or more images for a model that takes images of a shape."""
    name = SINGULAR.get(name, name)
    if len(images.shape) != 4 or tuple(images.shape[1:]) != shape:
        takes = ", ".join(map(str, shape))
        yield f"the {name} images have shape {tuple(images.shape)}; the model takes (n, {takes})"
    elif len(images) < least:
        yield f"there are {len(images)} {name} images; expected {least} or more"
    elif images.dtype != torch.float32:
        yield f"the {name} images are {images.dtype}; expected float32 in [0, 1]"
    elif not isinstance(images, Tensor):  # pixels of 8 bits
        return
    elif not torch.isfinite(images).all():
        yield f"the {name} images hold NaN or infinity; expected float32 in [0, 1]"
    elif images.min() < 0 or images.max() > 1:
        yield f"the {name} images hold numbers outside [0, 1]; divide 8-bit pixels by 255"


def _hashes(model: Classifier, sets: Mapping[str, TensorRows]) -> dict[str, str]:
    hashes = {name: digest(rows) for name, rows in sets.items() if name != "selection"}
    return {"model": model.fingerprint, **hashes}
