"""What all cells of an audit share: images, the values that listeners see of them, classifiers and floors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TypeVar

import torch
from torch import Tensor

from cloven.attacks.knowledge import SharePlace, finite
from cloven.auditing.captured import LEAST, Capture, Observed, digest
from cloven.auditing.features import BUDGET, Features, Part, Precision, Shares, Shelf, Values, features
from cloven.auditing.selection import distinct
from cloven.errors import ClovenError
from cloven.graph.box import Shape
from cloven.graph.graph import Graph
from cloven.partition.observe import Observation
from cloven.runtime.torch_engine import evaluate
from cloven.score.baselines import Baseline, constant_guesses, guess_baselines
from cloven.threads import keep_memory, one_thread, repeatable
from cloven.zoo.images import Images

AnyImages = TypeVar("AnyImages", Images, Tensor, Images | Tensor)

SHOWN = 5
"""How many of a long list an error message shows."""

SINGULAR = {"victims": "victim"}
"""Names of sets of images as they stand before "images"."""

SETS = ("auxiliary", "victims", "selection")
"""The sets of images that something is captured of; the last is there where several attacks are compared."""


@dataclass(frozen=True, eq=False)
class ImageSets:
    """The images of an audit, ``(n, C, H, W)`` in [0, 1] if tensors.

    Attributes:
        auxiliary: what the attacker trains on.
        victims: what is scored.
        domain: images like the victims, for the baseline of the domain's mean image; None for the victims
            themselves, which makes that baseline a little higher than an attacker could reach.
        selection: images that train nothing, by which the strongest of several attacks is chosen.
    """

    auxiliary: Images | Tensor
    victims: Images | Tensor
    domain: Images | Tensor | None = None
    selection: Images | Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Return each set that is there as a tensor; ``domain`` is always there."""
        domain = self.victims if self.domain is None else self.domain
        sets = {"auxiliary": self.auxiliary, "victims": self.victims, "selection": self.selection, "domain": domain}
        return {name: _tensor(one) for name, one in sets.items() if one is not None}


@dataclass(frozen=True, eq=False)
class Judge:
    """A second classifier, which did not take part: its graph, the classes that it gives victims, its baselines."""

    name: str
    graph: Graph
    classes: Tensor
    baselines: tuple[Baseline, ...]
    device: str = "cpu"

    def classify(self, images: Tensor) -> Tensor:
        """The class ``(n,)`` of images ``(n, C, H, W)`` in [0, 1]."""
        return answers(self.graph, images, self.device)


@dataclass(frozen=True, eq=False)
class Material:
    """Images, what is seen of them, and the whole model.

    ``tensors``: ``auxiliary`` and ``victims`` ``(n, C, H, W)`` in [0, 1], ``classes`` ``(n,)`` that the whole
    model gives the victims and ``answers`` those that it gives the auxiliary images. Where several attacks are
    compared, ``selection`` and ``selection_classes`` are pairs that train none and score none. ``hashes`` name the
    images that train and score, and the model.
    """

    classifier: Graph
    tensors: Mapping[str, Tensor]
    features: Features
    baselines: tuple[Baseline, ...]
    hashes: Mapping[str, str]
    judge: Judge | None = None

    def captured(self, observed: Observed, of: str, recorded: str = "") -> Shares:
        """Return what a listener gets of the images of one of `SETS`.

        ``recorded`` is the name of a run in which it was recorded, where it cannot be computed from the graph.
        """
        return Shares(self.features, of, _parts(observed, recorded), len(self.tensors[of]))

    def classify(self, images: Tensor) -> Tensor:
        """The class ``(n,)`` that the whole model gives to images ``(n, C, H, W)`` in [0, 1]."""
        return answers(self.classifier, images, self.features.device)


def answers(graph: Graph, images: Tensor, device: str = "cpu") -> Tensor:
    """The class ``(n,)`` that a model gives to images ``(n, C, H, W)`` in [0, 1], on a device or on one thread."""
    with one_thread(), repeatable():
        return _classes(evaluate(graph, images, [graph.output], device=device)[graph.output])


def _classes(logits: Tensor) -> Tensor:
    """Return the classes ``(n,)`` of outputs ``(n, classes)``; NaN would count as the largest."""
    if wrong := int(logits.isnan().any(1).sum()):
        raise ClovenError(
            f"the model gives NaN for {wrong} of {len(logits)} images: it has no class for them; look at its "
            "weights and its normalisation"
        )
    return logits.argmax(1)


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
    """What tensors that were recorded of an observation in a run are kept as."""
    return tuple(f"{run}-{observed.fingerprint}-{i}" for i in range(len(observed.seen)))


