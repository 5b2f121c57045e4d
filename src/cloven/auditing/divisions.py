"""The programs of an audit, as its summary describes them: transfers, shares that the paper counts, accuracy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from cloven.auditing.cases import Case, Target
from cloven.auditing.classifier import WholeModel
from cloven.auditing.material import Material
from cloven.auditing.summary import ComputedLayer, CountedShare, ProgramPart, ProgramSummary
from cloven.graph.box import extent, text
from cloven.partition import compiler
from cloven.partition.data import Data
from cloven.partition.description import described_links, described_transfers
from cloven.partition.plan_options import ENCLAVE
from cloven.partition.program import Compute, Program
from cloven.rows import TensorRows
from cloven.runtime.local import run
from cloven.runtime.torch_engine import evaluate
from cloven.threads import one_thread
from cloven.zoo.training import accuracy

POOLS = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")


def programs(material: Material, every: Sequence[Case], labels: Tensor | None) -> list[ProgramSummary]:
    """Return a description of each program: its transfers, the shares that the paper counts, and its accuracy.

    A program of tiles is followed by the same without halo, as in the paper.
    """
    model, victims = material.classifier, material.images["victims"]
    found: list[ProgramSummary] = []
    targets = [target for target in dict.fromkeys(case.target for case in every) if target.program is not None]
    if not targets or not isinstance(model, WholeModel):
        return found
    graph = model.graph
    with one_thread():
        logits = evaluate(graph, victims, [graph.output])[graph.output]
        for target in targets:
            assert target.program is not None
            counted = [c for c in every if c.target is target and c.observation.view == "paper"]
            shares = tuple(share for case in counted for share in _shares(case))
            found.append(_measured(target, target.title, target.program, shares, logits, victims, labels))
            if target.grid is not None and target.transform == "none":
                bare = compiler.divide(graph, Data(target.grid, halo="none"), len(target.program.devices))
                title = f"{target.title}, no halo"
                found.append(_measured(target, title, bare, (), logits, victims, labels))
    return found


def _measured(
    target: Target,
    title: str,
    program: Program,
    counted: tuple[CountedShare, ...],
    logits: Tensor,
    victims: TensorRows,
    labels: Tensor | None,
) -> ProgramSummary:
    made = run(program, victims)
    return ProgramSummary(
        strategy=target.strategy,
        title=title,
        devices=len(program.devices),
        exact=program.exact,
        transform=target.transform,
        accuracy=accuracy(made, labels) if labels is not None else None,
        agreement=float((made.argmax(1) == logits.argmax(1)).double().mean()),
        max_difference=float((made - logits).abs().max()),
        parts=described_parts(program),
        links=described_links(program),
        transfers=described_transfers(program),
        counted=counted,
    )


def described_parts(program: Program) -> tuple[ProgramPart, ...]:
    """Return the convolutions, linear layers and pools of each device.

    A layer is named by the outermost module that contains no other listed layer.
    """
    graph = program.graph
    steps = {
        device: [
            step
            for step in part
            if isinstance(step, Compute) and (step.macs or graph.by_name[step.value].kind in POOLS)
        ]
        for device, part in program.parts.items()
    }
    listed = dict.fromkeys(step.value for part in steps.values() for step in part)
    inside = Counter(path for value in listed for path in graph.by_name[value].modules)
    names = {
        value: next((path for path in graph.by_name[value].modules if inside[path] == 1), value) for value in listed
    }
    return tuple(
        ProgramPart(
            device=device,
            trusted=program.devices == ENCLAVE and device == ENCLAVE[0],
            layers=tuple(ComputedLayer(name=names[step.value], shape=extent(step.box)) for step in steps[device]),
        )
        for device in program.devices
    )


def _shares(case: Case) -> list[CountedShare]:
    seen = case.observation
    return [
        CountedShare(
            link=seen.link, value=share.value, share=text(share.share), bytes=share.bytes, crosses=seen.crosses
        )
        for share in seen.seen
    ]
