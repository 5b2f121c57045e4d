"""The problems of a plan: all of them are reported at once, as sentences."""

from __future__ import annotations

import pytest

import cloven
from cloven.errors import ClovenError
from cloven.partition.compiler import divide
from cloven.partition.data import Data
from cloven.partition.horizontal import Horizontal
from cloven.partition.observe import seen_on
from cloven.partition.plan import (
    ModelSpec,
    Plan,
    check,
    parse,
    problems,
)
from cloven.partition.strategy import Strategy
from cloven.partition.vertical import Vertical
from tests.models import lenet5
from tests.partition.texts import THREE_MISTAKES


@pytest.mark.parametrize(
    ("strategy", "devices", "message"),
    [
        (Vertical(("conv9",)), None, "no layer or op is named 'conv9'"),
        (Vertical(("pool2", "conv1")), None, "cut 'conv1' does not come after cut 'pool2'"),
        (Vertical(("conv1", "conv1")), None, "cut 'conv1' does not come after cut 'conv1'"),
        (Vertical(("dense2",)), None, "'dense2' is at the model's end and leaves nothing for the last device"),
        (Vertical(("conv1",)), 3, "the strategy takes 2 devices; got 3"),
        (Vertical(), 40, "40 devices for 12 ops; expected 1 to 12"),
        (Horizontal(), 500, "500 devices, but the widest layer has 120 output channels"),
        (Data((2, 2), until="flatten"), None, r"'flatten' has shape \(120,\) and cannot be divided into a 2x2"),
        (Data((40, 1)), None, "no layer of this model can be divided into a 40x1 grid on images of 28x28"),
        (Data((0, 2)), None, "the grid is 0x2; expected 1x1 or more"),
        (Data(), 5, "there is no default grid for 5 devices; give a grid, such as --grid 1x5"),
        (Data((2, 2), until="pool9"), None, "no layer or op is named 'pool9'"),
        (Data((29, 1), until="conv1"), None, r"'conv1' has shape \(6, 28, 28\) and cannot be divided into a 29x1"),
        (Data((2, 2), until="conv3"), None, "the last layer that can be is pool2"),
        (Horizontal("rows"), 85, "85 devices, but the widest layer has 84 .*; expected 1 to 84"),
        (Horizontal(shares=(1, 2)), 3, "the strategy takes 2 devices; got 3"),
        (
            Horizontal(shares=(0.5, 0.3)),
            None,
            "add up to 0.8; expected fractions that add up to 1, or weights such as",
        ),
        (Horizontal(shares=(0, 0)), None, "expected numbers of at least 0, not all of them 0"),
        (Horizontal(shares=(2, -1)), None, "expected numbers of at least 0, not all of them 0"),
        (Horizontal(shares=(1, float("nan"))), None, r"shares are \[1.0, nan\]; expected numbers of at least 0"),
        (Horizontal(shares=(1, float("inf"))), None, r"shares are \[1.0, inf\]; expected numbers of at least 0"),
        (Vertical(), -3, "devices is -3; expected 1 or more"),
    ],
)
def test_a_strategy_that_does_not_fit_is_refused_with_the_reason(
    strategy: Strategy, devices: int | None, message: str
) -> None:
    with pytest.raises(ClovenError, match=message):
        divide(lenet5(), strategy, devices)


def test_all_that_is_wrong_is_said_at_once() -> None:
    horizontal = Horizontal(shares=(0.1, 0.1))

    with pytest.raises(ClovenError) as caught:
        divide(lenet5(), horizontal, ["a", "b", "a"], routing="ring")  # type: ignore[arg-type]

    assert [problem.split(";")[0] for problem in caught.value.problems] == [
        "the strategy takes 2 devices",
        "shares are [0.1, 0.1], which add up to 0.2",
        "routing is 'ring'",
        "two devices are named a",
    ]


def test_only_a_star_can_send_a_device_its_own_share_back() -> None:
    with pytest.raises(ClovenError, match="reuse is false, which requires routing 'star'; got 'direct'"):
        divide(lenet5(), Horizontal(), 2, reuse=False)

    assert divide(lenet5(), Horizontal(), 2, routing="star", reuse=False).transfers


