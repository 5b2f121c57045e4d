"""Measure the costs of this machine as a device: operators, messages, ciphers and memory, without torch.

Operators and messages are measured as a worker runs them for a single image. Between two computations, it handles
messages and waits, and other programs run: little of its data is left in the caches of the core. So they are filled
with other data before each run of a segment and each message, see `cloven.runtime.caches`.
"""

from __future__ import annotations

import json
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from cloven.cost.profile import CipherTime, ComputeCost, DeviceProfile, OperatorTime
from cloven.errors import ClovenError
from cloven.graph.box import extent
from cloven.runtime import caches, memory_profile, message_times
from cloven.runtime.bundle.engine import Array, session
from cloven.runtime.bundle.format import DevicePart, RunSegment, SegmentOperator
from cloven.runtime.link.ciphers import CIPHERS, Cipher

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

RUNS = 25
"""The number of runs of each segment; the profile has their medians."""

SMALL, LARGE = 64, 2**20
"""The sizes in bytes of the two messages whose times give the costs of encrypting a message and a byte."""

SECONDS = 0.2
"""Seconds for which a cipher is measured with messages of one size."""


def measured(parts: Sequence[tuple[DevicePart, Path]], name: str, runs: int = RUNS) -> DeviceProfile:
    """Measure this machine with the parts of bundles, on one thread, and return its profile.

    Power cannot be measured this way, and is not in the profile.

    Args:
        parts: parts of bundles, each with its folder; the profile contains their operators.
        name: the name of this kind of device.
        runs: the number of runs of each segment, at least 3.

    Raises:
        ClovenError: if onnxruntime is not installed, or a part does not list its operators.
    """
    return DeviceProfile(
        name=name,
        compute=computing(parts, runs),
        messages=message_times.measured(),
        ciphers=dict(_ciphers()),
        memory=memory_profile.measured([folder for _, folder in parts]),
    )


def computing(parts: Sequence[tuple[DevicePart, Path]], runs: int = RUNS, *, cold: bool = True) -> ComputeCost:
    """Measure the operators of parts, with ``cold`` caches, or each segment right after its last run.

    The other arguments and the errors are as for `measured`.
    """
    if any(not step.operators or step.weight_bytes is None for part, _ in parts for step in _segments(part)):
        raise ClovenError(
            "the bundle does not list its operators and their weights; write it again with `cloven bundle`"
        )
    state = "caches filled before each" if cold else "one right after the other"
    note = f"onnxruntime {version('onnxruntime')} on {processor()}, medians of {runs} runs, {state}"
    rows: list[OperatorTime] = []
    overheads: list[float] = []
    for part, folder in parts:
        times, overhead = _operators(part, folder, runs, cold)
        rows += times
        overheads += overhead
    return ComputeCost(origin="measured", note=note, segment=max(0.0, median(overheads)), operators=tuple(rows))


def _segments(part: DevicePart) -> list[RunSegment]:
    return [step for step in part.steps if isinstance(step, RunSegment)]


