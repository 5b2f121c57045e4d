"""In-place activations save memory, and do not change values that are still read."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cloven.graph.graph import Graph
from cloven.partition.compiler import divide
from cloven.partition.data import Data
from cloven.partition.horizontal import Horizontal
from cloven.partition.program import Compute, Program, Transfer
from cloven.partition.strategy import Strategy
from cloven.partition.vertical import Vertical
from cloven.runtime.capture import capture
from cloven.runtime.inplace import IN_PLACE
from cloven.runtime.local import Prepared, prepare, run
from cloven.runtime.torch_engine import evaluate


class Residual(nn.Module):
    """A ResNet block, a gate, and an in-place sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.one = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.two = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.one(x) + x)
        y = self.two(x)
        y = y * self.gate(y)
        y += x
        logits: Tensor = self.head(nn.functional.hardswish(y).mean((2, 3)))
        return logits


class Reads(nn.Module):
    """A convolution whose output has several readers, the last of which is an activation."""

    def __init__(self, read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.read = read
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        first = self.read(y)
        return torch.cat([first.flatten(1), torch.relu(y).flatten(1)], 1)


READERS: dict[str, Callable[[Tensor], Tensor]] = {
    "flat": lambda y: y.flatten(1),
    "a slice of channels": lambda y: y[:, :2],
    "a slice of rows": lambda y: y[:, :, 2:5],
    "every other column": lambda y: y[..., ::2],
    "turned": lambda y: y.transpose(2, 3),
    "reshaped": lambda y: y.view(len(y), 2, 2, 8, 8),
    "stretched": lambda y: y[:, :1].expand(-1, 4, -1, -1),
    "half, then flat": lambda y: y[:, 2:].flatten(1),
    "itself": lambda y: y,
    "one row of an op without a rule": lambda y: y.select(2, 3),
    "a pool": lambda y: nn.functional.max_pool2d(y, 1),
    "a sum": lambda y: y + 1,
}


@cache
def residual() -> Graph:
    torch.manual_seed(0)
    model = Residual()
    with torch.no_grad():
        model.train()(torch.rand(8, 3, 8, 8))
    return capture(model.eval(), torch.zeros(1, 3, 8, 8), mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.4])


@cache
def reads(name: str) -> Graph:
    torch.manual_seed(0)
    return capture(Reads(READERS[name]).eval(), torch.zeros(1, 3, 8, 8))


def in_place(ready: Prepared) -> list[str]:
    """Return the values that are computed in place."""
    steps = [step for _, step in ready.steps if isinstance(step, Compute)]
    return [step.value for step in steps if step.local.attrs.get("op") in set(IN_PLACE.values())]


def without_in_place(ready: Prepared) -> Prepared:
    return replace(ready, steps=ready.program.steps)


EVERY: list[tuple[Strategy, int]] = [
    (Vertical(), 1),
    (Vertical(), 3),
    (Horizontal(), 3),
    (Horizontal(exchange="layer"), 2),
    (Horizontal("in_channels"), 2),
    (Horizontal("fused"), 2),
    (Horizontal("rows"), 3),
    (Data((2, 2)), 4),
]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("strategy", "devices"), EVERY)
def test_in_place_or_not_the_output_is_the_same_to_the_bit(strategy: Strategy, devices: int, batch: int) -> None:
    ready = prepare(divide(residual(), strategy, devices))
    images = torch.rand(batch, 3, 8, 8)

    made = run(ready, images)

    assert torch.equal(made, run(without_in_place(ready), images))
    expected = evaluate(residual(), images, [residual().output])[residual().output]
    assert torch.allclose(made, expected, rtol=0, atol=1e-6)
    if isinstance(strategy, Vertical):
        assert torch.equal(made, expected)


