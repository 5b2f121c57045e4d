"""The numbers behind Fig. 3 from this package: the divided models, and measurements on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from cloven.errors import ClovenError
from cloven.papers.s1.figure3 import DEVICES, READINGS, Preset, Scenario, constant_power
from cloven.runtime.device_profile import RUNS
from cloven.runtime.device_profile import measured as profiled

HOST = "this host"
PHOTO = (3, 224, 224)


def scenarios(
    readings: Sequence[str] = tuple(READINGS),
    *,
    model: str = "mobilenet_v1",
    shape: tuple[int, int, int] = PHOTO,
) -> tuple[Scenario, ...]:
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
        made.append(Scenario(reading, model, cuts, divide(graph, Vertical(cuts), DEVICES)))
    return tuple(made)


def measured(scenario: Scenario, *, power: float = 1.0, runs: int = RUNS) -> Preset:
    """Measure this machine with the parts of a scenario, on one thread, as `cloven profile` does.

    Args:
        scenario: a result of `scenarios`.
        power: the assumed power of this machine in W while it computes.
        runs: the number of runs of each part.

    Raises:
        ClovenError: without onnxruntime or numba.
    """
    from cloven.runtime.bundle.writer import write

    with TemporaryDirectory() as folder:
        written = write(scenario.program, Path(folder) / "bundle", model="Fig. 3", plan="")
        parts = [(part, written.place(device)) for device, part in written.parts.items()]
        profile = profiled(parts, HOST, runs)
    return Preset(
        "measured",
        "measured on this host",
        "this machine, as measured by `cloven profile`: onnxruntime, and Ascon-128 in numba, one thread",
        {HOST: profile.model_copy(update={"power": constant_power(power)})},
        assumed=(
            f"The power of {power:g} W is assumed, not measured",
            "Encrypting and decrypting a message are each assumed to take half of the time of both",
        ),
    )