def places(observed: Observed) -> tuple[SharePlace, ...] | None:
    """Where each share lies in its value, for an attacker who knows it; None of what was captured."""
    if isinstance(observed, Capture) or not observed.seen:
        return None
    return tuple(place for place, _ in _read(observed))


def _read(observed: Observation) -> Iterator[tuple[SharePlace, Shape]]:
    """Where each share lies, and in what shape it is read: a flattened map as the map that it was."""
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
    graph: Graph,
    observations: Iterable[Observed],
    images: ImageSets,
    *,
    judge: tuple[str, Graph] | None = None,
    recorded: Mapping[str, Tensor] | None = None,
    shelf: Shelf | None = None,
    budget: int = BUDGET,
    precision: Precision = "float32",
    device: str = "cpu",
) -> Material:
    """Return everything that the cells of an audit share, from one forward pass of each graph over each set.

    Args:
        graph: the whole model.
        observations: what listeners see. Those of a capture are its own.
        images: the sets of images.
        judge: the name and graph of a second classifier.
        recorded: tensors by ``NAME/SET`` that were recorded in a run; see `Material.captured`.
        shelf: a folder to keep features in; left out, they are kept in memory.
        budget: bytes of features to keep; with more, they are computed anew for each batch.
        precision: of features.
        device: what computes them, and what classifies.

    Raises:
        ClovenError: where images have another shape than the model takes, are fewer than two, lie outside
            [0, 1], or where the same image is in both sets.
    """
    if len(graph.by_name[graph.output].shape) != 1:
        made = ("n", *graph.by_name[graph.output].shape)
        raise ClovenError(
            f"the model returns ({', '.join(map(str, made))}); an audit is of a classifier: (n, classes)"
        )
    tensors = images.tensors()
    given = {name: t for name, t in tensors.items() if name != "domain" or images.domain is not None}
    problems = [p for name, t in given.items() for p in image_problems(name, t, graph.input.shape)]
    if problems:
        raise ClovenError(problems)
    refuse_overlap(images.auxiliary, images.victims)
    if images.selection is not None:
        refuse_overlap(images.selection, images.victims)
    keep_memory()
    with one_thread(), repeatable():
        observed = list(observations)
        sets = {name: tensors[name] for name in SETS if name in tensors}
        found, logits = features(
            _values(graph, observed),
            sets,
            budget=budget,
            precision=precision,
            shelf=shelf,
            others={graph: {graph.output: "logits"}},
            device=device,
        )
        extra = {k: v for h in observed if isinstance(h, Capture) for k, v in h.values().items()} | dict(
            recorded or {}
        )
        wrong = {k: float((~v.isfinite()).double().mean()) for k, v in extra.items()}
        known = {name: share for name, share in {**found.broken, **wrong}.items() if share}
        clean = {k: found.rounded(finite(v) if wrong[k] else v) for k, v in extra.items()}
        found = replace(found, kept=_with(found.kept, clean), broken=known)
        named = {"answers": _classes(logits["logits/auxiliary"]), "classes": _classes(logits["logits/victims"])}
        guesses = constant_guesses(tensors["auxiliary"], tensors["domain"])
        if images.selection is not None:
            named["selection_classes"] = _classes(logits["logits/selection"])
        hashes = _hashes(graph, tensors)
        material = Material(graph, {**sets, **named}, found, (), hashes)
        baselines = guess_baselines(
            tensors["victims"], named["classes"], guesses=guesses, classify=material.classify
        )
        second = _judge(judge, tensors["victims"], guesses, device) if judge else None
        if second is not None:
            hashes = hashes | {"judge": second.graph.fingerprints[second.graph.output]}
    shown: Mapping[str, Tensor] = material.tensors
    if shelf is not None:
        shown = Shelf(shelf.folder / "images")
        for name, tensor in material.tensors.items():
            shown.put(name, tensor)
    seen = replace(found, images=shown)
    return replace(material, baselines=baselines, judge=second, hashes=hashes, tensors=shown, features=seen)


