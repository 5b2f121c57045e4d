"""Is what a listener found on a link what the engine sent? Bit by bit, image by image."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cloven.partition.program import Link
from cloven.runtime.bundle import Send, read
from cloven.runtime.onnx.engine import Array, run
from cloven.runtime.tap.pairs import Captured


def differing(bundle: Path, captured: Captured, link: Link, pixels: NDArray[np.uint8]) -> int:
    """How many captured numbers are not, bit by bit, those that the same engine sends in one process.

    Args:
        bundle: what the workers ran.
        captured: of the link, unprotected.
        link: its source and target.
        pixels: all images that were sent, ``(n, C, H, W)``; the captured inputs are places in it.
    """
    places = _places(bundle, link)
    images = (pixels[captured.inputs].astype(np.float32) / np.float32(255)).astype(np.float32)
    done: Counter[int] = Counter()
    wrong = 0

    def tap(_: str, send: Send, array: Array) -> None:
        nonlocal wrong
        if send.transfer in places:
            message, at = places[send.transfer]
            row = captured.messages[message][done[send.transfer], at : at + array.size]
            wrong += int((row.view(np.uint32) != array.reshape(-1).view(np.uint32)).sum())
            done[send.transfer] += 1

    run(bundle, images, batch=1, tap=tap)
    return wrong


def _places(bundle: Path, link: Link) -> dict[int, tuple[int, int]]:
    """Where each transfer of a link is found: in which message, behind how many numbers."""
    source, target = link
    found: dict[int, tuple[int, int]] = {}
    filled: Counter[int] = Counter()
    for step in read(bundle).parts[source].steps:
        if isinstance(step, Send) and step.target == target:
            found[step.transfer] = (step.message, filled[step.message])
            filled[step.message] += step.bytes // 4
    return found
