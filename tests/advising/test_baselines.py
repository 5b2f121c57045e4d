"""The divisions from the literature: they compute the model, and each is what its paper defines."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations, pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloven
from cloven.advising.baselines import (
    balanced_macs,
    baselines,
    device_seconds,
    early_layers_together,
    min_cut,
    proportional_rows,
    surgery,
    surgery_seconds,
)
from cloven.advising.candidates import Candidate
from cloven.cost.cluster import ClusterDevice, ClusterLink
from cloven.cost.operators import work
from cloven.cost.profile import ComputeCost, DeviceProfile, LinkProfile, OperatorTime, Transmission
from cloven.graph.cuts import cuts
from cloven.partition.horizontal import Horizontal
from cloven.partition.program import Compute
from cloven.partition.vertical import Vertical
from cloven.runtime.check import compare
from cloven.zoo.libraries import from_torchvision
from cloven.zoo.models import build


def cluster(*speeds: float | None, bandwidth: float = 1e8) -> cloven.Cluster:
    """Return a cluster of devices ``edge0``, ``edge1``, ... with these multiply-accumulates a second."""
    devices = {}
    for i, speed in enumerate(speeds):
        compute = ComputeCost(origin="assumed", macs_per_second=speed) if speed else None
        profile = DeviceProfile(name=f"{speed} MAC/s", compute=compute) if compute else None
        devices[f"edge{i}"] = ClusterDevice(profile)
    wire = Transmission(origin="assumed", bandwidth=bandwidth, delay=0.0)
    return cloven.Cluster(devices, default=ClusterLink(LinkProfile(name="wire", transmission=wire)))


class Branches(nn.Module):
    """A network with a branch beside the image's other readers, and with squeeze and excite."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 5, padding=2)
        self.down, self.up = nn.Linear(4, 2), nn.Linear(2, 4)
        self.end = nn.Linear(4 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.narrow(x)) + F.relu(self.wide(x))
        weight = torch.sigmoid(self.up(F.relu(self.down(y.mean((2, 3))))))
        z: Tensor = self.end(F.max_pool2d(y * weight[:, :, None, None], 2).flatten(1))
        return z


def branches() -> cloven.Graph:
    torch.manual_seed(0)
    return cloven.capture(Branches(), torch.zeros(1, 3, 16, 16))


def captured(model: Callable[..., nn.Module], name: str, side: int, channels: int = 3) -> cloven.Graph:
    torch.manual_seed(0)
    shape = (channels, side, side)
    return cloven.capture(model(name, shape=shape, classes=10).eval(), torch.zeros(1, *shape))


MODELS: dict[str, Callable[[], cloven.Graph]] = {
    "lenet5": partial(captured, build, "lenet5", 28, 1),
    "resnet20": partial(captured, build, "resnet20", 32),
    "mobilenet_v1": partial(captured, build, "mobilenet_v1_0.25", 64),
    "mobilenet_v2": lambda: captured(from_torchvision, "mobilenet_v2", 64),
    "branches": branches,
}
EVERY = {
    "balanced MACs on 2 devices",
    "balanced MACs on 3 devices",
    "proportional rows (CoEdge)",
    "equal rows (MoDNN)",
    "fused tiles (DeepThings)",
    "tiles, then channels (Mehrafrooz et al.)",
    "early layers on one device (Mehrafrooz et al.)",
    "min-cut (DADS)",
}


@pytest.mark.parametrize("name", MODELS)
def test_every_baseline_computes_the_model(name: str) -> None:
    model = MODELS[name]()
    images = torch.rand(2, *model.input.shape, generator=torch.Generator().manual_seed(0))

    found = baselines(model, cluster(1e8, 3e8, 2e8))

    assert {one.name for one in found} == EVERY
    for one in found:
        program = cloven.divide(model, one.candidate.strategies, one.candidate.devices)
        assert compare(program, model, images).equal, one.name


def test_no_baseline_without_two_devices_of_known_speed() -> None:
    model = MODELS["lenet5"]()

    assert baselines(model, cluster(1e8)) == ()
    assert baselines(model, cluster(1e8, None)) == ()
    assert {device for one in baselines(model, cluster(1e8, None, 2e8)) for device in one.candidate.devices} == {
        "edge0",
        "edge2",
    }


def test_a_baseline_that_does_not_fit_is_left_out() -> None:
    """LeNet-5's images have 28 columns, which 29 devices cannot divide."""
    model = MODELS["lenet5"]()

    few, many = ({one.name for one in baselines(model, cluster(*[1e8] * number))} for number in (4, 29))

    assert "fused tiles (DeepThings)" in few
    assert "fused tiles (DeepThings)" not in many
    assert "min-cut (DADS)" in many


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v1"])
def test_balanced_parts_differ_from_equal_ones_by_less_than_a_layer(name: str) -> None:
    model = MODELS[name]()
    devices = ("a", "b", "c", "d")
    whole = cloven.divide(model, Vertical(), 1)
    largest = max(step.macs for step in whole.parts["edge0"] if isinstance(step, Compute))

    found = list(balanced_macs(model, devices))

    assert [one.devices for one in found] == [devices[:2], devices[:3], devices]
    for one in found:
        program = cloven.divide(model, one.strategies, one.devices)
        share = whole.macs("edge0") / len(one.devices)
        assert all(abs(program.macs(device) - share) <= largest for device in one.devices)


def chain() -> cloven.Graph:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 9, 10),
    )
    return cloven.capture(net, torch.zeros(1, 1, 12, 12))


def closed(model: cloven.Graph) -> list[frozenset[str]]:
    """Return every set of values with the image that contains all that its values are computed from."""
    names = [op.name for op in model.ops[1:]]
    sets = (frozenset((model.input.name, *some)) for n in range(len(names) + 1) for some in combinations(names, n))
    return [one for one in sets if all(one.issuperset(model.by_name[value].inputs) for value in one)]


