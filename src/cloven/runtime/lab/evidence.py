"""Is what a listener found on a link what the plan says, and what the engine sent? Bit by bit, image by image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloven.files import read_tensors
from cloven.partition.program import BYTES, Link, Program
from cloven.runtime.bundle.engine import Array, run
from cloven.runtime.bundle.format import SendShare
from cloven.runtime.bundle.reader import read
from cloven.runtime.cluster.sending import unit
from cloven.runtime.lab.folder import BUNDLE, CAPTURE, PAIRS
from cloven.runtime.tap import flows, pairs
from cloven.runtime.tap.flows import PLAIN, PROTECTED, TLS, Survey
from cloven.runtime.tap.pairs import Captured


def heard(folder: Path, program: Program, link: Link, addresses: Mapping[str, str], images: int) -> dict[str, Any]:
    """What a laboratory's capture holds, beside the transfer table; its pairs are written.

    Args:
        folder: the laboratory's.
        program: what was run.
        link: the tapped link.
        addresses: of the parties, by name.
        images: how many were sent.

    Returns:
        ``links``, see `directions`; ``warnings``; ``images``, how many were found whole; ``pairs``, their folder,
        None where nothing could be read; on a link without protection ``differing``.
    """
    survey = flows.survey(folder / CAPTURE)
    rows = directions(survey, program, link, addresses, images)
    found: dict[str, Any] = {"links": rows, "warnings": survey.warnings, "images": 0, "pairs": None}
    answered = folder / PAIRS / "images.safetensors"
    if not rows[0]["inputs"] or not answered.exists():
        return found
    captured = pairs.extract(survey, pairs.choose(survey, addresses[link[0]], addresses[link[1]]))
    found |= {"images": len(captured.inputs), "pairs": str(pairs.write(captured, folder / PAIRS).parent)}
    if not captured.protected:
        _, sent = read_tensors(answered, "numpy")
        found["differing"] = differing(folder / BUNDLE, captured, link, sent["input"], sent["image"])
    return found


def directions(
    survey: Survey, program: Program, link: Link, addresses: Mapping[str, str], images: int
) -> list[dict[str, Any]]:
    """Both directions of a tapped link as rows: what was found, and ``table``, the bytes of the transfer table."""
    found = []
    for source, target in (link, link[::-1]):
        here = [f for f in survey.flows if _hosts(f.source, f.target) == (addresses[source], addresses[target])]
        row = {"link": [source, target], "kind": ", ".join(dict.fromkeys(flow.kind for flow in here)) or "nothing"}
        sums = {name: sum(getattr(flow, name) for flow in here) for name in ("inputs", "payload", "bytes")}
        found.append(row | sums | {"table": images * program.sent((source, target))})
    return found


def _hosts(*ends: str) -> tuple[str, ...]:
    return tuple(end.rpartition(":")[0] for end in ends)


def unexpected(tap: Mapping[str, Any], images: int) -> list[str]:
    """What a tap found that is not what the plan says, one sentence each.

    Args:
        tap: what `heard` returns, and the link's ``protection`` and whether it has ``tls``.
        images: how many were sent.
    """
    return list(_doubts(tap, images))


def _doubts(tap: Mapping[str, Any], images: int) -> Iterator[str]:
    wanted = TLS if tap["tls"] else PLAIN if tap["protection"] == "none" else PROTECTED
    for row in (row for row in tap["links"] if row["table"]):
        name, table = " > ".join(row["link"]), 0 if wanted == TLS else row["table"]
        if row["kind"] != wanted:
            yield f"{name}: the tap saw {row['kind']}; expected {wanted}"
        if row["payload"] != table:
            yield f"{name}: the tap found {row['payload']:,} bytes of payload; expected {table:,}"
    if wanted != TLS and tap["images"] != images:
        yield f"the tap found the messages of {tap['images']:,} images; {images:,} were sent"
    if tap.get("differing"):
        yield f"{tap['differing']:,} captured numbers are not, bit by bit, what the engine sends in one process"
    yield from tap["warnings"]


def differing(
    bundle: Path, captured: Captured, link: Link, inputs: NDArray[np.int64], pixels: NDArray[np.uint8]
) -> int:
    """How many captured numbers are not, bit by bit, those that the same engine sends in one process.

    Args:
        bundle: what the workers ran.
        captured: of the link, unprotected.
        link: its source and target.
        inputs: ``(n,)``, ascending: the numbers of images whose pixels are known; no others are compared.
        pixels: of these, ``(n, C, H, W)``.
    """
    _, rows, known = np.intersect1d(captured.inputs, inputs, return_indices=True)
    places = _places(bundle, link)
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


def _different(captured: Captured, row: int, place: tuple[int, int], array: Array) -> int:
    """How many numbers of one transfer of one image differ; all that are not there do."""
    message, at = place
    sent = array.reshape(-1)
    block = captured.messages.get(message, np.empty((row + 1, 0), np.float32))
    came = block[row, at : at + sent.size]
    same = came.view(np.uint32) == sent[: came.size].view(np.uint32)
    return sent.size - int(same.sum())


def _places(bundle: Path, link: Link) -> dict[int, tuple[int, int]]:
    """Where each transfer of a link is found: in which message, behind how many numbers."""
    source, target = link
    found: dict[int, tuple[int, int]] = {}
    filled: Counter[int] = Counter()
    for step in read(bundle).parts[source].steps:
        if isinstance(step, SendShare) and step.target == target:
            found[step.transfer] = (step.message, filled[step.message])
            filled[step.message] += step.bytes // BYTES
    return found
