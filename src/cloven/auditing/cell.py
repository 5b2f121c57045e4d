"""Cells: one attack on one observation with one seed. The result of a cell does not depend on other cells."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import JsonValue, TypeAdapter
from torch import Tensor

from cloven.attacks.attack import Attack
from cloven.attacks.knowledge import Knowledge, LabelReader, Shape
from cloven.attacks.provenance import is_white_box, label_of, name_of, settings_of, uses_pairs
from cloven.attacks.shapes import ShapeGuess
from cloven.attacks.trainer import CHUNK, CPU, DescribedReconstructor, Learned, Machine, chunked, over, train
from cloven.attacks.unbatched import begun
from cloven.auditing.captured import Observed
from cloven.auditing.features import Shares, broken
from cloven.auditing.finding import (
    BaselineScores,
    CellResult,
    HeldOut,
    InsideScores,
    TrainingTime,
)
from cloven.auditing.material import Material, places
from cloven.auditing.model_access import front_of, query_of, rear_of
from cloven.auditing.ranges import leakages, ranges, readings_range
from cloven.errors import ClovenError
from cloven.files import cache_dir
from cloven.graph.box import hull
from cloven.partition.observe import Observation
from cloven.partition.program import image_part
from cloven.row_files import stored, temporary
from cloven.rows import StoredRows, TensorRows, chunks, in_memory
from cloven.score.agreement import agreement, kappa
from cloven.score.baselines import Baseline, best, shuffled_baseline
from cloven.score.identification import identified
from cloven.score.inside import Region, inside
from cloven.score.similarity import CONVENTION, psnr, quantise, ssim
from cloven.threads import one_thread, repeatable

SCHEMA = 6
"""The version of the computation, raised by each change that alters a cell's numbers."""