def test_activations_and_the_sum_of_a_block_are_in_place_and_what_is_read_again_is_not() -> None:
    ready = prepare(divide(residual(), Vertical(), 1))
    graph, found = residual(), in_place(ready)

    # The ReLU of the stem, the sum and the ReLU of the block, the SiLU, the sigmoid of the gate.
    assert graph.find("stem") in found
    assert {graph.find("two"), graph.find("gate")} <= set(found)
    assert len(found) >= 6
    read_again = [name for name in found if len(graph.users[graph.by_name[name].inputs[0]]) > 1]
    assert read_again == []


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", READERS)
def test_a_view_of_what_an_activation_reads_is_not_written_over(name: str, batch: int) -> None:
    """A reshape or a slice shares memory with its input and is read later."""
    graph = reads(name)
    images = torch.rand(batch, 3, 8, 8) - 0.5
    expected = evaluate(graph, images, [graph.output])[graph.output]

    for strategy, devices in (
        (Vertical(), 1),
        (Vertical(("conv",)), 2),
        (Horizontal(), 2),
        (Horizontal("rows"), 2),
    ):
        made = run(divide(graph, strategy, devices), images)
        assert torch.allclose(made, expected, rtol=0, atol=1e-6), strategy
    assert torch.equal(run(divide(graph, Vertical(), 1), images), expected)


class Kept:
    """A tap that keeps each tensor without copying it, and a copy to compare with."""

    def __init__(self) -> None:
        self.given: list[Tensor] = []
        self.then: list[Tensor] = []

    def __call__(self, transfer: Transfer, tensor: Tensor) -> None:
        self.given.append(tensor)
        self.then.append(tensor.clone())


def cuts_of(graph: Graph) -> list[str]:
    return [op.name for op in graph.ops[:-1]]


@pytest.mark.parametrize("cut", cuts_of(residual()))
def test_what_was_sent_is_never_written_over(cut: str) -> None:
    """Neither the sender nor the receiver overwrites it later, even if a tap keeps the tensor."""
    graph, images = residual(), torch.rand(2, 3, 8, 8)
    program = divide(graph, Vertical((cut,)))
    tap = Kept()

    run(program, images, tap=tap)

    values = evaluate(graph, images, [t.value for t in program.transfers])
    for transfer, given, then in zip(program.transfers, tap.given, tap.then, strict=True):
        assert torch.equal(given, then)
        assert torch.equal(given, values[transfer.value])


@pytest.mark.parametrize(("strategy", "devices"), EVERY[2:])
def test_shares_that_were_sent_stay_as_they_were(strategy: Strategy, devices: int) -> None:
    tap = Kept()

    run(divide(residual(), strategy, devices), torch.rand(1, 3, 8, 8), tap=tap)

    assert all(torch.equal(given, then) for given, then in zip(tap.given, tap.then, strict=True))


class OnTheImage(nn.Module):
    """A model that begins with an in-place activation on its input."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x.relu_()
        x += 1
        return x.flatten(1)


@cache
def programs_on_the_image() -> list[Program]:
    graphs: list[Any] = [
        capture(OnTheImage(norm).eval(), torch.zeros(1, 3, 8, 8), mean=mean, std=mean)
        for norm in (True, False)
        for mean in ([0.5, 0.5, 0.5], None)
    ]
    return [divide(graph, strategy) for graph in [*graphs, residual()] for strategy in (Vertical(), Data((1, 1)))]


@pytest.mark.parametrize("batch", [None, 1])
def test_the_users_images_are_never_written_to(batch: int | None) -> None:
    images = torch.rand(3, 3, 8, 8) - 0.5
    before = images.clone()

    for program in programs_on_the_image():
        tap = Kept()
        run(program, images, tap=tap, batch=batch)
        assert torch.equal(images, before)
        assert all(torch.equal(given, then) for given, then in zip(tap.given, tap.then, strict=True))


def test_a_prepared_program_runs_many_times_with_the_same_result() -> None:
    ready = prepare(divide(residual(), Horizontal(), 3))
    images = torch.rand(4, 3, 8, 8)

    first = run(ready, images)

    assert torch.equal(run(ready, images), first)
    assert torch.allclose(run(ready, images, batch=1), first, rtol=0, atol=1e-6)


def test_what_is_no_longer_needed_is_freed_at_once() -> None:
    """Values are freed without the garbage collector; otherwise they would accumulate over many images."""
    torch.manual_seed(0)
    graph = capture(Residual().eval(), torch.zeros(1, 3, 16, 16))
    images = torch.rand(2, 3, 16, 16)
    gc.collect()
    gc.disable()
    try:
        before = sum(issubclass(type(o), Tensor) for o in gc.get_objects())
        for _ in range(3):
            evaluate(graph, images, [graph.output])
        after = sum(issubclass(type(o), Tensor) for o in gc.get_objects())
    finally:
        gc.enable()

    assert after == before
