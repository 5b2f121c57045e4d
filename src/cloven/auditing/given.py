"""Audits of observations and images that the caller passes: `cloven.audit`."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import weakref
from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor

from cloven.attacks.attack import Attack
from cloven.attacks.provenance import label_of
from cloven.attacks.registry import load
from cloven.auditing.captured import LEAST, Capture, Observed, holding_back
from cloven.auditing.cases import Case, Target, tapped
from cloven.auditing.cell import Knows
from cloven.auditing.classifier import WholeModel
from cloven.auditing.executor import LocalExecutor, run_audit
from cloven.auditing.material import (
    SINGULAR,
    ImageSets,
    fingerprint,
    image_problems,
    pixel_digests,
    refuse_few,
    taken,
    without_copies,
)
from cloven.auditing.paper import NO_PAPER
from cloven.auditing.pipeline import attacked, entries
from cloven.auditing.recording import name_of
from cloven.auditing.results import Results
from cloven.auditing.scenes import Scene, captured_case, copies_left_out, described, listener, passive_listener
from cloven.auditing.selection import apart
from cloven.auditing.settings import AuditSettings
from cloven.auditing.store import opened
from cloven.auditing.suite import AttackSuite
from cloven.auditing.summary import SCHEMA
from cloven.errors import ClovenError, check_type, path_of, shown, whole_number
from cloven.graph.graph import Graph
from cloven.partition.observe import Observation
from cloven.partition.program import Program
from cloven.progress import no_progress
from cloven.runtime.local import dense
from cloven.zoo.images import Images

GivenImages = Images | Tensor | NDArray[np.float32]


def audit(
    observations: Observed | Sequence[Observed],
    attacks: Attack | str | Sequence[Attack | str],
    *,
    auxiliary: GivenImages | None = None,
    victims: GivenImages | None = None,
    domain: GivenImages | None = None,
    judge: Graph | None = None,
    seeds: int | Sequence[int] = 1,
    attack_seconds: float | None = None,
    knows: Knows | None = None,
    threshold: float = 0.2,
    folder: str | Path | None = None,
    jobs: int = 1,
) -> Results:
    """Attack observations, and return the scores of the attacks with baselines and intervals.

    Every attack is trained on what a listener records of the auxiliary images, and scored on the victim images. If
    there are several attacks, a tenth of the auxiliary images, evenly spread, is held out to choose the strongest.
    (``cloven audit`` holds out further images of the data set instead, if there are enough.)

    Args:
        observations: from `cloven.observe`, or from `cloven.read_capture`, all of one model.
        attacks: attacks such as ``cloven.attacks.Residual(epochs=10)``, or names such as ``"probe"``.
        auxiliary: the attacker's own images: a float32 tensor or array ``(n, C, H, W)`` in [0, 1], or the `Images`
            that ``cloven.zoo.datasets.load`` returns; a capture has its own.
        victims: the images that are scored, likewise, 20 or more; copies of an image are scored once. None of them
            may be among the auxiliary images. If they have labels, the verdict checks the model by them; else it
            checks the model's predictions.
        domain: images like the victims, for the baseline of the domain's mean image; by default, the victims.
        judge: a second classifier, for a second agreement.
        seeds: the number of trainings of each attack, or the seeds themselves, such as ``range(10, 13)``; 3 stands
            for 0, 1 and 2. With several, intervals cover images and seeds.
        attack_seconds: the limit on the CPU or GPU seconds of each training of an attack; by default, there is no
            limit. A result that this limit cuts short depends on the speed of the machine. It does not limit what
            `RMLE` and `Refine` compute for each image that they attack.
        knows: what the attacker knows of the captured numbers: their ``shapes``; ``places``, their shapes and
            positions; ``inferred``, shapes that are guessed from the bytes; or ``numbers`` alone. By default, the
            shapes, if the observations have them.
        threshold: the SSIM above which an image counts as recognisable.
        folder: the folder for finished cells, from which the same audit resumes; by default, a temporary one.
        jobs: the number of worker processes.

    Raises:
        ClovenError: for observations of several models, for images that do not fit or are in both sets, and if no
            attack works on the observations. An attack that does not work, beside others that do, is left out with
            a warning in the summary.
    """
    start = time.perf_counter()
    seen = _observations(observations)
    suite = AttackSuite(_attacks(attacks))
    jobs = whole_number(jobs, "jobs", 1)
    if attack_seconds is not None and (
        isinstance(attack_seconds, bool) or not isinstance(attack_seconds, int | float)
    ):
        raise ClovenError(f"attack_seconds is {shown(attack_seconds)}; expected a positive number, or None")
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise ClovenError(f"threshold is {shown(threshold)}; expected an SSIM between 0 and 1")
    if knows is not None and knows not in get_args(Knows):
        names = ", ".join(map(repr, get_args(Knows)))
        raise ClovenError(f"knows is {shown(knows)}; expected one of {names}")
    knowledge = _known(seen) if knows is None else knows
    settings = AuditSettings(
        suite=suite, knows=knowledge, seeds=_seeds(seeds), attack_seconds=attack_seconds, threshold=threshold
    )
    if problems := list(settings.problems()):
        raise ClovenError(problems)
    if judge is not None:
        check_type(judge, Graph, "judge", "a second model: a graph that cloven.capture() returns")
        own, other = _model(seen[0]).input.shape, judge.input.shape
        if own != other or len(judge.by_name[judge.output].shape) != 1:
            raise ClovenError(f"judge takes images of {other}; expected a classifier of images of {own}")
    scene = _scene(seen, settings, auxiliary, victims, domain, judge)
    if scene.capture is None:  # whether a capture has pieces of the image is found out later
        entries(scene.cases, settings, NO_PAPER, len(scene.images.auxiliary))
    place = Path(tempfile.mkdtemp(prefix="cloven-")) if folder is None else path_of(folder, "folder")
    with opened(place, _configuration(scene, settings)) as store:
        steps = attacked(scene, settings, NO_PAPER, store, no_progress, start)
        summary = run_audit(steps, LocalExecutor(jobs), no_progress)
    results = Results(summary, store)
    if folder is None:
        weakref.finalize(results, shutil.rmtree, place, ignore_errors=True)
    return results


def _observations(given: Observed | Sequence[Observed]) -> tuple[Observed, ...]:
    """Return the observations in an argument.

    Raises:
        ClovenError: for a wrong type, for no observations, and for observations of several models.
    """
    expected = "observations that cloven.observe(program) or cloven.read_capture(folder, program) returns"
    if isinstance(given, Observation | Capture):
        return (given,)
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ClovenError(f"observations is {shown(given)}; expected {expected}")
    for one in given:
        check_type(one, (Observation, Capture), "an observation", f"one of the {expected}")
    if not given:
        raise ClovenError(f"there are no observations; expected {expected}")
    models = {_model(one).fingerprint for one in given}
    if len(models) > 1:
        raise ClovenError(
            f"the observations are of {len(models)} models; expected one model: audit each model on its own"
        )
    captures = sum(isinstance(one, Capture) for one in given)
    if captures and len(given) > 1:
        raise ClovenError(
            f"{captures} of {len(given)} observations were captured; a capture has its own images: audit it alone"
        )
    return tuple(given)


def _attacks(given: Attack | str | Sequence[Attack | str]) -> tuple[Attack | str, ...]:
    """Return the attacks in an argument; `AttackSuite` checks them."""
    return tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,)


def _seeds(given: int | Sequence[int]) -> tuple[int, ...]:
    """Return the seeds: the given number of them from 0 on, or those that are given.

    Raises:
        ClovenError: for a wrong type or a number out of range.
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        return tuple(range(whole_number(given, "seeds", 1)))
    seeds = tuple(whole_number(seed, "a seed", 0) for seed in given)
    if too_large := [seed for seed in seeds if seed >= 2**63]:
        raise ClovenError(f"a seed is {too_large[0]}; expected less than 2**63")
    return seeds


