"""An audit of what was captured on a link: from the folder of pairs to the summary."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from cloven.attacks.knowledge import Pairs, in_memory
from cloven.attacks.layers import Chain, ConvT, ReLU, rule
from cloven.attacks.provenance import label_of
from cloven.attacks.shapes import ShapeGuess, infer
from cloven.attacks.tile_search import locate
from cloven.attacks.trainer import CPU, Machine
from cloven.auditing.captured import CAPTURED, IMAGES, LEAST, Capture, Recorded, Shapes, read
from cloven.auditing.cases import ChainFor
from cloven.auditing.cell import Cell, Knows
from cloven.auditing.classifier import Classifier, check_model, classifier
from cloven.auditing.executor import Progress, run_missing
from cloven.auditing.guessing import LOOKED_AT, as_bytes
from cloven.auditing.ladder import USUAL, Ladder
from cloven.auditing.material import Material, answers, prepare, refuse_overlap
from cloven.auditing.paper import Paper
from cloven.auditing.store import SUMMARY, opened, write_document
from cloven.auditing.subject import AUTO, SAME, Loaded, Who, judge_of
from cloven.auditing.summary import ALWAYS, LOWER_BOUND, SCHEMA, heard, leak, missing, row, verdict, versions
from cloven.errors import ClovenError, tried
from cloven.graph.box import Shape, extent
from cloven.graph.graph import Graph
from cloven.score.similarity import CONVENTION
from cloven.zoo.datasets import load
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

    ``shapes`` is what the attacker knows of the messages, or ``inferred`` says that he guesses; ``layers`` those of
    the model that a paper has decoders for, ``queries`` and ``victims`` how many of the captured images to use.
    """

    model: str
    data: str
    pairs: Path
    shapes: Shapes = field(default_factory=dict)
    weights: Path | None = None
    layers: Sequence[str] = ()
    queries: int | None = None
    victims: int | None = None
    ladder: Ladder = USUAL
    inferred: bool = False
    judge: str = AUTO
    seeds: int = 1
    threshold: float = 0.2
    machine: Machine = CPU
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
    return [{**_context(recorded.capture), "attacks": list(settings.ladder.names)}]


def execute(settings: Settings, paper: Paper, *, out: Path, progress: Progress) -> dict[str, Any]:
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
    check_model(answers(model.graph, recorded.victims.tensor()), recorded.logits)
    who = Who(settings.model, settings.data, SAME, 2, judge=settings.judge, seed=settings.seed)
    judge = judge_of(who, Loaded(model.domain, recorded.victims, recorded.auxiliary, len(whole.classes)), progress)
    material = prepare(
        model.graph, [recorded.capture], auxiliary=recorded.auxiliary, victims=recorded.victims,
        domain=model.domain, judge=judge, device=settings.machine.device,
    )  # fmt: skip
    guesses, shapes = _guessed(recorded.capture) if settings.inferred else (None, None)
    planned = [
        [replace(cell, seed=settings.seed + i) for i in range(settings.seeds)]
        for cell in _cells(settings, recorded, model.graph, paper.chain_for, guesses)
    ]
    with opened(out, _configuration(settings, recorded, model)) as store:
        with store.shelf():
            run_missing(
                {c.key(material): c for cells in planned for c in cells}, material, store, jobs=1, progress=progress
            )
        context = _context(recorded.capture)
        name = recorded.capture.fingerprint[:32]
        found = [
            row(
                context,
                label_of(cells[0].attack),
                name,
                [cell.key(material) for cell in cells],
                store,
                settings.threshold,
            )
            for cells in planned
        ]
        summary = {
            **_summary(settings, recorded, model, material, found),
            "shapes": shapes,
            "notes": [
                *_notes(recorded, model),
                *([] if settings.shapes or settings.inferred else [VECTORS]),
                *paper.notes(model.graph.input.shape),
            ],
            "seconds": round(time.perf_counter() - start, 1),
        }
        return write_document(out / SUMMARY, summary)


def _guessed(capture: Capture) -> tuple[tuple[ShapeGuess, ...], dict[str, Any]]:
    """What each message is taken for; what it was, a tap cannot tell."""
    guesses = tuple(infer(as_bytes(z[:LOOKED_AT])) for z in capture.tensors["auxiliary"])
    rows = [
        {"seen": f"message {s.value}", "guess": list(g.shape), "type": g.dtype, "layout": g.layout, "hit": None}
        for s, g in zip(capture.seen, guesses, strict=True)
    ]
    return guesses, {"hits": None, "of": len(rows), "rows": rows}


def _loaded(settings: Settings) -> tuple[Recorded, Images]:
    """The capture with its images, and the model's data set at their size."""
    problems = [
        f"{name} is {value}; expected {least} or more"
        for name, value, least in (
            ("queries", settings.queries, LEAST["auxiliary"]),
            ("victims", settings.victims, LEAST["victim"]),
            ("seeds", settings.seeds, 1),
        )
        if value is not None and value < least
    ]
    problems += settings.ladder.problems()
    folder, limits = settings.pairs, {} if problems else {"queries": settings.queries, "victims": settings.victims}
    recorded = tried(lambda: read(folder, settings.shapes, **limits), problems)
    whole = tried(lambda: _labelled(settings.data, recorded), problems)
    if recorded and whole and recorded.logits.shape[1] != len(whole.classes):
        problems.append(
            f"{settings.data} has {len(whole.classes)} classes; {folder / IMAGES} holds answers of "
            f"{recorded.logits.shape[1]}: give the --data that the model was made for"
        )
    if problems or recorded is None or whole is None:
        raise ClovenError(problems)
    refuse_overlap(recorded.auxiliary, recorded.victims)
    return recorded, whole


