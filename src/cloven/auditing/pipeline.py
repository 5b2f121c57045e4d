"""The pipeline of all audits: observations, cells, store, findings, summary."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from itertools import takewhile
from math import prod
from pathlib import Path

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from cloven.attacks.layers import Chain, ConvT, ReLU, rule
from cloven.attacks.provenance import descends, uses_pairs
from cloven.attacks.registry import load
from cloven.attacks.shapes import ShapeGuess
from cloven.attacks.tile_search import locate
from cloven.attacks.tiles import Paste
from cloven.auditing.aggregate import AttackedCase, finding, orderings
from cloven.auditing.cases import Case
from cloven.auditing.cell import Cell, Knows
from cloven.auditing.curves import curves, fewer, shorter
from cloven.auditing.divisions import programs
from cloven.auditing.executor import AuditCells, AuditSteps, Later, LocalExecutor, Unfinished, never, run_audit
from cloven.auditing.finding import Finding
from cloven.auditing.guessing import guess
from cloven.auditing.material import SETS, ImageSets, Material, fingerprint, prepare
from cloven.auditing.paper import NO_PAPER, Paper
from cloven.auditing.ranking import gate, verdict
from cloven.auditing.recording import record
from cloven.auditing.scenes import (
    Scene,
    captured,
    captured_case,
    protected_links,
    recorded,
    simulated,
    simulated_cases,
)
from cloven.auditing.settings import AuditSettings, Recording, Simulation, Study
from cloven.auditing.store import SUBJECT, SUMMARY, PlannedCell, Store, opened, write_document
from cloven.auditing.strongest import defences, observations
from cloven.auditing.subject import (
    Subject,
    SubjectImages,
    fitted,
    is_trained_here,
    labels_of,
    load_images,
    ready,
    untrained,
)
from cloven.auditing.subject_record import SubjectRecord
from cloven.auditing.suite import OF_TILES
from cloven.auditing.summary import SCHEMA, SecondJudge, Setting, Summary
from cloven.errors import ClovenError
from cloven.graph.box import Shape
from cloven.graph.graph import Graph
from cloven.progress import Progress, no_progress
from cloven.score.agreement import kappa
from cloven.score.similarity import CONVENTION
from cloven.zoo.images import Images
from cloven.zoo.training import accuracy

LOADING = "loading images and model"

SIDE, CHANNELS, NUMBERS = 8, 64, 5_000_000
"""The largest side, number of channels and number of weights of the map that a vector is first decoded to."""


@dataclass(frozen=True)
class Execution:
    """The folder of an audit's results, its number of processes, and the function that reports its progress.

    ``memory`` limits the bytes of memory of all processes together; None for no limit. The summary of an audit that
    leaves cells for ``later`` is that of the others. Results of equal cells are taken from audits ``elsewhere``.
    """

    folder: Path
    jobs: int = 1
    progress: Progress = no_progress
    memory: int | None = None
    later: Later = never
    elsewhere: tuple[Path, ...] = ()

    @property
    def executor(self) -> LocalExecutor:
        """Return the executor of the audit's cells."""
        return LocalExecutor(self.jobs, self.memory, self.later, tuple(map(Store, self.elsewhere)))


@dataclass(frozen=True, eq=False)
class LoadedSubject:
    """The images and the attacked model that several studies share."""

    images: SubjectImages
    graph: Graph


# --- studies, by name -------------------------------------------------------------------------------------------


def listed(study: Study, paper: Paper = NO_PAPER) -> list[tuple[Case, tuple[str, ...]]]:
    """Return the observations of a study with the attacks on each, without training or writing anything.

    Raises:
        ClovenError: for settings or images that cannot be used.
    """
    if isinstance(study.source, Recording):
        capture = captured(study)
        return [(captured_case(capture), study.settings.suite.names)]
    _, images = loaded(study)
    first = untrained(study.subject, images)
    fitted(study.subject, images, first)
    every = simulated_cases(study, first)
    planned = entries(every, study.settings, paper, len(images.auxiliary))
    return [(case, tuple(dict.fromkeys(e.name for e in planned if e.case is case))) for case in every]


def loaded(study: Study) -> tuple[Study, SubjectImages]:
    """Return a simulated study with the true number of auxiliary images, and its images.

    Raises:
        ClovenError: with every problem of the settings and the images.
    """
    images = load_images(study.subject, study.problems(), several=len(study.settings.suite.attacks) > 1)
    return replace(study, subject=replace(study.subject, queries=len(images.auxiliary))), images


