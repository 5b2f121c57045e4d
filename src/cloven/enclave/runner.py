"""Who runs an enclave and is not trusted: starts both halves, forwards, and writes down when what happened.

The six steps are S2's (Sect. IV): the model and the input are with the cloud, are decrypted in the trusted half,
the model is split there, the front is run, its output leaves, and the rear is run on the accelerator.
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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloven.enclave.backends import Backend, environment
from cloven.enclave.handover import Way, opened
from cloven.enclave.pipe import EndedError, heard, tell
from cloven.errors import ClovenError

STEPS = (
    "started",
    "decrypted inside",
    "split inside",
    "front run inside",
    "handed over",
    "rear run on the accelerator",
)
"""S2's six steps (Sect. IV)."""


@dataclass(frozen=True)
class EnclaveOptions:
    """What is to be run, and how.

    Attributes:
        sealed: the sealed folder.
        backend: how the trusted half is started.
        device: of the accelerator: cpu, cuda, cuda:1.
        way: of the hand-over.
        memory: bytes that the trusted half may have.
        threads: of each half.
        manifest: of Gramine.
        timeout: seconds that one answer may take.
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
        """What cannot be meant."""
        found = []
        if self.way not in self.backend.ways:
            ways = ", ".join(self.backend.ways)
            found.append(f"{self.backend.name} cannot hand over by {self.way}; choose from {ways}")
        if self.memory < 2**29:
            found.append(f"{self.memory} bytes of memory are too few for PyTorch; expected 512M or more")
        if self.threads < 1:
            found.append(f"{self.threads} threads; expected 1 or more")
        return found


@dataclass(frozen=True)
class Inference:
    """What came of one message of inputs: logits ``(n, classes)``, or bytes that only the owner can open."""

    images: int
    logits: NDArray[np.float32] | None = field(repr=False)
    sealed: bytes | None = field(repr=False)
    handed_bytes: int
    seconds: dict[str, float]


Half = subprocess.Popen[bytes] | None


@dataclass
class Enclave:
    """Both halves at work; made by `running`. ``about`` is what the trusted half said of the split."""

    asked: EnclaveOptions
    descriptors: tuple[int, int]
    limits: list[str] = field(default_factory=list)
    clock: dict[str, float] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    trusted: subprocess.Popen[bytes] | None = None
    accelerator: subprocess.Popen[bytes] | None = None

    def ask(self, message: bytes) -> bytes:
        """The trusted half's answer to a message of the owner's; see `cloven.enclave.release`."""
        self._tell(self.trusted, {"owner": True}, message)
        return bytes(self.heard(self.trusted)[1])

    def split(self) -> None:
        """After the release: wait until the model is decrypted and split, and give the accelerator its part."""
        released = time.perf_counter()
        self.about, rear = self.heard(self.trusted)
        self._tell(self.accelerator, {"result": self.about["result"]}, rear)
        ready, _ = self.heard(self.accelerator)
        self.about["device"] = ready["device"]
        self.clock |= {
            "decrypted inside": self.about.pop("decrypted_seconds"),
            "split inside": self.about.pop("split_seconds"),
            "rear loaded": ready["clock"][1] - ready["clock"][0],
            "from key to ready": time.perf_counter() - released,
        }

    def infer(self, inputs: Sequence[bytes]) -> Inference:
        """One inference of sealed pictures, all in one message.

        Raises:
            ClovenError: for what is not sealed for this folder, or a half that has ended.
        """
        start = time.perf_counter()
        self._tell(self.trusted, {"input": [len(part) for part in inputs]}, b"".join(inputs))
        front, told = self.heard(self.trusted)
        self._tell(self.accelerator, {"images": front["images"]}, told)
        rear, back = self.heard(self.accelerator)
        opened_at, ran, handed = front["clock"]
        seconds = {
            "opened inside": ran - opened_at,
            "front": handed - ran,
            "hand-over": rear["clock"][1] - handed,
            "rear": rear["clock"][2] - rear["clock"][1],
        }
        if self.about["result"] == "clear":
            (shape,) = rear["shapes"]
            if prod(shape) * 4 != len(back):
                raise ClovenError(f"the accelerator answered {len(back)} bytes for a result of shape {shape}")
            logits = np.frombuffer(back, np.float32).reshape(shape)
            sealed = None
        else:
            self._tell(self.trusted, {"back": front["images"]}, back)
            rest, result = self.heard(self.trusted)
            logits, sealed = None, bytes(result)
            seconds["handed back"] = rest["clock"][0] - rear["clock"][2]
            seconds["rest"] = rest["clock"][1] - rest["clock"][0]
        seconds["whole"] = time.perf_counter() - start
        return Inference(front["images"], logits, sealed, front["bytes"], seconds)

    def ends(self) -> list[str]:
        """What either process is told of the hand-over."""
        out, back = self.descriptors
        return [
            "--way", self.asked.way, "--out", str(out), "--back", str(back), "--threads", str(self.asked.threads)
        ]  # fmt: skip

    def _tell(self, half: Half, about: dict[str, Any], content: bytes | bytearray = b"") -> None:
        assert half is not None, "running(), then split() come first"
        assert half.stdin is not None
        try:
            tell(half.stdin.fileno(), about, content)
        except EndedError:
            raise self._gone(half) from None

    def heard(self, half: Half) -> tuple[dict[str, Any], bytearray]:
        """The next message of a half, which is no failure."""
        assert half is not None, "running(), then split() come first"
        assert half.stdout is not None
        try:
            about, content = heard(half.stdout.fileno(), self.asked.timeout)
        except EndedError:
            raise self._gone(half) from None
        if problems := about.get("failed") or about.get("refused"):
            raise ClovenError(problems)
        return about, content

    def _gone(self, half: subprocess.Popen[bytes]) -> ClovenError:
        name, cap = "accelerator", ""
        if half is self.trusted:
            name = "trusted half"
            cap = f"; it may have {self.asked.memory / 2**30:.1f} GiB: give it more with --memory"
        with suppress(subprocess.TimeoutExpired):
            half.wait(5)
        return ClovenError(f"the {name} has ended (exit code {half.returncode}); what it said is above{cap}")


@contextmanager
def running(asked: EnclaveOptions) -> Iterator[Enclave]:
    """The trusted half, started and waiting for its key; both halves end with the context.

    Raises:
        ClovenError: with all that keeps it from starting.
    """
    if problems := asked.problems():
        raise ClovenError(problems)
    start = time.perf_counter()
    with ExitStack() as stack:
        ends = tuple(opened(asked.way, asked.sealed.parent) for _ in range(2))
        for end in ends:
            stack.callback(_closed, end)
        descriptors = (ends[0], ends[1])
        enclave = Enclave(asked, descriptors)
        own = ["--backend", asked.backend.name, "--memory", str(asked.memory), *enclave.ends()]
        words = asked.backend.command(asked.sealed, own, asked.manifest)
        stack.callback(_end, enclave)
        enclave.trusted = _started(words, asked, descriptors)
        other = [sys.executable, "-m", "cloven.enclave.accelerator", "--device", asked.device]
        enclave.accelerator = _started([*other, *enclave.ends()], asked, descriptors)
        waiting, _ = enclave.heard(enclave.trusted)
        enclave.limits += waiting["limits"]
        enclave.clock["started"] = time.perf_counter() - start
        yield enclave


def _started(words: Sequence[str], asked: EnclaveOptions, descriptors: tuple[int, int]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 (our own words)
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(asked.threads),
        pass_fds=[end for end in descriptors if end >= 0],
        cwd=asked.manifest.parent if asked.backend.program else None,
    )


def _closed(end: int) -> None:
    if end >= 0:
        os.close(end)


def _end(enclave: Enclave) -> None:
    """Neither half has anything left to do: with a large model it takes seconds until they have put all away."""
    for half in (enclave.trusted, enclave.accelerator):
        if half is not None:
            half.kill()
            half.communicate()


def trace(enclave: Enclave, answers: Sequence[Inference]) -> list[dict[str, Any]]:
    """S2's six steps with their seconds: those of each inference as medians."""
    middle = {name: _median([a.seconds[name] for a in answers]) for name in ("front", "hand-over", "rear")}
    seconds = {
        **{name: enclave.clock[name] for name in STEPS[:3]},
        **dict(zip(STEPS[3:], middle.values(), strict=True)),
    }
    return [{"step": i, "what": what, "seconds": seconds[what]} for i, what in enumerate(STEPS, 1)]


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))
