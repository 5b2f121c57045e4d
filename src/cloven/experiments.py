"""The commands that send images through workers: ``run --cluster`` and ``lab``. Parsing and printing only."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cloven import console
from cloven.errors import ClovenError, tried
from cloven.files import read_tensors
from cloven.machines import plan_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cloven.graph.graph import Graph
    from cloven.partition.plan import Plan
    from cloven.partition.program import Link, Program
    from cloven.runtime.check import Comparison
    from cloven.runtime.cluster.coordinator import Manner
    from cloven.zoo.images import Images

log = logging.getLogger("cloven")

MISSED = 1

TOLD = 5
"""How many failed images are told one by one."""


@dataclass(frozen=True, eq=False)
class Given:
    """What to send through a plan.

    Attributes:
        plan: the workers'.
        images: to be classified.
        own: the attacker's own images, which are sent first.
        whole: where a check is wanted, the plan's program and the whole model.
    """

    plan: Plan
    images: Images
    own: Images | None = None
    whole: tuple[Program, Graph] | None = None

    @property
    def queries(self) -> int:
        """How many of the images are the attacker's."""
        return 0 if self.own is None else len(self.own)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """All images in the order in which they are sent, ``(n, C, H, W)``."""
        import numpy as np

        return self.images.pixels if self.own is None else np.concatenate([self.own.pixels, self.images.pixels])

    def name(self, place: int) -> str:
        """The name of the image that is sent at a place."""
        if self.own is not None and place < len(self.own):
            return self.own.sources[place]
        return self.images.sources[place - self.queries]


# --- run --cluster --------------------------------------------------------------------------------------------


def check(plan_file: Path, cluster: Path, sent: Path | None) -> Plan:
    """The plan of a run; what is wrong with its files is told before a model is made, or even trained.

    Raises:
        ClovenError: with all of it.
    """
    from cloven.runtime.cluster.file import read_cluster
    from cloven.runtime.cluster.sending import identity_of

    problems: list[str] = []
    plan = tried(lambda: plan_of(plan_file), problems)
    found = None if plan is None else tried(lambda: read_cluster(cluster, plan.devices), problems)
    if found is not None:
        tried(lambda: identity_of(found.keys), problems)
    if sent is not None and sent.exists() and not sent.is_dir():
        problems.append(f"--sent {sent} is no folder; name a new one, or one that is there")
    if problems or plan is None:
        raise ClovenError(problems)
    return plan


def run(given: Given, cluster: Path, manner: Manner, sent: Path | None, *, as_json: bool) -> None:
    """Send images through workers and print what came of them; exit 1 if not all is well."""
    from cloven.runtime.cluster.coordinator import Answer
    from cloven.runtime.cluster.file import read_cluster
    from cloven.runtime.cluster.sending import send, write_sent

    file, pixels = read_cluster(cluster, given.plan.devices), given.pixels
    with console.progress() as progress:
        outcome = send(given.plan, cluster, pixels, manner, progress)
    # What was sent again was counted again, and what a lost worker had counted is lost.
    numbers = [answer.number for answer in outcome.answers if isinstance(answer, Answer)]
    silent = [name for name in given.plan.devices if name not in outcome.reports]
    counted = outcome.sent() if numbers == list(range(len(pixels))) and not silent else None
    for name in silent:
        log.warning("%s did not report its times and bytes", name)
    shown = {"plan": given.plan.title(), **outcome.row()}
    outputs = outcome.outputs if outcome.answered else None
    _name_links(given.plan, shown, tls=file.keys is not None and not file.insecure)
    equal = _told(given, shown, outputs, counted)
    if as_json:
        console.print_json(shown)
    else:
        console.cluster_run(shown)
    if sent is not None and outcome.answered:
        log.info("what was sent and answered: %s", write_sent(sent, outcome, pixels, given.queries))
    _warn(shown["failed"])
    if shown["failed"] or not equal:
        raise typer.Exit(MISSED)


# --- lab ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wires:
    """What the links of a laboratory are like, in bits per second and seconds, and the one to listen on."""

    bandwidth: int | None
    delay: float
    tap: Link | None


def wires(plan_file: Path, bandwidth: str, delay: str, tap: str, out: Path) -> Wires:
    """The links as a user describes them; what is wrong, here or with the machine, before a model is made.

    Raises:
        ClovenError: with all of it.
    """
    from cloven.runtime.lab import laboratory, units

    problems: list[str] = []
    plan = tried(lambda: plan_of(plan_file), problems)
    rate = tried(lambda: units.bandwidth(bandwidth), problems) if bandwidth else None
    late = tried(lambda: units.delay(delay), problems)
    link = tried(lambda: _link(tap, plan), problems) if tap and plan is not None else None
    if plan is not None:
        problems += laboratory.problems(plan, out, rate=bool(bandwidth), delay=bool(late), tap=bool(tap))
    if problems:
        raise ClovenError(problems)
    return Wires(rate, late or 0.0, link)


