"""Attack a running service in the three phases of Mehrafrooz et al. (2025, sections 4.1 to 4.3).

The attacker is a user who reserves the service, sends their own images, pairs them with what a tap on one link
records meanwhile, and trains on the pairs. The victim is the next user, whose images pass the same link. The
attacker then submits the reconstructions as images of their own: an attack succeeds if the service gives a
reconstruction the class that it gave the victim's image.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor

from cloven.auditing.captured import IMAGES, LEAST, Capture, read
from cloven.auditing.classifier import classes_of
from cloven.auditing.executor import run_audit
from cloven.auditing.material import ImageSets, fingerprint, refuse_few, refuse_overlap, without_copies
from cloven.auditing.paper import NO_PAPER
from cloven.auditing.pipeline import Execution, attacked
from cloven.auditing.scenes import (
    ALWAYS,
    VECTORS,
    Scene,
    captured_case,
    copies_left_out,
    described,
    left_out,
    listener,
)
from cloven.auditing.settings import AuditSettings
from cloven.auditing.store import opened
from cloven.auditing.summary import SCHEMA, AttackerModel, Summary
from cloven.errors import ClovenError, tried
from cloven.graph.box import Shape
from cloven.progress import Progress
from cloven.rows import TensorRows, chunks
from cloven.runtime.message_shapes import MessageShapes
from cloven.runtime.sent_images import write_sent
from cloven.runtime.service_client import Answer, Service, ServiceClient
from cloven.runtime.tap import extraction, flows
from cloven.zoo.datasets import load
from cloven.zoo.images import Images, split
from cloven.zoo.pixels import checked

PAIRS = "pairs"
"""The folder of the captured messages and the sent images, within that of the results."""
CHUNK = 64
"""The number of images that are in memory at a time while they are sent."""
FLUSHED = 30.0
"""Seconds for the recording to receive the last messages."""


@dataclass(frozen=True)
class ServiceAttack:
    """An attack on a running service.

    Attributes:
        service: the service.
        recording: the pcap or pcapng file that a tap on the link is writing.
        data: the data set of the victims: the tenth that a CNN trained by cloven has not seen.
        auxiliary: the data set of the attacker's own images.
        queries: the number of the attacker's images.
        victims: the largest number of victim images; None for all.
        source: the address of the sender on the tapped link; None for the sender of the most payload.
        target: the address of the receiver, likewise.
        shapes: the shapes of the messages that the attacker knows; if empty, each message is a vector.
        numbers: the type of the numbers in clear messages; see `cloven.runtime.tap.extraction.extract`.
        seed: the seed of the split of ``data``.
    """

    service: Service
    recording: Path
    data: str
    auxiliary: str
    queries: int
    victims: int | None = None
    source: str | None = None
    target: str | None = None
    shapes: MessageShapes | None = None
    numbers: extraction.NumberType = "float32"
    seed: int = 0


@dataclass(frozen=True, eq=False)
class ServedClassifier:
    """A classifier that submits images to a service; each batch is sent under a reservation of its own.

    ``fingerprint`` is a hash of the service's answers, since its model is unknown.
    """

    service: Service
    shape: Shape
    classes: int
    fingerprint: str

    def classify(self, images: TensorRows) -> Tensor:
        """Return the classes ``(n,)`` that the service gives to images ``(n, C, H, W)`` in [0, 1]."""
        with ServiceClient(self.service) as user, user.reserved():
            found = [user.classify(image).class_ for some in chunks(images, CHUNK) for image in some.numpy()]
        return torch.tensor(found)


def attack_service(asked: ServiceAttack, settings: AuditSettings, execution: Execution) -> Summary:
    """Send the images, attack what was recorded of them, and write ``summary.json``; or resume this.

    Args:
        asked: the attack.
        settings: the attacks and their settings.
        execution: the folder of the results, and the number of processes.

    Raises:
        ClovenError: for settings or images that cannot be used, a service that does not answer, or a recording
            that lacks the messages.
    """
    start, problems = time.perf_counter(), list(settings.problems())
    with ServiceClient(asked.service) as user:
        shape = _shape(user)
        whole = tried(lambda: load(asked.data, shape=shape), problems)
        own = tried(lambda: load(asked.auxiliary, shape=shape, limit=asked.queries), problems)
        if problems or whole is None or own is None:
            raise ClovenError(problems)
        pairs = execution.folder / PAIRS
        if not (asked.recording.exists() or (pairs / IMAGES).exists()):
            raise ClovenError(
                f"{asked.recording} does not exist; record the link meanwhile: cloven tap --interface NAME --out "
                f"{asked.recording}"
            )
        if asked.recording.exists() and asked.recording.stat().st_size:
            flows.survey(asked.recording)  # another file is refused before any image is sent
        learned, _, held_out = split(whole, seed=asked.seed)
        victims, copies = without_copies(held_out.take(range(min(asked.victims or len(held_out), len(held_out)))))
        refuse_few(len(victims), copies)
        refuse_overlap(own, victims)
        with opened(execution.folder, _configuration(asked, settings, own, victims)) as store:
            if not (pairs / IMAGES).exists():
                _send(asked, user, (own, victims), pairs, execution.progress)
            several = len(settings.suite.attacks) > 1
            capture = replace(read(pairs, asked.shapes, several=several), copies=copies)
            scene = _scene(asked, settings, capture, learned)
            steps = attacked(scene, settings, NO_PAPER, store, execution.progress, start)
            return run_audit(steps, execution.executor, execution.progress)


def _shape(user: ServiceClient) -> tuple[int, int, int]:
    """Return the shape of the images that the service takes.

    Raises:
        ClovenError: if there are no images of this shape.
    """
    shape = user.model.input
    try:
        checked(shape)
    except ClovenError as error:
        raise ClovenError(f"the model of {user.service.url}: {error}") from error
    return shape


def _send(
    asked: ServiceAttack, user: ServiceClient, sets: tuple[Images, Images], pairs: Path, progress: Progress
) -> None:
    """Send the attacker's images, then the victims', and write what was sent and recorded."""
    answers: list[Answer] = []
    for images, stage in zip(sets, ("sending the attacker's images", "sending the victims' images"), strict=True):
        with user.reserved():
            each = (image for some in chunks(images.rows(), CHUNK) for image in some.numpy())
            for number, image in enumerate(each, 1):
                answers.append(user.classify(image))
                progress(stage, number, len(images))
    numbers = [answer.image for answer in answers]
    if len(set(numbers)) < len(numbers):
        raise ClovenError(f"{asked.service.url} gave several images the same number; it was restarted meanwhile")
    if len({len(answer.logits) for answer in answers}) > 1:
        raise ClovenError(
            f"{asked.service.url} answered with different numbers of classes; it was changed meanwhile"
        )
    messages = _recorded(asked, set(numbers))
    auxiliary = np.arange(len(numbers)) < len(sets[0])
    _refuse_late(asked, np.isin(numbers, messages.inputs), auxiliary)
    extraction.write(messages, pairs)
    outputs = np.array([answer.logits for answer in answers], np.float32)
    write_sent(pairs, numbers, np.concatenate([images.pixels for images in sets]), outputs, auxiliary)


def _recorded(asked: ServiceAttack, numbers: set[int]) -> extraction.CapturedMessages:
    """Return the messages of the tapped link, once the recording has those of all images or does not grow.

    Raises:
        ClovenError: if the recording has no messages of the link, or those of several runs.
    """
    until, size = time.monotonic() + FLUSHED, -1
    while True:
        time.sleep(1)  # the tap writes twice a second
        grown, size = size, asked.recording.stat().st_size
        found = flows.survey(asked.recording)
        flow = extraction.choose(found, asked.source, asked.target)
        if numbers <= {header.input for header in flow.headers} or size == grown or time.monotonic() > until:
            break
    messages = extraction.extract(found, flow, asked.numbers, asked.shapes)
    if messages.repeated:
        raise ClovenError(
            f"{asked.recording} has several messages for {messages.repeated} images, and may be of several runs; "
            "start `cloven tap` anew, after the service"
        )
    if not numbers & set(messages.inputs.tolist()):
        raise ClovenError(
            f"{asked.recording} has messages of {len(messages.inputs)} images, none of which was sent now; is the "
            "tap still recording?"
        )
    return messages


def _refuse_late(asked: ServiceAttack, captured: NDArray[np.bool_], auxiliary: NDArray[np.bool_]) -> None:
    """Refuse a recording that lacks too many images; nothing has been written, so that they can be sent again."""
    sets = {"auxiliary": captured[auxiliary], "victim": captured[~auxiliary]}
    if problems := [
        f"{asked.recording} has the messages of {some.sum()} of the {len(some)} {kind} images; expected "
        f"{LEAST[kind]} or more: start `cloven tap` before `cloven attack`, and leave it running"
        for kind, some in sets.items()
        if some.sum() < LEAST[kind]
    ]:
        raise ClovenError(problems)


def _scene(asked: ServiceAttack, settings: AuditSettings, capture: Capture, learned: Images) -> Scene:
    answers = {name: classes_of(logits) for name, logits in capture.answers.items()}
    told = hashlib.sha256(b"".join(classes.numpy().tobytes() for classes in answers.values())).hexdigest()
    classes = capture.logits.shape[1]
    missing = left_out(capture)
    return Scene(
        model=asked.service.url,
        classifier=ServedClassifier(asked.service, capture.victims.shape, classes, told),
        images=ImageSets(capture.auxiliary, capture.victims, learned, capture.selection),
        cases=(captured_case(capture),),
        attacker=_user(asked, capture),
        answers=answers,
        capture=described(capture, missing),
        settings={"service": asked.service.url},
        not_measured=(*ALWAYS, "The times and lengths of frames, and other links."),
        notes=(*missing, *([VECTORS] if settings.knows == "numbers" else [])),
        warnings=copies_left_out(capture.copies, len(capture.victims)),
    )


def _user(asked: ServiceAttack, capture: Capture) -> AttackerModel:
    """Return the description of the attacker, who is a user of the service."""
    passive = listener(capture)
    link = f"{' to '.join(capture.link)} ({'protected' if capture.protected else 'in clear'})"
    return passive.model_copy(
        update={
            "sentence": f"A user of {asked.service.url} who tapped {link}, sent {len(capture.auxiliary)} images of "
            f"their own, trained on what was recorded of them, and submitted the reconstructions of "
            f"{len(capture.victims)} images of another user to the service (Mehrafrooz et al., 2025, Sect. 4).",
            "knows": (*passive.knows, "the classes that the service gives to images that they submit"),
        }
    )


def _configuration(
    asked: ServiceAttack, settings: AuditSettings, own: Images, victims: Images
) -> dict[str, JsonValue]:
    """Return the settings, without paths, and the hashes of the images, which identify the attack."""
    found: dict[str, JsonValue] = json.loads(
        json.dumps(
            {
                "schema": SCHEMA,
                "service": asked.service.url,
                "recording": asked.recording.name,
                "link": [asked.source, asked.target],
                "numbers": asked.numbers,
                "shapes": {str(ordinal): shapes for ordinal, shapes in (asked.shapes or {}).items()},
                "attacks": list(settings.suite.names),
                "epochs": settings.suite.epochs,
                "knows": settings.knows,
                "seeds": list(settings.seeds),
                "seed": asked.seed,
                "attack_seconds": settings.attack_seconds,
                "threshold": settings.threshold,
                "device": settings.machine.device,
                "auxiliary_images": fingerprint(own),
                "victim_images": fingerprint(victims),
            }
        )
    )
    return found
