"""Cuts that the user gives, and balanced cuts after them for more devices."""

from __future__ import annotations

import pytest

from cloven.errors import ClovenError
from cloven.graph.ops import macs
from cloven.partition.compiler import divide
from cloven.partition.observe import Observation, slices_of
from cloven.partition.vertical import Vertical, further
from tests.models import lenet5


def places(cuts: tuple[str, ...]) -> list[int]:
    graph = lenet5()
    return [graph.position[graph.find(cut)] for cut in cuts]


@pytest.mark.parametrize("devices", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("cuts", [("conv1",), ("conv1", "conv2"), ("pool1",)])
def test_the_given_cuts_are_kept_and_the_parts_are_as_many_as_the_devices(
    cuts: tuple[str, ...], devices: int
) -> None:
    found = further(lenet5(), cuts, devices)

    assert found[: len(cuts)] == cuts
    assert len(found) + 1 == max(devices, len(cuts) + 1)
    assert places(found) == sorted(set(places(found)))
    assert places(found)[-1] < len(lenet5().ops) - 1
    assert len(divide(lenet5(), Vertical(found), len(found) + 1).devices) == len(found) + 1


@pytest.mark.parametrize("devices", [1, 2, 3])
def test_cuts_that_suffice_are_left_as_they_are(devices: int) -> None:
    assert further(lenet5(), ["conv1", "conv2"], devices) == ("conv1", "conv2")


@pytest.mark.parametrize("devices", [2, 8, 800])
def test_without_cuts_there_is_nothing_to_go_on_from(devices: int) -> None:
    assert further(lenet5(), (), devices) == ()


def test_the_part_behind_the_last_cut_is_balanced() -> None:
    """One more cut: no other place leaves the slower part fewer multiplications."""
    graph = lenet5()
    first, added = places(further(graph, ("conv1",), 3))
    work = [macs(op, graph.input_shapes(op)) if op.inputs else 0 for op in graph.ops]

    def slower(cut: int) -> int:
        return max(sum(work[first + 1 : cut + 1]), sum(work[cut + 1 :]))

    assert slower(added) == min(slower(cut) for cut in range(first + 1, len(graph.ops) - 1))


def test_more_devices_change_nothing_of_what_crosses_at_the_given_cut() -> None:
    graph = lenet5()
    seen: list[Observation] = []
    for devices in (2, 4, 8):
        cuts = further(graph, ("conv2",), devices)
        seen += slices_of(divide(graph, Vertical(cuts), len(cuts) + 1), "conv2")
    assert len(seen) == 3
    assert len({one.fingerprint for one in seen}) == 1


def test_as_many_parts_as_ops_behind_the_cut_is_the_most() -> None:
    graph = lenet5()
    behind = len(graph.ops) - 1 - graph.position[graph.find("conv2")]
    most = further(graph, ("conv2",), behind + 1)
    assert places(most) == list(range(places(("conv2",))[0], len(graph.ops) - 1))
    with pytest.raises(
        ClovenError,
        match=f"{behind + 2} devices: after conv2 there are {behind} ops for {behind + 1} parts",
    ):
        further(graph, ("conv2",), behind + 2)


def test_a_layer_that_the_model_does_not_have_is_an_error() -> None:
    with pytest.raises(ClovenError, match="no layer or op is named 'convv2'"):
        further(lenet5(), ("conv1", "convv2"), 4)
