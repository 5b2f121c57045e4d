"""Plans are executed in a laboratory with the links and the speeds of a cluster."""

from __future__ import annotations

import pytest
import torch

import cloven
from cloven.cost.cluster import Cluster, ClusterDevice
from cloven.partition.plan import ModelSpec
from cloven.runtime.lab.emulated_cluster import EmulatedCluster
from cloven.zoo.models import build
from tests.runtime.lab.programs import root

SPEC = ModelSpec(name="lenet5", input=(1, 28, 28), classes=10)


@pytest.fixture(scope="module")
def graph() -> cloven.Graph:
    return cloven.capture(build("lenet5", shape=(1, 28, 28), classes=10), torch.zeros(1, 1, 28, 28))


@root
def test_a_slow_device_takes_longer(graph: cloven.Graph) -> None:
    emulated = EmulatedCluster.of(graph, SPEC, Cluster.named("three-devices"))
    assert emulated.ratios["camera"] < 0.2

    seconds = {}
    for device in ("camera", "server"):
        plan = cloven.Plan(strategy=cloven.Vertical(), devices=[device])
        seconds[device] = emulated.latency(plan, cloven.compile(graph, plan))

    assert seconds["camera"] > 2 * seconds["server"] > 0


def test_what_the_laboratory_leaves_out_is_said() -> None:
    emulated = EmulatedCluster(Cluster({"slow": ClusterDevice(), "fast": ClusterDevice()}), SPEC, {"fast": 1.5})

    common, unlimited, faster = emulated.left_out(["slow", "fast"])

    assert "messages and ciphers are as fast as on this machine" in common
    assert "unlimited: coordinator-slow, coordinator-fast, slow-fast" in unlimited
    assert faster == "fast is slower in the laboratory than by its profile: as fast as this machine"
