"""The tasks of a bundle, computed in any order that their inputs allow, give the numbers of its devices."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cloven.runtime.bundle.engine import interpret
from cloven.runtime.bundle.format import RunSegment
from cloven.runtime.bundle.task_graph import IMAGE, TaskGraph, task_graph
from tests.runtime.test_schedule import EVERY, Parts, computed, graph_of, plans


def shuffled(found: TaskGraph, parts: Parts, image: NDArray[Any], seed: int) -> NDArray[Any]:
    """Return the output of the tasks for an image ``(1, C, H, W)``, computed in a random order."""
    steps = {(device, s.step): s for device, part in parts.items() for s in part.steps if isinstance(s, RunSegment)}
    held, done = {IMAGE: image}, set[int]()
    while ready := [i for i, needs in enumerate(found.needs) if i not in done and needs <= done]:
        number = random.Random(seed + len(done)).choice(ready)
        task = found.tasks[number]
        inputs = {one.name: found.assembled(one, held) for one in task.inputs}
        made = computed(task.device, steps[task.device, task.step], inputs)
        first = found.firsts[number]
        held |= {first + i: made[piece.name] for i, piece in enumerate(task.outputs)}
        done.add(number)
    assert len(done) == len(found.tasks)
    return found.assembled(found.output, held)


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=10, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**16))
def test_tasks_give_the_numbers_of_the_devices(name: str, data: st.DataObject, seed: int) -> None:
    graph = graph_of(name)
    parts = data.draw(plans(graph))
    image = np.random.default_rng(seed).random((1, *graph.input.shape), np.float32)
    run = interpret(parts, image, lambda device, step, inputs: computed(device, step, inputs))

    assert np.array_equal(shuffled(task_graph(parts), parts, image, seed), run)