def processor() -> str:
    """Return the name of the processor, if the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.machine()


# --- operators ------------------------------------------------------------------------------------------------


def _operators(part: DevicePart, folder: Path, runs: int, cold: bool) -> tuple[list[OperatorTime], list[float]]:
    """Return the time of each operator of a part, and the overhead of each segment.

    The times of segments are CPU times of this thread, without the cost of onnxruntime's profiler; the operators'
    times are scaled to them.
    """
    steps, rng = _segments(part), np.random.default_rng(0)
    seconds, traces = [], []
    for step in steps:
        inputs = {piece.name: rng.random((1, *extent(piece.box)), dtype=np.float32) for piece in step.inputs}
        plain = session(folder / step.segment)
        seconds.append([_run(plain, step, inputs, cold) for _ in range(runs + 1)])
        with TemporaryDirectory() as scratch:
            clocked = session(folder / step.segment, Path(scratch) / "trace")
            for _ in range(runs + 1):
                _run(clocked, step, inputs, cold)
            traces.append(json.loads(Path(clocked.end_profiling()).read_text("utf-8")))
    rows, overheads = [], []
    for step, trace, taken in zip(steps, traces, seconds, strict=True):
        whole = median(taken[1:])  # the first run allocates memory
        times = _node_times(trace, runs + 1)
        total = sum(times.values())
        scale = min(1.0, whole / total) if total else 1.0
        for operator, duration in _attributed(step.operators, times):
            rows.append(
                OperatorTime(
                    family=operator.family,
                    macs=operator.macs,
                    bytes=operator.bytes,
                    seconds=round(scale * duration, 9),
                )
            )
        overheads.append(whole - scale * total)
    return rows, overheads


def _run(segment: InferenceSession, step: RunSegment, inputs: Mapping[str, Array], cold: bool) -> float:
    """Run a segment; return the CPU seconds of this thread."""
    if cold:
        caches.fill()
    names = [piece.name for piece in step.outputs]
    start = time.thread_time()
    segment.run(names, inputs)
    return time.thread_time() - start


def _node_times(trace: Sequence[Mapping[str, Any]], runs: int) -> dict[str, float]:
    """Return the median seconds of each node in a trace of onnxruntime, by the name of its operator."""
    found: dict[str, list[float]] = defaultdict(list)
    for event in trace:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            found[name.removesuffix("_kernel_time")].append(1e-6 * event["dur"])
    operators: dict[str, float] = defaultdict(float)
    for name, durations in found.items():
        each = [sum(durations[i::runs]) for i in range(runs)] if len(durations) % runs else durations
        end = name.rfind("]") + 1  # the nodes of an operator are named value[box]/number, or value[box]_variant
        operators[name[:end] if end else name] += median(each[1:] or each)
    return dict(operators)


def _attributed(
    operators: Sequence[SegmentOperator], times: Mapping[str, float]
) -> list[tuple[SegmentOperator, float]]:
    """Return the seconds of each operator; those of a fused node go to the one with multiply-accumulates.

    onnxruntime names a fused node by its last operator, such as the activation after a convolution.
    """
    found = [times.get(operator.name, 0.0) for operator in operators]
    fused = None
    for i, operator in enumerate(operators):
        if operator.macs:
            fused = None if found[i] else i
        elif found[i] and fused is not None:
            found[fused], found[i], fused = found[i], 0.0, None
    return list(zip(operators, found, strict=True))


# --- ciphers --------------------------------------------------------------------------------------------------


def _line(seconds: Callable[[int], float]) -> tuple[float, float]:
    """Return the seconds of a message and of a byte, from the times of a small and of a large message."""
    small, large = seconds(SMALL), seconds(LARGE)
    byte = max(0.0, (large - small) / (LARGE - SMALL))
    return max(0.0, small - SMALL * byte), byte


def _ciphers() -> Iterator[tuple[str, CipherTime]]:
    """Yield the time of each available cipher: the mean of encryption and decryption."""
    for name, cipher in CIPHERS.items():
        key, nonce = bytes(cipher.key_bytes), bytes(cipher.nonce_bytes)

        def seconds(size: int, cipher: Cipher = cipher, key: bytes = key, nonce: bytes = nonce) -> float:
            data, sealed = bytes(size), bytearray(size + cipher.tag_bytes)
            opened = bytearray(size)
            cipher.seal_into(key, nonce, b"", data, sealed)  # compile it, if necessary
            rounds, start = 0, time.process_time()
            while time.process_time() - start < SECONDS:
                cipher.seal_into(key, nonce, b"", data, sealed)
                cipher.open_into(key, nonce, b"", sealed, opened)
                rounds += 1
            return (time.process_time() - start) / rounds / 2

        try:
            message, byte = _line(seconds)
        except ClovenError:  # its package is not installed
            continue
        yield (
            name,
            CipherTime(origin="measured", note="mean of encrypting and decrypting", message=message, byte=byte),
        )
