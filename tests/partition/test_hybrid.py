"""Strategies in sequence: the owners, the transfers between stages, and the refused combinations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from cloven.errors import ClovenError
from cloven.graph.box import Box, covers, whole
from cloven.partition.compiler import divide
from cloven.partition.data import Data
from cloven.partition.horizontal import Horizontal
from cloven.partition.program import Program
from cloven.partition.strategy import Strategy
from cloven.partition.vertical import Vertical
from cloven.runtime.check import compare
from tests.models import lenet5

SIZES = {"pool1": 6 * 14 * 14, "conv2": 16 * 10 * 10, "pool2": 16 * 5 * 5, "conv3": 120, "dense1": 84}


def divided(*stages: Strategy, devices: int, **more: Any) -> Program:
    """The program of stages, which computes what the model does."""
    program = divide(lenet5(), stages, devices, **more)
    found = compare(program, lenet5(), torch.rand(3, 1, 28, 28))
    assert found.equal, found.why()
    for op in lenet5().ops:
        held = [box for share in program.owners[op.name].values() for box in share]
        assert covers(held, whole(op.shape)), op.name
    return program


def owners(program: Program, value: str) -> Mapping[str, tuple[Box, ...]]:
    return program.owners[program.graph.find(value)]


def crossing(program: Program) -> dict[str, int]:
    """Return the number of elements of each value that cross."""
    found: dict[str, int] = {}
    for transfer in program.transfers:
        found[transfer.value] = found.get(transfer.value, 0) + transfer.bytes // 4
    return found


@pytest.mark.parametrize("shares", [(1, 2, 1), (0, 1, 3), (9, 0.5, 0.5), (1, 0, 0), (1, 30, 1)])
@pytest.mark.parametrize("side", [(1, 3), (3, 1)])
def test_tiles_in_proportion(side: tuple[int, int], shares: tuple[float, ...]) -> None:
    """The result stays the model's, also where a device's tile of a small map is empty."""
    axis = 1 if side[0] > 1 else 2
    program = divided(Data(side, shares=shares, until="pool2"), devices=3)

    own = owners(program, "conv1")
    rows = [own[f"edge{i}"][0][axis] if f"edge{i}" in own else (0, 0) for i in range(3)]
    heights = [high - low for low, high in rows]
    assert not any(height for height, share in zip(heights, shares, strict=True) if share == 0)
    assert heights.index(max(heights)) == shares.index(max(shares))
    assert divided(Data(shares=shares), devices=3).exact


def test_tiles_then_channels_on_the_same_devices() -> None:
    """The paper's conclusion: data partitioning of the early layers, horizontal partitioning of the rest."""
    program = divided(Data((2, 2), until="pool1"), Horizontal(), devices=4)

    assert owners(program, "pool1") == {
        f"edge{2 * row + column}": (((0, 6), (7 * row, 7 * row + 7), (7 * column, 7 * column + 7)),)
        for row in (0, 1)
        for column in (0, 1)
    }
    assert owners(program, "conv2") == {f"edge{i}": (((4 * i, 4 * i + 4), (0, 10), (0, 10)),) for i in range(4)}
    # At the seam every device lacks the other three tiles: 4 x 3/4 of pool1.
    assert [t.shape for t in program.transfers if t.value == "pool1"] == [(6, 7, 7)] * 12
    found = crossing(program)
    assert found["pool1"] == 3 * SIZES["pool1"]
    assert found["pool2"] == 3 * SIZES["pool2"]
    # Tiles of 16x16 of the image (two rows and columns of halo on the inner sides) go to three devices.
    assert found["input"] == 3 * 16 * 16
    assert program.source == program.sink == "edge0"


