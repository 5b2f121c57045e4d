"""The trusted half as a process: ``python -m cloven.enclave.trusted SEALED ...``, started by `cloven enclave run`.

It hears messages on standard input and answers on standard output. Nothing is decrypted before the owner has let
the data key go; what leaves it is the rear part of the model, once, then for each message of inputs the tensors
that the plan hands over, and results: sealed where the plan ends in here.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloven.enclave import sandbox
from cloven.enclave.handover import Giver, Taker, Way, take_ends
from cloven.enclave.pipe import heard, served, tell
from cloven.errors import ClovenError

if TYPE_CHECKING:
    from torch import Tensor

    from cloven.enclave.sealed_folder import Sealed
    from cloven.enclave.split import Split


@dataclass(frozen=True)
class TrustedOptions:
    """The command line: ``out`` and ``back`` are descriptors that it inherits, -1 for a pipe."""

    sealed: Path
    backend: str
    memory: int
    way: Way
    out: int
    back: int
    threads: int


def arguments(words: Sequence[str]) -> TrustedOptions:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sealed", type=Path)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--memory", type=int, required=True)
    take_ends(parser)
    return TrustedOptions(**vars(parser.parse_args(words)))


def main(words: Sequence[str]) -> int:
    """Wait for the key, split the model, and work until nobody writes any more."""
    given = arguments(words)
    return served(lambda hears, tells: _work(given, hears, tells))


def _work(given: TrustedOptions, hears: int, tells: int) -> None:
    from cloven.enclave.backends import named
    from cloven.enclave.sealed_folder import measured, opened
    from cloven.enclave.quote import SGX, SIMULATED, Measurement
    from cloven.enclave.release import hardware_measurement, waiting

    kind = named(given.backend).kind
    simulated = kind == SIMULATED
    # The first two hold for one thread, and for those that it starts.
    limits = [sandbox.leave_network(), sandbox.drop_capabilities()] if simulated else []
    _warmed(given.threads)
    limits += [sandbox.limit_memory(given.memory), sandbox.restrict_calls()] if simulated else []
    sealed = opened(given.sealed)
    measurement = hardware_measurement() if kind == SGX else Measurement(kind, measured(sealed))
    door = waiting(measurement, sealed.id)
    tell(tells, {"waiting": True, "limits": limits})
    key = _released(door, hears, tells)
    inside = _split(sealed, key)
    tell(tells, inside.about, inside.rear)
    half = TrustedHalf(given, inside, sealed, key, door.run)
    while True:
        about, content = heard(hears)
        answer, result = half.answer(about, content)
        tell(tells, answer, result)


def _warmed(threads: int) -> None:
    """Import and use what will be needed: some of it writes to temporary folders, which is refused later."""
    import torch

    from cloven.runtime.capture import capture

    torch.set_num_threads(threads)
    capture(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)).eval(), torch.zeros(1, 1, 2, 2))


def _released(door: Any, hears: int, tells: int) -> bytes:
    from cloven.enclave.endpoint import answer

    while True:
        _, message = heard(hears)
        said, key = answer(door, bytes(message))
        tell(tells, {"answer": True}, said)
        if key is not None:
            return key


# --- steps 2 and 3: decrypt, split ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SplitModel:
    """What is known once the model is split; ``about`` and ``rear`` leave."""

    about: dict[str, Any]
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
    about = {
        "split": True,
        "decrypted_seconds": clock[1] - clock[0],
        "split_seconds": clock[2] - clock[1],
        "takes": shapes(parts.rear.takes),
        "gives": shapes(parts.rear.gives),
        "values": [value for value, _ in parts.rear.takes],
        "result": "sealed" if rest is not None else "clear",
        "front_ops": len(parts.front.steps),
        "rear_ops": len(parts.rear.steps),
        "front_weight_bytes": parts.front.weight_bytes,
        "rear_weight_bytes": parts.rear.weight_bytes,
    }
    return SplitModel(about, rear, parts, plan.model.input, front, rest)


# --- steps 4 and 5: the front, and the hand-over ----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PendingInputs:
    """A message of inputs whose front has run: its position, its pictures' digests, and what stays inside."""

    position: int
    inputs: list[str]
    held: list[Tensor]


