"""`cloven.divide` and `cloven.compile`: a model and a strategy, or a plan, become a program."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import cloven


def test_a_strategy_and_a_number_of_devices_make_a_program(program: cloven.Program) -> None:
    assert program.devices == ("edge0", "edge1", "edge2")
    assert program.links == (("edge0", "edge1"), ("edge1", "edge2"))


def test_devices_have_the_names_that_they_are_given(model: cloven.Graph) -> None:
    program = cloven.divide(model, cloven.Horizontal(), devices=["camera", "gate-way"])

    assert program.devices == ("camera", "gate-way")


def test_every_strategy_computes_what_the_network_does(net: torch.nn.Module, model: cloven.Graph) -> None:
    images = torch.rand(2, 3, 12, 12)

    for strategy in (cloven.Vertical(), cloven.Horizontal(), cloven.Data(grid=(2, 1), until="3")):
        logits = cloven.run(cloven.divide(model, strategy, devices=2), images)
        assert torch.allclose(logits, net(images), atol=1e-5)


def test_tiles_without_halo_are_the_same_through_a_star(model: cloven.Graph) -> None:
    images, tiles = torch.rand(2, 3, 12, 12), cloven.Data(grid=(2, 2), until="3", halo="none")
    direct = cloven.divide(model, tiles, devices=4)
    star = cloven.divide(model, tiles, devices=4, routing="star", reuse=False)

    assert torch.equal(cloven.run(star, images), cloven.run(direct, images))


def test_a_program_prints_as_a_short_table(program: cloven.Program) -> None:
    assert repr(program).splitlines() == [
        "Program of 3 devices: 2 transfers, 4,608 bytes per image",
        "device or link    MACs  bytes",
        "edge0           23,328      -",
        "edge1           15,552      -",
        "edge2            1,440      -",
        "edge0->edge1         -  3,456",
        "edge1->edge2         -  1,152",
    ]
    assert "<td>edge1-&gt;edge2</td><td>-</td><td>1,152</td>" in program._repr_html_()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": torch.nn.ReLU()}, "model is a ReLU; expected the graph that cloven.capture"),
        ({"strategy": "vertical"}, "strategy is 'vertical'; expected a strategy such as cloven.Vertical"),
        (
            {"strategy": cloven.Vertical},
            "strategy is the class Vertical; expected a strategy such as cloven.Vertical",
        ),
        ({"devices": "edge0"}, "devices is 'edge0'; expected a number, or a list of names"),
        ({"devices": 2.0}, "devices is 2.0; expected a number, or a list of names"),
        ({"devices": ["a", "a"]}, "two devices are named a; expected unique names"),
        ({"devices": ["a->b", "c"]}, "a device is named 'a->b'; expected printable text without '->' and ':'"),
        ({"devices": ["a", "b:1"]}, "a device is named 'b:1'; expected printable text without '->' and ':'"),
        ({"devices": ["a", 1]}, "a device is named 1; expected printable text without '->' and ':'"),
        ({"devices": ["a", "coordinator"]}, "a device is named coordinator, the name of the party that"),
        ({"devices": ["a", "b\n"]}, r"a device is named 'b\\n'; expected printable text without"),
        ({"devices": 0}, "devices is 0; expected 1 or more"),
        ({"reuse": "no"}, "reuse is 'no'; expected True or False"),
        ({"transforms": "int8"}, "transforms is 'int8'; expected cloven.partition.transform.Transforms"),
        ({"routing": "ring"}, "routing is 'ring'; expected 'direct' or 'star'"),
    ],
)
def test_what_cannot_be_divided_is_answered_in_one_sentence(
    model: cloven.Graph, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(cloven.ClovenError, match=message) as caught:
        cloven.divide(**{"model": model, "strategy": cloven.Vertical(), "devices": 2, **arguments})

    assert len(caught.value.problems) == 1
