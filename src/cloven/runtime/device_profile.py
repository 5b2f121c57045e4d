"""Measure the costs of this machine as a device: operators, messages, ciphers and memory, without torch."""

from __future__ import annotations

import asyncio
import json
import platform
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import grpc.aio
import numpy as np

from cloven.cost.profile import CipherTime, ComputeCost, DeviceProfile, MemorySize, MessageCost, OperatorTime
from cloven.errors import ClovenError
from cloven.graph.box import extent
from cloven.runtime.bundle.engine import session
from cloven.runtime.bundle.format import DevicePart, RunSegment, SegmentOperator
from cloven.runtime.cluster.channels import channel, options
from cloven.runtime.link.ciphers import CIPHERS, Cipher

RUNS = 25
"""The number of runs of each segment; the profile has their medians."""

SMALL, LARGE = 64, 2**20
"""The sizes in bytes of the two messages whose times give the costs of a message and of a byte."""

SECONDS = 0.2
"""Seconds for which a cipher, or a message of one size, is measured."""


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
    if any(not step.operators for part, _ in parts for step in _segments(part)):
        raise ClovenError("the bundle does not list its operators; write it again with `cloven bundle`")
    note = f"onnxruntime {version('onnxruntime')} on {processor()}, medians of {runs} runs"
    rows: list[OperatorTime] = []
    overheads: list[float] = []
    for part, folder in parts:
        times, overhead = _operators(part, folder, runs)
        rows += times
        overheads += overhead
    return DeviceProfile(
        name=name,
        compute=ComputeCost(
            origin="measured", note=note, segment=max(0.0, median(overheads)), operators=tuple(rows)
        ),
        messages=asyncio.run(_messages()),
        ciphers=dict(_ciphers()),
        memory=_memory(),
    )


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


def _operators(part: DevicePart, folder: Path, runs: int) -> tuple[list[OperatorTime], list[float]]:
    """Return the time of each operator of a part, and the overhead of each segment.

    All segments run in turn, as they do for an image. Their times are CPU times of this thread, without the cost of
    onnxruntime's profiler; the operators' times are scaled to them.
    """
    steps, rng = _segments(part), np.random.default_rng(0)
    inputs = [
        {piece.name: rng.random((1, *extent(piece.box)), dtype=np.float32) for piece in step.inputs}
        for step in steps
    ]
    plain = [session(folder / step.segment) for step in steps]
    seconds: list[list[float]] = [[] for _ in steps]
    with TemporaryDirectory() as scratch:
        clocked = [session(folder / step.segment, Path(scratch) / str(i)) for i, step in enumerate(steps)]
        for _ in range(runs + 1):
            for i, step in enumerate(steps):
                names = [piece.name for piece in step.outputs]
                start = time.thread_time()
                plain[i].run(names, inputs[i])
                seconds[i].append(time.thread_time() - start)
                clocked[i].run(names, inputs[i])
        traces = [json.loads(Path(one.end_profiling()).read_text("utf-8")) for one in clocked]
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


# --- messages, ciphers, memory --------------------------------------------------------------------------------


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


async def _messages() -> MessageCost:
    """Measure messages between two ends of a gRPC stream in this process, without a cipher.

    Each end counts half of the CPU time.
    """
    echo, answer = "/cloven.Profile/Echo", bytes(8)

    async def reply(_: Any, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        while isinstance(await context.read(), bytes):
            await context.write(answer)

    class EchoHandler(grpc.GenericRpcHandler):
        def service(self, call: grpc.HandlerCallDetails) -> Any:
            return grpc.stream_stream_rpc_method_handler(reply) if str(call.method) == echo else None

    server = grpc.aio.server(options=options(LARGE))
    server.add_generic_rpc_handlers([EchoHandler()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    taken = {}
    async with channel("echo", f"127.0.0.1:{port}", None, LARGE) as to:
        stream: grpc.aio.StreamStreamCall[bytes, bytes] = to.stream_stream(echo)()
        for size in (0, SMALL, LARGE):  # the first one is a warm-up
            data, rounds, start = bytes(size), 0, time.process_time()
            while time.process_time() - start < SECONDS:
                await stream.write(data)
                await stream.read()
                rounds += 1
            taken[size] = (time.process_time() - start) / rounds
        await stream.done_writing()
        await stream.read()  # the end
    await server.stop(1.0)
    byte = max(0.0, (taken[LARGE] - taken[SMALL]) / (LARGE - SMALL)) / 2
    message = taken[SMALL] / 4  # each round counts four times: a message and its reply are sent and received
    note = "gRPC in one process, half of the processor's time for each end"
    return MessageCost(
        origin="measured", note=note, send=message, receive=message, send_byte=byte, receive_byte=byte
    )


def _memory() -> MemorySize | None:
    """Return the memory of a worker process before it loads a part, and the memory of this machine."""
    code = (
        "import cloven.runtime.cluster.worker, onnxruntime\n"
        "print([line for line in open('/proc/self/status') if line.startswith('VmRSS')][0].split()[1])"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    total = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal"))
    return MemorySize(
        origin="measured",
        note="resident memory; all memory of the machine",
        worker=1024 * int(done.stdout),
        available=1024 * total,
    )
