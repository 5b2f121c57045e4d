"""Compare the estimated costs of a plan with those measured on the workers of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

import numpy as np

from cloven.cost.estimate import Cost
from cloven.documents import Document
from cloven.errors import ClovenError
from cloven.progress import Progress
from cloven.runtime.cluster.coordinator import Coordinator, PartyReport, Prediction

WARM_UP = 3
"""The minimum number of images that are sent before any is measured."""

WINDOWS = 4
"""The minimum number of windows of images from which the throughput is measured."""

QUANTILES = (0.1, 0.5, 0.9)


class ComparedCost(Document):
    """A cost that was estimated, and measured; None if it is unknown.

    Attributes:
        estimated: the estimate.
        measured: the median, or the only measurement.
        low, high: the 10 % and 90 % quantiles, if there are several measurements.
        ratio: the measured value divided by the estimated one.
    """

    estimated: float | None
    measured: float | None
    low: float | None = None
    high: float | None = None
    ratio: float | None


class ComparedDevice(Document):
    """The costs of a device: ``busy`` in seconds of its processor for an image, the most ``memory`` in bytes."""

    device: str
    busy: ComparedCost
    memory: ComparedCost


class CostComparison(Document):
    """The estimated and the measured costs of a plan, for one image.

    Attributes:
        estimated: the whole estimate.
        images: the number of images that were sent one at a time.
        streamed: the number of images that were sent with ``estimated.window`` in flight.
        latency: in seconds, one image at a time.
        throughput: in images per second, of as many answers in sequence as images are in flight.
        traffic: in payload bytes, on all links.
        devices: the costs of each device.
    """

    version: Literal[1] = 1
    estimated: Cost
    images: int
    streamed: int
    latency: ComparedCost
    throughput: ComparedCost
    traffic: ComparedCost
    devices: tuple[ComparedDevice, ...]


@dataclass(frozen=True, eq=False)
class MeasuredRun:
    """The answers of images, and the reports of the parties before the first image and after the last one."""

    answers: tuple[Prediction, ...]
    before: Mapping[str, PartyReport]
    after: Mapping[str, PartyReport]


def compared(
    cost: Cost, alone: Coordinator, streaming: Coordinator, images: int, progress: Progress
) -> CostComparison:
    """Run a plan on the workers of a cluster twice, and compare the measured costs with the estimate.

    The images are random noise.

    Args:
        cost: the estimate.
        alone: a coordinator with a window of 1, whose context was not entered.
        streaming: the same with a window of ``cost.window``.
        images: the number of images of each run; at least four windows of them are streamed.
        progress: called with the name of the run, the number of answers so far, and the number of images.

    Raises:
        ClovenError: if the cluster cannot be used, or an image fails.
    """
    streamed = max(images, WINDOWS * cost.window)

    async def both() -> tuple[MeasuredRun, MeasuredRun]:
        first = await _executed(alone, images, "one image at a time", progress)
        return first, await _executed(streaming, streamed, f"{cost.window} in flight", progress)

    single, stream = asyncio.run(both())
    rates = _rates([answer.answered for answer in stream.answers], cost.window)
    return CostComparison(
        estimated=cost,
        images=images,
        streamed=streamed,
        latency=_compared(cost.latency, [answer.seconds for answer in single.answers]),
        throughput=_compared(cost.throughput, rates),
        traffic=_compared(cost.traffic, _traffic(stream, len(cost.devices))),
        devices=tuple(
            ComparedDevice(
                device=device.device,
                busy=_compared(device.busy, _busy(stream, device.device)),
                memory=_compared(device.memory, _memory(stream, device.device)),
            )
            for device in cost.devices
        ),
    )


async def _executed(run: Coordinator, count: int, stage: str, progress: Progress) -> MeasuredRun:
    async with run:
        await _answers(run, max(WARM_UP, run.options.window), lambda _: None)
        before = await run.reports()
        answers = await _answers(run, count, lambda done: progress(stage, done, count))
        return MeasuredRun(answers, before, await run.reports())


async def _answers(run: Coordinator, count: int, report: Callable[[int], None]) -> tuple[Prediction, ...]:
    """Return the answers for the same random image, sent several times.

    Raises:
        ClovenError: if an image fails, with every reason.
    """
    image = np.random.default_rng(0).random(run.shape, np.float32)
    found: list[Prediction] = []
    failures: list[str] = []
    async for answer in run.answers(repeat(image, count)):
        if isinstance(answer, Prediction):
            found.append(answer)
        else:
            failures.append(str(answer))
        report(len(found) + len(failures))
    if failures:
        raise ClovenError([f"an image failed: {reason}" for reason in dict.fromkeys(failures)])
    return tuple(found)


def _compared(estimated: float | None, measured: Sequence[float]) -> ComparedCost:
    """Compare an estimate with measurements, if there are any."""
    if not measured:
        return ComparedCost(estimated=estimated, measured=None, ratio=None)
    low, middle, high = map(float, np.quantile(measured, QUANTILES))
    several = len(measured) > 1
    return ComparedCost(
        estimated=estimated,
        measured=middle,
        low=low if several else None,
        high=high if several else None,
        ratio=middle / estimated if estimated else None,
    )


def _rates(answered: Sequence[float], window: int) -> list[float]:
    """Return the images per second of each ``window`` answers in sequence.

    As in the estimate, the first and the last window are left out, since not all devices are busy then.
    """
    times = sorted(answered)[window - 1 : len(answered) - window]
    return [window / (end - start) for start, end in zip(times, times[window:], strict=False) if end > start]


def _traffic(run: MeasuredRun, devices: int) -> list[float]:
    """Return the bytes of an image on all links; nothing if a party did not report."""
    if run.before.keys() != run.after.keys() or len(run.after) <= devices:
        return []
    sent = [sum(sum(party.report.bytes.values()) for party in found.values()) for found in (run.before, run.after)]
    return [(sent[1] - sent[0]) / len(run.answers)]


def _busy(run: MeasuredRun, device: str) -> list[float]:
    """Return the seconds of the processor for an image on a device; nothing if it did not report."""
    if device not in run.before or device not in run.after:
        return []
    before, after = run.before[device].report.processor, run.after[device].report.processor
    return [] if before is None or after is None else [(after - before) / len(run.answers)]


def _memory(run: MeasuredRun, device: str) -> list[float]:
    """Return the most memory that a device's worker has used; nothing if it did not report."""
    memory = run.after[device].report.memory if device in run.after else None
    return [] if memory is None else [memory]
