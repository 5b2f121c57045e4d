"""Emulated speeds, on a clock of the test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from cloven.runtime.bundle.engine import Array
from cloven.runtime.bundle.schedule import Job
from cloven.runtime.cluster import slowdown
from cloven.runtime.cluster.slowdown import FIRST, SPIN, slowed

JOBS = [Job(step, "segment.onnx", (), ()) for step in (3, 5)]
OWN = {3: 4e-3, 5: 0.1e-3}
"""The CPU seconds of each job, by its step."""


@dataclass
class Clock:
    """A clock on which computing takes CPU time, and sleeping does not."""

    wall: float = 0.0
    cpu: float = 0.0

    def perf_counter(self) -> float:
        self.compute(1e-6)
        return self.wall

    def thread_time(self) -> float:
        return self.cpu

    def sleep(self, seconds: float) -> None:
        self.wall += seconds

    def compute(self, seconds: float) -> None:
        self.wall += seconds
        self.cpu += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(slowdown, "time", made)
    return made


def seconds(clock: Clock, speed: float, *, busy: float = 0.0) -> list[dict[int, float]]:
    """Return the wall time of each job in 30 runs, in which it waits ``busy`` seconds for a core."""

    def engine(job: Job, inputs: dict[str, Array]) -> dict[str, Array]:
        clock.sleep(busy)
        clock.compute(OWN[job.step])
        return {"out": np.full(1, job.step, np.float32)}

    run, found = slowed(engine, speed), []
    for _ in range(30):
        taken = {}
        for job in JOBS:
            start = clock.wall
            assert run(job, {})["out"] == [job.step]
            taken[job.step] = clock.wall - start
        found.append(taken)
    return found


@pytest.mark.parametrize("speed", [0.9, 0.5, 0.25])
@pytest.mark.parametrize("busy", [0.0, 0.2e-3])
def test_after_it_was_measured_a_job_takes_its_time_divided_by_the_speed(
    clock: Clock, speed: float, busy: float
) -> None:
    runs = seconds(clock, speed, busy=busy)

    for step, own in OWN.items():
        slow = max(own / speed, own + busy)  # waiting for a core is a part of the pause
        assert runs[0][step] == pytest.approx(FIRST * (own + busy) + slow, abs=20e-6)
        assert [taken[step] for taken in runs[1:]] == pytest.approx([slow] * 29, abs=10e-6)


def test_a_pause_leaves_the_core_to_others(clock: Clock) -> None:
    seconds(clock, 0.25)

    assert clock.wall > 30 * OWN[3]
    assert clock.cpu < (30 + FIRST) * (sum(OWN.values()) + 2 * SPIN)


def test_full_speed_adds_nothing(clock: Clock) -> None:
    assert clock.wall == clock.cpu == 0
    assert seconds(clock, 1.0) == [pytest.approx(OWN)] * 30
