"""`run --verify`: equal, not equal, or cannot be judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cloven.graph.graph import Graph
from cloven.partition.compiler import divide
from cloven.partition.vertical import Vertical
from cloven.runtime.capture import capture
from cloven.runtime.check import NEAR, Comparison, judge
from cloven.runtime.local import run
from cloven.runtime.torch_engine import evaluate


class Scored(nn.Module):
    """A model of a few features and a function of them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.function = nn.Conv2d(1, 10, 3, stride=3), function

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, 10)``."""
        made = self.function(self.conv(x).mean((2, 3)))
        assert isinstance(made, Tensor)
        return made


def judged(function: Callable[[Tensor], Tensor], wrong: Callable[[Tensor], Tensor], number: int = 20) -> Comparison:
    """Return the comparison of a program whose outputs are changed."""
    graph = capture(Scored(function).eval(), torch.rand(1, 1, 12, 12))
    images = torch.rand(number, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    program = divide(graph, Vertical(("conv",)), 2)
    sent = number * sum(t.bytes for t in program.transfers)
    return judge(program, graph, images, wrong(run(program, images)), sent=sent)


def step(y: Tensor) -> Tensor:
    """Return values with a hard threshold of a sum that is 0 up to rounding."""
    return y + 0.05 * torch.sign((y - y.mean(1, keepdim=True)).sum(1, keepdim=True))


def exploding(y: Tensor) -> Tensor:
    """Return values in which the rounding error dominates."""
    return torch.sin(1e6 * y)


UNSTABLE = {"step": step, "exploding": exploding}


@pytest.mark.parametrize("name", UNSTABLE)
@pytest.mark.parametrize("off", [0.01, 0.3])
def test_a_model_whose_own_error_comes_near_the_spread_of_its_outputs_certifies_nothing(
    name: str, off: float
) -> None:
    found = judged(UNSTABLE[name], lambda made: made + off)

    assert not found.equal
    assert "cannot be judged" in found.verdict() or "NOT equal" in found.verdict()


def test_the_reason_says_what_the_bound_would_be_and_what_the_spread_is() -> None:
    found = judged(exploding, lambda made: made.flip(0))

    assert found.rounding is not None
    assert found.rounding > NEAR * found.spread
    assert "equality with the whole model cannot be judged: the model's own float32 error is " in found.verdict()
    assert f"at most 5% of the spread of its outputs, {found.spread:.3g}" in found.verdict()


def test_a_threshold_that_rounding_decides_is_noticed_although_it_is_the_same_side_on_all_images() -> None:
    assert "cannot be judged" in judged(step, lambda made: made * (1 + 1e-7), number=1).verdict()


@pytest.mark.parametrize("name", UNSTABLE)
def test_what_is_bitwise_equal_is_equal_also_of_an_unstable_model(name: str) -> None:
    assert judged(UNSTABLE[name], lambda made: made).equal


def test_rounding_of_a_usual_model_is_equal() -> None:
    found = judged(lambda y: y, lambda made: made * (1 + 1e-7))

    assert found.equal
    assert found.verdict() == "equal to the whole model on 20 images"


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "other images' outputs": lambda made: made.roll(1, 0),
    "other classes' outputs": lambda made: made.roll(1, 1),
    "a thousandth more": lambda made: made * 1.001,
}


@pytest.mark.parametrize("scale", [1.0, 1e-5, 1e-9, 1e6])
@pytest.mark.parametrize("name", CHANGES)
def test_wrong_outputs_of_any_size_are_not_equal(name: str, scale: float) -> None:
    """An absolute tolerance of 1e-5 would accept anything if the outputs are as small."""
    if name == "a thousandth more" and scale < 1e-4:
        return  # below 5 % of the spread
    assert not judged(lambda y: scale * y, CHANGES[name]).equal


def test_outputs_on_a_large_offset_are_told_from_those_of_other_images() -> None:
    assert not judged(lambda y: y + 1e5, lambda made: made.roll(1, 0)).equal


def test_nan_is_not_equal() -> None:
    assert not judged(lambda y: y, lambda made: made * float("nan")).equal


@pytest.mark.parametrize("function", [torch.sqrt, lambda y: torch.cat([y[:, :1] / 0, y[:, 1:]], 1)])
def test_a_model_of_nan_and_infinity_is_equal_bit_by_bit_or_cannot_be_judged(
    function: Callable[[Tensor], Tensor],
) -> None:
    assert judged(function, lambda made: made).equal

    found = judged(function, lambda made: made.nan_to_num())
    assert not found.equal
    assert "cannot be judged: the model's own outputs for 20 of 20 images are NaN or inf" in found.verdict()


def test_a_single_image_and_a_single_output() -> None:
    assert judged(lambda y: y, lambda made: made * (1 + 1e-7), number=1).equal
    assert not judged(lambda y: y, lambda made: made * 1.01, number=1).equal
    assert judged(lambda y: y[:, :1], lambda made: made, number=1).equal


def test_a_model_that_differs_from_itself_cannot_be_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = iter(range(100))

    def restless(graph: Graph, *given: Any, **more: Any) -> dict[str, Tensor]:
        made: dict[str, Tensor] = evaluate(graph, *given, **more)
        return {value: tensor + 0.001 * next(runs) for value, tensor in made.items()}

    monkeypatch.setattr("cloven.runtime.check.evaluate", restless)

    found = judged(lambda y: y, lambda made: made)

    assert not found.equal
    assert "the outputs of the model differ by 0.001 between two runs" in found.verdict()
