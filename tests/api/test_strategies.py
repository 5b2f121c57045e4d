"""Strategies: the ways to write them, and the errors for invalid ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import cloven


def test_lists_and_tuples_make_equal_strategies() -> None:
    assert cloven.Vertical(["1"]) == cloven.Vertical(cuts=("1",))
    assert cloven.Horizontal(shares=[2, 1]) == cloven.Horizontal(shares=(2.0, 1.0))
    grid: Any = [2, 1]
    assert cloven.Data(grid) == cloven.Data((2, 1))


def test_a_strategy_prints_what_was_given() -> None:
    assert repr(cloven.Vertical(["1"])) == "Vertical(cuts=('1',))"
    assert repr(cloven.Data((2, 1), until="3", on=["a", "b"])) == "Data(until='3', on=('a', 'b'), grid=(2, 1))"


def test_a_strategy_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        cloven.Vertical(["1"]).cuts = ("3",)  # type: ignore[misc]


def test_several_strategies_follow_one_another(net: torch.nn.Module, model: cloven.Graph) -> None:
    """Tiles up to a layer, then channels, then the rest on a separate device."""
    stages = [cloven.Data((1, 2), until="1"), cloven.Horizontal(until="3"), cloven.Vertical(on=["server"])]
    program = cloven.divide(model, stages, devices=["left", "right", "server"])
    images = torch.rand(2, 3, 12, 12)

    assert set(program.owners["1"]) == {"left", "right"}
    assert set(program.owners["5"]) == {"server"}
    assert torch.allclose(cloven.run(program, images), net(images), atol=1e-5)


def test_devices_that_strategies_name_need_no_other_list(model: cloven.Graph) -> None:
    stages = [cloven.Vertical(until="1", on=["camera"]), cloven.Horizontal(on=["server", "cloud"])]

    assert cloven.divide(model, stages).devices == ("camera", "server", "cloud")


def test_a_strategy_of_ones_own_is_a_class_with_its_methods(net: torch.nn.Module, model: cloven.Graph) -> None:
    class Backwards(cloven.Vertical):
        """The last device first."""

        def place(self, stretch: Any, before: Any) -> Any:
            return super().place(
                type(stretch)(stretch.graph, stretch.first, stretch.last, stretch.devices[::-1]), before
            )

    images = torch.rand(2, 3, 12, 12)
    program = cloven.divide(model, Backwards(["1"]), devices=2)

    assert program.links == (("edge0", "edge1"), ("edge1", "edge0"))
    assert torch.equal(cloven.run(program, images), net(images))


@pytest.mark.parametrize(
    ("name", "arguments", "messages"),
    [
        ("Vertical", {"cuts": "conv1"}, ["cuts is 'conv1'; expected a list, such as cuts=[...]"]),
        ("Vertical", {"cuts": [1]}, ["cuts.0 is 1; expected text"]),
        ("Vertical", {"cut": ["1"]}, ["Vertical takes no argument 'cut'; expected until, on, kind, cuts"]),
        ("Vertical", {"on": "edge0"}, ["on is 'edge0'; expected a list, such as on=[...]"]),
        ("Horizontal", {"sums": "nowhere"}, ["sums is 'nowhere'; expected 'hub' or 'scatter'"]),
        ("Horizontal", {"shares": "2,1"}, ["shares is '2,1'; expected a list, such as shares=[...]"]),
        ("Data", {"grid": 2}, ["grid is 2; expected a list, such as grid=[...]"]),
        ("Data", {"halo": "some"}, ["halo is 'some'; expected 'exact' or 'none'"]),
        ("Data", {"until": 3}, ["until is 3; expected text"]),
        (
            "Horizontal",
            {"axis": "filters", "exchange": "never"},
            [
                "axis is 'filters'; expected 'out_channels', 'in_channels', 'fused', 'rows' or 'columns'",
                "exchange is 'never'; expected 'local' or 'layer'",
            ],
        ),
    ],
)
def test_what_cannot_be_meant_is_answered_in_a_sentence_each(
    name: str, arguments: dict[str, Any], messages: list[str]
) -> None:
    with pytest.raises(cloven.ClovenError) as caught:
        getattr(cloven, name)(**arguments)

    assert list(caught.value.problems) == messages
