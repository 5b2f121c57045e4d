"""Time an enclave: seal a model with a fresh key, release the key, and run pictures, one at a time."""

from __future__ import annotations

import os
import platform
import secrets
import socket
import statistics
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from cloven.documents import Document
from cloven.enclave.backends import Backend
from cloven.enclave.endpoint import deliver, serve_release
from cloven.enclave.handover import Way
from cloven.enclave.owner import data_key
from cloven.enclave.quote import HARDWARE, Expected, Measurement, Quote
from cloven.enclave.runner import Enclave, EnclaveOptions, running
from cloven.enclave.sealed_folder import INPUT, Sealed, measured, new_id, seal_model, seal_plan
from cloven.enclave.sealing import KEY_BYTES, sealed_bytes
from cloven.errors import ClovenError

if TYPE_CHECKING:
    from torch import Tensor

    from cloven.partition.plan import Plan


@dataclass(frozen=True)
class ExecutionOptions:
    """The options of all timed enclaves; see `cloven.enclave.runner.EnclaveOptions`."""

    backend: Backend
    device: str
    way: Way
    threads: int


STEADY = ("opened inside", "front", "hand-over", "rear", "handed back", "rest")
"""The steps of an inference, in order; a plan may lack some of them."""


class MeasuredMachine(Document):
    """The machine and the software versions of a measurement."""

    processor: str
    cores: int | None
    threads: int
    system: str
    python: str
    torch: str
    cloven: str


class InferenceTimes(Document):
    """One plan's times, in seconds.

    Attributes:
        load: the time from the start of the processes until they are ready for the first input.
        first: the time of the first inference.
        mean: the mean time of the later inferences.
        median: the median time of the later inferences.
        spread: their standard deviation.
        beside: the median time of the alternating enclave, see `timed`.
        parts: the medians of the steps of the later inferences.
        handed_bytes: the bytes that one inference hands over.
        samples: the number of later inferences.
    """

    load: float
    first: float
    mean: float
    median: float
    spread: float
    beside: float
    parts: dict[str, float]
    handed_bytes: int
    samples: int


@dataclass(frozen=True, eq=False)
class ReadyEnclave:
    """A plan's running enclave, and its model."""

    enclave: Enclave
    owned: OwnedModel


@dataclass(frozen=True, eq=False)
class OwnedModel:
    """A sealed model, its owner's key, and pictures; each cut seals another plan."""

    folder: Sealed
    owner: bytes
    pictures: Sequence[bytes]

    def inputs(self) -> list[bytes]:
        """Seal the pictures again, since a run opens each sealed input only once."""
        key = data_key(self.owner, self.folder.id)
        return [sealed_bytes(picture, key, self.folder.name(INPUT)) for picture in self.pictures]


@contextmanager
def owned(
    plan: Plan, weights: Mapping[str, Tensor], pictures: Sequence[bytes], memory: int
) -> Iterator[OwnedModel]:
    """Yield a model and pictures, sealed with a fresh key in a temporary folder.

    Args:
        plan: a plan of two devices, the first trusted.
        weights: the model's state.
        pictures: the contents of three or more files.
        memory: the memory limit of the trusted half, in bytes.

    Raises:
        ClovenError: if there are too few pictures, or the folder cannot be written.
    """
    if len(pictures) < 3:
        raise ClovenError(f"the number of pictures is {len(pictures)}; expected 3 or more, as the first warms up")
    owner = secrets.token_bytes(KEY_BYTES)
    with tempfile.TemporaryDirectory(prefix="cloven-") as name:
        folder = Sealed(Path(name) / "sealed", new_id(), memory)
        seal_model(folder, plan, weights, key=data_key(owner, folder.id))
        yield OwnedModel(folder, owner, pictures)


@contextmanager
def ready(mine: OwnedModel, plan: Plan, how: ExecutionOptions) -> Iterator[ReadyEnclave]:
    """Yield a plan's enclave that has its key and is split; it ends with the context.

    Raises:
        ClovenError: as in `running`.
    """
    folder = mine.folder
    seal_plan(folder, plan, key=data_key(mine.owner, folder.id))
    asked = EnclaveOptions(folder.path, how.backend, how.device, how.way, folder.enclave_bytes, how.threads)
    with running(asked) as enclave:
        release_at_once(enclave, folder, mine.owner)
        enclave.split()
        yield ReadyEnclave(enclave, mine)


def timed(own: ReadyEnclave, other: ReadyEnclave) -> InferenceTimes:
    """Return the times of an enclave on its pictures, alternating with another enclave or with itself.

    A machine's speed changes within minutes, so the compared enclaves run alternately.
    """
    answers, beside = [], []
    for mine, its in zip(own.owned.inputs(), other.owned.inputs(), strict=True):
        answers.append(own.enclave.infer([mine]))
        beside.append(other.enclave.infer([its]).seconds["whole"])
    clock, (first, *later) = own.enclave.clock, answers
    whole = [answer.seconds["whole"] for answer in later]
    return InferenceTimes(
        load=clock["started"] + clock["from key to ready"],
        first=first.seconds["whole"],
        mean=statistics.fmean(whole),
        median=statistics.median(whole),
        spread=statistics.stdev(whole),
        beside=statistics.median(beside[1:]),
        parts={name: statistics.median(a.seconds[name] for a in later) for name in STEADY if name in first.seconds},
        handed_bytes=first.handed_bytes,
        samples=len(later),
    )


def release_at_once(enclave: Enclave, folder: Sealed, owner_key: bytes) -> Quote:
    """Release the key over loopback, if owner and runner are the same person; return the enclave's quote.

    Raises:
        ClovenError: if the backend requires a hardware quote, or the enclave does not have the expected
            measurement.
    """
    kind = enclave.asked.backend.kind
    if kind in HARDWARE:
        raise ClovenError(
            f"--owner-key does not work with {enclave.asked.backend.name}, which receives its key only after its "
            "hardware quote is verified; omit --owner-key, and run `cloven enclave release`"
        )
    expect = Expected(Measurement(kind, measured(folder)), accept=kind)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        waits = threading.Thread(target=serve_release, args=(listener, enclave.ask, 10.0), daemon=True)
        waits.start()
        to = f"127.0.0.1:{listener.getsockname()[1]}"
        quote = deliver(to, expect=expect, owner_key=owner_key, folder_id=folder.id)
        waits.join()
    return quote


def this_machine(threads: int) -> MeasuredMachine:
    """Return a description of this machine, with the number of threads of each half."""
    return MeasuredMachine(
        processor=_processor(),
        cores=os.cpu_count(),
        threads=threads,
        system=platform.platform(),
        python=platform.python_version(),
        torch=metadata.version("torch"),
        cloven=metadata.version("cloven"),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
