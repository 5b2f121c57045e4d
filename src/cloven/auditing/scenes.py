"""Scenes: what an audit attacks, wherever it comes from. Programs are simulated, recordings are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cloven.auditing.captured import CAPTURED, IMAGES, LEAST, Capture, check_answers, read
from cloven.auditing.cases import Case, Target, cases
from cloven.auditing.cell import Knows
from cloven.auditing.executor import Progress
from cloven.auditing.material import ImageSets, answers, refuse_overlap
from cloven.auditing.settings import AuditSettings, Recording, Simulation, Study
from cloven.auditing.subject import (
    ModelTraining,
    SubjectImages,
    halves,
    is_trained_here,
    judge_of,
    normalised,
    ready,
)
from cloven.auditing.summary import AttackerModel, CapturedMessage, CaptureSummary, Setting
from cloven.auditing.targets import of_plan, of_strategies
from cloven.errors import ClovenError, tried
from cloven.graph.box import extent
from cloven.graph.graph import Graph
from cloven.zoo.datasets import load
from cloven.zoo.images import Images, split
from cloven.zoo.named import is_own

LISTED = 12
"""How many of a model's layers an error message lists."""

KNOWN: Mapping[Knows, str] = {
    "places": "the shapes of what crosses, and where in its layer it lies",
    "shapes": "the shapes of what crosses",
    "inferred": "the bytes that cross, from which he guesses their shapes",
    "numbers": "the numbers that cross, not their shapes",
}

ALWAYS = ("Devices that are taken over, and active attackers.",)


@dataclass(frozen=True, eq=False)
class Scene:
    """What is attacked, and what is to be said of it.

    Attributes:
        model: the model's name.
        graph: the whole model.
        images: the sets of images.
        cases: the observations.
        attacker: who listens.
        judge: the name and graph of a second classifier.
        tests: labelled images that the model was not trained on; None where there are none.
        capture: what a tap recorded; None of a simulation.
        compares_transforms: whether the same programs are attacked with several transforms of the links.
        settings: what is to be known to run it again.
        not_measured: what an audit of this kind does not say.
        notes: remarks.
        warnings: remarks that change how the numbers are to be read.
    """

    model: str
    graph: Graph
    images: ImageSets
    cases: tuple[Case, ...]
    attacker: AttackerModel
    judge: tuple[str, Graph] | None = None
    tests: Images | None = None
    capture: CaptureSummary | None = None
    compares_transforms: bool = False
    settings: Mapping[str, Setting] = field(default_factory=dict)
    not_measured: tuple[str, ...] = ALWAYS
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def simulated_cases(study: Study, graph: Graph) -> tuple[Case, ...]:
    """Return the observations of the programs that a study simulates.

    Raises:
        ClovenError: with all that is wrong with the plan, or with the layers and devices for this model.
    """
    source = study.source
    assert isinstance(source, Simulation)
    if source.plan is not None:
        return tuple(cases(of_plan(graph, source.plan, source.defences), source.taps))
    layers = tuple(source.taps.layers)
    if not layers:
        known = list(graph.layers())
        rest = f", ... ({len(known)} in all)" if len(known) > LISTED else ""
        raise ClovenError(
            f"no layers of {study.subject.model} are named to listen at; give some of its layers with --layers: "
            f"{', '.join(known[:LISTED])}{rest}"
        )
    targets = of_strategies(graph, source.strategies, layers, source.devices, source.defences)
    return tuple(cases(targets, source.taps))


def simulated(study: Study, images: SubjectImages, graph: Graph, progress: Progress) -> Scene:
    """Return the programs of a study as a scene.

    Raises:
        ClovenError: for a plan, layers or a second classifier that cannot be used.
    """
    source, subject = study.source, study.subject
    assert isinstance(source, Simulation)
    how, training = subject.training or ModelTraining(), len(images.training)
    settings: dict[str, Setting] = {"devices": source.devices}
    settings["weights"] = subject.weights.name if subject.weights else "trained here"
    if is_trained_here(subject):
        settings |= {"training epochs": how.epochs, "training images": min(how.images or training, training)}
    if how.start is not None:
        settings["training starts from"] = how.start.name
    every = simulated_cases(study, graph)
    clear = () if protected_links(every) else ("Encrypted links: none of these links is protected.",)
    return Scene(
        model=subject.model,
        graph=graph,
        images=images.sets,
        cases=every,
        attacker=passive_listener(study.settings, images.sets, several=bool(source.taps.colluding)),
        judge=judge_of(subject, images, progress),
        tests=images.victims if images.victims.labels is not None else None,
        compares_transforms=bool(source.defences),
        settings=settings,
        not_measured=(*_not_tapped(study, source), *clear),
        warnings=(*_warnings(study), *copies_left_out(images.copies, len(images.victims))),
    )


