"""Where the time of images went: on each device and step, and on each link, from the reports of all parties."""

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
    """The milliseconds of an image on a device.

    Attributes:
        device: its name.
        images: the number of images that were measured.
        compute_ms: of all its steps, the median; ``p95_ms`` is the 95th percentile.
        sealing_ms: on average; plain frames are only packed.
        opening_ms: likewise.
        steps: each step's.
    """

    device: str
    images: int
    compute_ms: float
    p95_ms: float
    sealing_ms: float
    opening_ms: float
    steps: tuple[StepTime, ...]


class LinkTimes(Document):
    """The milliseconds from handing a message over to receiving it: sealing, waiting, the network and opening.

    Attributes:
        link: source and target.
        messages: of an image.
        ms: the median; ``p95_ms`` is the 95th percentile.
        uncertain_ms: the largest error of the comparison of the two clocks.
        bytes: the payload bytes that the link carried in all.
    """

    link: Link
    messages: int
    ms: float
    p95_ms: float
    uncertain_ms: float
    bytes: int


class Latency(Document):
    """The milliseconds from sending an image to its answer: median, 95th percentile, largest."""

    median_ms: float = 0.0
    p95_ms: float = 0.0
    largest_ms: float = 0.0


def devices(reports: Mapping[str, PartyReport]) -> tuple[DeviceTimes, ...]:
    """Return the times of each device that computes."""
    rows = []
    for device, party in reports.items():
        report = party.report
        seconds = np.array([image.seconds for image in report.images])
        if not report.steps or not len(seconds):
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
            steps=tuple(StepTime(step=step, ms=ms) for step, ms in zip(report.steps, medians, strict=True)),
        )
        rows.append(row)
    return tuple(rows)


def links(reports: Mapping[str, PartyReport], carried: Mapping[Link, int]) -> tuple[LinkTimes, ...]:
    """Return the times of each link.

    Clocks of different hosts are compared by the offsets that pings show, as NTP does.

    Args:
        reports: of the parties.
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
    """Return the latency of images; zeros without any."""
    if not seconds:
        return Latency()
    median, late, largest = _ms([np.median(seconds), np.quantile(seconds, 0.95), max(seconds)])
    return Latency(median_ms=median, p95_ms=late, largest_ms=largest)


def _ms(seconds: Iterable[float]) -> list[float]:
    return [round(1000 * float(value), 3) for value in seconds]
