"""The trusted half as a process: ``python -m cloven.enclave.trusted SEALED ...``, started by `cloven enclave run`.

It receives messages on standard input and answers on standard output. Nothing is decrypted before the owner has
released the data key. It sends out the rear of the model once, then for each message of inputs the tensors that the
plan hands over and, if the plan ends inside, sealed results.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cloven.enclave import sandbox
from cloven.enclave.handover import Giver, Taker, Way, take_ends
from cloven.enclave.pipe import (
    Failure,
    FrontDone,
    HandedBack,
    KeyAwaited,
    OwnerMessage,
    RestDone,
    SealedInputs,
    SplitReport,
    TrustedTask,
    heard,
    served,
    tell,
)
from cloven.errors import ClovenError

if TYPE_CHECKING:
    from torch import Tensor

    from cloven.enclave.release import Waiting
    from cloven.enclave.sealed_folder import Sealed
    from cloven.enclave.split import Split


@dataclass(frozen=True)
class TrustedOptions:
    """The command-line options; ``out`` and ``back`` are inherited file descriptors, -1 for a pipe."""

    sealed: Path
    backend: str
    memory: int
    way: Way
    out: int
    back: int
    threads: int


def arguments(words: Sequence[str]) -> TrustedOptions:
    """Return the options on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sealed", type=Path)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--memory", type=int, required=True)
    take_ends(parser)
    return TrustedOptions(**vars(parser.parse_args(words)))


def main(words: Sequence[str]) -> int:
    """Wait for the key, split the model, and answer messages until the pipe is closed."""
    given = arguments(words)
    return served(lambda hears, tells: _work(given, hears, tells))


def _work(given: TrustedOptions, hears: int, tells: int) -> None:
    from cloven.enclave.backends import named
    from cloven.enclave.quote import SGX, SIMULATED, Measurement
    from cloven.enclave.release import hardware_measurement, waiting
    from cloven.enclave.sealed_folder import measured, opened

    kind = named(given.backend).kind
    simulated = kind == SIMULATED
    # The first two apply to the current thread and those that it starts.
    limits = [sandbox.leave_network(), sandbox.drop_capabilities()] if simulated else []
    _warmed(given.threads)
    limits += [sandbox.limit_memory(given.memory), sandbox.restrict_calls()] if simulated else []
    sealed = opened(given.sealed)
    measurement = hardware_measurement() if kind == SGX else Measurement(kind, measured(sealed))
    enclave = waiting(measurement, sealed.id)
    tell(tells, KeyAwaited(limits=tuple(limits)))
    key = _released(enclave, hears, tells)
    model = _split(sealed, key)
    tell(tells, model.report, model.rear)
    half = TrustedHalf(given, model, sealed, key, enclave.run)
    while True:
        task, content = heard(hears, TrustedTask)
        try:
            answer, result = half.answer(task.root, content)
        except ClovenError as error:  # refuse the input, and wait for the next one
            tell(tells, Failure(problems=error.problems))
        else:
            tell(tells, answer, result)


def _warmed(threads: int) -> None:
    """Import and use the required modules now: some of them write temporary files, which is refused later."""
    import torch

    from cloven.runtime.capture import capture

    torch.set_num_threads(threads)
    capture(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)).eval(), torch.zeros(1, 1, 2, 2))


def _released(enclave: Waiting, hears: int, tells: int) -> bytes:
    """Answer the owner's messages until the key is released; return the key."""
    from cloven.enclave.endpoint import answer

    while True:
        _, message = heard(hears, OwnerMessage)
        said, key = answer(enclave, bytes(message))
        tell(tells, OwnerMessage(), said)
        if key is not None:
            return key


# --- steps 2 and 3: decrypt, split ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SplitModel:
    """The split model; `report` and `rear` leave the enclave."""

    report: SplitReport
    rear: bytes
    split: Split
    image: tuple[int, int, int]
    front: Callable[[Sequence[Tensor]], list[Tensor]]
    rest: Callable[[Sequence[Tensor]], list[Tensor]] | None


def _split(sealed: Sealed, key: bytes) -> SplitModel:
    from cloven.enclave.sealed_folder import captured, unsealed
    from cloven.enclave.split import ready, shapes, split, written
    from cloven.partition import plan as plans

    clock = [time.perf_counter()]
    plan, weights = unsealed(sealed, key)
    clock.append(time.perf_counter())
    graph = captured(plan, weights)
    parts = split(plans.compile(graph, plan))
    rear = written(parts.rear)
    front = ready(parts.front)
    rest = ready(parts.rest) if parts.rest is not None else None
    clock.append(time.perf_counter())
    report = SplitReport(
        decrypted_seconds=clock[1] - clock[0],
        split_seconds=clock[2] - clock[1],
        takes=tuple(shapes(parts.rear.takes)),
        gives=tuple(shapes(parts.rear.gives)),
        values=tuple(value for value, _ in parts.rear.takes),
        result="sealed" if rest is not None else "clear",
        front_ops=len(parts.front.steps),
        rear_ops=len(parts.rear.steps),
        front_weight_bytes=parts.front.weight_bytes,
        rear_weight_bytes=parts.rear.weight_bytes,
    )
    return SplitModel(report, rear, parts, plan.named_model.input, front, rest)