def execute(study: Study, paper: Paper, execution: Execution) -> Summary:
    """Run or resume a study: load or train the model, run every cell, and write ``summary.json``.

    Raises:
        ClovenError: for settings, images or a folder that cannot be used; then nothing is written.
    """
    steps = audit_steps(study, paper, execution.folder, execution.progress)
    return run_audit(steps, execution.executor, execution.progress)


def audit_steps(study: Study, paper: Paper, folder: Path, progress: Progress) -> AuditSteps:
    """Run or resume a study as `execute` does, but leave it to the caller to run its cells."""
    start = time.perf_counter()
    progress(LOADING, 0, 1)
    if isinstance(study.source, Recording):
        capture = captured(study)
        progress(LOADING, 1, 1)
        scene = recorded(study, capture, progress)
        with opened(folder, configuration(study, scene.images, capture.fingerprint)) as store:
            return (yield from attacked(scene, study.settings, paper, store, progress, start))
    record = SubjectRecord.of(study.subject)
    study, images = loaded(study)
    first = untrained(study.subject, images)  # find all problems before any work
    images = fitted(study.subject, images, first)
    entries(simulated_cases(study, first), study.settings, paper, len(images.auxiliary))
    progress(LOADING, 1, 1)
    with opened(folder, configuration(study, images.sets)) as store:
        if study.subject.training is None:
            write_document(folder / SUBJECT, record.model_dump(mode="json"))
        graph = ready(study.subject, images, progress) if is_trained_here(study.subject) else first
        scene = simulated(study, images, graph, progress)
        return (yield from attacked(scene, study.settings, paper, store, progress, start))


def load_subject(subject: Subject, progress: Progress, *, several: bool = False) -> LoadedSubject:
    """Return the images and the model, trained if needed; see `load_images` and `cloven.auditing.subject.ready`."""
    images = load_images(subject, several=several)
    return LoadedSubject(images, ready(subject, images, progress))


def execute_loaded(study: Study, subject: LoadedSubject, paper: Paper, execution: Execution) -> Summary:
    """Run a study as `execute` does, with images and a model that are already loaded."""
    start, images = time.perf_counter(), fitted(study.subject, subject.images, subject.graph)
    study = replace(study, subject=replace(study.subject, queries=len(images.auxiliary)))
    with opened(execution.folder, configuration(study, images.sets)) as store:
        scene = simulated(study, images, subject.graph, execution.progress)
        steps = attacked(scene, study.settings, paper, store, execution.progress, start)
        return run_audit(steps, execution.executor, execution.progress)


def configuration(study: Study, images: ImageSets, capture: str | None = None) -> dict[str, JsonValue]:
    """Return the settings, without paths, and the hashes of the images, which identify a run."""
    subject, source, settings = study.subject, study.source, study.settings
    how = subject.training
    found: dict[str, object] = {
        "schema": SCHEMA,
        "model": subject.model,
        "weights": subject.weights.name if subject.weights else None,
        "trained": [how.epochs, how.images, how.device, how.start.name if how.start else None] if how else None,
        **({"class weights": True} if how and how.balanced else {}),
        "normalisation": [subject.mean, subject.std],
        "data": _name(images.domain),
        "auxiliary": _name(images.auxiliary),
        "attacks": list(settings.suite.names),
        "epochs": settings.suite.epochs,
        "gan_epochs": settings.suite.gan_epochs,
        "knows": settings.knows,
        "seed": subject.seed,
        "seeds": len(settings.seeds),
        "curve": settings.curve,
        "attack_seconds": settings.attack_seconds,
        "mirror": subject.mirror,
        "judge": subject.judge.partition("=")[0],
        "threshold": settings.threshold,
        "device": settings.machine.device,
        "autocast": settings.machine.precision,
        "features": settings.precision,
        "training": fingerprint(images.domain),
        "victim_images": fingerprint(images.victims),
        "auxiliary_images": fingerprint(images.auxiliary),
        "selection_images": fingerprint(images.selection),
    }
    if isinstance(source, Simulation):
        plan = source.plan
        found |= {
            "plan": plan.model_dump(mode="json", exclude={"model": {"weights"}}) if plan is not None else None,
            "layers": dict(source.taps.layers),
            "strategies": list(source.strategies),
            "devices": source.devices,
            "defences": [transform.name for transform in source.defences],
            "views": list(source.taps.views),
            "links": "all" if source.taps.every_link else "first",
            "colluding": [["-".join(link) for link in group] for group in source.taps.colluding],
        }
    else:
        found |= {"captured": capture, "shapes": source.shown()}
    plain: dict[str, JsonValue] = json.loads(json.dumps(found))
    return plain


