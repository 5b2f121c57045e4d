"""What all cells of an audit share: images, the values that listeners see of them, and the floors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cloven.audit.captured import Capture, Heard, digest
from cloven.errors import ClovenError
from cloven.graph.box import slices
from cloven.graph.graph import Graph
from cloven.runtime.torch_engine import evaluate
from cloven.score.floors import Floor, constant_guesses, guess_floors
from cloven.threads import one_thread
from cloven.zoo.images import Images

SHOWN = 5
"""How many of a long list an error message shows."""


class OnDisk(Mapping[str, Tensor]):
    """Tensors of one safetensors file, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self.path, "pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor

    def __iter__(self) -> Iterator[str]:
        with safe_open(self.path, "pt") as file:
            yield from file.keys()

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True, eq=False)
class Material:
    """What all cells of an audit share.

    ``tensors``: ``auxiliary`` and ``victims`` ``(n, C, H, W)`` in [0, 1], ``classes`` ``(n,)`` that the whole
    model gives the victims, and for each value seen or captured, by its fingerprint, ``FINGERPRINT/auxiliary``
    and ``FINGERPRINT/victims``. ``hashes`` name the images and the model.
    """

    classifier: Graph
    tensors: Mapping[str, Tensor]
    floors: tuple[Floor, ...]
    hashes: Mapping[str, str]

    def captured(self, observation: Heard, of: str) -> tuple[Tensor, ...]:
        """What a listener gets of the ``auxiliary`` images or the ``victims``: one tensor ``(n, ...)`` a share."""
        seen = zip(_prints(observation), observation.seen, strict=True)
        return tuple(self.tensors[f"{value}/{of}"][slices(s.share)].contiguous() for value, s in seen)

    def classify(self, images: Tensor) -> Tensor:
        """The class ``(n,)`` that the whole model gives to images ``(n, C, H, W)`` in [0, 1]."""
        output = self.classifier.output
        return evaluate(self.classifier, images, [output])[output].argmax(1)

    def on_disk(self, path: Path) -> Material:
        """The same with its tensors in a file, which other processes can read."""
        save_file({name: t.contiguous() for name, t in self.tensors.items()}, path)
        return replace(self, tensors=OnDisk(path))


def prepare(
    graph: Graph,
    observations: Iterable[Heard],
    *,
    auxiliary: Images | Tensor,
    victims: Images | Tensor,
    domain: Images | Tensor | None = None,
) -> Material:
    """Everything that the cells of an audit share, from one forward pass of each graph.

    Args:
        graph: the whole model.
        observations: what listeners see; their values are kept for all images. Those of a capture are its own.
        auxiliary: what the attacker trains on, ``(n, C, H, W)`` in [0, 1] if a tensor.
        victims: what is scored, likewise.
        domain: images like the victims, for the floor of the domain's mean image; left out, the victims
            themselves, which makes that floor a little higher than an attacker could reach.

    Raises:
        ClovenError: where images have another shape than the model takes, are fewer than two, lie outside
            [0, 1], or where the same image is in both sets.
    """
    images = {"auxiliary": auxiliary, "victims": victims, "domain": victims if domain is None else domain}
    tensors = {name: _tensor(value) for name, value in images.items()}
    problems = [p for name, t in tensors.items() for p in _problems(name, t, graph.input.shape)]
    if problems:
        raise ClovenError(problems)
    refuse_overlap(auxiliary, victims)
    with one_thread():
        kept = {name: tensors[name] for name in ("auxiliary", "victims")}
        values = _values(observations, kept)
        output = graph.output
        classes = evaluate(graph, tensors["victims"], [output])[output].argmax(1)
        material = Material(graph, {**kept, **values, "classes": classes}, (), _hashes(graph, tensors))
        floors = guess_floors(
            tensors["victims"],
            classes,
            guesses=constant_guesses(tensors["auxiliary"], tensors["domain"]),
            classify=material.classify,
        )
    return replace(material, floors=floors)


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


def _problems(name: str, images: Tensor, shape: tuple[int, ...]) -> Iterator[str]:
    if images.ndim != 4 or tuple(images.shape[1:]) != shape:
        takes = ", ".join(map(str, shape))
        yield f"the {name} images have shape {tuple(images.shape)}; the model takes (n, {takes})"
    elif len(images) < 2:
        yield f"{len(images)} {name} images; expected at least 2"
    elif images.dtype != torch.float32:
        yield f"the {name} images are {images.dtype}; expected float32 in [0, 1]"
    elif not torch.isfinite(images).all() or images.min() < 0 or images.max() > 1:
        yield f"the {name} images hold numbers outside [0, 1]; divide 8-bit pixels by 255"


def _prints(heard: Heard) -> tuple[str, ...]:
    """The fingerprint of each value that is heard."""
    if isinstance(heard, Capture):
        return heard.prints
    return tuple(heard.graph.fingerprints[s.value] for s in heard.seen)


def _values(observations: Iterable[Heard], images: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every value that is heard, for all images: captured, or from one pass of each graph for each set."""
    wanted: dict[Graph, dict[str, str]] = {}
    captured: dict[str, Tensor] = {}
    seen: set[str] = set()
    for heard in observations:
        if isinstance(heard, Capture):
            captured |= heard.values()
            continue
        for share, fingerprint in zip(heard.seen, _prints(heard), strict=True):
            if fingerprint not in seen:
                seen.add(fingerprint)
                wanted.setdefault(heard.graph, {})[share.value] = fingerprint
    return captured | {
        f"{names[value]}/{of}": tensor
        for graph, names in wanted.items()
        for of, batch in images.items()
        for value, tensor in evaluate(graph, batch, names).items()
    }


def _hashes(graph: Graph, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    hashes = {name: digest(t) for name, t in tensors.items()}
    return {"model": graph.fingerprints[graph.output], **hashes}
