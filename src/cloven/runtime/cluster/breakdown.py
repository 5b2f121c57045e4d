"""Break down the latency of images by device, step and link, from the reports of all parties."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cloven.documents import Document
from cloven.partition.program import Link

if TYPE_CHECKING:
    from cloven.runtime.cluster.coordinator import PartyReport


class StepTime(Document):
    """The median milliseconds of a step of the program."""

    step: int
    ms: float


class DeviceTimes(Document):
    """The times that a device spends on an image; if it computes tasks of any part, on a task.

    Attributes:
        device: the name of the device.
        images: the number of images that were measured.
        compute_ms: the median compute time of all its steps; ``p95_ms`` is the 95th percentile.
        sealing_ms: the mean time of encrypting its outgoing frames; without a cipher, of packing them.
        opening_ms: the mean time of decrypting its incoming frames.
        steps: the median time of each step.
    """

    device: str
    images: int
    compute_ms: float
    p95_ms: float
    sealing_ms: float
    opening_ms: float
    steps: tuple[StepTime, ...]


class LinkTimes(Document):
    """The time from queueing a message to receiving it: sealing, waiting, the network and opening.

    Attributes:
        link: the sending and the receiving device.
        messages: the number of messages per image.
        ms: the median; ``p95_ms`` is the 95th percentile.
        uncertain_ms: the largest possible error of the offset between the two clocks.
        bytes: the total of payload bytes that crossed the link.
    """

    link: Link
    messages: int
    ms: float
    p95_ms: float
    uncertain_ms: float
    bytes: int


class Latency(Document):
    """The time from sending an image to receiving its output: median, 95th percentile, maximum."""

    median_ms: float = 0.0
    p95_ms: float = 0.0
    largest_ms: float = 0.0


def devices(reports: Mapping[str, PartyReport]) -> tuple[DeviceTimes, ...]:
    """Return the times of each device that computes anything."""
    rows = []
    for device, party in reports.items():
        report = party.report
        seconds = np.array([image.seconds for image in report.images])
        if not seconds.size:
            continue
        medians, whole = _ms(np.median(seconds, axis=0)), seconds.sum(1)
        ms, late = _ms([np.median(whole), np.quantile(whole, 0.95)])
        spent = {"sealing": 0.0, "opening": 0.0}
        for clock in report.clock.values():
            for what, duration in clock.items():
                spent[what] += duration
        sealing, opening = _ms(duration / max(1, report.finished) for duration in spent.values())
        row = DeviceTimes(
            device=device,
            images=len(seconds),
            compute_ms=ms,
            p95_ms=late,
            sealing_ms=sealing,
            opening_ms=opening,
            steps=tuple(StepTime(step=step, ms=ms) for step, ms in zip(report.steps, medians, strict=False)),
        )
        rows.append(row)
    return tuple(rows)


def links(reports: Mapping[str, PartyReport], carried: Mapping[Link, int]) -> tuple[LinkTimes, ...]:
    """Return the times of each link.

    The clocks of different hosts are aligned by the offsets estimated from round trips, as in NTP.

    Args:
        reports: the report of each party.
        carried: the payload bytes of each link.
    """
    left: dict[Link, dict[tuple[int, int], float]] = defaultdict(dict)
    for source, party in reports.items():
        for image in party.report.images:
            for target, ordinal, at in image.sent:
                left[source, target][image.input, ordinal] = at - party.offset
    taken: dict[Link, list[float]] = defaultdict(list)
    ordinals: dict[Link, set[int]] = defaultdict(set)
    for target, party in reports.items():
        for image in party.report.images:
            for source, ordinal, at in image.came:
                sent = left.get((source, target), {}).get((image.input, ordinal))
                if sent is not None:
                    taken[source, target].append(at - party.offset - sent)
                    ordinals[source, target].add(ordinal)
    rows = []
    for link, times in sorted(taken.items()):
        ms, late = _ms([np.median(times), np.quantile(times, 0.95)])
        (uncertain,) = _ms([sum(reports[end].uncertainty for end in link)])
        row = LinkTimes(
            link=link,
            messages=len(ordinals[link]),
            ms=ms,
            p95_ms=late,
            uncertain_ms=uncertain,
            bytes=carried.get(link, 0),
        )
        rows.append(row)
    return tuple(rows)


def latency(seconds: Sequence[float]) -> Latency:
    """Return the latency of images, given in seconds; zeros if there are no images."""
    if not seconds:
        return Latency()
    median, late, largest = _ms([np.median(seconds), np.quantile(seconds, 0.95), max(seconds)])
    return Latency(median_ms=median, p95_ms=late, largest_ms=largest)


def _ms(seconds: Iterable[float]) -> list[float]:
    return [round(1000 * float(value), 3) for value in seconds]
