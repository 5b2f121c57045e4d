"""Scenes: the model, images and observations of an audit, from a simulation or a recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from cloven.auditing.captured import CAPTURED, IMAGES, LEAST, Capture, check_answers, read
from cloven.auditing.cases import Case, Target, cases
from cloven.auditing.cell import Knows
from cloven.auditing.classifier import Classifier, WholeModel
from cloven.auditing.material import ImageSets, refuse_overlap
from cloven.auditing.readings import Readings, readings_of
from cloven.auditing.settings import AuditSettings, Recording, Simulation, Study
from cloven.auditing.subject import (
    SubjectImages,
    halves,
    how_trained,
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
from cloven.progress import Progress
from cloven.zoo.datasets import load
from cloven.zoo.images import Images, split
from cloven.zoo.named import is_own

LISTED = 12
"""The largest number of layers or links that a message lists."""

KNOWN: Mapping[Knows, str] = {
    "places": "the shapes of the tensors that are sent, and their place in the layer",
    "shapes": "the shapes of the tensors that are sent",
    "inferred": "the bytes that are sent, from which the attacker guesses the shapes",
    "numbers": "the numbers that are sent, but not their shapes",
}

ALWAYS = ("Compromised devices, and active attackers.",)


@dataclass(frozen=True, eq=False)
class Scene:
    """The input of an audit, and the remarks on it in the summary.

    Attributes:
        model: the model's name.
        classifier: the attacked model.
        images: the sets of images.
        cases: the observations.
        attacker: the description of the attacker.
        judge: a second classifier, and its name.
        answers: the classes ``(n,)`` that the model gave to each set of images, if they were recorded.
        tests: labelled images that the model was not trained on; None if there are none.
        capture: the description of a capture; None for a simulation.
        compares_transforms: whether the same programs are attacked with several transforms of the links.
        settings: the settings that are needed to repeat the audit.
        readings: the readings in the victim images, if these are windows of telemetry.
        not_measured: what an audit of this kind does not measure, a sentence each.
        notes: remarks.
        warnings: remarks that change the meaning of the numbers.
    """

    model: str
    classifier: Classifier
    images: ImageSets
    cases: tuple[Case, ...]
    attacker: AttackerModel
    judge: tuple[str, Classifier] | None = None
    answers: Mapping[str, Tensor] | None = None
    tests: Images | None = None
    capture: CaptureSummary | None = None
    compares_transforms: bool = False
    settings: Mapping[str, Setting] = field(default_factory=dict)
    readings: Readings | None = None
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
            f"{study.subject.model} has no default layers to observe; name some of its layers with --layers: "
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
    how, training = how_trained(subject), len(images.training)
    settings: dict[str, Setting] = {"devices": source.devices}
    settings["weights"] = subject.weights.name if subject.weights else "trained here"
    if is_trained_here(subject):
        settings |= {"training epochs": how.epochs, "training images": min(how.images or training, training)}
        settings |= {"training weights": "equal for all classes"} if how.balanced else {}
    if how.start is not None:
        settings["training starts from"] = how.start.name
    every = simulated_cases(study, graph)
    clear = () if protected_links(every) else ("Encrypted links: none of these links is protected.",)
    return Scene(
        model=subject.model,
        classifier=WholeModel(graph, study.settings.machine.device),
        images=images.sets,
        cases=every,
        attacker=passive_listener(study.settings, images.sets, several=bool(source.taps.colluding)),
        judge=_judge(study, images, progress),
        tests=images.victims if images.victims.labels is not None else None,
        compares_transforms=bool(source.defences),
        settings=settings,
        readings=readings_of(subject.data, images.victims),
        not_measured=(*_not_tapped(study, source), *clear),
        warnings=(
            *_warnings(study),
            *too_few_victims(subject.victims, len(images.victims) + images.copies),
            *copies_left_out(images.copies, len(images.victims)),
        ),
    )


def _judge(study: Study, images: SubjectImages, progress: Progress) -> tuple[str, Classifier] | None:
    found = judge_of(study.subject, images, progress)
    return None if found is None else (found[0], WholeModel(found[1], study.settings.machine.device))


def too_few_victims(wanted: int | None, present: int) -> tuple[str, ...]:
    """Return a warning if fewer victim images are scored than requested."""
    if wanted is None or present >= wanted:
        return ()
    return (
        f"{present} victim images are scored, not {wanted}: the data set has no more that are held out; the others "
        "are for baselines and a second classifier, or trained the model.",
    )


def copies_left_out(copies: int, left: int) -> tuple[str, ...]:
    """Return a warning if victim images occur more than once."""
    if not copies:
        return ()
    return (f"{copies} victim images are copies of others; each image is scored once, {left} in all.",)


def protected_links(every: Sequence[Case]) -> tuple[str, ...]:
    """Return a warning about protected links, if there are any."""
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
        f"Protected links: {listed}. A listener there sees only ciphertext; the scores of these links show what "
        "would leak if the protection were removed.",
    )


def passive_listener(settings: AuditSettings, images: ImageSets, *, several: bool) -> AttackerModel:
    """Return the description of a passive listener who also uses the system."""
    together = " or on several together" if several else ""
    named = f" ({images.auxiliary.name})" if isinstance(images.auxiliary, Images) else ""
    choosing = 0 if images.selection is None else len(images.selection)
    choice = f"; {choosing} of them are held out to choose the strongest attack" if choosing else ""
    white = settings.suite.white_box
    return AttackerModel(
        sentence=f"A passive listener on one link{together}, who first sends {len(images.auxiliary) + choosing} "
        f"of their own images{named} as a user, records what is sent over the link and what is answered, and "
        f"trains on the pairs (Mehrafrooz et al., 2025, Sect. 4){choice}.",
        knows=(
            KNOWN[settings.knows],
            "their own images, with what the link carries for them and the answers",
            "the image size",
            *([f"the model and its weights (only for {', '.join(white)})"] if white else []),
        ),
        does_not_know=(*([] if white else ["the model, its layers and weights"]), "the victims' images"),
    )


def _not_tapped(study: Study, source: Simulation) -> list[str]:
    """Return sentences about the observations that a study leaves out."""
    taps, found = source.taps, []
    if "full" not in taps.views and not taps.colluding:
        found.append(
            "Everything that a link carries: only the shares that the paper counts were attacked (--view both)."
        )
    elif not taps.every_link:
        found.append(
            "Other links: only those between the first two devices of each plan were attacked (--links all)."
        )
    if not taps.colluding:
        found.append("A listener on several links at once (--colluding).")
    if study.settings.knows != "inferred":
        found.append("An attacker who must guess shapes from bytes: here the shapes are known (--shape inferred).")
    return [*found, *ALWAYS]


def _warnings(study: Study) -> tuple[str, ...]:
    subject = study.subject
    if not is_own(subject.model) or normalised(subject) is not None:
        return ()
    return (
        f"The normalisation of {subject.model} is unknown: it receives images in [0, 1]. If it was trained on "
        "normalised images, its answers are meaningless: give --mean and --std.",
    )


# --- captured ---------------------------------------------------------------------------------------------------


def recorded(study: Study, capture: Capture, progress: Progress) -> Scene:
    """Return a capture as a scene, with the model that ran, which is checked against the recorded answers.

    Raises:
        ClovenError: for a data set or a model that cannot be used, and if the model is not the one that ran.
    """
    source, subject = study.source, study.subject
    assert isinstance(source, Recording)
    whole = labelled(study, capture)
    training, tests = halves(subject, whole)
    images = SubjectImages(training, tests, capture.auxiliary, len(whole.classes))
    graph = ready(subject, images, progress)
    check_answers(WholeModel(graph).classify(capture.victims.rows()), capture.logits)
    theirs, learned = set(capture.victims.digests()), split(whole, seed=subject.seed)[0]
    others = [i for i, digest in enumerate(learned.digests()) if digest not in theirs]
    domain = learned.take(others)
    judged = SubjectImages(domain, capture.victims, capture.auxiliary, len(whole.classes))
    learnt = len(learned) - len(others)
    notes = (*left_out(capture), *([f"Victim images that the CNN was trained on: {learnt}."] if learnt else []))
    shapes: Setting = "inferred" if study.settings.knows == "inferred" else source.shown() or "not known"
    return Scene(
        model=subject.model,
        classifier=WholeModel(graph, study.settings.machine.device),
        images=ImageSets(capture.auxiliary, capture.victims, domain, capture.selection),
        cases=(captured_case(capture, graph, source),),
        attacker=listener(capture),
        judge=_judge(study, judged, progress),
        tests=tests,
        capture=described(capture, notes),
        settings={"shapes": shapes, "weights": subject.weights.name if subject.weights else "trained here"},
        not_measured=(*ALWAYS, "The times and lengths of frames, and other links."),
        notes=(*notes, *([VECTORS] if study.settings.knows == "numbers" else [])),
        warnings=(*_warnings(study), *copies_left_out(capture.copies, len(capture.victims))),
    )


VECTORS = (
    "Without shapes (--shape), everything that is sent for an image is one vector; the decoder maps the whole "
    "vector to each place of a small map. The attacker of Mehrafrooz et al. (2025) knows the shapes."
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
        ClovenError: for a data set without labels, or with another number of classes than the answers.
    """
    data = study.subject.data
    whole = load(data, shape=capture.victims.shape if capture else None)
    if whole.labels is None:
        raise ClovenError(
            f"{data} has no labels, but the CNN is trained on them; sort its images into a folder per class"
        )
    if capture is not None and capture.logits.shape[1] != len(whole.classes):
        assert isinstance(study.source, Recording)
        raise ClovenError(
            f"{data} has {len(whole.classes)} classes; {study.source.folder / IMAGES} holds answers of "
            f"{capture.logits.shape[1]}: give the --data that the model was trained for"
        )
    return whole


