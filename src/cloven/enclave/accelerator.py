"""The other half as a process: ``python -m cloven.enclave.accelerator ...``, a GPU's where there is one.

It is told the rear part of the model, then how many images were handed over, and answers with what it makes of
them: the result, or what goes back to the trusted half.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cloven.enclave.handover import Giver, Taker, Way, take_ends
from cloven.enclave.pipe import heard, served, tell
from cloven.errors import ClovenError


@dataclass(frozen=True)
class AcceleratorOptions:
    """The command line: ``out`` and ``back`` are descriptors that it inherits, -1 for a pipe."""

    device: str
    way: Way
    out: int
    back: int
    threads: int


def arguments(words: Sequence[str]) -> AcceleratorOptions:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", required=True)
    take_ends(parser)
    return AcceleratorOptions(**vars(parser.parse_args(words)))


def main(words: Sequence[str]) -> int:
    """Work until nobody writes any more."""
    given = arguments(words)
    return served(lambda hears, tells: _work(given, hears, tells))


def _work(given: AcceleratorOptions, hears: int, tells: int) -> None:
    import torch

    from cloven.enclave.split import read, ready, shapes

    torch.set_num_threads(given.threads)
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        raise ClovenError("the accelerator is cuda; PyTorch finds no CUDA here: use cpu")
    about, content = heard(hears)
    clock = [time.perf_counter()]
    rear = read(content)
    compute = ready(rear, given.device)
    clock.append(time.perf_counter())
    tell(tells, {"ready": True, "clock": clock, "device": _name(given.device)})
    taker, giver = Taker(given.way, given.out), Giver(given.way, given.back)
    ends_here = about.get("result") == "clear"
    while True:
        about, told = heard(hears)
        images = int(about["images"])
        clock = [time.perf_counter()]
        taken = [torch.from_numpy(z).to(given.device) for z in taker.take(shapes(rear.takes), images, told)]
        clock.append(time.perf_counter())
        made = [z.float().cpu().numpy() for z in compute(taken)]
        clock.append(time.perf_counter())
        result = b"".join(z.tobytes() for z in made) if ends_here else giver.give(made)
        tell(tells, {"images": images, "clock": clock, "shapes": [list(z.shape) for z in made]}, result)


def _name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