def _with(kept: Mapping[str, Tensor], extra: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """What is kept, and more."""
    if not isinstance(kept, Shelf):
        return {**kept, **extra}
    for name, tensor in extra.items():
        if name not in kept:
            kept.put(name, tensor)
    return kept


def _judge(given: tuple[str, Graph], victims: Tensor, guesses: Mapping[str, Tensor], device: str) -> Judge:
    name, graph = given
    classify: Callable[[Tensor], Tensor] = lambda images: answers(graph, images, device)  # noqa: E731
    classes = classify(victims)
    return Judge(
        name, graph, classes, guess_baselines(victims, classes, guesses=guesses, classify=classify), device
    )


def _values(graph: Graph, observed: Iterable[Observed]) -> Values:
    """Which values of which graphs are seen, each once: of the whole model's graph where it has them."""
    own = {fingerprint: value for value, fingerprint in graph.fingerprints.items()}
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
            if fingerprint in own:
                wanted.setdefault(graph, {})[own[fingerprint]] = fingerprint
            else:
                wanted.setdefault(one.graph, {})[share.value] = fingerprint
    return wanted


def without_copies(victims: AnyImages) -> tuple[AnyImages, int]:
    """Return each victim image once, in order, and how many copies were left out: they are not independent."""
    kept = distinct(pixel_digests(victims))
    copies = len(victims) - len(kept)
    return (taken(victims, kept), copies) if copies else (victims, 0)


def refuse_few(victims: int, copies: int) -> None:
    """Refuse too few different victim images to say anything about others.

    Raises:
        ClovenError: with how many there are.
    """
    if victims < LEAST["victim"]:
        but = f", {copies} of them copies of others" if copies else ""
        raise ClovenError(
            f"there are {victims + copies} victim images{but}; expected {LEAST['victim']} different ones or more"
        )


def refuse_overlap(auxiliary: Images | Tensor, victims: Images | Tensor) -> None:
    """Refuse images that are in both sets (contract: what trains an attack never scores it).

    Raises:
        ClovenError: with how many and the first few of them.
    """
    theirs = dict(_named(victims))
    both = [(name, theirs[digest]) for digest, name in _named(auxiliary) if digest in theirs]
    if both:
        shown = "; ".join(f"{a} = {b}" for a, b in both[:SHOWN])
        raise ClovenError(
            f"{len(both)} auxiliary images are also victim images ({shown}{', ...' if len(both) > SHOWN else ''}); "
            "an attack scored on what it trained on proves nothing: choose other auxiliary images"
        )


def pixel_digests(images: Images | Tensor) -> list[str]:
    """Return the hash of each image's 8-bit pixels."""
    return [digest for digest, _ in _named(images)]


def taken(images: AnyImages, indices: Sequence[int]) -> AnyImages:
    """Return the images at these indices, in this order."""
    return images.take(indices) if isinstance(images, Images) else images[list(indices)]


def fingerprint(images: Images | Tensor | None) -> str | None:
    """Return a hash of all images of a set, and of their labels if they have any."""
    if images is None:
        return None
    return images.fingerprint() if isinstance(images, Images) else digest(images)


def _named(images: Images | Tensor) -> Iterator[tuple[str, str]]:
    """The hash of each image's 8-bit pixels, and where it comes from."""
    if isinstance(images, Images):
        yield from zip(images.digests(), images.sources, strict=True)
        return
    pixels = (images * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    shape = repr(pixels.shape[1:]).encode()
    for i, image in enumerate(pixels):
        yield hashlib.sha256(shape + image.tobytes()).hexdigest(), f"image {i}"


def _tensor(images: Images | Tensor) -> Tensor:
    return images.tensor() if isinstance(images, Images) else images


def image_problems(name: str, images: Tensor, shape: tuple[int, ...], least: int = 2) -> Iterator[str]:
    """Yield what is wrong with a set of images, ``least`` or more, for a model that takes images of a shape."""
    name = SINGULAR.get(name, name)
    if images.ndim != 4 or tuple(images.shape[1:]) != shape:
        takes = ", ".join(map(str, shape))
        yield f"the {name} images have shape {tuple(images.shape)}; the model takes (n, {takes})"
    elif len(images) < least:
        yield f"there are {len(images)} {name} images; expected {least} or more"
    elif images.dtype != torch.float32:
        yield f"the {name} images are {images.dtype}; expected float32 in [0, 1]"
    elif not torch.isfinite(images).all():
        yield f"the {name} images hold NaN or infinity; expected float32 in [0, 1]"
    elif images.min() < 0 or images.max() > 1:
        yield f"the {name} images hold numbers outside [0, 1]; divide 8-bit pixels by 255"


def _hashes(graph: Graph, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    hashes = {name: digest(t) for name, t in tensors.items() if name != "selection"}
    return {"model": graph.fingerprints[graph.output], **hashes}
