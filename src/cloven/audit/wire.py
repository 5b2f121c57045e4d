"""An audit of what was captured on a link: from the folder of pairs to the summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from cloven.attack.decoder import Decoder
from cloven.attack.layers import Chain, ConvT, ReLU, rule
from cloven.audit.captured import CAPTURED, IMAGES, LEAST, Capture, Recorded, Shapes, read
from cloven.audit.cases import ChainFor
from cloven.audit.cell import Cell
from cloven.audit.classifier import Classifier, check_model, classifier, shape_of
from cloven.audit.executor import Progress, run_missing
from cloven.audit.material import Material, prepare, refuse_overlap
from cloven.audit.store import SUMMARY, opened, to_text
from cloven.audit.study import attempt, labelled
from cloven.audit.summary import LOWER_BOUND, NEVER_MEASURED, SCHEMA, heard, leak, row, verdict, versions
from cloven.errors import ClovenError
from cloven.files import write_text
from cloven.graph.box import Shape, extent
from cloven.graph.graph import Graph
from cloven.score.similarity import CONVENTION
from cloven.zoo.images import Images

SIDE, CHANNELS, NUMBERS = 8, 64, 5_000_000
"""A vector is first read as a map of at most this side and so many channels, by at most so many weights."""
VECTORS = (
    "Without shapes (--shape) all that crosses of an image is one vector; the decoder reads all of it into each "
    "place of a small map. S1's attacker knows the shapes."
)


@dataclass(frozen=True)
class Settings:
    """What was captured, what it was captured of, and how to attack it.

    ``shapes`` is what the attacker knows of the messages, ``layers`` those of the model that a paper has decoders
    for, ``queries`` and ``victims`` how many of the captured images to use.
    """

    model: str
    data: str
    pairs: Path
    shapes: Shapes = field(default_factory=dict)
    weights: Path | None = None
    layers: Sequence[str] = ()
    queries: int | None = None
    victims: int | None = None
    epochs: int = 10
    seed: int = 0


def vector_chain(numbers: int, image: Shape) -> Chain:
    """The decoder of a vector whose shape nobody knows: all of it goes into each place of a small map.

    `rule` reads a vector as so many channels of one pixel, which it halves one by one: far more weights than a
    listener has pairs.
    """
    side = min(image[1:])
    while side > SIDE:
        side //= 2
    channels = max(1, min(CHANNELS, NUMBERS // (numbers * side * side)))
    return (ConvT(numbers, channels, side, 1, 0, 0), ReLU(), *rule([(channels, side, side)], image))


def listed(settings: Settings) -> list[dict[str, Any]]:
    """The capture as a row, before anything is trained or written.

    Raises:
        ClovenError: for a folder, a data set or settings that cannot be used.
    """
    recorded, _ = _loaded(settings)
    return [_context(recorded.capture)]


def execute(
    settings: Settings,
    chain_for: ChainFor,
    notes: Callable[[Shape], Sequence[str]],
    *,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Attack a capture, or find that it was attacked before; write ``summary.json``.

    Raises:
        ClovenError: for files, images or a folder that cannot be used, and where the model is not the one that
            ran; then nothing is written.
    """
    start = time.perf_counter()
    recorded, whole = _loaded(settings)
    model = classifier(
        settings.model, whole, recorded.victims, weights=settings.weights, data=settings.data, seed=settings.seed,
        progress=progress,
    )  # fmt: skip
    material = prepare(
        model.graph,
        [recorded.capture],
        auxiliary=recorded.auxiliary,
        victims=recorded.victims,
        domain=model.domain,
    )
    check_model(material.tensors["classes"], recorded.logits)
    cell = _cell(settings, recorded.capture, model.graph, chain_for)
    store = opened(out, _configuration(settings, recorded, model))
    key = cell.key(material)
    run_missing({key: cell}, material, store, jobs=1, progress=progress)
    found = row(_context(recorded.capture), store.cell(key), key)
    summary = {
        **_summary(settings, recorded, model, material, found),
        "notes": [
            *_notes(recorded, model),
            *([] if settings.shapes else [VECTORS]),
            *notes(model.graph.input.shape),
        ],
        "seconds": round(time.perf_counter() - start, 1),
    }
    write_text(out / SUMMARY, to_text(summary))
    return summary


def _loaded(settings: Settings) -> tuple[Recorded, Images]:
    """The capture with its images, and the model's data set at their size."""
    problems = [
        f"{name} is {value}; expected {least} or more"
        for name, value, least in (
            ("queries", settings.queries, LEAST["auxiliary"]),
            ("victims", settings.victims, LEAST["victim"]),
            ("epochs", settings.epochs, 1),
        )
        if value is not None and value < least
    ]
    folder, limits = settings.pairs, {} if problems else {"queries": settings.queries, "victims": settings.victims}
    recorded = attempt(lambda: read(folder, settings.shapes, **limits), problems)
    whole = attempt(lambda: labelled(settings.data, shape_of(recorded.victims) if recorded else None), problems)
    if recorded and whole and recorded.logits.shape[1] != len(whole.classes):
        problems.append(
            f"{settings.data} has {len(whole.classes)} classes; {folder / IMAGES} holds answers of "
            f"{recorded.logits.shape[1]}: give the --data that the model was made for"
        )
    if problems or recorded is None or whole is None:
        raise ClovenError(problems)
    refuse_overlap(recorded.auxiliary, recorded.victims)
    return recorded, whole