def test_a_pipeline_then_channels() -> None:
    stages = Vertical(("conv1",), until="pool1", on=["edge0", "edge1"]), Horizontal(on=["edge0", "edge1", "edge2"])
    program = divided(*stages, devices=3)

    assert set(owners(program, "conv1")) == {"edge0"}
    assert set(owners(program, "pool1")) == {"edge1"}
    assert set(owners(program, "conv2")) == {"edge0", "edge1", "edge2"}
    # pool1 is edge1's: at the seam it goes whole to the two others.
    assert [(t.link, t.shape) for t in program.transfers if t.value == "pool1"] == [
        (("edge1", "edge0"), (6, 14, 14)),
        (("edge1", "edge2"), (6, 14, 14)),
    ]
    assert program.sink == "edge0"


def test_channels_inside_one_part_of_a_pipeline() -> None:
    stages = (
        Vertical(until="pool1", on=["edge0"]),
        Horizontal(until="pool2", on=["edge1", "edge2"]),
        Vertical(on=["edge3"]),
    )
    program = divided(*stages, devices=4)

    assert [(t.source, t.target, t.value, t.shape) for t in program.transfers] == [
        ("edge0", "edge1", "pool1", (6, 14, 14)),
        ("edge0", "edge2", "pool1", (6, 14, 14)),
        ("edge1", "edge3", "pool2", (8, 5, 5)),
        ("edge2", "edge3", "pool2", (8, 5, 5)),
    ]
    # The result stays where the last part is.
    assert program.sink == "edge3"
    assert program.macs("edge1") == program.macs("edge2") == 120_000


def test_three_stages_on_named_devices_each_with_its_own_hub() -> None:
    """Tiles on 2 and 3, which hold no image; partial sums on 1 and 2, gathered by 1; the rest on 3."""
    stages = (
        Data((1, 2), until="pool1", on=["edge2", "edge3"]),
        Horizontal("in_channels", until="conv2", on=["edge1", "edge2"]),
        Vertical(on=["edge3"]),
    )
    program = divided(*stages, devices=4)

    assert set(owners(program, "pool1")) == {"edge2", "edge3"}
    assert set(owners(program, "conv2.0")) == set(owners(program, "conv2")) == {"edge1"}
    assert set(owners(program, "dense2")) == {"edge3"}
    assert {t.link for t in program.transfers if t.value == "input"} == {("edge0", "edge2"), ("edge0", "edge3")}
    # Each half of the input channels of conv2 comes from both tiles; edge2 has half of its own.
    assert [(t.link, t.shape) for t in program.transfers if t.value == "pool1"] == [
        (("edge2", "edge1"), (3, 14, 7)),
        (("edge3", "edge1"), (3, 14, 7)),
        (("edge3", "edge2"), (3, 14, 7)),
    ]
    assert [t.link for t in program.transfers if t.value == "conv2.0.partial@2"] == [("edge2", "edge1")]
    assert [(t.link, t.value) for t in program.transfers[-1:]] == [(("edge1", "edge3"), "conv2.1")]
    assert program.macs("edge0") == 0


def test_what_follows_the_last_stage_runs_on_the_first_device() -> None:
    program = divided(Horizontal("rows", until="pool1"), devices=2)

    assert set(owners(program, "pool1")) == {"edge0", "edge1"}
    assert {frozenset(owners(program, v)) for v in ("conv2", "flatten", "dense2")} == {frozenset({"edge0"})}
    assert crossing(program)["pool1"] == SIZES["pool1"] // 2


def test_a_stage_without_devices_takes_the_first_ones() -> None:
    program = divided(Data((1, 2), until="pool1"), Horizontal(shares=(1, 2, 1)), devices=3)

    assert set(owners(program, "pool1")) == {"edge0", "edge1"}
    assert {d: box[0] for d, (box,) in owners(program, "conv2").items()} == {
        "edge0": (0, 4),
        "edge1": (4, 12),
        "edge2": (12, 16),
    }


