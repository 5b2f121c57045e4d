"""`cloven.observe`: the observations of a listener."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import cloven


@pytest.fixture(scope="module")
def shared(model: cloven.Graph) -> cloven.Program:
    """Return a program with every layer on three devices: all send to the first, which sends to all."""
    return cloven.divide(model, cloven.Horizontal(), devices=3)


def test_left_open_every_link_is_listened_on(program: cloven.Program) -> None:
    observations = cloven.observe(program)

    assert [observation.link for observation in observations] == [("edge0", "edge1"), ("edge1", "edge2")]
    assert [observation.bytes for observation in observations] == [3456, 1152]


@pytest.mark.parametrize("name", ["edge1->edge2", ("edge1", "edge2"), "edge1-edge2", "edge2-edge1"])
def test_a_link_is_named_in_several_ways(program: cloven.Program, name: Any) -> None:
    for links in (name, [name], (name,)):
        (observation,) = cloven.observe(program, links)
        assert observation.link == ("edge1", "edge2")


def test_an_observation_knows_its_program_and_its_model(program: cloven.Program, model: cloven.Graph) -> None:
    (observation,) = cloven.observe(program, links=["edge0->edge1"])

    assert observation.program is program
    assert observation.graph is program.graph
    assert observation.model is model


def test_links_in_a_list_of_their_own_are_one_listener(program: cloven.Program) -> None:
    both, second = cloven.observe(program, [["edge0->edge1", ("edge1", "edge2")], "edge1->edge2"])

    assert both.name == "edge0->edge1 + edge1->edge2"
    assert both.bytes == 3456 + 1152
    assert second.name == "edge1->edge2"


def test_a_device_sees_all_that_it_receives(shared: cloven.Program) -> None:
    (last,) = cloven.observe(shared, device="edge2")
    (first,) = cloven.observe(shared, device="edge0")

    assert last.name == "device edge2"
    assert last.bytes == shared.sent(("edge0", "edge2")) + shared.sent(("edge1", "edge2"))
    # The coordinator sends the image to the first device.
    assert first.seen[0].value == "input"
    assert first.raw_image == 1
    assert first.bytes == 3 * 12 * 12 * 4 + shared.sent(("edge1", "edge0")) + shared.sent(("edge2", "edge0"))


def test_only_shares_of_one_value_are_seen_if_it_is_named(shared: cloven.Program) -> None:
    for observation in cloven.observe(shared, links=["edge1->edge0"], value="1"):
        assert [share.shape for share in observation.seen] == [(2, 12, 12)]
    (paper,) = cloven.observe(shared, links=["edge1->edge0"], view="paper", value="1")
    assert (paper.view, paper.crosses) == ("paper", True)


def test_links_that_carry_nothing_of_the_value_are_left_out(program: cloven.Program) -> None:
    (observation,) = cloven.observe(program, value="3")

    assert observation.name == "edge1->edge2"


def test_the_papers_view_is_of_every_owner_of_the_value(shared: cloven.Program) -> None:
    seen = cloven.observe(shared, view="paper", value="1")

    assert [one.links[0][0] for one in seen] == ["edge0", "edge1", "edge2"]
    assert [one.seen[0].shape for one in seen] == [(2, 12, 12)] * 3


def test_a_value_that_is_made_in_pieces_is_not_taken_for_its_last_piece(model: cloven.Graph) -> None:
    tiles = cloven.divide(model, cloven.Data(grid=(1, 2), until="1", halo="none"))

    with pytest.raises(cloven.ClovenError, match="this program computes 0 in pieces; expected one of 0@0, 0@1"):
        cloven.observe(tiles, value="0")


def test_a_link_counts_once_for_listeners_who_work_together(program: cloven.Program) -> None:
    (observation,) = cloven.observe(program, [["edge0->edge1", "edge0-edge1"]])

    assert observation.name == "edge0->edge1"


def test_an_observation_prints_as_a_short_table(program: cloven.Program) -> None:
    (observation,) = cloven.observe(program, links="edge0->edge1")

    assert repr(observation).splitlines() == [
        "Observation of edge0->edge1 (full view): 1 share, 3,456 bytes per image",
        "share               bytes",
        "1[0:6, 0:12, 0:12]  3,456",
    ]
    assert "<table>" in observation._repr_html_()


ONE = "expected one of edge0->edge1, edge1->edge2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"links": "edge0-edge2"}, f"'edge0-edge2' is not a link that carries anything; {ONE}"),
        ({"links": "edge1->edge0"}, f"'edge1->edge0' is not a link that carries anything; {ONE}"),
        ({"links": ("edge0",)}, f"'edge0' is not a link that carries anything; {ONE}"),
        ({"links": ["edge0->edge1", 3]}, f"3 is not a link that carries anything; {ONE}"),
        ({"links": [[]]}, f"a list is not a link that carries anything; {ONE}"),
        ({"links": []}, "links is empty; expected some of edge0->edge1, edge1->edge2"),
        ({"links": 3}, "links is 3; expected a list of links, of edge0->edge1, edge1->edge2"),
        ({"device": "edge9"}, "no device is named 'edge9'; the program has edge0, edge1, edge2"),
        (
            {"device": "edge1", "links": "edge0->edge1"},
            "device cannot be combined with links or view='paper': it observes everything that the device receives",
        ),
        ({"view": "papers"}, "view is 'papers'; expected 'full' or 'paper'"),
        ({"view": "paper"}, "view='paper' requires a value, such as value='conv2'"),
        ({"value": 1}, "value is 1; expected the name of a layer or an op"),
        (
            {"links": "edge1->edge2", "value": "1"},
            "no share of 1 crosses edge1->edge2; the program sends 1, 3",
        ),
        ({"value": "0"}, "no share of 0 crosses edge0->edge1, edge1->edge2; the program sends 1, 3"),
    ],
)
def test_what_cannot_be_listened_on_is_answered_in_one_sentence(
    program: cloven.Program, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(cloven.ClovenError) as caught:
        cloven.observe(program, **arguments)

    assert str(caught.value) == message


def test_a_link_with_two_directions_is_ambiguous(shared: cloven.Program) -> None:
    with pytest.raises(cloven.ClovenError, match="'edge0-edge1' carries shares in both directions; expected A->B"):
        cloven.observe(shared, "edge0-edge1")


def test_a_graph_cannot_be_observed(model: cloven.Graph) -> None:
    with pytest.raises(cloven.ClovenError, match="program is a Graph; expected the program that"):
        cloven.observe(model)  # type: ignore[arg-type]


def test_two_links_take_ten_lines(net: torch.nn.Module) -> None:
    model = cloven.capture(net, torch.zeros(1, 3, 12, 12))
    program = cloven.divide(model, cloven.Vertical(cuts=["1", "3"]), devices=3)
    near, far = cloven.observe(program, links=["edge0->edge1", "edge1->edge2"])

    assert near.bytes > far.bytes
