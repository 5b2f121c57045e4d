"""Observations: what a listener sees, computed from the graph, is what crosses the link."""

from __future__ import annotations

import pytest
import torch

from cloven.audit.material import prepare
from cloven.graph.box import contains
from cloven.graph.capture import capture
from cloven.partition.compiler import compile  # noqa: A004
from cloven.partition.data import Data, tiles
from cloven.partition.division import Strategy
from cloven.partition.horizontal import Horizontal
from cloven.partition.observe import observe, slices_of, tiles_of
from cloven.partition.vertical import Vertical
from cloven.runtime.local import Recorder, run
from cloven.zoo.models import build

torch.manual_seed(1)
GRAPH = capture(build("lenet5", shape=(1, 28, 28), classes=10), torch.zeros(1, 1, 28, 28))
PLANS: list[tuple[Strategy, int]] = [
    (Vertical(("conv2", "pool2", "flatten")), 4),
    (Horizontal(), 4),
    (Horizontal(), 8),
    (Data((2, 2)), 4),
    (Data((2, 4), until="pool1"), 8),
    (Data((2, 2), until="pool2", halo="none"), 4),
]


@pytest.mark.parametrize(("strategy", "devices"), PLANS)
def test_what_is_computed_from_the_graph_is_what_the_tap_records(strategy: Strategy, devices: int) -> None:
    program = compile(GRAPH, strategy, devices)
    images = torch.rand(4, 1, 28, 28)

    for link in program.links:
        seen = observe(program, link)
        tap = Recorder(link)
        run(program, images, tap=tap)
        material = prepare(GRAPH, [seen], auxiliary=torch.rand(4, 1, 28, 28), victims=images)

        computed, recorded = material.captured(seen, "victims"), tap.tensors()

        assert [tuple(t.shape[1:]) for t in recorded] == [s.shape for s in seen.seen]
        assert seen.bytes == program.sent(link)
        for a, b in zip(computed, recorded, strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-6)
            if isinstance(strategy, Vertical):
                assert torch.equal(a, b)


@pytest.mark.parametrize(("strategy", "devices"), PLANS)
def test_a_tap_changes_no_bit_of_the_output(strategy: Strategy, devices: int) -> None:
    program = compile(GRAPH, strategy, devices)
    images = torch.rand(4, 1, 28, 28)

    tapped = run(program, images, tap=Recorder(program.links[0]))

    assert torch.equal(tapped, run(program, images))


def test_the_papers_horizontal_slices_are_quarters_of_which_most_never_cross() -> None:
    program = compile(GRAPH, Horizontal(), 4)

    counted = {layer: list(slices_of(program, layer)) for layer in ("conv2", "pool2", "flatten")}

    assert [o.seen[0].shape for o in counted["conv2"]] == [(4, 10, 10)] * 4
    assert [o.seen[0].shape for o in counted["pool2"]] == [(4, 5, 5)] * 4
    assert [o.seen[0].shape for o in counted["flatten"]] == [(30,)] * 4
    # Pooling stays where its channels are: what crosses is pool2, never conv2.
    assert {layer: {o.crosses for o in seen} for layer, seen in counted.items()} == {
        "conv2": {False},
        "pool2": {True},
        "flatten": {True},
    }


def test_the_papers_tiles_are_quarters_of_the_image_and_the_holders_own_crosses_no_link() -> None:
    program = compile(GRAPH, Data((2, 2)), 4)

    counted = list(tiles_of(program, tiles((1, 28, 28), (2, 2))))

    assert [o.seen[0].shape for o in counted] == [(1, 14, 14)] * 4
    assert [o.link for o in counted] == [None, ("edge0", "edge1"), ("edge0", "edge2"), ("edge0", "edge3")]
    assert [o.crosses for o in counted] == [False, True, True, True]
    # With halo the link carries more than the tile.
    assert observe(program, ("edge0", "edge3")).seen[0].shape > (1, 14, 14)
    assert counted[3].raw_image == 0.25
    assert 0.25 < observe(program, ("edge0", "edge3")).raw_image < 1
    assert contains(observe(program, ("edge0", "edge3")).seen[0].share, counted[3].seen[0].share)


def test_horizontal_sends_the_raw_image_to_every_other_device() -> None:
    program = compile(GRAPH, Horizontal(), 4)

    for device in program.devices[1:]:
        assert observe(program, ("edge0", device)).seen[0].value == "input"
        assert observe(program, ("edge0", device)).seen[0].shape == (1, 28, 28)
        assert observe(program, ("edge0", device)).raw_image == 1
    assert observe(program, ("edge1", "edge0")).raw_image == 0


def test_equal_observations_of_different_plans_have_equal_fingerprints() -> None:
    """S1-48: what vertical sends at a layer does not depend on how many devices follow."""
    plans = [
        compile(GRAPH, Vertical(cuts)) for cuts in (("conv2",), ("conv2", "pool2"), ("conv2", "conv3", "dense1"))
    ]

    prints = {observe(plan, ("edge0", "edge1")).fingerprint for plan in plans}
    paper = observe(plans[0], ("edge0", "edge1"), "paper", value="conv2")

    assert prints == {paper.fingerprint}
    assert observe(plans[1], ("edge1", "edge2")).fingerprint not in prints


def test_a_link_that_is_never_used_carries_nothing() -> None:
    seen = observe(compile(GRAPH, Vertical(("conv2",))), ("edge1", "edge0"))

    assert (seen.seen, seen.bytes, seen.crosses) == ((), 0, False)