def _model(one: Observed) -> Graph:
    """Return the whole model of an observation."""
    graph = one.graph if isinstance(one, Capture) else one.model or one.graph
    if graph is None:
        raise ClovenError(
            "the capture has no model; expected one that cloven.read_capture(folder, program) returned"
        )
    return graph


def _known(seen: Sequence[Observed]) -> Knows:
    return "shapes" if all(one.shaped for one in seen if isinstance(one, Capture)) else "numbers"


def _scene(
    seen: Sequence[Observed],
    settings: AuditSettings,
    auxiliary: GivenImages | None,
    victims: GivenImages | None,
    domain: GivenImages | None,
    judge: Graph | None,
) -> Scene:
    graph, device = _model(seen[0]), settings.machine.device
    second = ("judge", WholeModel(judge, device)) if judge is not None else None
    shape = tuple(graph.input.shape)
    if isinstance(seen[0], Capture):
        if auxiliary is not None or victims is not None:
            raise ClovenError("a capture has its own images; leave out auxiliary and victims")
        capture = seen[0] if len(settings.suite.attacks) < 2 else holding_back(seen[0])
        sets = ImageSets(capture.auxiliary, capture.victims, _images(domain, "domain", shape), capture.selection)
        return Scene(
            model="given",
            classifier=WholeModel(graph, device),
            images=sets,
            cases=(captured_case(capture),),
            attacker=listener(capture),
            judge=second,
            capture=described(capture),
            warnings=copies_left_out(capture.copies, len(capture.victims)),
        )
    own, scored = _images(auxiliary, "auxiliary", shape), _images(victims, "victims", shape)
    if own is None or scored is None:
        missing = "auxiliary" if own is None else "victims"
        raise ClovenError(
            f"{missing} is missing; expected images (n, C, H, W) in [0, 1]: only a capture has its own"
        )
    if isinstance(scored, Tensor) and (problems := list(image_problems("victims", scored, shape, LEAST["victim"]))):
        raise ClovenError(problems)
    scored, copies = without_copies(scored)
    refuse_few(len(scored), copies)
    images = _with_selection(ImageSets(own, scored, _images(domain, "domain", shape)), settings)
    labelled = isinstance(scored, Images) and bool(scored.classes)
    outputs = graph.by_name[graph.output].shape
    if isinstance(scored, Images) and labelled and outputs != (len(scored.classes),):
        raise ClovenError(
            f"the victim images have {len(scored.classes)} classes; the model has {' x '.join(map(str, outputs))} "
            "outputs; give images of its classes, or leave the labels out: victims=images.tensor()"
        )
    return Scene(
        model="given",
        classifier=WholeModel(graph, device),
        images=images,
        cases=tuple(_cases([one for one in seen if isinstance(one, Observation)])),
        attacker=passive_listener(settings, images, several=any(len(one.links) > 1 for one in seen)),
        judge=second,
        tests=scored if isinstance(scored, Images) and labelled else None,
        warnings=copies_left_out(copies, len(scored)),
    )


