"""Run an enclave as an untrusted host: start both halves, forward their messages, and measure the times.

The six steps are those of Rajasekar et al. (2024, Sect. IV): the cloud receives the model and the input, the
trusted half decrypts them, splits the model, runs the front and hands over its output, and the accelerator runs the
rear.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from cloven.enclave.backends import Backend, environment
from cloven.enclave.handover import Way, opened
from cloven.enclave.pipe import (
    EndedError,
    FrontDone,
    HandedBack,
    HandedOver,
    KeyAwaited,
    Kind,
    OwnerMessage,
    RearDone,
    RearLoaded,
    RearModel,
    RestDone,
    SealedInputs,
    SplitReport,
    heard,
    tell,
)
from cloven.errors import ClovenError

STEPS = (
    "started",
    "decrypted inside",
    "split inside",
    "front run inside",
    "handed over",
    "rear run on the accelerator",
)
"""The six steps of Rajasekar et al. (2024, Sect. IV)."""


@dataclass(frozen=True)
class EnclaveOptions:
    """The options of an enclave.

    Attributes:
        sealed: the sealed folder.
        backend: the backend of the trusted half.
        device: the accelerator: cpu, cuda, cuda:1.
        way: the kind of hand-over.
        memory: the memory limit of the trusted half, in bytes.
        threads: the number of threads of each half.
        manifest: the Gramine manifest.
        timeout: the limit for one answer, in seconds.
    """

    sealed: Path
    backend: Backend
    device: str = "cpu"
    way: Way = "memory"
    memory: int = 4 * 2**30
    threads: int = 1
    manifest: Path = Path("cloven.manifest")
    timeout: float = 600.0

    def problems(self) -> list[str]:
        """Return a sentence for each option that cannot be used."""
        found = []
        if self.way not in self.backend.ways:
            ways = ", ".join(self.backend.ways)
            found.append(f"{self.backend.name} does not support a hand-over by {self.way}; choose from {ways}")
        if self.memory < 2**29:
            found.append(f"the memory of {self.memory} bytes is too small for PyTorch; expected 512M or more")
        if self.threads < 1:
            found.append(f"the number of threads is {self.threads}; expected 1 or more")
        return found


@dataclass(frozen=True)
class Inference:
    """The outcome of one message of inputs: logits ``(n, classes)``, or a result that only the owner can open."""

    images: int
    logits: NDArray[np.float32] | None = field(repr=False)
    sealed: bytes | None = field(repr=False)
    handed_bytes: int
    seconds: dict[str, float]


Half = subprocess.Popen[bytes] | None


@dataclass
class Enclave:
    """Both running halves; created by `running`.

    Attributes:
        asked: its options.
        descriptors: the descriptors of the hand-over in both directions; -1 for a pipe.
        limits: the limits of the trusted half's sandbox.
        clock: the seconds of the steps before the first inference.
        trusted: the process of the trusted half.
        accelerator: the process of the other half.
        device: the name of the accelerator.
        report: the trusted half's report of the split.
    """

    asked: EnclaveOptions
    descriptors: tuple[int, int]
    limits: tuple[str, ...] = ()
    clock: dict[str, float] = field(default_factory=dict)
    trusted: subprocess.Popen[bytes] | None = None
    accelerator: subprocess.Popen[bytes] | None = None
    device: str = ""
    _report: SplitReport | None = None

    @property
    def report(self) -> SplitReport:
        """Return the trusted half's report of the split."""
        assert self._report is not None, "split() comes first"
        return self._report

    def ask(self, message: bytes) -> bytes:
        """Return the trusted half's answer to a message from the owner; see `cloven.enclave.release`."""
        self._tell(self.trusted, OwnerMessage(), message)
        return bytes(self.heard(self.trusted, OwnerMessage)[1])

    def split(self) -> None:
        """Wait until the model is decrypted and split after the release, and send the accelerator its part."""
        released = time.perf_counter()
        self._report, rear = self.heard(self.trusted, SplitReport)
        self._tell(self.accelerator, RearModel(result=self.report.result), rear)
        loaded, _ = self.heard(self.accelerator, RearLoaded)
        self.device = loaded.device
        self.clock |= {
            "decrypted inside": self.report.decrypted_seconds,
            "split inside": self.report.split_seconds,
            "rear loaded": loaded.load_seconds,
            "from key to ready": time.perf_counter() - released,
        }

    def infer(self, inputs: Sequence[bytes]) -> Inference:
        """Run sealed pictures, all in one message.

        Raises:
            ClovenError: if an input is not sealed for this folder, or a half has ended.
        """
        start = time.perf_counter()
        self._tell(self.trusted, SealedInputs(sizes=tuple(map(len, inputs))), b"".join(inputs))
        front, told = self.heard(self.trusted, FrontDone)
        self._tell(self.accelerator, HandedOver(images=front.images), told)
        rear, back = self.heard(self.accelerator, RearDone)
        seconds = {
            "opened inside": front.opened - front.began,
            "front": front.computed - front.opened,
            "hand-over": rear.taken - front.computed,
            "rear": rear.computed - rear.taken,
        }
        logits, sealed = None, None
        if self.report.result == "clear":
            (shape,) = rear.shapes
            if prod(shape) * 4 != len(back):
                raise ClovenError(
                    f"the accelerator returned {len(back)} bytes; expected {prod(shape) * 4} for the shape {shape}"
                )
            logits = np.frombuffer(back, np.float32).reshape(shape)
        else:
            self._tell(self.trusted, HandedBack(images=front.images), back)
            rest, result = self.heard(self.trusted, RestDone)
            sealed = bytes(result)
            seconds["handed back"] = rest.taken - rear.computed
            seconds["rest"] = rest.sealed - rest.taken
        seconds["whole"] = time.perf_counter() - start
        return Inference(front.images, logits, sealed, front.bytes, seconds)

    def ends(self) -> list[str]:
        """Return the hand-over options of both processes."""
        out, back = self.descriptors
        words = ["--way", self.asked.way, "--out", str(out), "--back", str(back)]
        return [*words, "--threads", str(self.asked.threads)]

    def _tell(self, half: Half, message: BaseModel, content: bytes | bytearray = b"") -> None:
        assert half is not None, "running(), then split() come first"
        assert half.stdin is not None
        try:
            tell(half.stdin.fileno(), message, content)
        except EndedError:
            raise self._gone(half) from None

    def heard(self, half: Half, kind: type[Kind]) -> tuple[Kind, bytearray]:
        """Return the next message of a half; it raises the errors of `cloven.enclave.pipe.heard`."""
        assert half is not None, "running(), then split() come first"
        assert half.stdout is not None
        try:
            return heard(half.stdout.fileno(), kind, self.asked.timeout)
        except EndedError:
            raise self._gone(half) from None

    def _gone(self, half: subprocess.Popen[bytes]) -> ClovenError:
        name, cap = "accelerator", ""
        if half is self.trusted:
            name = "trusted half"
            cap = f"; if its memory of {self.asked.memory / 2**30:.1f} GiB was too small, raise --memory"
        with suppress(subprocess.TimeoutExpired):
            half.wait(5)
        return ClovenError(f"the {name} has ended (exit code {half.returncode}); see its output above{cap}")


