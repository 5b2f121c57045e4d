"""Shares that are chosen by the costs of devices and links."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest

import cloven
from cloven.cost.cluster import ClusterDevice, ClusterLink
from cloven.cost.profile import (
    ComputeCost,
    DeviceProfile,
    LinkProfile,
    MemorySize,
    MessageCost,
    Transmission,
    scaled,
)
from cloven.cost.shares import best_shares
from cloven.errors import ClovenError
from cloven.partition.data import Data
from cloven.partition.horizontal import Horizontal
from cloven.partition.plan import Entry, Plan
from tests.cli.conftest import Run
from tests.cli.conftest import cloven as command
from tests.models import lenet5

__all__ = ["command"]

FREE = MessageCost(origin="measured", send=0.0, receive=0.0, send_byte=0.0, receive_byte=0.0)
BOARD = DeviceProfile(
    name="board",
    compute=ComputeCost(origin="measured", macs_per_second=1e6),
    messages=FREE,
    memory=MemorySize(origin="measured", worker=0),
)
WIRE = LinkProfile(name="wire", transmission=Transmission(origin="measured", bandwidth=1e7, delay=0.0))


def cluster(speeds: Sequence[float], board: DeviceProfile = BOARD) -> cloven.Cluster:
    """Return edge0, edge1, ... with these speeds."""
    devices = {f"edge{i}": ClusterDevice(scaled(board, speed)) for i, speed in enumerate(speeds)}
    return cloven.Cluster({"coordinator": ClusterDevice(board), **devices}, default=ClusterLink(WIRE))


def plan(strategy: Entry, devices: int) -> Plan:
    return Plan(strategy=strategy, devices=[f"edge{i}" for i in range(devices)])


def latency(made: Plan, on: cloven.Cluster) -> float:
    found = cloven.estimate(cloven.compile(lenet5(), made), on).latency
    assert found is not None
    return found


def shares(made: Plan) -> tuple[float, ...] | None:
    (stage,) = made.stages
    assert isinstance(stage, Horizontal | Data)
    return None if stage.shares is None else tuple(stage.shares)


@pytest.mark.parametrize("strategy", [Horizontal(axis="rows"), Horizontal(), Data(grid=(1, 3))])
def test_unequal_devices_get_shares_close_to_the_best_of_all(strategy: Entry) -> None:
    """Of all shares in tenths, none is more than 5 % better; equal shares are worse."""
    speeds = (1.0, 1.0, 0.25)
    equal, on = plan(strategy, 3), cluster(speeds)
    found = best_shares(lenet5(), equal, on)
    every = [some for some in product(range(11), repeat=3) if sum(some) == 10]
    tried = [plan(_with(strategy, tuple(map(float, some))), 3) for some in every]

    assert latency(found, on) < 0.9 * latency(equal, on)
    assert latency(found, on) <= 1.05 * min(latency(one, on) for one in tried)
    given = shares(found)
    assert given is not None
    assert given[2] < min(given[:2])


def _with(strategy: Entry, some: tuple[float, ...]) -> Entry:
    if isinstance(strategy, Data):
        return Data(grid=strategy.grid, shares=some)
    assert isinstance(strategy, Horizontal)
    return Horizontal(axis=strategy.axis, shares=some)


def test_equal_devices_share_about_equally() -> None:
    """The first device also runs what is not divided, so it may get a little less."""
    found = shares(best_shares(lenet5(), plan(Horizontal(axis="rows"), 2), cluster((1.0, 1.0))))

    assert found is None or 0.7 < found[0] / found[1] < 1.4


def test_throughput_is_another_choice() -> None:
    given, on = plan(Horizontal(axis="rows"), 3), cluster((1.0, 0.5, 0.25))
    rates = {}
    for minimised in ("latency", "throughput"):
        made = best_shares(lenet5(), given, on, minimised)
        rates[minimised] = cloven.estimate(cloven.compile(lenet5(), made), on).throughput or 0

    assert rates["throughput"] >= rates["latency"]


def test_a_device_with_little_memory_gets_what_fits() -> None:
    """Both devices are equally fast; 100 kB are less than half of the weights of LeNet-5, 178 kB and values."""
    small = BOARD.model_copy(update={"memory": MemorySize(origin="measured", worker=0, available=100_000)})
    devices = {"coordinator": BOARD, "edge0": BOARD, "edge1": small}
    on = cloven.Cluster({n: ClusterDevice(p) for n, p in devices.items()}, default=ClusterLink(WIRE))
    found = best_shares(lenet5(), plan(Horizontal(), 2), on)
    cost = cloven.estimate(cloven.compile(lenet5(), found), on)

    assert cost.devices[1].memory is not None
    assert cost.devices[1].memory <= 100_000

    tiny = {"coordinator": BOARD, "edge0": small, "edge1": small}
    neither = cloven.Cluster({n: ClusterDevice(p) for n, p in tiny.items()}, default=ClusterLink(WIRE))
    with pytest.raises(ClovenError, match=r"lack .* bytes of memory with all shares that were tried"):
        best_shares(lenet5(), plan(Horizontal(), 2), neither)


def test_what_cannot_be_chosen() -> None:
    on = cluster((1.0, 1.0))
    unknown = cloven.Cluster({"edge0": ClusterDevice(BOARD), "edge1": ClusterDevice()}, default=ClusterLink(WIRE))
    for strategy, where, message in (
        (cloven.Vertical(cuts=["conv1"]), on, "the plan has 0 strategies that can have shares; expected one"),
        (Horizontal(), unknown, "edge1 has no profile in the cluster; `cloven profile` measures one"),
        (
            Data(grid=(2, 2)),
            on,
            "shares of tiles require a grid with a single row or column, such as 1x3, got 2x2",
        ),
    ):
        with pytest.raises(ClovenError, match=message):
            best_shares(lenet5(), plan(strategy, 4 if isinstance(strategy, Data) else 2), where)


def test_the_command_writes_the_shares(command: Run, tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(
        '[devices]\ncoordinator = { profile = "x86-core" }\nedge0 = { profile = "x86-core" }\n'
        'edge1 = { profile = "cortex-a9" }\n[links]\ndefault = { profile = "ethernet-1000" }\n'
    )
    given = ("plan", "lenet5", "--strategy", "horizontal", "--axis", "rows", "--shares", "auto")
    assert command(*given, "--cluster", file, "--out", tmp_path / "plan.toml").code == 0
    found = shares(Plan.load(tmp_path / "plan.toml"))
    assert found is not None
    assert found[0] > 4 * found[1]

    assert "--shares auto requires --cluster FILE" in command(*given).err
    assert "--minimise is 'cost'" in command(*given, "--cluster", file, "--minimise", "cost").err
    assert "require --shares auto" in command(*given[:-2], "--cluster", file).err