def _name(images: Images | Tensor | None) -> str:
    return images.name if isinstance(images, Images) else "images that were given"


# --- from a scene to the summary --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PlannedAttack:
    """One attack on one case, with a number of pairs and a share of its training time: a cell for each seed."""

    case: Case
    name: str
    pairs: int
    time: float
    cells: tuple[Cell, ...]


def entries(
    every: Sequence[Case],
    settings: AuditSettings,
    paper: Paper,
    queries: int,
    guessed: Mapping[str, tuple[ShapeGuess, ...]] | None = None,
    tiles: Mapping[str, bool] | None = None,
) -> list[PlannedAttack]:
    """Return the attacks on each case, without those that do not work on it.

    Args:
        every: the cases.
        settings: the settings of the audit.
        paper: the paper, which may have decoders of its own.
        queries: the number of pairs that the attacker has.
        guessed: the guessed shapes of captured bytes, by the name of the case.
        tiles: whether pieces of the image were found in the captured numbers, by the name of the case; cases that
            were not searched are missing.

    Raises:
        ClovenError: if no attack works on any of the cases.
    """
    found: list[PlannedAttack] = []
    for case in every:
        chain = _chain(case, settings.knows, paper)
        shown = (tiles or {}).get(case.name)
        for name, attack in settings.suite.on(case.observation, chain, tiles=shown).items():
            for count in (*(fewer(queries) if settings.curve and uses_pairs(attack) else ()), queries):
                cell = Cell(
                    observation=case.observation,
                    attack=attack,
                    knows=settings.knows,
                    pairs=count,
                    machine=settings.machine,
                    attack_seconds=settings.attack_seconds,
                    recorded=case.target.recorded,
                    guessed=(guessed or {}).get(case.name),
                )
                cells = tuple(replace(cell, seed=seed) for seed in settings.seeds)
                found.append(PlannedAttack(case, name, count, 1.0, cells))
    if every and not found:
        raise ClovenError(f"{', '.join(settings.suite.names)}: {UNSUITED}; choose others")
    return found


UNSUITED = "works on none of these observations"
"""The reason for leaving out an attack that needs pieces of the image in clear, or a model, which captures lack."""


def _chain(case: Case, knows: Knows, paper: Paper) -> Chain | None:
    """Return a paper's decoder for a case, or that of a vector of unknown shape; None for the default decoder."""
    seen, image = case.observation, case.image
    if knows == "inferred":
        return None
    if knows == "numbers":
        return vector_chain(sum(prod(share.shape) for share in seen.seen), image)
    return paper.chain_for(case.layer, seen.seen[0].shape, image) if case.layer is not None else None


