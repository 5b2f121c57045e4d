"""Independent devices with late and reordered messages compute the same numbers, without deadlocks."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloven.graph.box import extent
from cloven.graph.graph import Graph
from cloven.partition.compiler import Routing, divide
from cloven.partition.protection import COORDINATOR
from cloven.partition.transform import WIRE, Transform, Transforms
from cloven.runtime.bundle.engine import Array, interpret
from cloven.runtime.bundle.format import DevicePart, ReceiveShare, RunSegment, SendShare
from cloven.runtime.bundle.lowering import build
from cloven.runtime.bundle.schedule import Job, Message, Schedule, schedule
from cloven.runtime.cluster.errors import FrameFailed
from cloven.runtime.cluster.image_task import NUMBERS, ImageTask
from tests.partition.nets import strategies
from tests.partition.test_equivalence import FIXED, fixed, lenet

EVERY = ("lenet5", *FIXED)


def graph_of(name: str) -> Graph:
    return lenet((1, 28, 28))[1] if name == "lenet5" else fixed(name)


Parts = Mapping[str, DevicePart]


@st.composite
def plans(draw: st.DrawFn, graph: Graph, kinds: Sequence[str] = tuple(WIRE)) -> Parts:
    """Draw a plan of a graph with any of these transforms of links; return its parts as in a bundle."""
    strategy, devices = draw(strategies(graph))
    routing: Routing = draw(st.sampled_from(["direct", "star"]))
    reuse = routing == "direct" or draw(st.booleans())
    some = st.sampled_from(kinds).map(Transform)
    transforms = Transforms(default=draw(some), links={"edge0-edge1": draw(some)} if devices > 1 else {})
    divided = divide(graph, strategy, devices, routing=routing, reuse=reuse, transforms=transforms)
    built = build(divided, "model")
    return {name: one.part for name, one in built.items()}


def computed(device: str, step: RunSegment, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return numbers that depend on every bit of every input, in place of a segment."""
    given = hashlib.sha256(f"{device}/{step.segment}".encode())
    for name, array in sorted(inputs.items()):
        given.update(name.encode() + str(array.shape).encode() + array.tobytes())
    return {
        piece.name: np.random.default_rng([*given.digest(), *piece.name.encode()]).random(
            (1, *extent(piece.box)), np.float32
        )
        for piece in step.outputs
    }


class Network:
    """All devices in one event loop; messages arrive after random times, in any order."""

    def __init__(self, parts: Parts, seed: int) -> None:
        self.parts, self.random = parts, random.Random(seed)
        self.schedules = {device: schedule(part) for device, part in parts.items()}
        self.works = {device: ImageTask(found) for device, found in self.schedules.items()}
        self.steps = {
            device: {s.step: s for s in part.steps if isinstance(s, RunSegment)} for device, part in parts.items()
        }
        self.output: Array | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    async def run(self, image: Array) -> Array:
        """Return the output for an image ``(1, C, H, W)``."""
        for device, found in self.schedules.items():
            if (COORDINATOR, 0) in found.incoming:
                self.post(COORDINATOR, (device, 0), [image])
        async with asyncio.timeout(20):
            await asyncio.gather(*(self.through(device, work) for device, work in self.works.items()))
            while self.tasks:
                await asyncio.gather(*self.tasks)
        assert self.output is not None
        return self.output

    def through(self, device: str, work: ImageTask) -> Awaitable[None]:
        async def compute(job: Job, inputs: dict[str, Array]) -> tuple[Mapping[str, Array], float]:
            await self.moment()
            step = self.steps[device][job.step]
            assert step.segment == job.segment
            return computed(device, step, inputs), 0.0

        async def send(message: Message, data: Sequence[Any]) -> None:
            await self.moment()
            self.post(device, message, data)

        return work.run(compute, send)

    def post(self, source: str, message: Message, data: Sequence[Any]) -> None:
        payload = memoryview(b"".join(piece.tobytes() for piece in data))
        task = asyncio.create_task(self.deliver(source, message, payload))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def deliver(self, source: str, message: Message, payload: memoryview) -> None:
        await self.moment()
        target, ordinal = message
        if target == COORDINATOR:
            assert self.output is None
            assert ordinal == 0
            self.output = np.frombuffer(payload, NUMBERS)[None]
        else:
            self.works[target].accept(source, ordinal, payload)

    async def moment(self) -> None:
        for _ in range(self.random.choice([0, 0, 1, 3, 20])):
            await asyncio.sleep(0)


@pytest.mark.parametrize("name", EVERY)
@given(data=st.data())
@settings(max_examples=25)
def test_devices_on_their_own_compute_what_step_by_step_gives(name: str, data: st.DataObject) -> None:
    graph = graph_of(name)
    parts = data.draw(plans(graph))
    image = np.random.default_rng(0).random((1, *graph.input.shape), np.float32)
    expected = interpret(parts, image, computed)

    for seed in range(3):
        network = Network(parts, seed)
        made = asyncio.run(network.run(image))

        assert np.array_equal(made, expected)
        for work in network.works.values():
            assert work.finished
            assert not work.missing, "all that was sent to it has come"
            assert not work.pieces, "nothing is kept that nobody reads any more"