class TrustedHalf:
    """The trusted half at work."""

    def __init__(self, given: TrustedOptions, inside: SplitModel, sealed: Sealed, key: bytes, run: str) -> None:
        self.inside, self.sealed, self.key, self.run = inside, sealed, key, run
        self.giver, self.taker = Giver(given.way, given.out), Taker(given.way, given.back)
        self.seen: set[bytes] = set()
        self.position = 0
        self.pending: PendingInputs | None = None

    def answer(self, about: dict[str, Any], content: bytearray) -> tuple[dict[str, Any], bytes]:
        """Answer one message; what is wrong with an input is said, and the next one is waited for."""
        try:
            match about:
                case {"input": list(sizes)} if all(isinstance(size, int) and size >= 0 for size in sizes):
                    return self._front(sizes, content)
                case {"back": int(images)}:
                    return self._rest(images, content)
        except ClovenError as error:
            return {"refused": list(error.problems)}, b""
        return {"refused": [f"a message has {', '.join(about)}; expected input or back"]}, b""

    def _front(self, sizes: list[int], content: bytearray) -> tuple[dict[str, Any], bytes]:
        import torch

        from cloven.enclave.sealed_results import digest

        clock = [time.perf_counter()]
        pictures = self._opened(_cut(content, sizes))
        images = torch.stack([self._image(picture) for picture in pictures])
        clock.append(time.perf_counter())
        made = self.inside.front([images])
        clock.append(time.perf_counter())
        handed = [z.numpy() for z in made[: len(self.inside.split.rear.takes)]]
        self.pending = PendingInputs(self.position, [digest(picture) for picture in pictures], made[len(handed) :])
        self.position += 1
        told = self.giver.give(handed)
        return {"images": len(images), "bytes": sum(z.nbytes for z in handed), "clock": clock}, told

    def _rest(self, images: int, content: bytearray) -> tuple[dict[str, Any], bytes]:
        import torch

        from cloven.enclave.sealed_results import SealedResult, sealed_result
        from cloven.enclave.split import shapes

        if self.inside.rest is None:
            raise ClovenError(
                f"{images} images came back; expected none, as the plan ends outside the trusted half"
            )
        if self.pending is None or images != len(self.pending.inputs):
            expected = len(self.pending.inputs) if self.pending else 0
            raise ClovenError(f"{images} images came back; expected {expected}")
        of, self.pending = self.pending, None  # one result of each input: the host cannot choose among several
        back = self.taker.take(shapes(self.inside.split.rear.gives), images, content)
        clock = [time.perf_counter()]
        (logits,) = self.inside.rest([*of.held, *(torch.from_numpy(z) for z in back)])
        found = SealedResult(self.run, of.position, of.inputs, logits.tolist())
        result = sealed_result(found, self.sealed, self.key)
        clock.append(time.perf_counter())
        return {"result": "sealed", "clock": clock}, result

    def _opened(self, sealed: Sequence[bytes]) -> list[bytes]:
        """Return the pictures of sealed inputs that this run has not opened before."""
        from cloven.enclave.sealed_folder import INPUT
        from cloven.enclave.sealing import unsealed_bytes

        pictures = [unsealed_bytes(part, key=self.key, name=self.sealed.name(INPUT)) for part in sealed]
        # No two sealed inputs are equal (each has its own salt), and none can be changed and still open.
        fingerprints = {hashlib.sha256(part).digest() for part in sealed}
        if len(fingerprints) < len(sealed) or fingerprints & self.seen:
            raise ClovenError("a sealed input was given twice; a run opens each once: seal the picture again")
        self.seen |= fingerprints
        return pictures

    def _image(self, picture: bytes) -> Tensor:
        import torch

        from cloven.zoo.folders import decode_picture

        return torch.tensor(decode_picture(picture, self.inside.image)).float() / 255


def _cut(content: bytearray, sizes: Sequence[int]) -> list[bytes]:
    found, place = [], 0
    for size in sizes:
        found.append(bytes(content[place : place + size]))
        place += size
    if place != len(content) or not found:
        raise ClovenError(f"{len(content)} bytes of inputs came; expected {place}, of one picture or more")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