def _link(text: str, plan: Plan) -> Link:
    from cloven.partition.protection import pair

    try:
        return pair(text, plan.devices)
    except ValueError as error:
        raise ClovenError(f"--tap: {error}") from error


def lab(given: Given, links: Wires, manner: Manner, out: Path, *, as_json: bool) -> None:
    """Do it all on one machine, and print what was answered and what the tap found; exit 1 if not all is well."""
    from cloven.runtime.lab import laboratory

    assert given.whole is not None
    program, _ = given.whole
    experiment = laboratory.Experiment(
        given.plan, program, given.pixels, given.queries, out, links.bandwidth, links.delay, links.tap,
        manner.window, manner.deadline,
    )  # fmt: skip
    shown: dict[str, Any] = {"plan": given.plan.title(), **laboratory.run(experiment)}
    sent = {(source, target): count for source, target, count in shown.pop("sent")}
    answers = out / "pairs" / "images.safetensors"
    outputs = read_tensors(answers, "numpy")[1]["logits"] if shown["answered"] else None
    _name_links(given.plan, shown, tls=laboratory.has_tls(given.plan))
    equal = _told(given, shown, outputs, None if shown["failed"] else sent) or not program.exact
    if as_json:
        console.print_json(shown)
    else:
        console.cluster_run(shown)
        console.laboratory(shown)
    doubts = shown["tap"]["unexpected"] if links.tap is not None else []
    for doubt in doubts:
        log.warning("%s", doubt)
    _warn(shown["failed"])
    if shown["failed"] or not equal or doubts:
        raise typer.Exit(MISSED)


# --- what came of it ------------------------------------------------------------------------------------------


def _name_links(plan: Plan, shown: dict[str, Any], *, tls: bool) -> None:
    """Say how each link is protected."""
    shown["links"] = [row | {"protection": plan.protection.of(*row["link"]), "tls": tls} for row in shown["links"]]


def _told(
    given: Given,
    shown: dict[str, Any],
    outputs: NDArray[np.float32] | None,
    sent: Mapping[tuple[str, str], int] | None,
) -> bool:
    """Add names, classes, the accuracy and the check to what is shown; whether nothing speaks against the answers.

    Args:
        given: what was sent.
        shown: ``images``, how many, and ``failed``, those that were not answered.
        outputs: of the others, in order; None where there are none.
        sent: the bytes that each link carried; None where they say nothing.
    """
    for failure in shown["failed"]:
        failure["name"] = given.name(failure["image"])
    failed = {failure["image"] for failure in shown["failed"]}
    answered = [place for place in range(shown["images"]) if place not in failed]
    shown["classes"] = []
    if outputs is None:
        return True
    found = dict(zip(answered, outputs.argmax(1).tolist(), strict=True))
    mine = {place - given.queries: label for place, label in found.items() if place >= given.queries}
    shown["classes"] = [{"image": given.images.sources[i], "class": label} for i, label in mine.items()]
    if given.images.labels is not None and mine:
        right = sum(int(given.images.labels[i]) == label for i, label in mine.items())
        shown["accuracy"] = right / len(mine)
    if given.whole is None:
        return True
    result = _compared(given, given.whole, answered, outputs, sent)
    shown["check"] = result.row()
    return _equal(result)


def _compared(
    given: Given,
    whole: tuple[Program, Graph],
    answered: list[int],
    outputs: NDArray[np.float32],
    sent: Mapping[tuple[str, str], int] | None,
) -> Comparison:
    import torch

    from cloven.runtime.check import TOLERANCE_ONNX, judge
    from cloven.runtime.cluster.sending import unit

    program, graph = whole
    between = [count for link, count in (sent or {}).items() if set(link) <= set(given.plan.devices)]
    counted = sum(between) if sent is not None else len(answered) * sum(t.bytes for t in program.transfers)
    images = torch.from_numpy(unit(given.pixels[answered]))
    return judge(program, graph, images, torch.from_numpy(outputs), sent=counted, tolerance=TOLERANCE_ONNX)


def _equal(result: Comparison) -> bool:
    """Whether it is the whole model's result; says so, or why not."""
    if result.equal:
        log.info(result.verdict())
        return True
    table = result.bytes_an_image * result.images
    if result.bytes_sent != table:
        log.warning("the links carried %d bytes; the transfer table says %d", result.bytes_sent, table)
    log.warning(result.verdict())
    return False


def _warn(failed: list[dict[str, Any]]) -> None:
    """Say which images failed and why, the first one by one."""
    for failure in failed[:TOLD]:
        log.warning("image %d, %s: %s", failure["image"], failure["name"], failure["reason"])
    if len(failed) > TOLD:
        log.warning("and %d more images failed", len(failed) - TOLD)