def _cell(settings: Settings, capture: Capture, graph: Graph, chain_for: ChainFor) -> Cell:
    """The attack: a paper's decoder for a layer of the shape seen, or the usual one; without shapes, another."""
    shapes, image = [s.shape for s in capture.seen], graph.input.shape
    if not settings.shapes:
        chain: Chain | None = vector_chain(sum(shape[0] for shape in shapes), image)
    else:
        same = (path for path in settings.layers if [graph.by_name[graph.find(path)].shape] == shapes)
        layer = next(same, None)
        chain = chain_for(layer, shapes[0], image) if layer else None
    attack = Decoder(epochs=settings.epochs, layers=chain)
    return Cell(capture, attack, settings.seed, "shapes" if settings.shapes else "numbers")


def _context(capture: Capture) -> dict[str, Any]:
    label = "Protected link" if capture.protected else "Plain link"
    messages = [f"message {s.value}" for s in capture.seen]
    return heard(capture, "captured", None, label, messages)


def _configuration(settings: Settings, recorded: Recorded, model: Classifier) -> dict[str, Any]:
    """What makes two runs the same run: what was captured and sent by its content, and the settings."""
    return {
        "schema": SCHEMA,
        "captured": recorded.capture.fingerprint,
        "auxiliary_images": recorded.auxiliary.fingerprint(),
        "victim_images": recorded.victims.fingerprint(),
        "model": settings.model,
        "weights": model.weights,
        "data": model.domain.name,
        "training": model.domain.fingerprint(),
        "shapes": _shapes(settings.shapes),
        "epochs": settings.epochs,
        "seed": settings.seed,
    }


def _shapes(shapes: Shapes) -> dict[str, str]:
    return {str(k): "+".join("x".join(map(str, shape)) for shape in shapes[k]) for k in sorted(shapes)}


def _summary(
    settings: Settings, recorded: Recorded, model: Classifier, material: Material, found: Mapping[str, Any]
) -> dict[str, Any]:
    capture = recorded.capture
    return {
        "schema": SCHEMA,
        "cloven": metadata.version("cloven"),
        "model": settings.model,
        "data": model.domain.name,
        "auxiliary": "images of his own",
        "model_accuracy": model.accuracy,
        "model_kappa": model.kappa,
        "test_images": model.tests,
        "classes": recorded.logits.shape[1],
        "input": list(material.classifier.input.shape),
        "versions": versions(1),
        "settings": {
            "queries": len(recorded.auxiliary),
            "victims": len(recorded.victims),
            "epochs": settings.epochs,
            "seed": settings.seed,
            "shapes": _shapes(settings.shapes) or "not known",
            "weights": model.weights,
            "ssim": CONVENTION,
        },
        "capture": {
            "link": list(capture.link),
            "protected": capture.protected,
            "session": capture.session,
            "bytes_an_image": capture.bytes,
            "payload_bytes": capture.payload,
            "images": len(recorded.auxiliary) + len(recorded.victims),
            "unmatched": dict(recorded.unmatched),
            "fingerprint": capture.fingerprint,
            "notes": _notes(recorded, model),
            "messages": [
                {"message": s.value, "type": s.dtype, "shape": list(extent(s.share))} for s in capture.seen
            ],
        },
        "attacker": _attacker(settings, recorded),
        "verdict": verdict(model.kappa, [found], lambda crossing: _sentence(crossing[0], capture)),
        "plans": [],
        "findings": [found],
        "orderings": [],
        "not_measured": [*NEVER_MEASURED, "When frames cross, how long they are, and other links."],
    }


def _attacker(settings: Settings, recorded: Recorded) -> dict[str, Any]:
    capture = recorded.capture
    what = "ciphertext" if capture.protected else "numbers"
    shapes = f"the {what} that crossed" + (" and their shapes" if settings.shapes else ", not what shape they have")
    return {
        "sentence": f"A passive listener who tapped {_link(capture)} while the system ran, sent "
        f"{len(recorded.auxiliary)} images of his own as a user, recorded what crossed for them and for "
        f"{len(recorded.victims)} images of others, and trains a decoder on his own pairs (S1, Sect. 4).",
        "knows": [shapes, "his own images and what crossed for them", "the image size"],
        "does_not_know": [
            "the model, its layers and weights",
            "the victims' images",
            *(["the keys of the link"] if capture.protected else []),
        ],
    }


def _link(capture: Capture) -> str:
    return f"{' to '.join(capture.link)} ({'protected' if capture.protected else 'in clear'})"


def _sentence(found: Mapping[str, Any], capture: Capture) -> str:
    floors = found["floors"].values()
    clear = [
        name
        for name in ("ssim", "agreement")
        if found[name]["low"] > max(floor[name] for floor in floors if floor[name] is not None)
    ]
    leaks = "leaks" if clear else "shows no leakage to this attacker"
    return f"What was captured from the wire, {_link(capture)}, {leaks} ({leak(found)}). {LOWER_BOUND}"


def _notes(recorded: Recorded, model: Classifier) -> list[str]:
    """What is to be known of the capture besides."""
    counted = (
        ("Images that were sent but not captured, left out: {}.", recorded.unmatched[IMAGES]),
        ("Inputs that were captured but not recorded as answered, left out: {}.", recorded.unmatched[CAPTURED]),
        ("Victim images that are among those that the CNN was trained on: {}.", model.trained_on),
    )
    return [text.format(count) for text, count in counted if count]
