"""Emulate a slower device: each job of the engine takes its time on this machine divided by a speed factor.

It slows the engine's jobs and nothing else: messages (gRPC), ciphers and Python run at this machine's speed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloven.runtime.bundle.engine import Array
    from cloven.runtime.bundle.schedule import Job
    from cloven.runtime.cluster.worker_session import Engine

FIRST = 9
"""The runs of each job, at full speed and one right after the other, which measure its time."""

SPIN = 0.2e-3
"""The last seconds of a pause are spent waiting actively, because a sleeping thread wakes up late."""


def slowed(engine: Engine, speed: float) -> Engine:
    """Return an engine whose jobs end when a device of this speed would have computed them.

    A job's time is the median CPU time of several runs, one right after the other, when it is run first. CPU time
    does not contain waiting for a core that others use. The time of each later run would not do: a core is slower
    after a pause (caches, clock), by a third after 30 ms where this was measured, and the factor would multiply
    that.

    A batch takes the time of its images one after another: what a batch saves here need not be saved there.

    A pause leaves the core to other devices on this machine. It blocks the thread, as computing does: a worker then
    handles messages as on the slow device.

    Args:
        engine: the engine of this machine, with one thread.
        speed: the device's speed as a share of this machine's, above 0, at most 1.
    """
    known: dict[int, float] = {}

    def run(job: Job, inputs: dict[str, Array]) -> Mapping[str, Array]:
        images = len(next(iter(inputs.values()), (None,)))
        if job.step not in known:
            known[job.step] = median(cpu_seconds(job, inputs) for _ in range(FIRST)) / images
        start = time.perf_counter()
        made = engine(job, inputs)
        _pause_until(start + images * known[job.step] / speed)
        return made

    def cpu_seconds(job: Job, inputs: dict[str, Array]) -> float:
        start = time.thread_time()
        engine(job, inputs)
        return time.thread_time() - start

    return engine if speed == 1 else run


def _pause_until(end: float) -> None:
    """Return at a time of the performance counter: sleep, then wait actively."""
    if (left := end - SPIN - time.perf_counter()) > 0:
        time.sleep(left)
    while time.perf_counter() < end:
        pass