def captured_case(capture: Capture, graph: Graph | None = None, source: Recording | None = None) -> Case:
    """Return a recording as a case; its ``layer`` is the first of a paper's layers with the shapes of its messages.

    The graph and source are needed to find the layer.
    """
    shapes = [share.shape for share in capture.seen]
    layer = None
    if graph is not None and source is not None and source.shapes:
        alike = (path for path in source.layers if [graph.by_name[graph.find(path)].shape] == shapes)
        layer = next(alike, None)
    label = "Protected link" if capture.protected else "Plain link"
    messages = tuple(f"message {share.value}" for share in capture.seen)
    return Case(Target("captured", "captured", None), label, messages, capture, layer)


def left_out(capture: Capture) -> tuple[str, ...]:
    """Return a note for the images that were sent but not captured, and one for those without an answer."""
    counted = (
        ("Images that were sent but not captured, left out: {}.", capture.unmatched[IMAGES]),
        ("Inputs that were captured but have no recorded answer, left out: {}.", capture.unmatched[CAPTURED]),
    )
    return tuple(text.format(count) for text, count in counted if count)


def described(capture: Capture, notes: tuple[str, ...] = ()) -> CaptureSummary:
    """Return the description of a capture in the summary."""
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
    """Return the description of the listener who recorded a capture."""
    link = f"{' to '.join(capture.link)} ({'protected' if capture.protected else 'in clear'})"
    what = "ciphertext" if capture.protected else "numbers"
    known = ", and their shapes" if capture.shaped else ", but not their shapes"
    return AttackerModel(
        sentence=f"A passive listener who tapped {link} while the system ran, sent {len(capture.auxiliary)} of "
        f"their own images as a user, recorded what was sent for them and for {len(capture.victims)} images of "
        "others, and trains on their own pairs (Mehrafrooz et al., 2025, Sect. 4).",
        knows=(
            f"the {what} that the link carried{known}",
            "their own images, and what the link carried for them",
            "the image size",
        ),
        does_not_know=(
            "the model, its layers and weights",
            "the victims' images",
            *(["the keys of the link"] if capture.protected else []),
        ),
    )