def copies_left_out(copies: int, left: int) -> tuple[str, ...]:
    """Return a warning where victim images occur more than once."""
    if not copies:
        return ()
    return (f"{copies} victim images are copies of others; each image is scored once, {left} in all.",)


def protected_links(every: Sequence[Case]) -> tuple[str, ...]:
    """Return what is to be known of protected links, where there are any."""
    names = dict.fromkeys(
        f"{source}->{target} ({name})"
        for case in every
        for (source, target), name in zip(case.context.links, case.context.protection, strict=False)
        if name != "none"
    )
    if not names:
        return ()
    listed = ", ".join([*list(names)[:LISTED], *([f"... ({len(names)} in all)"] if len(names) > LISTED else [])])
    return (
        f"Protected links: {listed}. A listener there sees only ciphertext; the scores of these links are of what "
        "would leak if the protection were removed.",
    )


def passive_listener(settings: AuditSettings, images: ImageSets, *, several: bool) -> AttackerModel:
    """Return a listener on links of a system that he uses too."""
    together = " or on several together" if several else ""
    named = f" ({images.auxiliary.name})" if isinstance(images.auxiliary, Images) else ""
    choosing = 0 if images.selection is None else len(images.selection)
    choice = f"; {choosing} of them train nothing and choose the strongest attack" if choosing else ""
    white = settings.suite.white_box
    return AttackerModel(
        sentence=f"A passive listener on one link{together}, who first sends {len(images.auxiliary) + choosing} "
        f"images of his own{named} as a user, records what crosses and what is answered, and trains on the pairs "
        f"(S1, Sect. 4){choice}.",
        knows=(
            KNOWN[settings.knows],
            "his own images, what they make cross and their answers",
            "the image size",
            *([f"the model and its weights ({', '.join(white)} alone)"] if white else []),
        ),
        does_not_know=(*([] if white else ["the model, its layers and weights"]), "the victims' images"),
    )


def _not_tapped(study: Study, source: Simulation) -> list[str]:
    """Return the observations that a study leaves out."""
    taps, found = source.taps, []
    if "full" not in taps.views and not taps.colluding:
        found.append("All that a link carries: only the shares that the paper counts were attacked (--view both).")
    elif not taps.every_link:
        found.append(
            "All that other links carry: of each plan the links between the first two devices (--links all)."
        )
    if not taps.colluding:
        found.append("Several links tapped at once (--colluding).")
    if study.settings.knows != "inferred":
        found.append("An attacker who must guess shapes from bytes: here the shapes are given (--shape inferred).")
    return [*found, *ALWAYS]


def _warnings(study: Study) -> tuple[str, ...]:
    subject = study.subject
    if not is_own(subject.model) or normalised(subject) is not None:
        return ()
    return (
        f"No normalisation is known of {subject.model}: it gets images as they are, from 0 to 1. If it was trained "
        "on normalised images, its answers mean nothing: give --mean and --std.",
    )


# --- captured ---------------------------------------------------------------------------------------------------


def recorded(study: Study, capture: Capture, progress: Progress) -> Scene:
    """Return what a tap recorded as a scene: the model that ran is made again, and proved to be the one.

    Raises:
        ClovenError: for a data set or a model that cannot be used, and where the model is not the one that ran.
    """
    source, subject = study.source, study.subject
    assert isinstance(source, Recording)
    whole = labelled(study, capture)
    training, tests = halves(subject, whole)
    images = SubjectImages(training, tests, capture.auxiliary, len(whole.classes))
    graph = ready(subject, images, progress)
    check_answers(answers(graph, capture.victims.tensor()), capture.logits)
    theirs, learned = set(capture.victims.digests()), split(whole, seed=subject.seed)[0]
    others = [i for i, digest in enumerate(learned.digests()) if digest not in theirs]
    domain = learned.take(others)
    judged = SubjectImages(domain, capture.victims, capture.auxiliary, len(whole.classes))
    counted = (
        ("Images that were sent but not captured, left out: {}.", capture.unmatched[IMAGES]),
        ("Inputs that were captured but not recorded as answered, left out: {}.", capture.unmatched[CAPTURED]),
        ("Victim images that are among those that the CNN was trained on: {}.", len(learned) - len(others)),
    )
    notes = tuple(text.format(count) for text, count in counted if count)
    shapes: Setting = "inferred" if study.settings.knows == "inferred" else source.shown() or "not known"
    return Scene(
        model=subject.model,
        graph=graph,
        images=ImageSets(capture.auxiliary, capture.victims, domain, capture.selection),
        cases=(captured_case(capture, graph, source),),
        attacker=listener(capture),
        judge=judge_of(subject, judged, progress),
        tests=tests,
        capture=described(capture, notes),
        settings={"shapes": shapes, "weights": subject.weights.name if subject.weights else "trained here"},
        not_measured=(*ALWAYS, "When frames cross, how long they are, and other links."),
        notes=(*notes, *([VECTORS] if study.settings.knows == "numbers" else [])),
        warnings=(*_warnings(study), *copies_left_out(capture.copies, len(capture.victims))),
    )


