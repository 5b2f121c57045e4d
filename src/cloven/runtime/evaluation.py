"""Evaluation of the outputs of workers: comparison with the labels, and with the whole model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cloven.runtime.unit_images import unit

if TYPE_CHECKING:
    from cloven.graph.graph import Graph
    from cloven.partition.program import Link, Program
    from cloven.runtime.check import Comparison


@dataclass(frozen=True, eq=False)
class SentImages:
    """Images in the order in which they are sent.

    Attributes:
        pixels: the images ``(n, C, H, W)``, 0 to 255.
        names: the name of each image.
        labels: the labels ``(n - queries,)`` of the images after the attacker's, if known.
        queries: the number of images at the beginning that are the attacker's own.
    """

    pixels: NDArray[np.uint8]
    names: Sequence[str]
    labels: NDArray[np.int64] | None = None
    queries: int = 0


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The results for the images that are not the attacker's own.

    Attributes:
        classes: the name and the predicted class of each answered image.
        accuracy: the fraction of these images with the right class; None without labels.
        check: the comparison of all answers with the whole model, if there was one.
    """

    classes: tuple[tuple[str, int], ...] = ()
    accuracy: float | None = None
    check: Comparison | None = None


def evaluated(
    sent: SentImages,
    outputs: NDArray[np.float32] | None,
    answered: Sequence[int],
    *,
    whole: tuple[Program, Graph] | None = None,
    link_bytes: Mapping[Link, int] | None = None,
) -> Evaluation:
    """Return the classes, the accuracy and the check of the workers' outputs.

    Args:
        sent: the images.
        outputs: the outputs ``(m, classes)`` of the answered images; None if no image was answered.
        answered: the indices of the answered images.
        whole: the program that ran, and the whole model to compare it with.
        link_bytes: the total payload bytes of each link; None if they were not counted.
    """
    if outputs is None:
        return Evaluation()
    mine = [
        (place, label)
        for place, label in zip(answered, outputs.argmax(1).tolist(), strict=True)
        if place >= sent.queries
    ]
    right = [] if sent.labels is None else [int(sent.labels[p - sent.queries]) == label for p, label in mine]
    return Evaluation(
        tuple((sent.names[place], label) for place, label in mine),
        sum(right) / len(right) if right else None,
        _compared(sent.pixels[list(answered)], outputs, *whole, link_bytes) if whole is not None else None,
    )


def _compared(
    pixels: NDArray[np.uint8],
    outputs: NDArray[np.float32],
    program: Program,
    graph: Graph,
    link_bytes: Mapping[Link, int] | None,
) -> Comparison:
    import torch

    from cloven.runtime.check import TOLERANCE_ONNX, judge

    counted = len(pixels) * sum(transfer.bytes for transfer in program.transfers)
    if link_bytes is not None:
        counted = sum(count for link, count in link_bytes.items() if set(link) <= set(program.devices))
    images = torch.from_numpy(unit(pixels))
    return judge(program, graph, images, torch.from_numpy(outputs), sent=counted, tolerance=TOLERANCE_ONNX)
