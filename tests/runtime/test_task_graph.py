"""The tasks of a bundle, computed in any order that their inputs allow, give the numbers of its devices."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cloven.documents import parse_document
from cloven.errors import ClovenError
from cloven.partition.compiler import divide
from cloven.partition.data import Data
from cloven.partition.protection import COORDINATOR
from cloven.runtime.bundle.engine import interpret
from cloven.runtime.bundle.format import RunSegment
from cloven.runtime.bundle.lowering import build
from cloven.runtime.bundle.task_graph import IMAGE, TaskGraph, task_graph
from tests.fuzzing import Reader, counts, fuzz
from tests.models import lenet5
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
    parts = data.draw(plans(graph, ["none"]))
    image = np.random.default_rng(seed).random((1, *graph.input.shape), np.float32)
    run = interpret(parts, image, lambda device, step, inputs: computed(device, step, inputs))

    assert np.array_equal(shuffled(task_graph(parts), parts, image, seed), run)


TILES = task_graph({name: one.part for name, one in build(divide(lenet5(), Data((2, 2)), 4), "lenet5").items()})


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 255))
def test_images_are_cut_in_the_type_in_which_they_are_sent(pixel: int) -> None:
    pixels = np.full((1, 1, 28, 28), pixel, np.uint8)
    sent = TILES.image.model_copy(update={"dtype": "uint8"})
    found = TILES.model_copy(update={"image": sent})

    for number, task in enumerate(found.tasks[:4]):
        (tile,) = task.inputs
        cut = found.assembled(tile, {IMAGE: pixels})
        (incoming,) = found.schedule(number).incoming.values()
        assert cut.dtype == np.uint8
        assert cut.nbytes == incoming.bytes
        assert incoming.dtype == "uint8"
    (maps,) = found.tasks[4].inputs
    assert found.sent_as(maps) == "float32"


def test_a_task_is_a_schedule_with_one_job() -> None:
    rest = TILES.schedule(4)

    assert [job.segment for job in rest.jobs] == ["edge0/segment-1.onnx"]
    assert {party for party, _ in rest.incoming} == {COORDINATOR}
    assert [out.message for out in rest.outgoing] == [(COORDINATOR, 0)]
    assert TILES.needs == (frozenset(), frozenset(), frozenset(), frozenset(), frozenset(range(4)))
    assert TILES.largest() == max(TILES.schedule(i).largest for i in range(5))


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("tasks", 4, "inputs", 0, "regions", 1, "piece"), 99, "no earlier task has made"),
        (("tasks", 0, "inputs", 0, "regions", 0, "piece"), 3, "no earlier task has made"),
        (("tasks", 0, "inputs", 0, "regions", 0, "box", 1, 1), 1000, "no earlier task has made"),
        (("tasks", 4, "inputs", 0, "box", 0, 1), 10**6, "do not cover its box"),
        (("output", "regions"), [], "at least 1 item"),
        (("tasks", 0, "outputs"), [], "at least 1 item"),
    ],
)
def test_a_graph_that_contradicts_itself_is_refused(place: tuple[str | int, ...], value: object, said: str) -> None:
    document: Any = json.loads(TILES.model_dump_json())
    *above, last = place
    inner = document
    for key in above:
        inner = inner[key]
    inner[last] = value

    with pytest.raises(ClovenError, match=said):
        parse_document(TaskGraph, json.dumps(document), "the tasks")


@counts
def test_damaged_graphs_are_refused_or_harmless(count: int) -> None:
    def read(content: bytes) -> None:
        found = parse_document(TaskGraph, content.decode(errors="surrogateescape"), "the tasks")
        assert len(found.needs) == len(found.firsts) == len(found.tasks)
        found.largest()
        if found.image.shape == (1, 28, 28):
            found.assembled(found.tasks[0].inputs[0], {IMAGE: np.zeros((1, 1, 28, 28), np.float32)})

    fuzz(Reader("tasks", [TILES.model_dump_json().encode()], read), count)
