"""Queues stay bounded if a sink or a link is slow, or a coordinator sends too much."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from cloven.runtime.cluster.channels import CONTROL, DESCRIBE, LINK
from cloven.runtime.cluster.coordinator import Prediction
from cloven.runtime.cluster.protocol import VERSION
from cloven.runtime.cluster.send_options import SendOptions
from cloven.runtime.link.session import Sealer
from tests.runtime.cluster.machines import (
    Machine,
    Outcomes,
    Proxy,
    cluster,
    coordinator,
    machines,
    outcomes,
    within,
)
from tests.runtime.cluster.plans import Images, accounted, bundled, images, many, plan_of

BUNDLE = bundled("lenet5", "vertical")

SLACK = 24 * 2**20
"""Bytes by which a worker's memory may grow: what numpy, gRPC and onnxruntime keep for themselves."""


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Machine]]:
    with machines(BUNDLE, tmp_path_factory.mktemp("workers")) as made:
        yield made


def test_a_slow_reader_of_answers_holds_the_images_back(workers: dict[str, Machine], tmp_path: Path) -> None:
    """At most two windows of images are read ahead of the answers that were read."""
    taken = 0

    def counted() -> Iterator[Images]:
        nonlocal taken
        for image in many(120):
            taken += 1
            yield image

    async def run() -> list[int]:
        ahead: list[int] = []
        async with coordinator(plan_of(BUNDLE), cluster(tmp_path, workers), SendOptions(window=4)) as made:
            async for answer in made.answers(counted()):
                assert isinstance(answer, Prediction)
                ahead.append(taken - len(ahead))
                await asyncio.sleep(0.01)
        return ahead

    ahead = within(60, run())

    assert len(ahead) == 120
    assert max(ahead) <= 8


def test_a_slow_link_holds_the_images_back(workers: dict[str, Machine], tmp_path: Path) -> None:
    """The worker before the link has at most a window in flight, and its memory does not grow."""
    seen = []

    async def run() -> Outcomes:
        async with Proxy(workers["edge1"].address) as proxy:
            made = coordinator(plan_of(BUNDLE), cluster(tmp_path, workers), SendOptions(window=4, deadline=50))
            made.pool.addresses["edge1"] = proxy.address
            async with made:
                await outcomes(made, many(50))
                before = workers["edge0"].memory()
                proxy.rate = 400e3

                async def look() -> None:
                    seen.append(await asyncio.to_thread(workers["edge0"].count, "cloven_in_flight"))

                found = await outcomes(made, many(200), dict.fromkeys(range(20, 200, 20), look))
                assert workers["edge0"].memory() < before + SLACK
                return found

    assert not accounted(within(60, run()))
    assert max(seen) <= 4


def test_a_coordinator_that_sends_too_much_is_told_so(workers: dict[str, Machine], tmp_path: Path) -> None:
    """Send 5,000 images (16 MB) with a window of 4 to a worker whose neighbour never answers."""
    edge0 = workers["edge0"]
    before = edge0.memory()
    image = images("lenet5", 1)[0]

    async def run() -> tuple[list[str], float]:
        async with grpc.aio.insecure_channel(edge0.address) as to:
            ask: Any = to.unary_unary(DESCRIBE)
            described = json.loads(await ask(b"", timeout=10))
            control: Any = to.stream_stream(CONTROL)()
            addresses = dict.fromkeys(described["devices"], "127.0.0.1:1")
            terms = {"run": "x", "plan": described["plan"], "addresses": addresses, "window": 4, "deadline": 50}
            await control.write(json.dumps({"cloven": VERSION, "join": terms}).encode())
            assert b"status" in await control.read()
            link: Any = to.stream_stream(LINK)()
            hello = {"cloven": VERSION, "run": "x", "from": "coordinator", "to": "edge0", "protection": "none"}
            await link.write(json.dumps(hello | {"session": "ab" * 16}).encode())
            await link.read()
            sealer = Sealer(b"\xab" * 16, None)
            await link.write(json.dumps({"cloven": VERSION, "proof": sealer.seal(0, 0).hex()}).encode())
            await link.read()
            for number in range(5000):
                await link.write(sealer.seal(number, 0, image))
            reasons: list[str] = []
            while len(reasons) < 4900:
                said = json.loads(await control.read())
                reasons += [said["failed"]["reason"]] if "failed" in said else []
            return reasons, await asyncio.to_thread(edge0.count, "cloven_in_flight")

    reasons, in_flight = within(60, run())

    assert set(reasons) == {"more than 8 images are in flight, twice the window of the run"}
    assert in_flight <= 8
    assert edge0.memory() < before + SLACK