def vector_chain(numbers: int, image: Shape) -> Chain:
    """Return the decoder of a vector of unknown shape, which maps the whole vector to each place of a small map.

    `rule` would treat the vector as the channels of one pixel, with far more weights than a listener has pairs.
    """
    side = min(image[1:])
    while side > SIDE:
        side //= 2
    channels = max(1, min(CHANNELS, NUMBERS // (numbers * side * side)))
    return (ConvT(numbers, channels, side, 1, 0, 0), ReLU(), *rule([(channels, side, side)], image))


def attacked(
    scene: Scene, settings: AuditSettings, paper: Paper, store: Store, progress: Progress, start: float
) -> AuditSteps:
    """Yield the cells, and write the summary once they have run; ``start`` is when the audit began."""
    every = scene.cases
    with store.shelf() as shelf:
        progress("computing what listeners see", 0, 1)
        sets = {name: rows for name, rows in scene.images.rows().items() if name in SETS}
        material = prepare(
            scene.classifier,
            [case.observation for case in every if not case.target.recorded],
            scene.images,
            answers=scene.answers,
            judge=scene.judge,
            recorded=record(every, sets, shelf.folder / "runs"),
            shelf=shelf,
            budget=settings.disk,
            precision=settings.precision,
            device=settings.machine.device,
            readings=scene.readings,
        )
        guessed, shapes = guess(every, material) if settings.knows == "inferred" else ({}, None)
        progress("computing what listeners see", 1, 1)
        tiles = _tiles(every, settings, material)
        planned = entries(every, settings, paper, len(sets["auxiliary"]), guessed, tiles)
        done: list[tuple[PlannedAttack, AttackedCase]] = []
        impossible: dict[str, str] = {}
        shown: dict[str, PlannedCell] = {}
        left = 0
        for half in (False, True) if settings.curve else (False,):
            cells: dict[str, Cell] = {}
            begun: list[tuple[PlannedAttack, AttackedCase]] = []
            for entry in _halved(done, store) if half else planned:
                named = {cell.key(material): cell for cell in entry.cells}
                cells |= named
                attack = AttackedCase(entry.case, entry.name, entry.pairs, entry.time, tuple(named))
                begun.append((entry, attack))
                shown |= {key: _planned(entry, cell) for key, cell in named.items()}
            store.plan(shown)
            lacking = yield AuditCells(cells, material, store)
            ended = {key: why for key, why in lacking.items() if not why.later}
            left += len(lacking) - len(ended)
            shown |= {key: _without_result(shown[key], why) for key, why in ended.items()}
            store.plan(shown)
            _refuse_failed(shown.values())
            impossible |= {one.attack: ended[one.keys[0]].reason for _, one in begun if one.keys[0] in ended}
            seeds = [(entry, replace(one, keys=_until(one.keys, lacking))) for entry, one in begun]
            done += [(entry, one) for entry, one in seeds if one.keys]
        if not done and impossible:
            raise ClovenError(list(impossible.values()))
        results = [one for _, one in done]
        summary = _summary(scene, settings, paper, material, results, store)
    seconds = round(time.perf_counter() - start, 1)
    later = [f"{left} of {len(shown)} cells are left for a later run."] if left else []
    warnings = (*_left_out(settings.suite.names, planned, impossible), *later, *summary.warnings)
    summary = summary.model_copy(update={"shapes": shapes, "seconds": seconds, "warnings": warnings})
    write_document(store.folder / SUMMARY, summary.model_dump(mode="json"))
    return summary


def _until(keys: Sequence[str], lacking: Mapping[str, Unfinished]) -> tuple[str, ...]:
    """Return the keys up to the first that has no result."""
    return tuple(takewhile(lambda key: key not in lacking, keys))


def _refuse_failed(cells: Iterable[PlannedCell]) -> None:
    """Raise an error if cells have failed; those with the same reason are one problem."""
    alike: dict[str, list[str]] = {}
    for cell in cells:
        if cell.failed is not None:
            alike.setdefault(cell.failed, []).append(cell.name)
    if alike:
        more = {why: f" and {len(names) - 1} more cells" if len(names) > 1 else "" for why, names in alike.items()}
        raise ClovenError([f"{names[0]}{more[why]} failed: {why}" for why, names in alike.items()])


def _planned(entry: PlannedAttack, cell: Cell) -> PlannedCell:
    return PlannedCell(
        attack=entry.name, observation=f"{entry.case.target.title}, {entry.case.label}", seed=cell.seed
    )


def _without_result(cell: PlannedCell, why: Unfinished) -> PlannedCell:
    return cell.model_copy(update={"failed" if why.failed else "skipped": why.reason})


def _halved(done: Sequence[tuple[PlannedAttack, AttackedCase]], store: Store) -> Iterator[PlannedAttack]:
    """Yield each finished attack that has all pairs again, with a part of the epochs that it took."""
    most = max((entry.pairs for entry, _ in done), default=0)
    for entry, result in done:
        if entry.pairs == most:
            times = [store.cell(key).training for key in result.keys]
            took = min((n for time in times if time for n in time.epochs if n is not None), default=None)
            for share, attack in shorter(entry.cells[0].attack, took).items():
                cells = tuple(replace(cell, attack=attack) for cell in entry.cells)
                yield replace(entry, time=share, cells=cells)


def _tiles(every: Sequence[Case], settings: AuditSettings, material: Material) -> dict[str, bool]:
    """Return, by case, whether a listener finds pieces of the image; cases that cannot have any are missing."""
    if not OF_TILES & set(settings.suite.names):
        return {}
    found: dict[str, bool] = {}
    for case in every:
        if case.observation.raw_image is None or case.observation.raw_image > 0:
            pairs = Cell(case.observation, Paste(), recorded=case.target.recorded).given(material).pairs
            found[case.name] = pairs is not None and bool(locate(pairs))
    return found


def _summary(
    scene: Scene,
    settings: AuditSettings,
    paper: Paper,
    material: Material,
    results: Sequence[AttackedCase],
    store: Store,
) -> Summary:
    victims, auxiliary = scene.images.victims, material.images["auxiliary"]
    classes = scene.classifier.classes
    tests, said = scene.tests, material.classes["victims"]
    labels = labels_of(tests) if tests is not None else None
    if tests is not None and tests is not victims:
        said = scene.classifier.classify(tests.rows())
    model_kappa = kappa(said, labels, classes) if labels is not None else None
    _, counts = material.classes["victims"].unique(return_counts=True)
    full = [result for result in results if (result.pairs, result.time) == (len(auxiliary), 1.0)]
    rows = [finding(result, store, settings.threshold) for result in full]
    curve = curves(results, store) if settings.curve else []
    found = observations(full, rows, curve, store)
    own = labels_of(victims) if isinstance(victims, Images) else None
    divided = programs(material, scene.cases, own)
    right = accuracy(material.judge.classes, own) if material.judge is not None and own is not None else None
    selection = material.images.get("selection")
    shown: dict[str, Setting] = {
        "queries": len(auxiliary),
        "victims": len(material.images["victims"]),
        "pairs that choose": 0 if selection is None else len(selection),
        "attacks": ", ".join(settings.suite.names),
        "epochs": settings.suite.epochs or "each attack's own",
        "seed": settings.seeds[0],
        "seeds": len(settings.seeds),
        "attack seconds": settings.attack_seconds or "as many as each needs",
        "threshold": settings.threshold,
        "ssim": CONVENTION,
        **scene.settings,
    }
    return Summary(
        cloven=metadata.version("cloven"),
        model=scene.model,
        data=_name(scene.images.domain),
        auxiliary=_name(scene.images.auxiliary) if scene.capture is None else "the attacker's own images",
        model_accuracy=accuracy(said, labels) if labels is not None else None,
        model_kappa=model_kappa,
        test_images=len(said),
        classes=classes,
        input=tuple(scene.classifier.shape),
        seconds=0.0,
        threshold=settings.threshold,
        versions={
            "cloven": metadata.version("cloven"),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "threads": 1,
        },
        settings=shown,
        judge=SecondJudge(name=material.judge.name, accuracy=right) if material.judge is not None else None,
        attacker=scene.attacker,
        verdict=verdict(gate(model_kappa, int(counts.max()) / int(counts.sum())), rows, found),
        programs=tuple(divided),
        findings=tuple(rows),
        observations=tuple(found),
        curves=tuple(curve),
        defences=tuple(defences(divided, scene.cases, found)) if scene.compares_transforms else (),
        orderings=tuple(orderings(paper.expected, full, store)),
        shapes=None,
        capture=scene.capture,
        not_measured=(*_missing(settings.suite.names), *scene.not_measured),
        notes=(*scene.notes, *paper.notes(tuple(scene.classifier.shape))),
        warnings=(
            *protected_links(scene.cases),
            *_cut_short(rows),
            *_unlimited(settings),
            *scene.warnings,
        ),
    )


STRONG = {
    "residual": "a residual network",
    "cgan": "a conditional GAN",
    "refine": "white-box refinement",
    "conv-probe": "convolutional networks that read labels",
}
"""Strong attacks, with the words for them in a result that was made without them."""

RUN_ON = (
    "Labels for an attacker who has the model: running it from any link that carries a whole layer gives the "
    "class, whatever is measured here (--attacks rear)."
)
"""The remark in a result without the attack ``rear``."""


def _left_out(attacks: Sequence[str], planned: Sequence[PlannedAttack], impossible: Mapping[str, str]) -> list[str]:
    """Return a warning for each attack that was left out, on some observations or on all, with the reason."""
    tried = {entry.name for entry in planned}
    left = [name for name in attacks if name not in tried]
    found = [f"{', '.join(left)}: {UNSUITED}; left out"] if left else []
    return [*found, *(f"{why}; {name} was left out there" for name, why in impossible.items())]


def _unlimited(settings: AuditSettings) -> list[str]:
    """Return a warning about attacks with computations that the budget does not limit."""
    every = zip(settings.suite.names, settings.suite.attacks, strict=True)
    left = [name for name, one in every if descends(load(one))] if settings.attack_seconds is not None else []
    return (
        [f"{', '.join(left)}: the budget limits the training, not the optimisation for each image."] if left else []
    )


def _cut_short(rows: Sequence[Finding]) -> list[str]:
    """Return a warning about findings that depend on the speed of the machine."""
    ended = sum(row.cut_short for row in rows)
    if not ended:
        return []
    return [
        f"The budget of seconds ended the training of {ended} of {len(rows)} findings: their numbers depend on the "
        "speed of this machine, and differ on another."
    ]


def _missing(attacks: Sequence[str]) -> list[str]:
    """Return sentences about the stronger attacks that were left out."""
    left = [what for name, what in STRONG.items() if not any(a.startswith(name) for a in attacks)]
    found = [f"Stronger attacks, which may reconstruct more: {', '.join(left)} (--attacks)."] if left else []
    return found if any(a.startswith("rear") for a in attacks) else [*found, RUN_ON]