Knows = Literal["places", "shapes", "inferred", "numbers"]
"""The attacker's knowledge of an observation's layout: shapes and places, shapes, guessed shapes, or nothing."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One attack on one observation with one seed.

    Attributes:
        observation: the observation that is attacked.
        attack: the attack.
        seed: the seed of the batches, the initial weights, the shuffled pairs and the identification candidates.
        knows: the attacker's knowledge of the observation's layout.
        pairs: the number of auxiliary images that the attacker has; None for all.
        machine: the processor and precision of the training.
        attack_seconds: the limit on the CPU or GPU seconds of the training; None for no limit.
        recorded: the run in which the observation was recorded, where it cannot be computed from the graph.
        guessed: the shapes that the attacker guesses from the observed bytes.
    """

    observation: Observed
    attack: Attack
    seed: int = 0
    knows: Knows = "shapes"
    pairs: int | None = None
    machine: Machine = CPU
    attack_seconds: float | None = None
    recorded: str = ""
    guessed: tuple[ShapeGuess, ...] | None = None

    def provenance(self, material: Material) -> dict[str, JsonValue]:
        """Return everything that can change a number of this cell; the key is its hash."""
        captured = self.captured(material, "auxiliary")
        limit = {} if self.attack_seconds is None else {"attack_seconds": self.attack_seconds}
        found: dict[str, JsonValue] = json.loads(
            json.dumps(
                {
                    "schema": SCHEMA,
                    "observation": self.observation.fingerprint,
                    "recorded": self.recorded,
                    "attack": name_of(self.attack),
                    "settings": settings_of(self.attack, captured.shapes, material.classifier.shape),
                    "knows": self.knows,
                    "shapes": [[list(part.shape), part.channels_last] for part in captured.parts],
                    "pairs": len(captured),
                    "seed": self.seed,
                    "features": material.features.precision,
                    "autocast": self.machine.precision,
                    "device": self.machine.device,
                    "ssim": CONVENTION,
                    **limit,
                    **material.hashes,
                }
            )
        )
        return found

    def generator(self, material: Material) -> torch.Generator:
        """Return the source of the cell's random numbers, which does not depend on ``attack_seconds``."""
        return torch.Generator().manual_seed(_number(replace(self, attack_seconds=None).key(material)))

    def key(self, material: Material) -> str:
        """Return the name of the cell's result."""
        canonical = json.dumps(self.provenance(material), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def captured(self, material: Material, of: str) -> Shares:
        """Return what the attacker observes of one set of images, in the shapes in which it is read."""
        captured = material.captured(self.observation, of, self.recorded)
        if self.guessed is not None:
            captured = captured.read_as(self.guessed)
        return captured.upto(self.pairs) if self.pairs is not None and of == "auxiliary" else captured

    def given(self, material: Material) -> Knowledge:
        """Return the attacker's knowledge, each part of which is computed when the attack uses it."""
        captured = self.captured(material, "auxiliary")
        count = len(captured)
        white_box = is_white_box(self.attack)
        return Knowledge(
            material.classifier.shape,
            auxiliary=material.images["auxiliary"][:count],
            captured=captured,
            classes=material.classes["auxiliary"][:count],
            observed=self.captured(material, "victims"),
            query=query_of(self.observation, captured, material, self.recorded),
            front=front_of(self.observation, captured) if white_box else None,
            rear=rear_of(self.observation, captured) if white_box else None,
            places=places(self.observation) if self.knows == "places" else None,
            seed=_number(f"{material.hashes['auxiliary']}/{self.seed}"),
        )


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of a cell, and sample images.

    ``scores`` hold those of each victim image, ``(n,)``, by name; ``guesses`` the SSIM of each victim image with
    the guess of each baseline; ``readings`` the scores of each column of telemetry, ``(2, n)``, of the attack and
    of the best guess.
    """

    result: CellResult
    scores: Mapping[str, Tensor]
    guesses: Mapping[str, Tensor]
    samples: Mapping[str, Tensor]
    readings: Mapping[str, Tensor]


SHAPES = TypeAdapter(list[tuple[tuple[int, ...], bool]])
"""The shapes in the provenance of a result."""


def is_of(result: CellResult, attack: Attack, image: Shape) -> bool:
    """Return whether a result is of an attack with these hyper-parameters.

    Args:
        result: the result.
        attack: the attack.
        image: the shape of an image.
    """
    found = result.provenance
    if found["attack"] != name_of(attack):
        return False
    captured = [shape for shape, _ in SHAPES.validate_python(found["shapes"])]
    return bool(json.loads(json.dumps(settings_of(attack, captured, image))) == found["settings"])


def attack(cell: Cell, material: Material) -> Outcome:
    """Train the attack on the auxiliary images, reconstruct the victim images and score the reconstructions.

    Raises:
        ClovenError: if the attack does not work on the observation.
    """
    (outcome,) = attacks([cell], material)
    return outcome


def attacks(cells: Sequence[Cell], material: Material, checkpoints: Path | None = None) -> list[Outcome]:
    """Train the attacks of several cells on shared batches, and score each.

    Each result is the same as if the cell had been trained alone. The order of the batches depends on the auxiliary
    images and the seed, the initial weights on the key without ``attack_seconds``.

    Args:
        cells: the cells, with equal ``attack_seconds``, which limit the training of each.
        material: the images, features and classifiers that they share.
        checkpoints: a folder for the state of unfinished trainings, from which they resume.
    """
    start = time.perf_counter()
    with one_thread(), repeatable():
        keys = [cell.key(material) for cell in cells]
        trainees = [
            begun(cell.attack, cell.given(material), cell.generator(material), cell.machine) for cell in cells
        ]
        files = [checkpoints / f"{key}.checkpoint" if checkpoints is not None else None for key in keys]
        (limit,) = {cell.attack_seconds for cell in cells}
        learned = train(trainees, files, limit)
        shared = (time.perf_counter() - start) / len(cells)
        return [
            _scored(cell, key, one, material, shared) for cell, key, one in zip(cells, keys, learned, strict=True)
        ]


def _scored(cell: Cell, key: str, learned: Learned, material: Material, trained: float) -> Outcome:
    start = time.perf_counter()
    captured = cell.captured(material, "victims")
    victims, classes = material.images["victims"], material.classes["victims"]
    made, guessed = _answered(cell, captured, learned, material)
    shuffled = shuffled_baseline(victims, classes, victims if made is None else made, guessed, seed=cell.seed)
    baselines, judge = (*material.baselines, shuffled), material.judge
    of_each = {"agreement": agreement(guessed, classes)}
    judge_baseline: float | None = None
    if made is None:
        baselines = tuple(Baseline(one.name, None, one.agreement) for one in baselines)
    else:
        of_each["ssim"], of_each["psnr"] = ssim(made, victims), psnr(made, victims)
        of_each["identified"] = identified(made, victims, seed=cell.seed)
    if made is not None and judge is not None:
        judged = judge.classifier.classify(made)
        of_each["judge"] = agreement(judged, judge.classes)
        by_chance = shuffled_baseline(victims, judge.classes, made, judged, seed=cell.seed)
        judge_baseline = best((*judge.baselines, by_chance)).agreement
    found = ranges({name: values[None] for name, values in of_each.items()}, judge_baseline=judge_baseline)
    guesses = {one.name: BaselineScores(ssim=one.ssim, agreement=one.agreement) for one in baselines}
    region = _region(cell.observation) if made is not None else None
    readings = {} if made is None or material.readings is None else material.readings.scores(made)
    result = CellResult(
        **dict(found),
        key=key,
        seed=cell.seed,
        attack=label_of(cell.attack),
        pairs=(cell.pairs or len(material.images["auxiliary"])) if uses_pairs(cell.attack) else 0,
        victims=len(victims),
        parameters=learned.parameters,
        observation_bytes=cell.observation.bytes,
        kappa=kappa(guessed, classes, material.classifier.classes),
        baselines=guesses,
        leakage=leakages(found, guesses),
        inside=InsideScores(**asdict(inside(made, victims, region))) if made is not None and region else None,
        held_out=_held_out(cell, learned, material) if "selection" in material.images else None,
        training=_training(cell, learned),
        notes=(*learned.notes, *_notes(captured)),
        readings=tuple(readings_range(name, measure, scores[None]) for (name, measure), scores in readings.items()),
        wall_seconds=round(trained + time.perf_counter() - start, 3),
        provenance=cell.provenance(material),
    )
    return Outcome(
        result,
        {name: values.to(torch.float32) for name, values in of_each.items()},
        {one.name: one.likeness.to(torch.float32) for one in baselines if one.likeness is not None},
        _samples(of_each["ssim"], victims, made) if made is not None else {},
        {name: scores.to(torch.float32) for (name, _), scores in readings.items()},
    )


def _answered(
    cell: Cell, captured: Shares, learned: Learned, material: Material
) -> tuple[TensorRows | None, Tensor]:
    """Return the reconstructions, rounded to 8-bit pixels, and the classes; a label reader makes only classes.

    Raises:
        ClovenError: for classes that the model does not have, and as `_reconstructed`.
    """
    if isinstance(learned, LabelReader):
        read = over(captured, learned.classify)
        number = material.classifier.classes
        if wrong := read[(read < 0) | (read >= number)].tolist():
            raise ClovenError(
                f"{label_of(cell.attack)} read class {wrong[0]}; expected classes from 0 to {number - 1}"
            )
        return None, read
    made = _reconstructed(cell, captured, learned, material.classifier.shape)
    return made, material.classifier.classify(made)


def _reconstructed(cell: Cell, captured: Shares, learned: DescribedReconstructor, image: Shape) -> TensorRows:
    """Return the reconstructions, rounded to 8-bit pixels; many are in a temporary file.

    Raises:
        ClovenError: for pixels that are not finite.
    """

    def read(tensors: list[Tensor]) -> Tensor:
        made = learned(tensors)
        if not all(map(math.isfinite, made.aminmax())):
            raise ClovenError(
                f"{label_of(cell.attack)} reconstructed NaN or infinite pixels: its training diverged; "
                "lower its learning rate"
            )
        return quantise(made)

    if in_memory((len(captured), *image)):
        return over(captured, read)
    file = temporary((len(captured), *image), np.uint8, cache_dir())
    for index in chunked(captured, torch.arange(len(captured))):
        file.write(int(index[0]), read(captured.take(index)).mul_(255).round_().to(torch.uint8).numpy())
    return StoredRows(stored(file))


def _held_out(cell: Cell, learned: Learned, material: Material) -> HeldOut:
    """Return the scores on held-out pairs, which are computed after those of the victims and do not change them."""
    images = material.images["selection"]
    made, guessed = _answered(cell, cell.captured(material, "selection"), learned, material)
    agreed = float(agreement(guessed, material.classes["selection"]).double().mean())
    likeness = None if made is None else float(ssim(made, images).mean())
    return HeldOut(images=len(images), ssim=likeness, agreement=agreed)


def _training(cell: Cell, learned: Learned) -> TrainingTime | None:
    took = learned.training
    if took is None:
        return None
    processor: Literal["CPU", "GPU"] = "GPU" if cell.machine.device.startswith("cuda") else "CPU"
    return TrainingTime(processor=processor, seconds=took.seconds, epochs=(took.epochs,), ended=(took.ended,))


def _region(observed: Observed) -> Region | None:
    """Return the part of the image that is sent in clear; None if there is none, or if it is the whole image."""
    if not isinstance(observed, Observation):
        return None
    boxes = [box for s in observed.seen if (box := image_part(observed.graph, s.value, s.share)) is not None]
    if not boxes or len(observed.graph.input.shape) != 3:
        return None
    _, (top, bottom), (left, right) = hull(boxes)
    _, height, width = observed.graph.input.shape
    return None if (bottom - top, right - left) == (height, width) else (top, left, bottom, right)


def _notes(captured: Shares) -> list[str]:
    if not captured.parts:
        return ["this link carries nothing, so the attack answers without any observation"]
    share = broken(captured)
    return [f"{share:.2%} of the captured numbers are NaN or infinite, and are read as 0"] if share else []


def _number(text: str) -> int:
    """Return a seed from a text."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)


def _samples(scores: Tensor, victims: TensorRows, made: TensorRows) -> dict[str, Tensor]:
    """Return the best, median and worst reconstruction by SSIM, and that of the victim image of median contrast.

    The last is of the same victim image for all attacks and observations. ``index`` holds the places of the four
    among the victim images, ``originals`` and ``reconstructions`` their 8-bit pixels.
    """
    order = scores.argsort(descending=True)
    contrast = torch.cat([chunk.flatten(1).std(1) for chunk in chunks(victims, CHUNK)])
    usual = contrast.argsort()[len(victims) // 2]
    chosen = torch.cat([order[[0, len(order) // 2, len(order) - 1]], usual[None].to(order.device)])
    to_pixels: Callable[[TensorRows], Tensor] = lambda t: (t[chosen] * 255).round().to(torch.uint8)  # noqa: E731
    return {"index": chosen, "originals": to_pixels(victims), "reconstructions": to_pixels(made)}
