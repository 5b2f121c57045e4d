"""What is wrong with a plan: everything, at once, in words."""

from __future__ import annotations

import pytest
import torch

from cloven.errors import ClovenError
from cloven.graph.capture import capture
from cloven.partition.compiler import compile  # noqa: A004
from cloven.partition.data import Data
from cloven.partition.division import Strategy
from cloven.partition.horizontal import Horizontal
from cloven.partition.observe import observe
from cloven.partition.plan import DataSpec, ModelSpec, Plan, check, parse, problems
from cloven.partition.vertical import Vertical
from cloven.zoo.models import build

GRAPH = capture(build("lenet5", shape=(1, 28, 28), classes=10), torch.zeros(1, 1, 28, 28))


@pytest.mark.parametrize(
    ("strategy", "devices", "message"),
    [
        (Vertical(("conv9",)), None, "no layer or op is named 'conv9'"),
        (Vertical(("pool2", "conv1")), None, "cut 'conv1' does not come after cut 'pool2'"),
        (Vertical(("conv1", "conv1")), None, "cut 'conv1' does not come after cut 'conv1'"),
        (Vertical(("dense2",)), None, "'dense2' is the model's end; nothing is left for the last device"),
        (Vertical(("conv1",)), 3, "the strategy takes 2 devices; got 3"),
        (Vertical(), 40, "40 devices for 12 ops; expected 1 to 12"),
        (Horizontal(), 500, "500 devices, but the widest layer has 120 output channels"),
        (Data((2, 2), until="flatten"), None, r"'flatten' has shape \(120,\) and cannot be shared out 2x2"),
        (Data((40, 1)), None, "no layer of this model, on images of 28x28, can be shared out 40x1"),
        (Data((0, 2)), 0, "the grid is 0x2; expected 1x1 or more"),
        (Data(), 5, "no grid is given and 5 devices have no usual one; give --grid ROWSxCOLUMNS"),
        (Data((2, 2), until="pool9"), None, "no layer or op is named 'pool9'"),
    ],
)
def test_a_strategy_that_does_not_fit_is_refused_with_the_reason(
    strategy: Strategy, devices: int | None, message: str
) -> None:
    with pytest.raises(ClovenError, match=message):
        compile(GRAPH, strategy, devices)


THREE_MISTAKES = """
version = 1
devices = ["a", "b", "a"]
colour = "red"

[model]
name = "lenet5"
input = [1, 28, 28]
classes = 10

[strategy]
kind = "vertical"
cuts = ["conv2", "convv1"]
"""


def test_a_plan_with_three_mistakes_names_all_three() -> None:
    plan, found = check(THREE_MISTAKES, "plan.toml")
    assert plan is not None
    found = found + problems(GRAPH, plan)

    assert len(found) == 3
    assert "plan.toml: colour is not a known entry (got 'red')" in found
    assert any("two devices are named a" in f for f in found)
    assert any("no layer or op is named 'convv1'" in f for f in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("devices = [", "the plan is no TOML"),
        ("version = 1", "model: field required"),
        (THREE_MISTAKES.replace('"vertical"', '"diagonal"'), "'diagonal' found using 'kind' does not match"),
        (
            THREE_MISTAKES.replace("classes = 10", 'classes = "ten"'),
            r"model.classes: .*valid integer \(got 'ten'\)",
        ),
        (THREE_MISTAKES.replace('["conv2", "convv1"]', "3"), r"strategy.cuts: .*valid array \(got 3\)"),
    ],
)
def test_text_that_is_no_plan_is_refused(text: str, message: str) -> None:
    with pytest.raises(ClovenError, match=message):
        parse(text)


def test_a_plan_survives_being_written_and_read() -> None:
    plan = Plan(
        model=ModelSpec(name="lenet5", input=(1, 28, 28), classes=10),
        strategy=(DataSpec(kind="data", grid=(2, 2), until="pool1", halo="none"),),
        devices=("kitchen", 'odd "name"', "c", "d"),
        routing="star",
    )

    assert parse(plan.toml()) == plan


def test_an_observation_of_an_unknown_device_or_without_a_value_is_refused() -> None:
    program = compile(GRAPH, Vertical(("conv1",)))

    with pytest.raises(ClovenError, match="no device is named 'cloud'; the plan has edge0, edge1") as caught:
        observe(program, ("edge0", "cloud"), "paper")
    assert len(caught.value.problems) == 2
