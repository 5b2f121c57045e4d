"""The usage of each device of a program: its MACs, its memory, and the part of the image that it receives."""

from __future__ import annotations

from dataclasses import dataclass

from cloven.graph.box import Box, count, without
from cloven.graph.graph import SIZES
from cloven.graph.ops import macs
from cloven.partition.program import Compute, Program, Receive, Send, Transfer, image_share


@dataclass(frozen=True)
class Usage:
    """The usage of one device, for one image.

    ``recomputed_macs`` is the part of ``macs`` that a lower-numbered device computes too (the halo of tiles).
    ``weight_bytes`` is the size of its weights, ``memory_bytes`` the peak size of the values that it holds.
    ``raw_image`` is the fraction of the image's pixels that it holds or receives, whether normalised or not.
    """

    device: str
    macs: int
    recomputed_macs: int
    weight_bytes: int
    memory_bytes: int
    raw_image: float


def usage(program: Program) -> list[Usage]:
    """Return the usage of each device of a program."""
    again, memory = _recomputed(program), _memory(program)
    return [
        Usage(
            device=device,
            macs=program.macs(device),
            recomputed_macs=again[device],
            weight_bytes=sum(s.local.param_bytes for s in program.parts[device] if isinstance(s, Compute)),
            memory_bytes=memory[device],
            raw_image=_raw_image(program, device),
        )
        for device in program.devices
    ]


def last_reads(program: Program) -> list[list[str]]:
    """Return for each step of a program the values that its device reads last there and can drop afterwards."""
    final: dict[tuple[str, str], int] = {}
    for i, (device, step) in enumerate(program.steps):
        match step:
            case Compute():
                final |= {(device, value): i for value, _ in step.reads}
            case Send(transfer=transfer):
                final[device, transfer.value] = i
    final.pop((program.sink, program.graph.output), None)
    dropped: list[list[str]] = [[] for _ in program.steps]
    for (_, value), i in final.items():
        dropped[i].append(value)
    return dropped


def _recomputed(program: Program) -> dict[str, int]:
    """Return the MACs of each device on boxes that a lower-numbered device computes too."""
    computed: dict[str, list[Box]] = {}
    found = dict.fromkeys(program.devices, 0)
    for device in program.devices:
        mine: dict[str, list[Box]] = {}
        for step in program.parts[device]:
            if isinstance(step, Compute) and step.macs:
                op = program.graph.by_name[step.value]
                shapes = program.graph.input_shapes(op)
                fresh = without([step.box], computed.get(step.value, []))
                found[device] += max(step.macs - sum(macs(op, shapes, box) for box in fresh), 0)
                mine.setdefault(step.value, []).append(step.box)
        for value, boxes in mine.items():
            computed.setdefault(value, []).extend(boxes)
    return found


def _memory(program: Program) -> dict[str, int]:
    """Return the peak bytes of values that each device holds."""
    image, sizes = program.graph.input, {op.name: SIZES[op.dtype] for op in program.graph.ops}
    held: dict[str, dict[str, int]] = {device: {} for device in program.devices}
    held[program.source][image.name] = image.bytes
    total = {device: sum(values.values()) for device, values in held.items()}
    peak = dict(total)
    for (device, step), dropped in zip(program.steps, last_reads(program), strict=True):
        mine = held[device]
        match step:
            case Compute(value=value, box=box) | Receive(transfer=Transfer(value=value, share=box)):
                more = sizes[value] * count(box)
                mine[value] = mine.get(value, 0) + more
                total[device] += more
        peak[device] = max(peak[device], total[device])
        for value in dropped:
            total[device] -= mine.pop(value, 0)
    return peak


def _raw_image(program: Program, device: str) -> float:
    sent = ((t.value, t.share) for t in program.transfers if t.target == device)
    return 1.0 if device == program.source else image_share(program.graph, sent)