@contextmanager
def running(asked: EnclaveOptions) -> Iterator[Enclave]:
    """Yield an enclave whose trusted half waits for its key; both halves end with the context.

    Raises:
        ClovenError: lists every reason why it cannot start.
    """
    if problems := asked.problems():
        raise ClovenError(problems)
    start = time.perf_counter()
    with ExitStack() as stack:
        ends = tuple(opened(asked.way, asked.sealed.parent) for _ in range(2))
        for end in ends:
            if end >= 0:
                stack.callback(os.close, end)
        descriptors = (ends[0], ends[1])
        enclave = Enclave(asked, descriptors)
        own = ["--backend", asked.backend.name, "--memory", str(asked.memory), *enclave.ends()]
        words = asked.backend.command(asked.sealed, own, asked.manifest)
        stack.callback(_end, enclave)
        enclave.trusted = _started(words, asked, descriptors)
        other = [sys.executable, "-m", "cloven.enclave.accelerator", "--device", asked.device]
        enclave.accelerator = _started([*other, *enclave.ends()], asked, descriptors)
        enclave.limits = enclave.heard(enclave.trusted, KeyAwaited)[0].limits
        enclave.clock["started"] = time.perf_counter() - start
        yield enclave


def _started(words: Sequence[str], asked: EnclaveOptions, descriptors: tuple[int, int]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 (the command is ours)
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(asked.threads),
        pass_fds=[end for end in descriptors if end >= 0],
        cwd=asked.manifest.parent if asked.backend.program else None,
    )


def _end(enclave: Enclave) -> None:
    """Kill both halves, which have no work left: with a large model, a regular exit would take seconds."""
    for half in (enclave.trusted, enclave.accelerator):
        if half is not None:
            half.kill()
            half.communicate()