# --- steps 4 and 5: the front, and the hand-over ----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PendingInputs:
    """A message of inputs after the front: its position, its pictures' digests, and the tensors kept inside."""

    position: int
    inputs: tuple[str, ...]
    held: list[Tensor]


class TrustedHalf:
    """The trusted half after the model is split."""

    def __init__(self, given: TrustedOptions, model: SplitModel, sealed: Sealed, key: bytes, run: str) -> None:
        self.model, self.sealed, self.key, self.run = model, sealed, key, run
        self.giver, self.taker = Giver(given.way, given.out), Taker(given.way, given.back)
        self.seen: set[bytes] = set()
        self.position = 0
        self.pending: PendingInputs | None = None

    def answer(self, task: SealedInputs | HandedBack, content: bytearray) -> tuple[FrontDone | RestDone, bytes]:
        """Return the answer to one message, and its content.

        Raises:
            ClovenError: if an input, or the tensors that came back, are not valid.
        """
        if isinstance(task, SealedInputs):
            return self._front(task.sizes, content)
        return self._rest(task.images, content)

    def _front(self, sizes: Sequence[int], content: bytearray) -> tuple[FrontDone, bytes]:
        import torch

        from cloven.enclave.sealed_results import digest

        began = time.perf_counter()
        pictures = self._opened(_cut(content, sizes))
        images = torch.stack([self._image(picture) for picture in pictures])
        opened = time.perf_counter()
        made = self.model.front([images])
        computed = time.perf_counter()
        handed = [z.numpy() for z in made[: len(self.model.split.rear.takes)]]
        inputs = tuple(digest(picture) for picture in pictures)
        self.pending = PendingInputs(self.position, inputs, made[len(handed) :])
        self.position += 1
        told = self.giver.give(handed)
        size = sum(z.nbytes for z in handed)
        return FrontDone(images=len(images), bytes=size, began=began, opened=opened, computed=computed), told

    def _rest(self, images: int, content: bytearray) -> tuple[RestDone, bytes]:
        import torch

        from cloven.enclave.sealed_results import SealedResult, sealed_result
        from cloven.enclave.split import shapes

        if self.model.rest is None:
            raise ClovenError(
                f"{images} images were handed back; expected none, as the plan ends outside the trusted half"
            )
        if self.pending is None or images != len(self.pending.inputs):
            expected = len(self.pending.inputs) if self.pending else 0
            raise ClovenError(f"{images} images were handed back; expected {expected}")
        of, self.pending = self.pending, None  # one result per input, so that the host cannot choose among several
        back = self.taker.take(shapes(self.model.split.rear.gives), images, content)
        taken = time.perf_counter()
        (logits,) = self.model.rest([*of.held, *(torch.from_numpy(z) for z in back)])
        scores = tuple(map(tuple, logits.tolist()))
        found = SealedResult(run=self.run, position=of.position, inputs=of.inputs, logits=scores)
        result = sealed_result(found, self.sealed, self.key)
        return RestDone(taken=taken, sealed=time.perf_counter()), result

    def _opened(self, sealed: Sequence[bytes]) -> list[bytes]:
        """Return the pictures of sealed inputs that this run has not opened before."""
        from cloven.enclave.sealed_folder import INPUT
        from cloven.enclave.sealing import unsealed_bytes

        pictures = [unsealed_bytes(part, key=self.key, name=self.sealed.name(INPUT)) for part in sealed]
        # Sealed inputs are unique, since each has its own salt, and a changed one cannot be opened.
        fingerprints = {hashlib.sha256(part).digest() for part in sealed}
        if len(fingerprints) < len(sealed) or fingerprints & self.seen:
            raise ClovenError("a sealed input was sent twice; a run opens each only once: seal the picture again")
        self.seen |= fingerprints
        return pictures

    def _image(self, picture: bytes) -> Tensor:
        import torch

        from cloven.zoo.folders import decode_picture

        return torch.tensor(decode_picture(picture, self.model.image)).float() / 255


def _cut(content: bytearray, sizes: Sequence[int]) -> list[bytes]:
    found, place = [], 0
    for size in sizes:
        found.append(bytes(content[place : place + size]))
        place += size
    if place != len(content):
        raise ClovenError(f"the inputs have {len(content)} bytes; expected {place}")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
