"""Where the time went: for each device and step, and for each link, from what all parties recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def devices(reports: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of devices: milliseconds of computing for an image (median, 95th percentile), sealing, and each step."""
    rows = []
    for device, report in reports.items():
        seconds = np.array([image["seconds"] for image in report["images"]])
        if not report["steps"] or not len(seconds):
            continue
        steps = [
            {"step": step, "ms": ms}
            for step, ms in zip(report["steps"], _ms(np.median(seconds, axis=0)), strict=True)
        ]
        whole = seconds.sum(1)
        ms, late = _ms([np.median(whole), np.quantile(whole, 0.95)])
        row = {"device": device, "images": len(seconds), "compute_ms": ms, "p95_ms": late}
        rows.append(row | _crypto(report) | {"steps": steps})
    return rows


def _crypto(report: Mapping[str, Any]) -> dict[str, float]:
    """Milliseconds of sealing and of opening for an image, on average; plain frames are only packed."""
    clocks = report["clock"].values()
    spent = [sum(clock.get(what, 0.0) for clock in clocks) for what in ("sealing", "opening")]
    sealing, opening = _ms(seconds / max(1, report["finished"]) for seconds in spent)
    return {"sealing_ms": sealing, "opening_ms": opening}


def links(reports: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of links: messages of an image, and milliseconds from handing a message over to having it.

    Sealing, waiting, the network and opening are in it. Clocks of different hosts are compared by the offsets that
    pings show, as NTP does; ``uncertain_ms`` is how far off a link's times can be by that.
    """
    left: dict[tuple[str, str], dict[tuple[int, int], float]] = {}
    for source, report in reports.items():
        for image in report["images"]:
            for target, ordinal, at in image["sent"]:
                left.setdefault((source, target), {})[image["input"], ordinal] = at - report["offset"]
    taken: dict[tuple[str, str], list[float]] = {}
    ordinals: dict[tuple[str, str], set[int]] = {}
    for target, report in reports.items():
        for image in report["images"]:
            for source, ordinal, at in image["came"]:
                sent = left.get((source, target), {}).get((image["input"], ordinal))
                if sent is not None:
                    taken.setdefault((source, target), []).append(at - report["offset"] - sent)
                    ordinals.setdefault((source, target), set()).add(ordinal)
    return [
        {
            "link": [source, target],
            "messages": len(ordinals[source, target]),
            **dict(zip(("ms", "p95_ms"), _ms([np.median(times), np.quantile(times, 0.95)]), strict=True)),
            "uncertain_ms": _ms([sum(reports[party]["uncertainty"] for party in (source, target))])[0],
        }
        for (source, target), times in sorted(taken.items())
    ]


def latency(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds from sending an image to its answer: median, 95th percentile, largest."""
    values = _ms([np.median(seconds), np.quantile(seconds, 0.95), max(seconds)]) if seconds else [0.0] * 3
    return dict(zip(("median_ms", "p95_ms", "largest_ms"), values, strict=True))


def _ms(seconds: Any) -> list[float]:
    return [round(1000 * float(value), 3) for value in seconds]
