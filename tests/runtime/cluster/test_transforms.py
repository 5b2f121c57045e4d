"""Workers that send float16 and int8: fewer bytes on their links, and the outputs of one process."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from cloven.cost.cluster import Cluster
from cloven.cost.tasks import Workload
from cloven.errors import ClovenError
from cloven.partition import plan as plans
from cloven.partition.transform import Transform, Transforms
from cloven.runtime.bundle.format import PART
from cloven.runtime.bundle.reader import read
from cloven.runtime.bundle.task_graph import task_graph
from cloven.runtime.bundle.writer import write
from cloven.runtime.cluster.coordinator import Coordinator, PartyReport, Prediction
from cloven.runtime.cluster.errors import FrameFailed
from cloven.runtime.cluster.send_options import SendOptions
from cloven.runtime.cluster.sending import coordinator as made_coordinator
from cloven.runtime.cluster.upgrading import ClusterUpgrade
from cloven.runtime.local import run
from tests.runtime.cluster.machines import Event, cluster, coordinator, equals, machines, outcomes, within
from tests.runtime.cluster.plans import alone, graph, images, plan, whole

MIXED = Transforms(default=Transform("int8"), links={"edge0-edge2": Transform("float16")})
"""A transform for most links, and another for one."""


def bundled(folder: Path, strategy: str, transforms: Transforms, standby: tuple[str, ...] = ()) -> plans.Plan:
    made = plan("lenet5", strategy).model_copy(update={"transform": transforms, "standby": standby})
    write(plans.compile(graph("lenet5"), made), folder, model="lenet5", plan=made.toml())
    return made


@pytest.mark.parametrize("strategy", ["star", "hybrid"])
def test_workers_send_fewer_bytes_and_answer_as_one_process(strategy: str, tmp_path: Path) -> None:
    bundle, given = tmp_path / "bundle", images("lenet5", 3)
    made = bundled(bundle, strategy, MIXED)
    program = plans.compile(graph("lenet5"), made)

    async def sent(to: Coordinator) -> tuple[list[Prediction | FrameFailed], dict[str, PartyReport]]:
        async with to:
            return await outcomes(to, given), await to.reports()

    with machines(bundle, tmp_path / "workers") as workers:
        found, reports = within(60, sent(coordinator(made, cluster(tmp_path, workers))))

    outputs = np.stack([answer.output for answer in found if isinstance(answer, Prediction)])
    assert np.array_equal(outputs, alone(bundle, given))
    in_torch = run(program, torch.from_numpy(given)).numpy()
    # A sum that is rounded otherwise can be one level away.
    assert np.abs(outputs - in_torch).max() < 0.02 * np.abs(in_torch).max()
    assert not np.array_equal(outputs, whole("lenet5", given))

    carried = {(name, to): n for name, one in reports.items() for to, n in one.report.bytes.items() if n}
    assert {link: len(given) * program.sent(link) for link in program.links}.items() <= carried.items()
    estimated = Counter[tuple[str, str]]()
    for message in Workload.of(program).messages:
        estimated[message.link] += message.bytes
    assert {link: carried[link] for link in program.links} == {
        link: len(given) * estimated[link] for link in program.links
    }
    for link in program.links:
        shares = [t for t in program.transfers if t.link == link]
        numbers = sum(int(np.prod(t.shape)) for t in shares)
        half = set(link) == {"edge0", "edge2"}
        assert carried[link] == len(given) * (2 * numbers if half else numbers + 8 * len(shares))


def test_a_standby_takes_the_place_of_a_device_whose_links_carry_int8(tmp_path: Path) -> None:
    bundle, given = tmp_path / "bundle", images("lenet5", 40)
    made = bundled(bundle, "vertical", MIXED, standby=("edge3",))
    options = SendOptions(deadline=30, standby=("edge3",))

    async def sent(to: Coordinator, lost: Event) -> list[Prediction | FrameFailed]:
        async with to:
            return await outcomes(to, given, {10: lost})

    with equals(bundle, tmp_path / "workers", ["edge0", "edge1", "edge2", "edge3"]) as workers:
        run = coordinator(made, cluster(tmp_path, workers), options)
        found = within(60, sent(run, workers["edge1"].kill))

    outputs = np.stack([answer.output for answer in found if isinstance(answer, Prediction)])
    assert "edge3" in run.pool.workers
    assert np.array_equal(outputs, alone(bundle, given))


def test_an_upgrade_changes_what_links_carry(tmp_path: Path) -> None:
    plain, coded = tmp_path / "plain", tmp_path / "coded"
    made, _ = bundled(plain, "pair", Transforms()), bundled(coded, "pair", Transforms(default=Transform("int8")))
    given = images("lenet5", 3)

    async def upgraded(to: Coordinator, file: Path) -> list[list[Prediction | FrameFailed]]:
        async with to:
            first, pool = await outcomes(to, given), to.pool
            assert (await ClusterUpgrade(Cluster.load(file), None).upgrade(coded)).done
            while to.pool is pool:
                await asyncio.sleep(0.05)
            return [first, await outcomes(to, given)]

    with machines(
        plain, tmp_path / "workers", lambda name: ["--upgrades", tmp_path / "upgrades" / name]
    ) as workers:
        file = cluster(tmp_path, workers)
        found = within(60, upgraded(coordinator(made, file, SendOptions(follow=True)), file))

    for answers, bundle in zip(found, (plain, coded), strict=True):
        outputs = np.stack([answer.output for answer in answers if isinstance(answer, Prediction)])
        assert np.array_equal(outputs, alone(bundle, given))


def test_a_bundle_says_what_crosses_and_is_refused_if_its_ends_differ(tmp_path: Path) -> None:
    bundled(tmp_path / "bundle", "pair", Transforms(default=Transform("int8")))
    path = tmp_path / "bundle" / "edge1" / PART
    part = json.loads(path.read_text())
    (receive,) = (step for step in part["steps"] if step["do"] == "receive")

    assert (receive["transform"], receive["bytes"]) == ("int8", 8 + int(np.prod(receive["shape"])))
    for changed, reason in (
        ({"transform": "float16"}, f"bytes is {receive['bytes']}; expected"),
        ({"transform": "topk"}, "transform"),
        ({"transform": "float16", "bytes": 2 * (receive["bytes"] - 8)}, "differs between their parts"),
    ):
        steps = [step | changed if step is receive else step for step in part["steps"]]
        resealed(tmp_path / "bundle", "edge1", json.dumps(part | {"steps": steps}))
        with pytest.raises(ClovenError, match=reason):
            read(tmp_path / "bundle")


def resealed(bundle: Path, device: str, text: str) -> None:
    """Replace the part of a device, with its digest in the manifest, as someone else could who writes a bundle."""
    (bundle / device / PART).write_text(text)
    manifest = json.loads((bundle / "manifest.json").read_text())
    digest = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text.encode())}
    manifest["files"][f"{device}/{PART}"] = digest
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_stealing_is_refused_because_workers_exchange_nothing(tmp_path: Path) -> None:
    made = bundled(tmp_path / "bundle", "pair", Transforms(default=Transform("float16")))

    with pytest.raises(ClovenError, match="--steal cannot run a plan that transforms links with float16"):
        made_coordinator(made, tmp_path / "cluster.toml", SendOptions(steal=True))
    with pytest.raises(ClovenError, match="sends float16 from edge0 to edge1, but tasks exchange data only with"):
        task_graph(read(tmp_path / "bundle").parts)