VECTORS = (
    "Without shapes (--shape) all that crosses of an image is one vector; the decoder reads all of it into each "
    "place of a small map. S1's attacker knows the shapes."
)


def captured(study: Study) -> Capture:
    """Return the recording of a study.

    Raises:
        ClovenError: with all that is wrong with the settings, the folder and the data set.
    """
    source, subject, suite = study.source, study.subject, study.settings.suite
    assert isinstance(source, Recording)
    problems = study.problems()
    least = LEAST["victim"]
    usable = not any(value is not None and value < least for value in (subject.victims,)) and not problems
    limits = {"queries": subject.queries, "victims": subject.victims} if usable else {}
    several = len(suite.attacks) > 1
    capture = tried(lambda: read(source.folder, source.shapes, **limits, several=several), problems)
    tried(lambda: labelled(study, capture), problems)
    if problems or capture is None:
        raise ClovenError(problems)
    refuse_overlap(capture.auxiliary, capture.victims)
    return capture


def labelled(study: Study, capture: Capture | None) -> Images:
    """Return the data set of the model that ran, at the size of the images that were sent.

    Raises:
        ClovenError: for a set without labels, or of another number of classes than the answers have.
    """
    data = study.subject.data
    whole = load(data, shape=capture.victims.shape if capture else None)
    if whole.labels is None:
        raise ClovenError(f"{data} has no labels; the CNN cannot be trained: sort its images into folders")
    if capture is not None and capture.logits.shape[1] != len(whole.classes):
        assert isinstance(study.source, Recording)
        raise ClovenError(
            f"{data} has {len(whole.classes)} classes; {study.source.folder / IMAGES} holds answers of "
            f"{capture.logits.shape[1]}: give the --data that the model was made for"
        )
    return whole


def captured_case(capture: Capture, graph: Graph | None = None, source: Recording | None = None) -> Case:
    """Return a recording as a case; ``layer`` is the first of a paper's layers whose shape its messages have."""
    shapes = [share.shape for share in capture.seen]
    layer = None
    if graph is not None and source is not None and source.shapes:
        alike = (path for path in source.layers if [graph.by_name[graph.find(path)].shape] == shapes)
        layer = next(alike, None)
    label = "Protected link" if capture.protected else "Plain link"
    messages = tuple(f"message {share.value}" for share in capture.seen)
    return Case(Target("captured", "captured", None), label, messages, capture, layer)


def described(capture: Capture, notes: tuple[str, ...] = ()) -> CaptureSummary:
    """Return what a tap recorded, as the summary has it."""
    messages = [
        CapturedMessage(message=share.value, type=share.dtype, shape=extent(share.share)) for share in capture.seen
    ]
    return CaptureSummary(
        link=capture.link,
        protected=capture.protected,
        session=capture.session,
        bytes_an_image=capture.bytes,
        payload_bytes=capture.payload,
        images=len(capture.auxiliary) + len(capture.victims),
        unmatched=dict(capture.unmatched),
        fingerprint=capture.fingerprint,
        notes=notes,
        messages=tuple(messages),
    )


def listener(capture: Capture) -> AttackerModel:
    """Return who recorded a capture."""
    link = f"{' to '.join(capture.link)} ({'protected' if capture.protected else 'in clear'})"
    what = "ciphertext" if capture.protected else "numbers"
    known = " and their shapes" if capture.shaped else ", not what shape they have"
    return AttackerModel(
        sentence=f"A passive listener who tapped {link} while the system ran, sent {len(capture.auxiliary)} images "
        f"of his own as a user, recorded what crossed for them and for {len(capture.victims)} images of others, "
        "and trains on his own pairs (S1, Sect. 4).",
        knows=(
            f"the {what} that crossed{known}",
            "his own images and what crossed for them",
            "the image size",
        ),
        does_not_know=(
            "the model, its layers and weights",
            "the victims' images",
            *(["the keys of the link"] if capture.protected else []),
        ),
    )
