"""What devices compute does not depend on what comes first; both ends of a link agree on its messages."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cloven.graph.capture import capture
from cloven.partition.compiler import Routing, compile  # noqa: A004
from cloven.partition.program import Program
from cloven.partition.protection import COORDINATOR
from cloven.partition.vertical import Vertical
from cloven.runtime.bundle import Part, Run, Send
from cloven.runtime.bundle_check import Built, computed
from cloven.runtime.bundle_writer import _build
from cloven.runtime.cluster.errors import FrameFailed
from cloven.runtime.cluster.work import Work
from cloven.runtime.link.octets import octets
from cloven.runtime.onnx.engine import Array, interpret
from cloven.runtime.schedule import Job, Message, Schedule, schedule
from cloven.zoo.models import build
from tests.partition.nets import IMAGE, Excited, Halves, Inception, Padded, Residual, drawn, strategies

if TYPE_CHECKING:
    from cloven.runtime.link.octets import Data

NETS = {
    "branches": nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), Excited(6, linear=False), Padded(6, 1), Residual(8), Halves(8),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5),
    ),
    "windows": nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, padding=1), Inception(4, 4), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Flatten(),
        nn.Linear(99, 6), nn.ReLU(), nn.Linear(6, 5),
    ),
}  # fmt: skip
GRAPHS = {name: capture(drawn(net), torch.zeros(1, *IMAGE)) for name, net in NETS.items()}
GRAPHS["lenet5"] = capture(build("lenet5", shape=(1, 28, 28), classes=10), torch.zeros(1, 1, 28, 28))


class Devices:
    """All devices of a program in one event loop; messages come in any order that a seed says."""

    def __init__(self, built: Mapping[str, Built], random: Random) -> None:
        self.built, self.random = built, random
        self.schedules = {device: schedule(one.part) for device, one in built.items()}
        self.works = {device: Work(made) for device, made in self.schedules.items()}
        self.under_way: list[tuple[str, str, int, bytes]] = []
        self.sent: Counter[tuple[str, str]] = Counter()
        self.output: Array | None = None

    async def answer(self, image: Array) -> Array:
        (source,) = (d for d, made in self.schedules.items() if (COORDINATOR, 0) in made.incoming)
        self.under_way.append((COORDINATOR, source, 0, image.tobytes()))
        tasks = {asyncio.create_task(self.through(device)) for device in self.works}
        idle = 0
        while self.output is None:
            await asyncio.sleep(0)
            idle = 0 if self.under_way else idle + 1
            assert idle < 200, "every device waits for another"
            if self.under_way and self.random.random() < 0.5:
                self.deliver(*self.under_way.pop(self.random.randrange(len(self.under_way))))
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        assert not [r for r in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(r, Exception)]
        return self.output

    def deliver(self, source: str, target: str, ordinal: int, payload: bytes) -> None:
        if target == COORDINATOR:
            self.output = np.frombuffer(payload, np.float32)
        else:
            self.works[target].accept(source, ordinal, memoryview(payload))

    async def through(self, device: str) -> None:
        async def compute(job: Job, inputs: dict[str, Array]) -> tuple[Mapping[str, Array], float]:
            return run_segment(self.built[device], job.segment, inputs), 0.0

        async def send(message: Message, data: Sequence[Data]) -> None:
            payload = b"".join(bytes(octets(piece)) for piece in data)
            self.sent[device, message[0]] += len(payload)
            self.under_way.append((device, *message, payload))

        await self.works[device].through(compute, send)


def run_segment(built: Built, segment: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
    (step,) = (s for s in built.part.steps if isinstance(s, Run) and s.segment == segment)
    given = {(piece.value, piece.box): inputs[piece.name] for piece in step.inputs}
    made = dict(computed(built.segments[segment], given))
    return {piece.name: made[piece.value, piece.box] for piece in step.outputs}


def parts_of(built: Mapping[str, Built]) -> dict[str, Part]:
    return {device: one.part for device, one in built.items()}


@pytest.mark.parametrize("name", GRAPHS)
@settings(max_examples=60)
@given(data=st.data())
def test_whatever_comes_first_the_output_is_the_same_and_every_byte_is_in_the_table(
    name: str, data: st.DataObject
) -> None:
    graph = GRAPHS[name]
    strategy, devices = data.draw(strategies(graph))
    routing: Routing = data.draw(st.sampled_from(["direct", "star"]))
    program = compile(graph, strategy, devices, routing=routing)
    built = _build(program, name, [])
    image = torch.rand(1, *graph.input.shape).numpy()
    both = Devices(built, Random(data.draw(st.integers(0, 999))))

    with torch.inference_mode():
        made = asyncio.run(both.answer(image))
        expected = interpret(
            parts_of(built), image, lambda d, step, given: run_segment(built[d], step.segment, given)
        )

    assert np.array_equal(made, expected.reshape(-1))
    assert {link: n for link, n in both.sent.items() if COORDINATOR not in link} == table(program)


def table(program: Program) -> dict[tuple[str, str], int]:
    return {link: program.sent(link) for link in program.links}


@pytest.mark.parametrize("name", GRAPHS)
@settings(max_examples=60)
@given(data=st.data())
def test_both_ends_of_a_link_agree_on_its_messages(name: str, data: st.DataObject) -> None:
    strategy, devices = data.draw(strategies(GRAPHS[name]))
    built = _build(compile(GRAPHS[name], strategy, devices), name, [])
    made: dict[str, Schedule] = {device: schedule(one.part) for device, one in built.items()}
    goes = {(a, *out.message): out.bytes for a, one in made.items() for out in one.outgoing}
    comes = {(m[0], b, m[1]): found.bytes for b, one in made.items() for m, found in one.incoming.items()}

    assert {k: n for k, n in goes.items() if k[1] != COORDINATOR} == {
        k: n for k, n in comes.items() if k[0] != COORDINATOR
    }
    for link in {key[:2] for key in goes}:
        assert sorted(key[2] for key in goes if key[:2] == link) == list(
            range(sum(key[:2] == link for key in goes))
        )


def test_a_cut_of_several_tensors_is_one_message() -> None:
    built = _build(compile(GRAPHS["branches"], Vertical(("3.conv",)), 2), "branches", [])
    sends = [s for s in built["edge0"].part.steps if isinstance(s, Send)]

    assert len(sends) == 2  # what the block has made, and its input for the addition
    assert {s.message for s in sends} == {0}


def works(name: str = "lenet5") -> Work:
    built = _build(compile(GRAPHS[name], Vertical(("conv2",)), 2), name, [])
    return Work(schedule(built["edge0"].part))


@pytest.mark.parametrize(
    ("party", "ordinal", "size", "message"),
    [
        ("edge1", 0, 4, "message 0 came twice, or is none of the plan's"),
        (COORDINATOR, 1, 4, "message 1 came twice, or is none of the plan's"),
        (COORDINATOR, 0, 4, "message 0 has 4 bytes; the plan says 3136"),
    ],
)
def test_a_message_that_is_not_the_plans_is_refused(party: str, ordinal: int, size: int, message: str) -> None:
    with pytest.raises(FrameFailed, match=message):
        works().accept(party, ordinal, memoryview(bytes(size)))


def test_a_message_is_taken_once() -> None:
    work = works()
    work.accept(COORDINATOR, 0, memoryview(bytes(3136)))

    with pytest.raises(FrameFailed, match="came twice"):
        work.accept(COORDINATOR, 0, memoryview(bytes(3136)))