def _labelled(data: str, recorded: Recorded | None) -> Images:
    """The data set, at the size of the images that were sent."""
    whole = load(data, shape=recorded.victims.shape if recorded else None)
    if whole.labels is None:
        raise ClovenError(f"{data} has no labels; the CNN cannot be trained: sort its images into folders")
    return whole


def _cells(
    settings: Settings,
    recorded: Recorded,
    graph: Graph,
    chain_for: ChainFor,
    guesses: tuple[ShapeGuess, ...] | None,
) -> list[Cell]:
    """The attacks; the decoder is a paper's for a layer of the shape seen, or the usual one."""
    capture, image = recorded.capture, graph.input.shape
    shapes = [s.shape for s in capture.seen]
    chain: Chain | None = None
    if settings.shapes:
        same = (path for path in settings.layers if [graph.by_name[graph.find(path)].shape] == shapes)
        layer = next(same, None)
        chain = chain_for(layer, shapes[0], image) if layer else None
    elif not settings.inferred:
        chain = vector_chain(sum(shape[0] for shape in shapes), image)
    knows: Knows = "inferred" if settings.inferred else "shapes" if settings.shapes else "numbers"
    return [
        Cell(capture, attack, settings.seed, knows, machine=settings.machine, guessed=guesses)
        for attack in settings.ladder.on(capture, chain, tiles=_shows_tiles(recorded))
    ]


def _shows_tiles(recorded: Recorded) -> bool:
    """Whether a piece of the image lies in what was captured: found by the attacker's own images."""
    captured = in_memory(*recorded.capture.tensors["auxiliary"])
    return bool(locate(Pairs(captured, recorded.auxiliary.tensor())))


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
        "shapes": "inferred" if settings.inferred else _shapes(settings.shapes),
        "attacks": list(settings.ladder.names),
        "epochs": settings.ladder.epochs,
        "gan_epochs": settings.ladder.gan_epochs,
        "judge": settings.judge.partition("=")[0],
        "threshold": settings.threshold,
        "seed": settings.seed,
        "seeds": settings.seeds,
    }


def _shapes(shapes: Shapes) -> dict[str, str]:
    return {str(k): "+".join("x".join(map(str, shape)) for shape in shapes[k]) for k in sorted(shapes)}


def _summary(
    settings: Settings,
    recorded: Recorded,
    model: Classifier,
    material: Material,
    found: Sequence[Mapping[str, Any]],
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
            "attacks": ", ".join(settings.ladder.names),
            "epochs": settings.ladder.epochs or "each attack's own",
            "seed": settings.seed,
            "seeds": settings.seeds,
            "shapes": "inferred" if settings.inferred else _shapes(settings.shapes) or "not known",
            "threshold": settings.threshold,
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
        "verdict": verdict(model.kappa, found, say=lambda crossing: _sentence(crossing, capture)),
        "plans": [],
        "findings": list(found),
        "verdicts": [],
        "curves": [],
        "defences": [],
        "orderings": [],
        "judge": {"name": material.judge.name, "accuracy": None} if material.judge else None,
        "not_measured": [
            *missing(settings.ladder.names),
            *ALWAYS,
            "When frames cross, how long they are, and other links.",
        ],
    }


def _attacker(settings: Settings, recorded: Recorded) -> dict[str, Any]:
    capture = recorded.capture
    what = "ciphertext" if capture.protected else "numbers"
    known = " and their shapes" if settings.shapes else ", not what shape they have"
    shapes = f"the {what} that crossed{known}"
    return {
        "sentence": f"A passive listener who tapped {_link(capture)} while the system ran, sent "
        f"{len(recorded.auxiliary)} images of his own as a user, recorded what crossed for them and for "
        f"{len(recorded.victims)} images of others, and trains on his own pairs (S1, Sect. 4).",
        "knows": [shapes, "his own images and what crossed for them", "the image size"],
        "does_not_know": [
            "the model, its layers and weights",
            "the victims' images",
            *(["the keys of the link"] if capture.protected else []),
        ],
    }


def _link(capture: Capture) -> str:
    return f"{' to '.join(capture.link)} ({'protected' if capture.protected else 'in clear'})"


def _sentence(found: Sequence[Mapping[str, Any]], capture: Capture) -> str:
    worst = max(found, key=lambda f: max(v for v in f["leakage_above_floor"].values() if v is not None))
    leaks = "leaks" if any(map(_clear, found)) else "shows no leakage to this attacker"
    by = f", most by {worst['attack']}" if len(found) > 1 else ""
    return f"What was captured from the wire, {_link(capture)}, {leaks}{by} ({leak(worst)}). {LOWER_BOUND}"


def _clear(found: Mapping[str, Any]) -> bool:
    """Whether an interval lies above all floors."""
    floors = found["floors"].values()
    return any(
        found[name]["low"] > max(floor[name] for floor in floors if floor[name] is not None)
        for name in ("ssim", "agreement")
        if found[name]
    )


def _notes(recorded: Recorded, model: Classifier) -> list[str]:
    """What is to be known of the capture besides."""
    counted = (
        ("Images that were sent but not captured, left out: {}.", recorded.unmatched[IMAGES]),
        ("Inputs that were captured but not recorded as answered, left out: {}.", recorded.unmatched[CAPTURED]),
        ("Victim images that are among those that the CNN was trained on: {}.", model.trained_on),
    )
    return [text.format(count) for text, count in counted if count]
