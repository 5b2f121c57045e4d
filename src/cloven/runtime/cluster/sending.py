"""Send a set of images through a cluster, and keep what came of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cloven.errors import ClovenError
from cloven.files import replacing
from cloven.partition.plan import Plan
from cloven.runtime.cluster import times
from cloven.runtime.cluster.coordinator import Answer, Coordinator, Manner
from cloven.runtime.cluster.errors import FrameFailed
from cloven.runtime.cluster.file import read_cluster

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity

SHOWN = 5
"""How many failures a message shows."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of images that were sent.

    Attributes:
        answers: for each image, in order, its answer or why there is none.
        seconds: from the first image to the last answer.
        reports: what each party recorded; see `Coordinator.reports`.
    """

    answers: tuple[Answer | FrameFailed, ...]
    seconds: float
    reports: dict[str, dict[str, Any]] = field(repr=False)

    @property
    def answered(self) -> list[int]:
        """The places of the images that were answered."""
        return [i for i, answer in enumerate(self.answers) if isinstance(answer, Answer)]

    @property
    def outputs(self) -> NDArray[np.float32]:
        """The outputs ``(n, classes)`` of the images that were answered."""
        return np.stack([answer.output for answer in self.answers if isinstance(answer, Answer)])

    @property
    def failures(self) -> list[tuple[int, FrameFailed]]:
        """The images that were not, with the reasons."""
        return [(i, answer) for i, answer in enumerate(self.answers) if isinstance(answer, FrameFailed)]

    def sent(self) -> dict[tuple[str, str], int]:
        """Payload bytes that each link carried in all."""
        return {
            (source, target): count
            for source, report in self.reports.items()
            for target, count in report["bytes"].items()
            if count
        }

    def row(self) -> dict[str, Any]:
        """The outcome for people and JSON readers."""
        done = [answer for answer in self.answers if isinstance(answer, Answer)]
        bytes_of = self.sent()
        return {
            "images": len(self.answers),
            "answered": len(done),
            "failed": [{"image": i, "reason": str(failed)} for i, failed in self.failures],
            "seconds": round(self.seconds, 3),
            "images_a_second": round(len(done) / self.seconds, 2) if self.seconds else None,
            "latency": times.latency([answer.seconds for answer in done]),
            "devices": times.devices(self.reports),
            "links": [row | {"bytes": bytes_of.get(tuple(row["link"]), 0)} for row in times.links(self.reports)],
        }

    def why(self) -> list[str]:
        """The first failures as sentences."""
        told = [f"image {i}: {failed}" for i, failed in self.failures[:SHOWN]]
        more = len(self.failures) - len(told)
        return [*told, f"and {more} more images failed"] if more else told


def identity_of(keys: str | None) -> Identity | None:
    """The coordinator's identity from a folder of keys, if any."""
    if keys is None:
        return None
    from cloven.partition.protection import COORDINATOR
    from cloven.runtime.link.identity import read

    return read(Path(keys), COORDINATOR)


def coordinator(plan: Plan, cluster_file: Path, manner: Manner) -> Coordinator:
    """A coordinator for a plan's workers, to be entered.

    Raises:
        ClovenError: for a cluster file or keys that cannot be used, or a plan that transforms what it sends.
    """
    if problems := plan.transform.unsendable(plan.devices):
        raise ClovenError(problems)
    cluster = read_cluster(cluster_file, plan.devices)
    return Coordinator(plan, cluster, identity_of(cluster.keys), manner)


def send(plan: Plan, cluster_file: Path, pixels: NDArray[np.uint8], manner: Manner, progress: Progress) -> Outcome:
    """Send images ``(n, C, H, W)``, 0 to 255, through a cluster in order.

    Raises:
        ClovenError: for a cluster that cannot be used, or images of another shape.
    """
    if pixels.shape[1:] != plan.model.input:
        raise ClovenError(f"the images have shape {pixels.shape[1:]}; the plan takes {plan.model.input}")

    async def everything() -> Outcome:
        found: list[Answer | FrameFailed] = []
        async with coordinator(plan, cluster_file, manner) as run:
            start = perf_counter()
            async for answer in run.answers(unit(image) for image in pixels):
                found.append(answer)
                progress("sending", len(found), len(pixels))
            seconds = perf_counter() - start
            return Outcome(tuple(found), seconds, await run.reports())

    return asyncio.run(everything())


def unit(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pixels of 0 to 255 as the numbers in [0, 1] that models take."""
    return pixels.astype(np.float32) / np.float32(255)


def write_sent(folder: Path, outcome: Outcome, pixels: NDArray[np.uint8], auxiliary: int) -> Path:
    """Write ``images.safetensors``: what was sent, and answered; the first ``auxiliary`` images are the attacker's.

    `cloven audit --pairs` joins it with what a tap recorded, by the inputs' numbers.

    Raises:
        ClovenError: where it cannot be written.
    """
    from safetensors.numpy import save_file

    at = np.array(outcome.answered)
    numbers = [answer.number for answer in outcome.answers if isinstance(answer, Answer)]
    path = folder / "images.safetensors"
    tensors: dict[str, NDArray[Any]] = {
        "input": np.array(numbers, np.int64),
        "image": np.ascontiguousarray(pixels[at]),
        "auxiliary": at < auxiliary,
        "logits": outcome.outputs,
    }
    with replacing(path) as part:
        save_file(tensors, part, metadata={"format": "1"})
    return path
