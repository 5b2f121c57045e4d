"""The numbers behind Fig. 3 from this package: the scenario, compiled, and measurements on this machine."""

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
    """A scenario and the program from which it was counted."""

    scenario: Scenario
    program: Program


def compiled(
    readings: Sequence[str] = tuple(READINGS),
    *,
    model: str = "mobilenet_v1",
    shape: tuple[int, int, int] = PHOTO,
) -> tuple[Compiled, ...]:
    """Compile the paper's Fig. 2, MobileNet v1 over three devices, for each reading of "Layer 5" and "Layer 20".

    The weights are random.

    Args:
        readings: keys of `READINGS`.
        model: MobileNet v1 of any width.
        shape: (channels, height, width) of an image; the paper's are 224 x 224.

    Raises:
        ClovenError: for unknown readings (it lists all of them), or a model without these layers.
    """
    import torch

    from cloven.papers.points import resolve
    from cloven.partition.compiler import divide
    from cloven.partition.vertical import Vertical
    from cloven.runtime.capture import capture
    from cloven.zoo.named import make

    known = ", ".join(READINGS)
    problems = [f"unknown reading {name!r}; choose from {known}" for name in readings if name not in READINGS]
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
    """Return the work of each device of a program for one image; each transfer is one message."""
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
    """Measure Fig. 3 on this machine: run each part in onnxruntime, and encrypt each message with Ascon-128.

    It uses one thread and takes medians over the runs. The cipher's cost is half of the time to encrypt and decrypt
    a message. The machine's clock is not read; one cycle stands for one nanosecond.

    Args:
        made: a result of `compiled`.
        runs: measurements of each part and message, after one warm-up run.
        power: the assumed power of this machine in W while it computes.

    Raises:
        ClovenError: for fewer than one run or an impossible power; without onnxruntime or numba; or if a changed
            message is accepted.
    """
    problems = [] if runs >= 1 else [f"runs must be 1 or more, got {runs}"]
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
        f"this machine: onnxruntime and {CIPHER} in numba, one thread, medians of {runs} runs",
        (EdgeProcessor(HOST, 1e9, power, macs / sum(parts.values()), "one cycle stands for one nanosecond"),),
        {HOST: CipherCost(f"{CIPHER} in numba", costs, costs[-1][1])},
        parts=parts,
        assumed=(
            f"The power of {power:g} W is assumed, not measured",
            "Encrypting and decrypting a message are each assumed to take half of the time of both; facts has each",
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
    """Measure the encryption and decryption of a random message, and check that a changed message is refused."""
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
        raise ClovenError(
            f"{CIPHER} did not decrypt a message of {size} bytes, or accepted a changed one; nothing was measured"
        )
    return MeasuredMessage(
        bytes=size,
        seal_s=median(seals[1:]),
        open_s=median(opens[1:]),
        sealed=len(seals),
        opened=len(opens),
        changed_refused=refused,
    )
