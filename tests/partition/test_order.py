"""The order of the steps: what others read is sent first, and nothing is sent that its receiver does not read."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloven.cost.tasks import LinkMessage, SegmentRun, tasks
from cloven.graph.box import Box, intersect, whole, without
from cloven.partition.compiler import Routing, divide
from cloven.partition.horizontal import Horizontal
from cloven.partition.program import Compute, Program
from tests.partition.nets import strategies
from tests.partition.test_equivalence import FIXED, fixed, lenet


@pytest.mark.parametrize("name", FIXED)
@given(data=st.data())
@settings(max_examples=30)
def test_a_device_sends_what_others_read_before_it_computes_its_own_share(name: str, data: st.DataObject) -> None:
    strategy, devices = data.draw(strategies(fixed(name)))
    routing: Routing = data.draw(st.sampled_from(["direct", "star"]))
    program = divide(fixed(name), strategy, devices, routing=routing)
    computed: dict[tuple[str, str], int] = {}
    readers: dict[tuple[str, str], list[Compute]] = defaultdict(list)
    for device, step in program.steps:
        if isinstance(step, Compute):
            computed.setdefault((device, step.value), step.step)
            for value, _ in step.reads:
                readers[device, value].append(step)

    for transfer in program.transfers:
        later = [step for step in readers[transfer.target, transfer.value] if step.step > transfer.step]
        if later:  # the hub of a star only passes some values on
            assert computed.get((transfer.source, later[0].value), transfer.step) >= transfer.step


@pytest.mark.parametrize("name", FIXED)
@given(data=st.data())
@settings(max_examples=30)
def test_a_device_receives_once_what_it_reads_and_does_not_own(name: str, data: st.DataObject) -> None:
    """So the order of the steps does not change what a listener on a link records."""
    strategy, devices = data.draw(strategies(fixed(name)))
    program = divide(fixed(name), strategy, devices)

    received: dict[tuple[str, str], list[Box]] = defaultdict(list)
    for transfer in program.transfers:
        received[transfer.target, transfer.value].append(transfer.share)

    needed = {key: without(boxes, program.owners[key[1]].get(key[0], ())) for key, boxes in read(program).items()}
    for key in received.keys() | needed.keys():
        got, needs = received.get(key, []), needed.get(key, [])
        assert without(needs, got) == without(got, needs) == []
        assert not any(intersect(one, other) for one, other in combinations(got, 2))


def read(program: Program) -> dict[tuple[str, str], list[Box]]:
    """Return the boxes of each value that each device reads; the last device reads the output."""
    output = program.graph.by_name[program.graph.output]
    found: dict[tuple[str, str], list[Box]] = defaultdict(list)
    found[program.sink, output.name].append(whole(output.shape))
    for device, step in program.steps:
        if isinstance(step, Compute):
            for value, box in step.reads:
                found[device, value].append(box)
    return found


@pytest.mark.parametrize("axis", ["rows", "out_channels", "in_channels"])
def test_the_input_of_a_dense_layer_is_sent_before_its_sender_computes_its_half(axis: str) -> None:
    """The estimate follows the order: the message does not wait for the segment with the dense layer."""
    found = tasks(divide(lenet((1, 28, 28))[1], Horizontal(axis), 2))  # type: ignore[arg-type]
    flat = "dense1.0.input@0" if axis == "in_channels" else "flatten"
    made = next(i for i, task in enumerate(found) if isinstance(task, SegmentRun) and task.value == flat)

    message = next(task for task in found if isinstance(task, LinkMessage) and made in task.after)

    assert message.link == ("edge0", "edge1")
