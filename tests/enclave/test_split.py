"""The three parts of a program compute what it does, also after serialisation; unsuitable programs are refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import cloven
from cloven.enclave.split import Split, read, ready, shapes, split, written
from cloven.errors import ClovenError
from cloven.graph.graph import Graph
from cloven.partition.horizontal import Horizontal
from cloven.partition.transform import Transform, Transforms
from cloven.partition.vertical import Vertical
from cloven.runtime.capture import capture
from cloven.runtime.torch_engine import evaluate
from cloven.zoo.named import make

TWO = ["enclave", "accelerator"]


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    return capture(make("resnet20", shape=(3, 32, 32), classes=10), torch.zeros(1, 3, 32, 32))


def cut(graph: Graph, layer: str, until: str | None = None) -> Split:
    if until is None:
        return split(cloven.divide(graph, Vertical((layer,)), TWO))
    return split(cloven.divide(graph, [Vertical((layer,), until=until)], TWO))


def composed(parts: Split, images: Tensor) -> Tensor:
    """Return the output of the three parts for images; the rear is serialised and read again."""
    made = ready(parts.front)([images])
    handed = len(parts.rear.takes)
    back = ready(read(written(parts.rear)))(made[:handed])
    (result,) = back if parts.rest is None else ready(parts.rest)([*made[handed:], *back])
    return result


@pytest.mark.parametrize(
    ("layer", "until"),
    [
        ("conv1", None),
        ("layer1.0.conv1", None),
        ("layer2", None),
        ("layer1", "layer3"),
        ("layer1.0.conv1", "layer1.0"),
    ],
)
def test_the_stretches_together_are_the_model_bit_by_bit(graph: Graph, layer: str, until: str | None) -> None:
    images = torch.rand(3, 3, 32, 32)
    parts = cut(graph, layer, until)

    assert torch.equal(composed(parts, images), evaluate(graph, images, [graph.output])[graph.output])
    assert (parts.rest is None) == (until is None)


def test_what_crosses_is_what_the_program_sends(graph: Graph) -> None:
    program = cloven.divide(graph, Vertical(("layer1.0.conv1",)), TWO)  # within a block: the skip crosses too
    parts = split(program)

    assert len(parts.rear.takes) == 2
    assert shapes(parts.rear.takes) == [t.shape for t in program.transfers]
    assert [step.value for step in (*parts.front.steps, *parts.rear.steps)] == [op.name for op in graph.ops[1:]]


def test_a_model_that_is_all_inside_hands_nothing_over(graph: Graph) -> None:
    images = torch.rand(2, 3, 32, 32)
    parts = split(cloven.divide(graph, Vertical(on=TWO[:1]), TWO))

    assert not parts.rear.steps
    assert not parts.rear.takes
    assert parts.rest is not None
    assert torch.equal(composed(parts, images), evaluate(graph, images, [graph.output])[graph.output])


def test_every_weight_is_on_one_side(graph: Graph) -> None:
    parts = cut(graph, "layer2", "layer3")
    assert parts.rest is not None

    bytes_of = [part.weight_bytes for part in (parts.front, parts.rear, parts.rest)]
    assert all(bytes_of)
    assert sum(bytes_of) == sum(op.param_bytes for op in graph.ops)


def test_odd_programs_are_refused_with_all_that_is_wrong(graph: Graph) -> None:
    lossy = Transforms(default=Transform("float16"))
    for program, sentence in (
        (
            cloven.divide(graph, Vertical(("conv1", "layer1")), 3),
            "3 devices .* expected two, the first of them trusted",
        ),
        (cloven.divide(graph, Horizontal(), TWO), "hands over more than once"),
        (cloven.divide(graph, Vertical(("conv1",)), TWO, transforms=lossy), "its links carry float16"),
    ):
        with pytest.raises(ClovenError, match=sentence):
            split(program)


@pytest.mark.parametrize("content", [b"", b"x" * 100, (8).to_bytes(8, "little") + b"[1, 2,3]", b"\xff" * 16])
def test_malformed_parts_are_refused(content: bytes) -> None:
    with pytest.raises(ClovenError, match="not a part of a model"):
        read(content)