@pytest.mark.parametrize("bandwidth", [1e3, 1e5, 1e6, 3e6, 1e7, 1e9])
@pytest.mark.parametrize("speeds", [(1e6, 1e6), (1e6, 4e6), (4e6, 1e6)])
@pytest.mark.parametrize("model", [chain(), branches()], ids=["chain", "branches"])
def test_the_minimum_cut_is_the_best_of_all_assignments(
    model: cloven.Graph, speeds: tuple[float, float], bandwidth: float
) -> None:
    seconds = device_seconds(model, cluster(*speeds))
    first, second = seconds["edge0"], seconds["edge1"]
    sent = {op.name: 8 * op.bytes / bandwidth for op in model.ops}

    kept = surgery(model, first, second, sent)

    every = [surgery_seconds(model, one, first, second, sent) for one in closed(model)]
    assert surgery_seconds(model, kept, first, second, sent) == pytest.approx(min(every), rel=1e-9)


def test_the_minimum_cut_of_a_chain_is_the_vertical_division_that_takes_least() -> None:
    model = chain()
    for bandwidth in (1e4, 3e6, 1e7, 1e9):
        where = cluster(1e6, 2e6, bandwidth=bandwidth)
        found = min_cut(model, where, device_seconds(model, where))
        assert found is not None
        assert len(found.strategies) == 1
        pairs = [("edge0", "edge1"), ("edge1", "edge0")]
        every = [Candidate((Vertical(),), (name,)) for name in where.devices]
        every += [Candidate((Vertical(cuts=(cut.after,)),), pair) for cut in cuts(model)[1:] for pair in pairs]
        assert taken(model, found, where) == pytest.approx(min(taken(model, one, where) for one in every))


def taken(model: cloven.Graph, candidate: Candidate, where: cloven.Cluster) -> float:
    """Return the seconds of computing, and of transmission but for the answer's."""
    program = cloven.divide(model, candidate.strategies, candidate.devices)
    macs = sum(program.macs(name) / speed(where, name) for name in program.devices)
    wire = where.default.profile
    assert wire is not None
    sent = model.input.bytes + sum(transfer.bytes for transfer in program.transfers)
    return macs + 8 * sent / wire.transmission.bandwidth


def speed(where: cloven.Cluster, name: str) -> float:
    profile = where.devices[name].profile
    assert profile is not None
    assert profile.compute.macs_per_second is not None
    return profile.compute.macs_per_second


def board(model: cloven.Graph, slow: str) -> DeviceProfile:
    """Return the profile of a device that takes a second for one layer, and a millisecond for every other op."""
    program = cloven.divide(model, Vertical(), 1)
    steps = {step.value: step for step in program.parts["edge0"] if isinstance(step, Compute)}
    works = {value: work(model, value, step.box) for value, step in steps.items()}
    rows = tuple(
        OperatorTime(family=what.family, macs=what.macs, bytes=what.bytes, seconds=1.0 if value == slow else 0.001)
        for value, what in works.items()
    )
    return DeviceProfile(name=f"slow {slow}", compute=ComputeCost(origin="assumed", operators=rows))


def test_a_cut_through_parallel_branches_is_expressed_exactly() -> None:
    """Each of two parallel layers is slow on one device, so that the first device runs only the second layer."""
    model = branches()
    narrow, wide = model.find("narrow"), model.find("wide")
    devices = {"edge0": ClusterDevice(board(model, narrow)), "edge1": ClusterDevice(board(model, wide))}
    where = cloven.Cluster(devices, default=cluster(1.0, bandwidth=1e9).default)

    found = min_cut(model, where, device_seconds(model, where))

    assert found is not None
    program = cloven.divide(model, found.strategies, found.devices)
    owners = {op.name: set(program.owners[op.name]) for op in model.ops[1:]}
    assert owners[wide] == {"edge0"}
    assert {value for value, owner in owners.items() if owner == {"edge0"}} <= {wide, *model.users[wide]}
    assert compare(program, model, torch.rand(2, 3, 16, 16)).equal


def test_rows_are_in_proportion_to_speed() -> None:
    model = MODELS["resnet20"]()
    where = cluster(1e8, 4e8, 3e8)

    found = proportional_rows(model, ["edge1", "edge2", "edge0"], device_seconds(model, where))

    assert found == Candidate((Horizontal(axis="rows", shares=(0.5, 0.375, 0.125)),), ("edge1", "edge2", "edge0"))
    program = cloven.divide(model, found.strategies, found.devices)
    rows = {device: box[1] for device, (box,) in program.owners[model.find("conv1")].items()}
    assert rows == {"edge1": (0, 16), "edge2": (16, 28), "edge0": (28, 32)}


def test_a_device_too_slow_for_a_row_is_dropped() -> None:
    model = MODELS["resnet20"]()
    where = cluster(1e6, 4e8, 4e8)

    found = proportional_rows(model, ["edge1", "edge2", "edge0"], device_seconds(model, where))

    assert found.devices == ("edge1", "edge2")


def test_half_of_the_layers_stay_together() -> None:
    model = MODELS["lenet5"]()

    found = early_layers_together(model, ["edge0", "edge1"])

    assert found is not None
    program = cloven.divide(model, found.strategies, found.devices)
    layers = {op.name: set(program.owners[op.name]) for op in model.ops if op.kind in {"conv2d", "linear"}}
    assert list(layers.values()) == [{"edge0"}] * 3 + [{"edge1"}] * 2
    assert all(a <= b for a, b in pairwise(map(min, layers.values())))
