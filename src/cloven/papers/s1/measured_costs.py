"""The numbers behind S1's Fig. 3 from this package: its scenario compiled, and this machine measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import urandom
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

from cloven.errors import ClovenError
from cloven.papers.s1.figure3 import (
    READINGS,
    CipherCost,
    DeviceLoad,
    EdgeProcessor,
    MeasuredFacts,
    MeasuredMessage,
    MeasuredPart,
    Preset,
    Reading,
    Scenario,
)
from cloven.runtime.link.ciphers import CIPHERS, warm
from cloven.runtime.link.errors import WrongTag

if TYPE_CHECKING:
    from cloven.partition.program import Program

DEVICES = ("ED1", "ED2", "ED3")
CIPHER = "ascon-128"
HOST = "this host"
PHOTO = (3, 224, 224)


@dataclass(frozen=True, eq=False)
class Compiled:
    """A scenario and the program that its numbers were counted on."""

    scenario: Scenario
    program: Program


def compiled(
    readings: Sequence[str] = tuple(READINGS),
    *,
    model: str = "mobilenet_v1",
    shape: tuple[int, int, int] = PHOTO,
) -> tuple[Compiled, ...]:
    """Return S1's Fig. 2 for each reading of "Layer 5" and "Layer 20": MobileNet v1, random weights, three devices.

    Args:
        readings: keys of `READINGS`.
        model: MobileNet v1 of any width.
        shape: (channels, height, width) of an image; S1's are 224 x 224.

    Raises:
        ClovenError: for unknown readings, all of them, or a model that has no such layers.
    """
    import torch

    from cloven.papers.points import resolve
    from cloven.partition.compiler import divide
    from cloven.partition.vertical import Vertical
    from cloven.runtime.capture import capture
    from cloven.zoo.named import make

    known = ", ".join(READINGS)
    problems = [f"no reading is named {name!r}; there are {known}" for name in readings if name not in READINGS]
    if problems:
        raise ClovenError(problems)
    graph = capture(make(model, shape=shape, classes=1000), torch.zeros(1, *shape))
    made = []
    for reading in (name for name in READINGS if name in readings):
        cuts = tuple(resolve(model, name) for name in READINGS[reading])
        program = divide(graph, Vertical(cuts), DEVICES)
        made.append(Compiled(scenario(reading, model, cuts, program), program))
    return tuple(made)


def scenario(reading: Reading, model: str, cuts: tuple[str, ...], program: Program) -> Scenario:
    """Return what each device of a program computes, opens and seals for one image; a transfer is one message."""
    loads = tuple(
        DeviceLoad(
            device,
            program.macs(device),
            opens=tuple(t.bytes for t in program.transfers if t.target == device),
            seals=tuple(t.bytes for t in program.transfers if t.source == device),
        )
        for device in program.devices
    )
    return Scenario(reading, model, cuts, loads)


# --- this machine ---------------------------------------------------------------------------------------------


def measured(made: Compiled, *, runs: int = 5, power: float = 1.0) -> Preset:
    """Measure Fig. 3 on this machine: onnxruntime really runs each device's part, Ascon-128 each message.

    One thread; medians over the runs. The cipher's cost is half of what it takes to seal and open a message.
    Nobody asks the machine for its clock: cycles are nanoseconds.

    Args:
        made: of `compiled`.
        runs: of each, after one to warm up.
        power: W of this machine while it computes; nobody measures it here.

    Raises:
        ClovenError: for fewer than one run, an impossible power, without onnxruntime or numba, and where a
            changed message is not refused.
    """
    problems = [] if runs >= 1 else [f"runs is {runs}; expected 1 or more"]
    problems += EdgeProcessor(HOST, 1e9, power, 1.0).problems()
    if problems:
        raise ClovenError(problems)
    parts = _parts(made.program, runs)
    messages = tuple(_message(size, runs) for size in made.scenario.sizes)
    macs = sum(load.macs for load in made.scenario.loads)
    costs = tuple((m.bytes, 1e9 * (m.seal_s + m.open_s) / 2 / m.bytes) for m in messages)
    return Preset(
        "measured",
        "measured on this host",
        f"this machine: onnxruntime and {CIPHER} in numba, one thread, medians of {runs}",
        (EdgeProcessor(HOST, 1e9, power, macs / sum(parts.values()), "cycles are nanoseconds"),),
        {HOST: CipherCost(f"{CIPHER} in numba", costs, costs[-1][1])},
        parts=parts,
        assumed=(
            f"{power:g} W is not measured",
            "Sealing and opening a message are given half of what both take; facts have each",
        ),
        facts=MeasuredFacts(
            threads=1,
            runs=runs,
            cipher=CIPHER,
            parts=tuple(
                MeasuredPart(
                    device=load.device,
                    macs=load.macs,
                    seconds=parts[load.device],
                    macs_a_second=load.macs / parts[load.device],
                )
                for load in made.scenario.loads
            ),
            messages=messages,
        ),
    )


def _parts(program: Program, runs: int) -> dict[str, float]:
    """Return the median seconds of each device's part for one image, in onnxruntime on one thread."""
    import numpy as np

    from cloven.runtime.bundle.engine import interpret, outputs, session
    from cloven.runtime.bundle.format import RunSegment
    from cloven.runtime.bundle.writer import write

    spent: dict[str, list[float]] = {device: [] for device in program.devices}
    image = np.random.default_rng(0).random((1, *program.graph.input.shape), dtype=np.float32)
    with TemporaryDirectory() as folder:
        written = write(program, Path(folder) / "bundle", model="Fig. 3", plan="")
        sessions = {}
        for device, part in written.parts.items():
            for step in part.steps:
                if isinstance(step, RunSegment):
                    sessions[device, step.segment] = session(written.place(device) / step.segment)

        def execute(device: str, step: RunSegment, inputs: dict[str, Any]) -> dict[str, Any]:
            start = perf_counter()
            result = outputs(sessions[device, step.segment], [piece.name for piece in step.outputs], inputs)
            spent[device][-1] += perf_counter() - start
            return result

        for _ in range(runs + 1):
            for seconds in spent.values():
                seconds.append(0.0)
            interpret(written.parts, image, execute)
    return {device: median(seconds[1:]) for device, seconds in spent.items()}


def _message(size: int, runs: int) -> MeasuredMessage:
    """Return the times of sealing and opening a message of random bytes; a changed one must be refused."""
    cipher = CIPHERS[CIPHER]
    warm(cipher)
    key, text = urandom(cipher.key_bytes), urandom(size)
    sealed, opened = bytearray(size + cipher.tag_bytes), bytearray(size)
    seals, opens = [], []
    for number in range(runs + 1):
        nonce = number.to_bytes(cipher.nonce_bytes, "big")
        start = perf_counter()
        cipher.seal_into(key, nonce, b"", text, sealed)
        middle = perf_counter()
        cipher.open_into(key, nonce, b"", sealed, opened)
        seals.append(middle - start)
        opens.append(perf_counter() - middle)
    sealed[-1] ^= 1
    try:
        cipher.open_into(key, nonce, b"", sealed, bytearray(size))
    except WrongTag:
        refused = True
    else:
        refused = False
    if opened != text or not refused:
        raise ClovenError(f"{CIPHER} lost a message of {size} bytes, or took a changed one; nothing was measured")
    return MeasuredMessage(
        bytes=size,
        seal_s=median(seals[1:]),
        open_s=median(opens[1:]),
        sealed=len(seals),
        opened=len(opens),
        changed_refused=refused,
    )
