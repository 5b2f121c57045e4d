"""Images that are sent through workers, and their answers: for ``cloven run --cluster`` and ``cloven lab``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloven.cli.models import PlanOptions, plan_of, planned, ready_for
from cloven.cli.printing import table

if TYPE_CHECKING:
    from cloven.graph.graph import Graph
    from cloven.partition.plan import Plan
    from cloven.partition.program import Program
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


def shown_run(given: Assignment, summary: SendSummary, found: Evaluation, *, tls: bool) -> dict[str, Any]:
    """Return what JSON says of a run."""
    plan = given.plan
    shown: dict[str, Any] = {"plan": plan.title(), **summary.model_dump()}
    shown["links"] = [row | {"protection": plan.protection.of(*row["link"]), "tls": tls} for row in shown["links"]]
    shown["failed"] = [row | {"name": given.sent.names[row["image"]]} for row in shown["failed"]]
    shown["classes"] = [{"image": name, "class": label} for name, label in found.classes]
    if found.accuracy is not None:
        shown["accuracy"] = found.accuracy
    if found.check is not None:
        shown["check"] = found.check.row()
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


def log_failures(failed: Sequence[Mapping[str, Any]]) -> None:
    """Log which images failed and why, the first of them one by one."""
    for failure in failed[:SHOWN]:
        log.warning("image %d, %s: %s", failure["image"], failure["name"], failure["reason"])
    if len(failed) > SHOWN:
        log.warning("and %d more images failed", len(failed) - SHOWN)


# --- tables -------------------------------------------------------------------------------------------------------


def print_run(found: Mapping[str, Any]) -> None:
    """Print the answers to a run on workers, and the times of devices and links."""
    table(found["plan"], ["", ""], _totals(found))
    if found["classes"] and len(found["classes"]) <= FEW:
        table("answers", ["image", "class"], [[row["image"], str(row["class"])] for row in found["classes"]])
    devices = []
    for device in found["devices"]:
        keys = ("device", "images", "compute_ms", "p95_ms", "sealing_ms", "opening_ms")
        devices.append([*(device[key] for key in keys), ", ".join(f"{s['ms']:g}" for s in device["steps"])])
    table(
        "devices: ms per image; median and 95th percentile of computing",
        ["device", "images", "compute", "95 %", "sealing", "opening", "steps"],
        devices,
    )
    links = []
    for row in found["links"]:
        times = [row["ms"], row["p95_ms"], row["uncertain_ms"]]
        protection = protection_of(row["protection"], tls=row["tls"])
        links.append([" > ".join(row["link"]), protection, row["messages"], row["bytes"], *times])
    table(
        "links: frames per image, bytes of all images; ms from sending a frame to receiving it, uncertain by +- ms",
        ["link", "protection", "frames", "bytes", "ms", "95 %", "+- ms"],
        links,
    )


def _totals(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    if check := found.get("check"):
        rows.append(("equal to the whole model", "yes" if check["equal"] else "NO"))
    rows.append(("images", f"{found['images']:,}"))
    rows.append(("answered", f"{found['answered']:,}"))
    rows.append(("failed", f"{len(found['failed']):,}"))
    if found["answered"]:
        late = found["latency"]
        rows.append(("images per second", str(found["images_a_second"])))
        rows.append(("latency, ms (median, 95th percentile)", f"{late['median_ms']}, {late['p95_ms']}"))
    if "accuracy" in found:
        rows.append(("accuracy", f"{found['accuracy']:.4f}"))
    if check:
        rows.append(("largest difference from the whole model", f"{check['max_difference']:.3g}"))
        rows.append(("allowed", f"{check['bound']:.3g}"))
    return rows


def protection_of(protection: str, *, tls: bool) -> str:
    """Return the protection of a link: the plan's, TLS around all, or both."""
    if not tls:
        return protection
    return "TLS" if protection in ("none", "mtls") else f"{protection} in TLS"
