"""Observations: what a listener sees, computed from the graph, is what crosses the link."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cloven.auditing.classifier import WholeModel
from cloven.auditing.features import Shares
from cloven.auditing.material import ImageSets, prepare
from cloven.errors import ClovenError
from cloven.graph.box import contains
from cloven.partition.compiler import divide
from cloven.partition.data import Data, tiles
from cloven.partition.horizontal import Horizontal
from cloven.partition.observe import observe, seen_on, slices_of, tiles_of
from cloven.partition.plan import Plan
from cloven.partition.plan import compile as compile_plan
from cloven.partition.strategy import Strategy
from cloven.partition.vertical import Vertical
from cloven.runtime.local import run
from tests.models import Recorder, lenet5

torch.manual_seed(1)
PLANS: list[tuple[Strategy, int]] = [
    (Vertical(("conv2", "pool2", "flatten")), 4),
    (Horizontal(), 4),
    (Horizontal(), 8),
    (Data((2, 2)), 4),
    (Data((2, 4), until="pool1"), 8),
    (Data((2, 2), until="pool2", halo="none"), 4),
]


def everything(captured: Shares) -> list[Tensor]:
    """All rows of what was captured."""
    return captured.take(torch.arange(len(captured)))


@pytest.mark.parametrize(("strategy", "devices"), PLANS)
def test_what_is_computed_from_the_graph_is_what_the_tap_records(strategy: Strategy, devices: int) -> None:
    program = divide(lenet5(), strategy, devices)
    images = torch.rand(4, 1, 28, 28)

    for link in program.links:
        seen = seen_on(program, link)
        tap = Recorder(link)
        run(program, images, tap=tap)
        material = prepare(WholeModel(lenet5()), [seen], ImageSets(torch.rand(4, 1, 28, 28), images))

        computed, recorded = everything(material.captured(seen, "victims")), tap.tensors()

        assert [tuple(t.shape[1:]) for t in recorded] == [s.shape for s in seen.seen]
        assert seen.bytes == program.sent(link)
        for a, b in zip(computed, recorded, strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-6)
            if isinstance(strategy, Vertical):
                assert torch.equal(a, b)


@pytest.mark.parametrize(("strategy", "devices"), PLANS)
def test_a_tap_changes_no_bit_of_the_output(strategy: Strategy, devices: int) -> None:
    program = divide(lenet5(), strategy, devices)
    images = torch.rand(4, 1, 28, 28)

    tapped = run(program, images, tap=Recorder(program.links[0]))

    assert torch.equal(tapped, run(program, images))


def test_the_papers_horizontal_slices_are_quarters_of_which_most_never_cross() -> None:
    program = divide(lenet5(), Horizontal(), 4)

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
    program = divide(lenet5(), Data((2, 2)), 4)

    counted = list(tiles_of(program, tiles((1, 28, 28), (2, 2))))

    assert [o.seen[0].shape for o in counted] == [(1, 14, 14)] * 4
    assert [o.link for o in counted] == [None, ("edge0", "edge1"), ("edge0", "edge2"), ("edge0", "edge3")]
    assert [o.crosses for o in counted] == [False, True, True, True]
    # With halo the link carries more than the tile.
    assert seen_on(program, ("edge0", "edge3")).seen[0].shape > (1, 14, 14)
    assert counted[3].raw_image == 0.25
    assert 0.25 < seen_on(program, ("edge0", "edge3")).raw_image < 1
    assert contains(seen_on(program, ("edge0", "edge3")).seen[0].share, counted[3].seen[0].share)


def test_horizontal_sends_the_raw_image_to_every_other_device() -> None:
    program = divide(lenet5(), Horizontal(), 4)

    for device in program.devices[1:]:
        assert seen_on(program, ("edge0", device)).seen[0].value == "input"
        assert seen_on(program, ("edge0", device)).seen[0].shape == (1, 28, 28)
        assert seen_on(program, ("edge0", device)).raw_image == 1
    assert seen_on(program, ("edge1", "edge0")).raw_image == 0


def test_equal_observations_of_different_plans_have_equal_fingerprints() -> None:
    """A vertical plan sends the same at a layer, however many devices follow."""
    plans = [
        divide(lenet5(), Vertical(cuts)) for cuts in (("conv2",), ("conv2", "pool2"), ("conv2", "conv3", "dense1"))
    ]

    prints = {seen_on(plan, ("edge0", "edge1")).fingerprint for plan in plans}
    paper = seen_on(plans[0], ("edge0", "edge1"), view="paper", value="conv2")

    assert prints == {paper.fingerprint}
    assert seen_on(plans[1], ("edge1", "edge2")).fingerprint not in prints


def test_a_link_that_is_never_used_carries_nothing() -> None:
    seen = seen_on(divide(lenet5(), Vertical(("conv2",))), ("edge1", "edge0"))

    assert (seen.seen, seen.bytes, seen.crosses) == ((), 0, False)


# --- taps that collude ----------------------------------------------------------------------------------------


def test_taps_that_collude_see_the_union_and_each_share_once() -> None:
    """All-gather: edge1's slice of pool1 goes to three devices; together with edge2's two links it is seen once."""
    program = divide(lenet5(), Horizontal(), 4)
    links = [("edge1", "edge0"), ("edge1", "edge2"), ("edge2", "edge0")]

    one = seen_on(program, links[0])
    several = seen_on(program, *links)

    assert several.links == tuple(links)
    assert several.link is None
    assert one.links == (links[0],)
    assert one.link == links[0]
    # The second link carries nothing that the first does not; the third another slice.
    assert set(seen_on(program, *links[:2]).seen) == set(one.seen)
    assert set(several.seen) == {*one.seen, *seen_on(program, links[2]).seen}
    assert len(set(several.seen)) == len(several.seen)
    assert several.bytes == one.bytes + seen_on(program, links[2]).bytes
    assert several.crosses


def test_a_standby_may_receive_what_any_device_receives() -> None:
    plan = Plan(strategy=Vertical(cuts=["pool1"]), devices=["edge0", "edge1"], standby=["edge2"])
    program = compile_plan(lenet5(), plan)
    first, second = observe(program, device="edge2")

    assert (first.name, second.name) == ("device edge2 as edge0", "device edge2 as edge1")
    assert first.raw_image == 1
    assert second.fingerprint == observe(program, device="edge1")[0].fingerprint
    with pytest.raises(ClovenError, match="the program has edge0, edge1, edge2"):
        observe(program, device="edge3")


@pytest.mark.parametrize(
    ("standby", "message"),
    [(["edge0"], "edge0"), (["a->b"], "a->b"), (["edge2", "edge2"], "edge2")],
)
def test_names_of_standbys_are_names_of_further_devices(standby: list[str], message: str) -> None:
    plan = Plan(strategy=Vertical(cuts=["pool1"]), devices=["edge0", "edge1"], standby=standby)
    with pytest.raises(ClovenError, match=message):
        compile_plan(lenet5(), plan)


def test_colluding_taps_see_shares_in_the_order_in_which_they_are_sent() -> None:
    program = divide(lenet5(), Horizontal(), 4)
    seen = seen_on(program, ("edge3", "edge0"), ("edge0", "edge3")).seen
    first = {(t.value, t.share): t.step for t in reversed(program.transfers) if "edge3" in t.link}

    steps = [first[s.value, s.share] for s in seen]
    assert steps == sorted(steps)
    assert seen[0].value == "input"


def test_the_order_in_which_taps_are_named_changes_nothing_that_is_seen() -> None:
    program = divide(lenet5(), Data((2, 2)), 4)
    links = [("edge0", "edge2"), ("edge0", "edge1"), ("edge3", "edge0")]

    assert seen_on(program, *links).seen == seen_on(program, *links[::-1]).seen
    assert seen_on(program, *links).fingerprint == seen_on(program, *links[::-1]).fingerprint


def test_taps_on_both_sides_of_a_device_see_what_neither_sees_alone() -> None:
    program = divide(lenet5(), Vertical(("conv1", "pool2")))
    links = [("edge0", "edge1"), ("edge1", "edge2")]
    both = seen_on(program, *links)

    assert [s.value for s in both.seen] == ["conv1.1", "pool2"]
    prints = {seen_on(program, link).fingerprint for link in links}
    assert both.fingerprint not in prints
    assert both.bytes == sum(seen_on(program, link).bytes for link in links)


def test_all_taps_of_tiles_together_see_the_image_but_for_the_holders_tile() -> None:
    """Each link carries 16x16 of the 28x28 image (a tile of 14x14 and its halo); they overlap."""
    program = divide(lenet5(), Data((2, 2), until="pool1"), 4)
    links = [("edge0", device) for device in program.devices[1:]]

    alone = [seen_on(program, link).raw_image for link in links]

    assert alone == pytest.approx([16 * 16 / 784] * 3)
    # Of the holder's own tile 12x12 are in nobody's halo.
    assert seen_on(program, *links).raw_image == pytest.approx(1 - 12 * 12 / 784)


def test_what_colluding_taps_see_is_what_their_taps_record() -> None:
    program = divide(lenet5(), Horizontal(), 4)
    links = [("edge1", "edge0"), ("edge1", "edge3"), ("edge2", "edge0")]
    images = torch.rand(4, 1, 28, 28)
    recorded: dict[tuple[str, object], torch.Tensor] = {}
    for link in links:
        tap = Recorder(link)
        run(program, images, tap=tap)
        for transfer, tensor in zip((t for t in program.transfers if t.link == link), tap.tensors(), strict=True):
            assert torch.equal(recorded.setdefault((transfer.value, transfer.share), tensor), tensor)
    seen = seen_on(program, *links)
    material = prepare(WholeModel(lenet5()), [seen], ImageSets(torch.rand(4, 1, 28, 28), images))

    assert {(s.value, s.share) for s in seen.seen} == set(recorded)
    for share, computed in zip(seen.seen, everything(material.captured(seen, "victims")), strict=True):
        assert torch.allclose(computed, recorded[share.value, share.share], rtol=0, atol=1e-6)


# --- one value ------------------------------------------------------------------------------------------------


def test_the_full_view_of_one_value_is_all_of_it_that_crosses() -> None:
    program = divide(lenet5(), Horizontal(), 4)
    link = ("edge1", "edge0")
    whole_link = seen_on(program, link)

    for value in ("pool1", "pool2", "flatten", "dense2"):
        alone = seen_on(program, link, value=value)
        assert alone.seen == tuple(s for s in whole_link.seen if s.value == lenet5().find(value))
        assert (len(alone.seen), alone.view, alone.crosses) == (1, "full", True)
    # conv2 never leaves its device: its pool does.
    never = seen_on(program, link, value="conv2")
    assert (never.seen, never.bytes, never.crosses) == ((), 0, False)


def test_the_full_view_of_one_value_on_several_links_puts_its_shares_together() -> None:
    program = divide(lenet5(), Horizontal(), 4)
    everybody = [(device, "edge0") for device in program.devices[1:]]

    seen = seen_on(program, *everybody, value="pool2").seen

    assert [s.share[0] for s in seen] == [(4, 8), (8, 12), (12, 16)]
    assert {s.value for s in seen} == {"pool2"}


def test_the_papers_view_crosses_where_one_of_several_links_carries_it() -> None:
    program = divide(lenet5(), Horizontal(), 4)
    share = ((4, 8), (0, 5), (0, 5))

    two = seen_on(program, ("edge2", "edge0"), ("edge1", "edge3"), view="paper", value="pool2", share=share)
    other = seen_on(program, ("edge2", "edge0"), ("edge2", "edge3"), view="paper", value="pool2", share=share)

    assert (two.crosses, other.crosses) == (True, False)
    # Without a share it is that of the first link's source.
    first = seen_on(program, ("edge2", "edge0"), ("edge1", "edge3"), view="paper", value="pool2")
    assert [s.share[0] for s in first.seen] == [(8, 12)]


def test_a_star_shows_on_one_link_what_all_gather_spreads_over_many() -> None:
    direct, star = (divide(lenet5(), Horizontal(), 4, routing=routing) for routing in ("direct", "star"))
    towards = [(device, "edge1") for device in direct.devices if device != "edge1"]

    assert set(seen_on(direct, *towards, value="pool2").seen) != set()
    assert sum(s.bytes for s in seen_on(direct, *towards, value="pool2").seen) == sum(
        s.bytes for s in seen_on(star, ("edge0", "edge1"), value="pool2").seen
    )


def test_every_unknown_device_of_several_links_is_named_once() -> None:
    program = divide(lenet5(), Vertical(("conv1",)))

    with pytest.raises(ClovenError) as caught:
        seen_on(program, ("edge0", "cloud"), ("fog", "cloud"), ("edge0", "edge1"))

    assert [problem.split(";")[0] for problem in caught.value.problems] == [
        "no device is named 'cloud'",
        "no device is named 'fog'",
    ]
