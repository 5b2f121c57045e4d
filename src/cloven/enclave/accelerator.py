"""The accelerator as a process: ``python -m cloven.enclave.accelerator ...``, on a GPU or the CPU.

It receives the rear of the model, then one message per batch with the number of images that were handed over. It
answers with the rear's output: the result, or the tensors that return to the trusted half.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cloven.enclave.handover import Giver, Taker, Way, take_ends
from cloven.enclave.pipe import HandedOver, RearDone, RearLoaded, RearModel, heard, served, tell
from cloven.errors import ClovenError


@dataclass(frozen=True)
class AcceleratorOptions:
    """The command-line options; ``out`` and ``back`` are inherited file descriptors, -1 for a pipe."""

    device: str
    way: Way
    out: int
    back: int
    threads: int


def arguments(words: Sequence[str]) -> AcceleratorOptions:
    """Return the options on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", required=True)
    take_ends(parser)
    return AcceleratorOptions(**vars(parser.parse_args(words)))


def main(words: Sequence[str]) -> int:
    """Answer messages until the pipe is closed."""
    given = arguments(words)
    return served(lambda hears, tells: _work(given, hears, tells))


def _work(given: AcceleratorOptions, hears: int, tells: int) -> None:
    import torch

    from cloven.enclave.split import read, ready, shapes

    torch.set_num_threads(given.threads)
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        raise ClovenError("the accelerator is cuda, but PyTorch finds no CUDA device; use cpu")
    model, content = heard(hears, RearModel)
    start = time.perf_counter()
    rear = read(content)
    compute = ready(rear, given.device)
    device = torch.cuda.get_device_name(given.device) if given.device.startswith("cuda") else "CPU"
    tell(tells, RearLoaded(load_seconds=time.perf_counter() - start, device=device))
    taker, giver = Taker(given.way, given.out), Giver(given.way, given.back)
    while True:
        message, told = heard(hears, HandedOver)
        tensors = taker.take(shapes(rear.takes), message.images, told)
        inputs = [torch.from_numpy(z).to(given.device) for z in tensors]
        taken = time.perf_counter()
        made = [z.float().cpu().numpy() for z in compute(inputs)]
        computed = time.perf_counter()
        result = b"".join(z.tobytes() for z in made) if model.result == "clear" else giver.give(made)
        done = RearDone(
            images=message.images, taken=taken, computed=computed, shapes=tuple(tuple(z.shape) for z in made)
        )
        tell(tells, done, result)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
