"""The images that ``cloven run --cluster`` and ``cloven lab`` send through workers, and the results."""

from __future__ import annotations

import logging
from collections.abc import Sequence
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
    from cloven.runtime.cluster.task_record import WorkerTasks
    from cloven.runtime.evaluation import Evaluation, SentImages

log = logging.getLogger("cloven")

SHOWN = 5
"""The number of failed images that are logged individually."""

FEW = 20
"""The maximum number of images whose classes are printed; the JSON always has all."""


@dataclass(frozen=True)
class ImageOptions:
    """The options for images: those to classify, and the attacker's own images, which are sent first."""

    data: str | None = None
    picture: Path | None = None
    limit: int | None = None
    auxiliary: str | None = None
    queries: int = 0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Assignment:
    """A plan and the images to send through it; for a check, also its program and the whole model."""

    plan: Plan
    sent: SentImages
    whole: tuple[Program, Graph] | None = None


def assignment(source: PlanOptions, options: ImageOptions, *, verify: bool) -> Assignment:
    """Return the assignment of the options; the model is not loaded for pictures without a check.

    Raises:
        ClovenError: with all errors of the plan, the model and the images.
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
    """The result of an assignment: times and bytes, the answers, and whether all connections used TLS."""

    assignment: Assignment
    summary: SendSummary
    evaluation: Evaluation
    tls: bool

    def protection(self, link: Link) -> str:
        """Return the protection of a link in the plan."""
        return self.assignment.plan.protection.of(*link)

    def json(self) -> dict[str, object]:
        """Return the result for printing as JSON."""
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
    """Log the verdict on the answers; return whether they are equal to the model's, or were not checked."""
    if check is None:
        return True
    expected = check.bytes_an_image * check.images
    if not check.equal and check.bytes_sent != expected:
        log.warning("the links carried %d bytes; expected %d by the transfer table", check.bytes_sent, expected)
    log.log(logging.INFO if check.equal else logging.WARNING, check.verdict())
    return check.equal


def log_failures(result: AssignmentResult) -> None:
    """Log the failed images with their reasons: the first ones individually, then the number of the others."""
    failed = result.summary.failed
    for failure in failed[:SHOWN]:
        log.warning("image %d, %s: %s", failure.image, result.assignment.sent.names[failure.image], failure.reason)
    if len(failed) > SHOWN:
        log.warning("and %d more images failed", len(failed) - SHOWN)


# --- tables -------------------------------------------------------------------------------------------------------


def print_result(result: AssignmentResult) -> None:
    """Print the check, the answers, and the times of devices and links."""
    classes = result.evaluation.classes
    table(result.assignment.plan.title(), ["", ""], _totals(result.summary, result.evaluation))
    if classes and len(classes) <= FEW:
        table("answers", ["image", "class"], [[name, str(label)] for name, label in classes])
    devices = []
    for device in result.summary.devices:
        times = [device.compute_ms, device.p95_ms, device.sealing_ms, device.opening_ms]
        steps = ", ".join(f"{step.ms:g}" for step in device.steps)
        devices.append([device.device, device.images, *times, steps])
    of, steals = ("task", True) if result.summary.workers else ("image", False)
    table(
        f"devices: ms per {of}; median and 95th percentile of the compute time of the last {of}s",
        ["device", f"last {of}s", "compute", "95 %", "sealing", "opening", "steps"],
        devices,
    )
    links = []
    for link in result.summary.links:
        protection = protection_of(result.protection(link.link), tls=result.tls)
        times = [link.ms, link.p95_ms, link.uncertain_ms]
        links.append([" > ".join(link.link), protection, link.messages, link.bytes, *times])
    table(
        f"links: frames per {of}, bytes of all images; ms from sending to receiving, with uncertainty (+- ms)",
        ["link", "protection", "frames", "bytes", "ms", "95 %", "+- ms"],
        links,
    )

    if steals:
        _print_workers(result.summary.workers)
    if len(plans := result.summary.plans) > 1:
        rows = [[plan.title, ", ".join(plan.devices), plan.images] for plan in plans]
        table("plans: the images that each answered", ["plan", "devices", "images"], rows)


def _print_workers(workers: Sequence[WorkerTasks]) -> None:
    """Print which parts each worker computed, and how much of the images it received for that."""
    rows = []
    for one in workers:
        parts = ", ".join(f"{device} x{times}" for device, times in sorted(one.devices.items()))
        pixels = [f"{one.mean_pixels:.1%}", f"{one.most_pixels:.1%}"]
        rows.append([one.worker, one.tasks, one.images, *pixels, parts])
    table(
        "workers: tasks received, and the pixels of an image in all of them together (mean and most)",
        ["worker", "tasks", "images", "pixels", "most", "parts of the plan"],
        rows,
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
    """Return the protection of a link: the plan's cipher, TLS, or both."""
    if not tls:
        return protection
    return "TLS" if protection in ("none", "mtls") else f"{protection} in TLS"
