"""Compare a capture of a link with the plan, and bit by bit with the tensors that the engine sends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cloven.files import read_tensors
from cloven.partition.program import Link, Program
from cloven.runtime.bundle.engine import Array, run
from cloven.runtime.bundle.format import SendShare
from cloven.runtime.bundle.reader import read
from cloven.runtime.lab.lab_folder import BUNDLE, CAPTURE, PAIRS
from cloven.runtime.lab.outcome import LinkEvidence, TapEvidence
from cloven.runtime.tap import extraction, flows
from cloven.runtime.tap.extraction import CapturedMessages, NumberType
from cloven.runtime.tap.flows import PLAIN, PROTECTED, TLS, Survey
from cloven.runtime.tap.live import RecordingSummary
from cloven.runtime.unit_images import unit

NUMBERS: Mapping[str, NumberType] = {"none": "float32", "float16": "float16", "int8": "int8"}
"""The types of the numbers on a link by its kind of transform."""


def examine(
    folder: Path,
    program: Program,
    link: Link,
    *,
    addresses: Mapping[str, str],
    images: int,
    recorded: RecordingSummary,
    protection: str,
    tls: bool,
) -> TapEvidence:
    """Compare a laboratory's capture with the plan and the transfer table, and write its pairs.

    Args:
        folder: the laboratory's folder.
        program: the program that was run.
        link: the tapped link.
        addresses: the address of each party, by name.
        images: the number of images that were sent.
        recorded: the counts of the recording.
        protection: the protection of the link.
        tls: whether the workers use TLS.
    """
    survey = flows.survey(folder / CAPTURE)
    found = TapEvidence(
        recorded=recorded,
        protection=protection,
        tls=tls,
        links=directions(survey, program, link, addresses, images),
        warnings=tuple(survey.warnings),
    )
    answered = folder / PAIRS / "images.safetensors"
    if found.links[0].inputs and answered.exists():
        flow = extraction.choose(survey, *(addresses[end] for end in link))
        shapes = {k: [send.shape for send in sends] for k, sends in _messages(folder / BUNDLE, link).items()}
        captured = extraction.extract(survey, flow, NUMBERS[program.transforms.of(*link).kind], shapes)
        pairs = str(extraction.write(captured, folder / PAIRS).parent)
        differ = None
        if not captured.protected:
            _, sent = read_tensors(answered, "numpy")
            differ = differing(folder / BUNDLE, captured, link, sent["input"], sent["image"])
        found = found.model_copy(update={"images": len(captured.inputs), "pairs": pairs, "differing": differ})
    return found.model_copy(update={"unexpected": tuple(unexpected(found, images))})


def directions(
    survey: Survey, program: Program, link: Link, addresses: Mapping[str, str], images: int
) -> tuple[LinkEvidence, LinkEvidence]:
    """Return both directions of a tapped link, with the bytes that the transfer table expects for ``images``."""

    def direction(source: str, target: str) -> LinkEvidence:
        ends = addresses[source], addresses[target]
        here = [f for f in survey.flows if (_host(f.source), _host(f.target)) == ends]
        return LinkEvidence(
            link=(source, target),
            kind=", ".join(dict.fromkeys(flow.kind for flow in here)) or "nothing",
            inputs=sum(flow.inputs for flow in here),
            payload=sum(flow.payload for flow in here),
            bytes=sum(flow.bytes for flow in here),
            table=images * program.sent((source, target)),
        )

    return direction(*link), direction(*link[::-1])


def _host(end: str) -> str:
    return end.rpartition(":")[0]


def unexpected(tap: TapEvidence, images: int) -> Iterator[str]:
    """Yield a sentence for each difference between a tap's evidence and the plan.

    Args:
        tap: the evidence.
        images: the number of images that were sent.
    """
    wanted = TLS if tap.tls else PLAIN if tap.protection == "none" else PROTECTED
    for row in (row for row in tap.links if row.table):
        name, table = " > ".join(row.link), 0 if wanted == TLS else row.table
        if row.kind != wanted:
            yield f"{name}: the tap saw {row.kind}; expected {wanted}"
        if row.payload != table:
            yield f"{name}: the tap found {row.payload:,} bytes of payload; expected {table:,}"
    if wanted != TLS and tap.images != images:
        yield f"the tap found the messages of {tap.images:,} images; {images:,} were sent"
    if tap.differing:
        yield f"{tap.differing:,} captured numbers are not bit-identical to what the engine sends in one process"
    yield from tap.warnings


def differing(
    bundle: Path, captured: CapturedMessages, link: Link, inputs: NDArray[np.int64], pixels: NDArray[np.uint8]
) -> int:
    """Return how many captured numbers are not bit-identical to those that the engine sends in one process.

    Args:
        bundle: the bundle that the workers ran.
        captured: the messages of the link, unprotected.
        link: its source and target.
        inputs: ``(n,)``, ascending: the numbers of the images whose pixels are known; only these are compared.
        pixels: the pixels of these images, ``(n, C, H, W)``.
    """
    _, rows, known = np.intersect1d(captured.inputs, inputs, return_indices=True)
    places = _places(_messages(bundle, link))
    done: Counter[int] = Counter()
    wrong = 0

    def tap(_: str, send: SendShare, array: Array) -> None:
        nonlocal wrong
        if send.transfer in places:
            wrong += _different(captured, rows[done[send.transfer]], places[send.transfer], array)
            done[send.transfer] += 1

    if len(rows):
        run(bundle, unit(pixels[known]), batch=1, tap=tap)
    return wrong


def _different(captured: CapturedMessages, row: int, place: tuple[int, int], array: Array) -> int:
    """Return how many numbers of one transfer of one image differ; missing ones count."""
    message, at = place
    sent = array.reshape(-1)
    block = captured.messages.get(message, np.empty((row + 1, 0), np.float32))
    came = block[row, at : at + sent.size]
    same = came.view(np.uint32) == sent[: came.size].view(np.uint32)
    return sent.size - int(same.sum())


def _messages(bundle: Path, link: Link) -> dict[int, list[SendShare]]:
    """Return the shares in each message of a link, in order."""
    source, target = link
    found: dict[int, list[SendShare]] = {}
    for step in read(bundle).parts[source].steps:
        if isinstance(step, SendShare) and step.target == target:
            found.setdefault(step.message, []).append(step)
    return found


def _places(messages: Mapping[int, Sequence[SendShare]]) -> dict[int, tuple[int, int]]:
    """Return the position of each transfer of a link: its message, and the offset in it, in numbers."""
    found = {}
    for message, sends in messages.items():
        at = 0
        for send in sends:
            found[send.transfer] = (message, at)
            at += prod(send.shape)
    return found
