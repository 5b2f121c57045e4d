"""What is sent through workers, and what came of it: for ``run --cluster`` and ``lab``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloven.cli.models import plan_of, planned, ready_for

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cloven.graph.graph import Graph
    from cloven.partition.plan import Plan
    from cloven.partition.program import Program
    from cloven.runtime.check import Comparison
    from cloven.zoo.images import Images

log = logging.getLogger("cloven")


TOLD = 5
"""How many failed images are told one by one."""


@dataclass(frozen=True, eq=False)
class ToSend:
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


def to_send(
    plan_file: Path, data: str | None, picture: Path | None, verify: bool, seed: int, limit: int | None,
    auxiliary: str | None, queries: int,
) -> ToSend:  # fmt: skip
    """What to send to workers, and how to check it; without data or a check, no model is needed."""
    whole = None
    if data is None and picture is not None and not verify:
        from cloven.zoo.folders import read_pictures

        made = plan_of(plan_file)
        images = read_pictures(picture, made.model.input)
    else:
        from cloven.partition import plan as plans

        made, graph = planned(plan_file)
        ready, graph = ready_for(made, graph, data, picture, seed)
        images, whole = ready.images, (plans.compile(graph, made), graph) if verify else None
    if limit is not None:
        images = images.take(range(min(limit, len(images))))
    return ToSend(made, images, _own(auxiliary, queries, made), whole)


def _own(auxiliary: str | None, queries: int, made: Plan) -> Images | None:
    """The attacker's own images."""
    if auxiliary is None:
        return None
    from cloven.zoo.datasets import load

    return load(auxiliary, shape=made.model.input, limit=queries)


def name_links(plan: Plan, shown: dict[str, Any], *, tls: bool) -> None:
    """Say how each link is protected."""
    shown["links"] = [row | {"protection": plan.protection.of(*row["link"]), "tls": tls} for row in shown["links"]]


def told(
    given: ToSend,
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
    return equal_to_whole(result)


def _compared(
    given: ToSend,
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


def equal_to_whole(result: Comparison) -> bool:
    """Whether it is the whole model's result; says so, or why not."""
    if result.equal:
        log.info(result.verdict())
        return True
    table = result.bytes_an_image * result.images
    if result.bytes_sent != table:
        log.warning("the links carried %d bytes; the transfer table says %d", result.bytes_sent, table)
    log.warning(result.verdict())
    return False


def warn(failed: list[dict[str, Any]]) -> None:
    """Say which images failed and why, the first one by one."""
    for failure in failed[:TOLD]:
        log.warning("image %d, %s: %s", failure["image"], failure["name"], failure["reason"])
    if len(failed) > TOLD:
        log.warning("and %d more images failed", len(failed) - TOLD)