@pytest.mark.parametrize("name", EVERY)
@given(data=st.data())
@settings(max_examples=25)
def test_both_ends_of_a_link_mean_the_same_messages(name: str, data: st.DataObject) -> None:
    """Numbers, sizes and boxes agree, and the messages cover all transfers."""
    parts = data.draw(plans(graph_of(name)))
    schedules = {device: schedule(part) for device, part in parts.items()}

    there = {
        (s, *out.message): (out.bytes, [(read.box, kind) for read, kind in out.reads])
        for s, f in schedules.items()
        for out in f.outgoing
    }
    here = {
        (party, device, ordinal): (message.bytes, [piece[1:] for piece in message.pieces])
        for device, found in schedules.items()
        for (party, ordinal), message in found.incoming.items()
    }

    source, sink = ends(schedules)
    graph = graph_of(name)
    assert here.pop((COORDINATOR, source, 0))[0] == 4 * np.prod(graph.input.shape)
    assert there.pop((sink, COORDINATOR, 0))[0] == 4 * np.prod(graph.by_name[graph.output].shape)
    assert there == here
    ordinals: dict[tuple[str, str], list[int]] = {}
    for one, other, ordinal in here:
        ordinals.setdefault((one, other), []).append(ordinal)
    assert all(sorted(found) == list(range(len(found))) for found in ordinals.values())
    carried = Counter(
        {link: sum(size for (*ends, _), (size, _) in here.items() if tuple(ends) == link) for link in ordinals}
    )
    assert carried == sent(parts)


def ends(schedules: Mapping[str, Schedule]) -> tuple[str, str]:
    (source,) = (d for d, found in schedules.items() if (COORDINATOR, 0) in found.incoming)
    (sink,) = (d for d, found in schedules.items() if any(o.message == (COORDINATOR, 0) for o in found.outgoing))
    return source, sink


def sent(parts: Parts) -> Counter[tuple[str, str]]:
    """Return the bytes of the transfers of each link, in the order of their numbers."""
    sends = {
        s.transfer: (device, s.target, s.message, s.bytes)
        for device, p in parts.items()
        for s in p.steps
        if isinstance(s, SendShare)
    }
    receives = {
        s.transfer: (s.source, device, s.message, s.bytes)
        for device, p in parts.items()
        for s in p.steps
        if isinstance(s, ReceiveShare)
    }
    assert sends == receives
    found: Counter[tuple[str, str]] = Counter()
    for one, other, _, size in sends.values():
        found[one, other] += size
    return found


def test_a_message_is_sent_as_soon_as_it_is_made() -> None:
    """A device sends its computed share before it waits for those of others."""
    parts = some_plan()
    network = Network(parts, 0)
    found = network.schedules["edge1"]
    work = network.works["edge1"]
    image = np.random.default_rng(0).random((1, *graph_of("lenet5").input.shape), np.float32)
    order: list[str] = []

    async def compute(job: Job, inputs: dict[str, Array]) -> tuple[Mapping[str, Array], float]:
        order.append("compute")
        return computed("edge1", network.steps["edge1"][job.step], inputs), 0.0

    async def send(message: Message, data: Sequence[Any]) -> None:
        order.append("send")

    async def first_message() -> None:
        task = asyncio.create_task(work.run(compute, send))
        await asyncio.sleep(0)
        work.accept("edge0", 0, memoryview(bytes(found.incoming["edge0", 0].bytes)))
        for _ in range(10):
            await asyncio.sleep(0)
        task.cancel()

    assert image.size * 4 == found.incoming["edge0", 0].bytes
    asyncio.run(first_message())

    assert order == ["compute", "send"]
    assert work.state.doing == "waits"


def some_plan() -> Parts:
    from cloven.partition.horizontal import Horizontal

    built = build(divide(graph_of("lenet5"), Horizontal(), 2), "model")
    return {name: one.part for name, one in built.items()}


def test_invalid_messages_are_refused() -> None:
    """Repeated messages, unknown numbers or parties, and other sizes are refused."""
    work = Network(some_plan(), 0).works["edge1"]
    size = work.missing["edge0", 0].bytes

    with pytest.raises(FrameFailed, match=f"message 0 has 4 bytes; expected {size}"):
        work.accept("edge0", 0, memoryview(bytes(4)))
    work = Network(some_plan(), 0).works["edge1"]
    work.accept("edge0", 0, memoryview(bytes(size)))
    for party, ordinal in [("edge0", 0), ("edge0", 99), ("edge7", 0)]:
        with pytest.raises(FrameFailed, match="arrived twice, or is not in the plan"):
            work.accept(party, ordinal, memoryview(bytes(size)))