def test_tiles_of_what_a_pipeline_made_and_a_result_that_is_not_the_models() -> None:
    stages = (
        Vertical(until="conv1", on=["edge0"]),
        Data((2, 2), halo="none", until="pool2", on=["edge0", "edge1", "edge2", "edge3"]),
    )
    program = divide(lenet5(), stages, 4)

    assert not program.exact
    # Without halo a worker gets its quarter of conv1's output, not of the image.
    assert {(t.value, t.shape) for t in program.transfers if t.source == "edge0"} == {("conv1.1", (6, 14, 14))}
    assert "its tiles have no halo" in compare(program, lenet5(), torch.rand(3, 1, 28, 28)).why()


@pytest.mark.parametrize("reuse", [True, False])
def test_a_star_carries_all_of_a_hybrid_through_the_first_device(reuse: bool) -> None:
    stages = Data((2, 2), until="pool1"), Horizontal(until="pool2"), Vertical(on=["edge2"])
    program = divided(*stages, devices=4, routing="star", reuse=reuse)

    assert all("edge0" in t.link for t in program.transfers)


VERTICAL, HORIZONTAL = Vertical(("conv1",)), Horizontal()


@pytest.mark.parametrize(
    ("stages", "devices", "messages"),
    [
        ((), 2, ["no strategy is given; expected one or more"]),
        (
            (VERTICAL, HORIZONTAL),
            2,
            ["stage 1 is followed by another stage and has no end; name its last layer: until"],
        ),
        (
            (Vertical(("conv1",), until="conv3"), Horizontal(until="conv2")),
            2,
            ["'conv2' does not come after 'conv3'; give stages in the model's order"],
        ),
        (
            (Vertical(("conv1",), until="conv3"), Horizontal(until="conv3")),
            2,
            ["'conv3' does not come after 'conv3'; give stages in the model's order"],
        ),
        ((Vertical(("conv1",), until="conv9"), Horizontal(until="pol2")), 2, ["named 'conv9'", "named 'pol2'"]),
        (
            (
                Vertical(("conv1",), until="conv2", on=["edge0", "edge1", "edge2"]),
                Horizontal(on=["edge0", "edge1"]),
            ),
            3,
            ["stage 1 takes 2 devices; got 3"],
        ),
        (
            (Data((2, 2), until="pool1", on=["edge0", "edge1"]), Horizontal(shares=(1, 1), on=["edge1"])),
            2,
            ["stage 1 takes 4 devices; got 2", "stage 2 takes 2 devices; got 1"],
        ),
        (
            (Vertical(("conv1",), until="conv2", on=["edge0", "edge-1"]), HORIZONTAL),
            2,
            ["no device is named 'edge-1'; the plan has edge0, edge1"],
        ),
        (
            (Vertical(("conv1",), until="conv2", on=["edge1", "edge1"]), Horizontal(on=["edge0", "edge0"])),
            2,
            ["stage 1 names a device twice; expected each once", "stage 2 names a device twice"],
        ),
        ((Vertical(until="conv2", on=[]), HORIZONTAL), 2, ["stage 1 takes 2 devices; got 0"]),
        # Each stage's own problems, once the stages fit together.
        (
            (Vertical(("conv3",), until="conv2"), Data((9, 9))),
            81,
            ["expected them inside conv1.0 to conv2.1", "no layer of this model can be divided into a"],
        ),
        (
            (Vertical(("conv1",), until="conv1"), Horizontal(until="pool1"), Vertical()),
            2,
            ["cuts conv1: expected them inside", "there is no convolution or linear layer from pool1 to pool1"],
        ),
        (
            (Data((2, 2), until="flatten"), HORIZONTAL),
            4,
            ["'flatten' has shape (120,) and cannot be divided into a 2x2 grid: reshape (flatten, in flatten)"],
        ),
    ],
)
def test_stages_that_do_not_fit_are_refused_with_every_reason(
    stages: tuple[Strategy, ...], devices: int, messages: list[str]
) -> None:
    with pytest.raises(ClovenError) as caught:
        divide(lenet5(), stages, devices)

    assert len(caught.value.problems) == len(messages), caught.value.problems
    for message, problem in zip(messages, caught.value.problems, strict=True):
        assert message in problem