def _images(given: GivenImages | None, name: str, shape: tuple[int, ...]) -> Images | Tensor | None:
    if given is None or isinstance(given, Images):
        return given
    takes = ", ".join(map(str, shape))
    check_type(given, (Tensor, np.ndarray), name, f"images (n, {takes}) in [0, 1]: a torch tensor or a NumPy array")
    return dense(given, f"the {SINGULAR.get(name, name)} images")


def _with_selection(images: ImageSets, settings: AuditSettings) -> ImageSets:
    """Return the images with a tenth of the auxiliary ones held out, if several attacks are compared."""
    if len(settings.suite.attacks) < 2:
        return images
    own, theirs = pixel_digests(images.auxiliary), pixel_digests(images.victims)
    training, selection = apart(own, [], theirs)
    kept, chosen = taken(images.auxiliary, training), taken(images.auxiliary, selection)
    return ImageSets(kept, images.victims, images.domain, chosen)


def _cases(seen: Sequence[Observation]) -> list[Case]:
    """Return observations as cases; those of one program share a target."""
    programs = list(dict.fromkeys(one.program for one in seen if one.program is not None))
    targets: dict[Program | None, Target] = {None: Target("observed", "observed", None)}
    for number, program in enumerate(programs, 1):
        name = "program" if len(programs) == 1 else f"program {number}"
        used = dict.fromkeys(transfer.transform.name for transfer in program.transfers)
        targets[program] = Target(
            name, name, program, transform=", ".join(used) or "none", recorded=name_of(program)
        )
    if unsent := [one for one in seen if not one.crosses and targets[one.program].recorded]:
        raise ClovenError(
            f"{unsent[0].seen[0].value} is never sent by its program, and cannot be recorded on links that "
            "transform what they carry; observe a value that is sent"
        )
    return [tapped(targets[one.program], one) for one in seen]


def _configuration(scene: Scene, settings: AuditSettings) -> dict[str, JsonValue]:
    """Return the settings and content hashes that identify an audit: two audits are the same if these are equal."""
    plain: dict[str, JsonValue] = json.loads(
        json.dumps(
            {
                "schema": SCHEMA,
                "model": scene.classifier.fingerprint,
                "judge": scene.judge[1].fingerprint if scene.judge is not None else None,
                "observations": [case.name for case in scene.cases],
                "attacks": [
                    str(attack) if is_dataclass(attack) else label_of(load(attack))
                    for attack in settings.suite.attacks
                ],
                "knows": settings.knows,
                "seeds": settings.seeds,
                "attack_seconds": settings.attack_seconds,
                "threshold": settings.threshold,
                "training": fingerprint(scene.images.domain),
                "victim_images": fingerprint(scene.images.victims),
                "auxiliary_images": fingerprint(scene.images.auxiliary),
                "selection_images": fingerprint(scene.images.selection),
            }
        )
    )
    return plain