def test_a_plan_with_three_mistakes_names_all_three() -> None:
    plan, found = check(THREE_MISTAKES, "plan.toml")
    assert plan is not None
    found = found + problems(lenet5(), plan)

    assert len(found) == 3
    assert "plan.toml: colour is not a known entry (got 'red')" in found
    assert any("two devices are named a" in f for f in found)
    assert any("no layer or op is named 'convv1'" in f for f in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("devices = [", "the plan is not valid TOML"),
        ("version = 1", "strategy: field required"),
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


MODEL = ModelSpec(name="lenet5", input=(1, 28, 28), classes=10)
PLANS = (
    Plan(
        model=MODEL,
        strategy=(Data(grid=(2, 2), until="pool1", halo="none"),),
        devices=("kitchen", 'odd "name"', "c", "d"),
        routing="star",
    ),
    Plan(
        model=MODEL.model_copy(update={"weights": "a folder/ä.safetensors"}),
        strategy=(
            Vertical(cuts=("conv1",), until="pool1", on=("a", "b")),
            Horizontal(axis="rows", shares=(0.25, 0.75), until="conv2", on=("b", "c")),
            Horizontal(axis="in_channels", sums="scatter", exchange="layer"),
        ),
        devices=("a", "b", "c"),
        routing="star",
        reuse=False,
    ),
    Plan(model=MODEL, strategy=(Vertical(),), devices=("only",)),
)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: str(plan.title()))
def test_a_plan_survives_being_written_and_read(plan: Plan) -> None:
    assert parse(plan.toml()) == plan


def test_a_plan_says_in_a_few_words_what_it_is() -> None:
    assert [plan.title() for plan in PLANS] == [
        "data, 2x2 grid, no halo up to pool1, 4 devices",
        "vertical, cut after conv1 up to pool1; then horizontal, rows up to conv2; "
        "then horizontal, input channels, 3 devices",
        "vertical, balanced cuts, 1 device",
    ]


HEAD = """
version = 1
devices = ["a", "b"]
[model]
name = "lenet5"
input = [1, 28, 28]
classes = 10
"""


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", ["the plan: strategy: field required"]),
        ("[strategy]\nkind = 'horizontal'\non = ['a', 'c']", ["no device is named 'c'; the plan has a, b"]),
        ("[strategy]\nkind = 'horizontal'\non = ['a', 'a']", ["stage 1 names a device twice; expected each once"]),
        (
            "[strategy]\nkind = 'horizontal'\non = ['b']\nshares = [1, 1]",
            ["stage 1 takes 2 devices; got 1"],
        ),
        ("[strategy]\nkind = 'horizontal'\nshares = [nan, 1]", ["shares are [nan, 1.0]; expected numbers of"]),
        (
            "[strategy]\nkind = 'horizontal'\nshares = [0.5, 0.3, 0.1]\nuntil = 'conv9'",
            ["the strategy takes 3 devices; got 2", "no layer or op is named 'conv9'"],
        ),
        (
            "[[strategy]]\nkind = 'vertical'\n[[strategy]]\nkind = 'horizontal'",
            ["stage 1 is followed by another stage and has no end; name its last layer: until"],
        ),
        ("[strategy]\nkind = 'data'\ngrid = [3, 1]", ["the strategy takes 3 devices; got 2"]),
        (
            "[strategy]\nkind = 'vertical'\ncuts = ['conv3', 'conv2', 'cnv1']",
            [
                "the strategy takes 4 devices; got 2",
                "no layer or op is named 'cnv1'",
                "'conv2' does not come",
            ],
        ),
    ],
)
def test_a_plan_that_does_not_fit_the_model_is_refused_with_every_reason(text: str, messages: list[str]) -> None:
    plan, found = check(HEAD + text)
    if plan is not None:
        found = found + problems(lenet5(), plan)
        with pytest.raises(ClovenError):
            cloven.compile(lenet5(), plan)

    assert len(found) == len(messages), found
    for message in messages:
        assert any(message in problem for problem in found), found


def test_a_plan_for_other_images_without_a_star_and_with_a_wrong_cut_names_all_three() -> None:
    text = HEAD.replace("28, 28", "32, 32").replace("version = 1", "version = 1\nreuse = false")
    plan, found = check(text + "[strategy]\nkind = 'vertical'\ncuts = ['dense2']")
    assert plan is not None

    assert [problem.split(";")[0] for problem in found + problems(lenet5(), plan)] == [
        "the plan is for images of (1, 32, 32)",
        "cut 'dense2' is at the model's end and leaves nothing for the last device",
        "reuse is false, which requires routing 'star'",
    ]


def test_an_observation_of_an_unknown_device_or_without_a_value_is_refused() -> None:
    made = divide(lenet5(), Vertical(("conv1",)))

    with pytest.raises(ClovenError, match="no device is named 'cloud'; the plan has edge0, edge1") as caught:
        seen_on(made, ("edge0", "cloud"), view="paper")
    assert len(caught.value.problems) == 2
