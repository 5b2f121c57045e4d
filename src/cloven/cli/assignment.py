"""Images that are sent through workers, and their answers: for ``cloven run --cluster`` and ``cloven lab``."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cloven.cli.models import PlanOptions, plan_of, planned, ready_for
from cloven.cli.printing import table

if TYPE_CHECKING:
    from cloven.graph.graph import Graph
    from cloven.partition.plan import Plan
    from cloven.partition.program import Link, Program
    from cloven.runtime.check import Comparison
    from cloven.runtime.cluster.sending import SendSummary
    from cloven.runtime.evaluation import Evaluation, SentImages

log = logging.getLogger("cloven")

SHOWN = 5
"""The number of failed images that are named one by one."""

FEW = 20
"""The largest number of images whose classes are printed; all are in the JSON."""


@dataclass(frozen=True)
class ImageOptions:
    """The images of a command: those to classify, and the attacker's own, which are sent first."""

    data: str | None = None
    picture: Path | None = None
    limit: int | None = None
    auxiliary: str | None = None
    queries: int = 0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Assignment:
    """A plan, the images to send through it, and, for a check, its program and the whole model."""

    plan: Plan
    sent: SentImages
    whole: tuple[Program, Graph] | None = None


def assignment(source: PlanOptions, options: ImageOptions, *, verify: bool) -> Assignment:
    """Return what to send through the workers of a plan; pictures without a check need no model.

    Raises:
        ClovenError: with all that is wrong with the plan, the model or the images.
    """
    import numpy as np

    from cloven.runtime.evaluation import SentImages
    from cloven.zoo.datasets import load
    from cloven.zoo.folders import read_pictures

    whole = None
    if options.data is None and options.picture is not None and not verify:
        plan = plan_of(source)
        images = read_pictures(options.picture, plan.named_model.input)
    else:
        from cloven.partition import plan as plans

        plan, graph = planned(source)
        ready, graph = ready_for(plan, graph, options.data, options.picture, options.seed)
        images, whole = ready.images, (plans.compile(graph, plan), graph) if verify else None
    if options.limit is not None:
        images = images.take(range(min(options.limit, len(images))))
    if options.auxiliary is None:
        return Assignment(plan, SentImages(images.pixels, images.sources, images.labels), whole)
    own = load(options.auxiliary, shape=plan.named_model.input, limit=options.queries)
    pixels, names = np.concatenate([own.pixels, images.pixels]), own.sources + images.sources
    return Assignment(plan, SentImages(pixels, names, images.labels, len(own)), whole)


@dataclass(frozen=True, eq=False)
class AssignmentResult:
    """What came of an assignment: times and bytes, the answers, and whether TLS was around all."""

    assignment: Assignment
    summary: SendSummary
    evaluation: Evaluation
    tls: bool

    def protection(self, link: Link) -> str:
        """Return the protection of a link, as the plan has it."""
        return self.assignment.plan.protection.of(*link)

    def json(self) -> dict[str, object]:
        """Return the result for JSON readers."""
        links = [
            link.model_dump() | {"protection": self.protection(link.link), "tls": self.tls}
            for link in self.summary.links
        ]
        names = self.assignment.sent.names
        failed = [failure.model_dump() | {"name": names[failure.image]} for failure in self.summary.failed]
        found = self.evaluation
        shown = {
            "plan": self.assignment.plan.title(),
            **self.summary.model_dump(),
            "links": links,
            "failed": failed,
        }
        shown["classes"] = [{"image": name, "class": label} for name, label in found.classes]
        if found.accuracy is not None:
            shown["accuracy"] = found.accuracy
        if found.check is not None:
            shown["check"] = found.check.model_dump()
        return shown


def log_check(check: Comparison | None) -> bool:
    """Log the verdict on the answers, and return whether nothing speaks against them."""
    if check is None:
        return True
    expected = check.bytes_an_image * check.images
    if not check.equal and check.bytes_sent != expected:
        log.warning("the links carried %d bytes; the transfer table has %d", check.bytes_sent, expected)
    log.log(logging.INFO if check.equal else logging.WARNING, check.verdict())
    return check.equal


def log_failures(result: AssignmentResult) -> None:
    """Log which images failed and why, the first of them one by one."""
    failed = result.summary.failed
    for failure in failed[:SHOWN]:
        log.warning("image %d, %s: %s", failure.image, result.assignment.sent.names[failure.image], failure.reason)
    if len(failed) > SHOWN:
        log.warning("and %d more images failed", len(failed) - SHOWN)


# --- tables -------------------------------------------------------------------------------------------------------


def print_result(result: AssignmentResult) -> None:
    """Print the check and the answers, and the times of devices and links."""
    classes = result.evaluation.classes
    table(result.assignment.plan.title(), ["", ""], _totals(result.summary, result.evaluation))
    if classes and len(classes) <= FEW:
        table("answers", ["image", "class"], [[name, str(label)] for name, label in classes])
    devices = []
    for device in result.summary.devices:
        times = [device.compute_ms, device.p95_ms, device.sealing_ms, device.opening_ms]
        steps = ", ".join(f"{step.ms:g}" for step in device.steps)
        devices.append([device.device, device.images, *times, steps])
    table(
        "devices: ms per image; median and 95th percentile of computing",
        ["device", "images", "compute", "95 %", "sealing", "opening", "steps"],
        devices,
    )
    links = []
    for link in result.summary.links:
        protection = protection_of(result.protection(link.link), tls=result.tls)
        times = [link.ms, link.p95_ms, link.uncertain_ms]
        links.append([" > ".join(link.link), protection, link.messages, link.bytes, *times])
    table(
        "links: frames per image, bytes of all images; ms from sending a frame to receiving it, uncertain by +- ms",
        ["link", "protection", "frames", "bytes", "ms", "95 %", "+- ms"],
        links,
    )


def _totals(summary: SendSummary, found: Evaluation) -> list[tuple[str, str]]:
    rows, check = [], found.check
    if check is not None:
        rows.append(("equal to the whole model", "yes" if check.equal else "NO"))
    rows.append(("images", f"{summary.images:,}"))
    rows.append(("answered", f"{summary.answered:,}"))
    rows.append(("failed", f"{len(summary.failed):,}"))
    if summary.answered:
        late = summary.latency
        rows.append(("images per second", str(summary.images_a_second)))
        rows.append(("latency, ms (median, 95th percentile)", f"{late.median_ms}, {late.p95_ms}"))
    if found.accuracy is not None:
        rows.append(("accuracy", f"{found.accuracy:.4f}"))
    if check is not None:
        rows.append(("largest difference from the whole model", f"{check.max_difference:.3g}"))
        rows.append(("allowed", f"{check.bound:.3g}"))
    return rows


def protection_of(protection: str, *, tls: bool) -> str:
    """Return the protection of a link: the plan's, TLS around all, or both."""
    if not tls:
        return protection
    return "TLS" if protection in ("none", "mtls") else f"{protection} in TLS"
