"""Features: one forward pass, with the same bits whether they are kept or computed for each batch."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from cloven.auditing.classifier import WholeModel
from cloven.auditing.features import Shelf
from cloven.auditing.material import ImageSets, Material, places, prepare
from cloven.auditing.model_access import front_of
from cloven.graph.box import whole
from cloven.partition.compiler import divide
from cloven.partition.data import Data
from cloven.partition.horizontal import Horizontal
from cloven.partition.observe import Observation, Seen, seen_on
from cloven.rows import all_rows
from cloven.runtime import torch_engine
from cloven.runtime.capture import capture
from cloven.runtime.torch_engine import evaluate
from cloven.zoo.models import build
from tests.auditing.small import Small, small


def seen(small: Small) -> list[Observation]:
    """Return links of three strategies."""
    horizontal, tiles = divide(small.graph, Horizontal(), 3), divide(small.graph, Data((2, 2)), 4)
    return [
        small.seen(0), small.seen(1), seen_on(horizontal, ("edge0", "edge1")),
        seen_on(horizontal, ("edge1", "edge0")),
        seen_on(tiles, ("edge0", "edge3")), seen_on(tiles, ("edge3", "edge0")),
    ]  # fmt: skip


def material(small: Small, **options: object) -> Material:
    images = ImageSets(small.auxiliary, small.victims, small.training)
    return prepare(WholeModel(small.graph), seen(small), images, **options)  # type: ignore[arg-type]


def test_all_cuts_cost_one_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    made = small()
    counted: Counter[str] = Counter()

    def counting(local: object, inputs: list[torch.Tensor], params: object) -> torch.Tensor:
        counted[local.kind] += len(inputs[0])  # type: ignore[attr-defined]
        return apply(local, inputs, params)  # type: ignore[arg-type]

    apply = torch_engine.apply
    monkeypatch.setattr(torch_engine, "apply", counting)
    images = len(made.auxiliary) + len(made.victims)
    sets = ImageSets(made.auxiliary, made.victims, made.training)
    prepare(WholeModel(made.graph), [made.seen(0), made.seen(1)], sets)

    padded = sum(-(-len(x) // 32) * 32 for x in (made.auxiliary, made.victims))
    guesses = 4  # the constant baselines, which the model classifies once
    assert padded - images < 2 * 32
    assert counted["conv2d"] == 3 * (padded + guesses)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_features_that_are_computed_anew_have_the_bits_of_those_that_are_kept(
    precision: str, tmp_path: Path
) -> None:
    made = small()
    kept, shelved, anew = (
        material(made, precision=precision, **more)
        for more in ({}, {"shelf": Shelf(tmp_path / "shelf")}, {"budget": 0})
    )
    index = torch.randperm(100, generator=torch.Generator().manual_seed(0))[:33]

    assert anew.features.computed
    assert not kept.features.computed
    for observation in seen(made):
        rows = [m.captured(observation, "auxiliary").take(index) for m in (kept, shelved, anew)]
        for a, b, c in zip(*rows, strict=True):
            assert torch.equal(a, b)
            assert torch.equal(a, c)
            assert a.dtype == torch.float32
            assert precision == "float32" or torch.equal(a, a.half().float())


def test_the_bits_are_those_of_an_image_whatever_stands_beside_it() -> None:
    """Without padding of batches, values of ResNets differ in their last bits with the batch size."""
    torch.manual_seed(0)
    graph = capture(build("resnet20", shape=(3, 32, 32), classes=10), torch.zeros(1, 3, 32, 32))
    values = ("conv1", "layer2", "layer3")
    heard = [
        Observation((Seen(graph.find(v), whole(graph.by_name[graph.find(v)].shape)),), "paper", True, (), graph)
        for v in values
    ]
    images: dict[str, Any] = {name: torch.rand(n, 3, 32, 32) for name, n in (("auxiliary", 70), ("victims", 9))}
    kept, anew = (prepare(WholeModel(graph), heard, ImageSets(**images), budget=budget) for budget in (10**9, 0))
    order = torch.randperm(70)
    for observation in heard:
        for index in (order[:33], order[40:41], order):
            (a,), (b,) = (m.captured(observation, "auxiliary").take(index) for m in (kept, anew))
            assert torch.equal(a, b)


def test_a_batch_is_computed_once_for_all_observations(monkeypatch: pytest.MonkeyPatch) -> None:
    made = small()
    anew = material(made, budget=0)
    index = torch.arange(16)
    anew.captured(made.seen(0), "auxiliary").take(index)
    monkeypatch.setattr(torch_engine, "apply", lambda *_: pytest.fail("computed again"))

    for observation in seen(made):
        anew.captured(observation, "auxiliary").take(index)


def test_a_shelf_goes_to_another_process_as_a_path(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    shelf.put("a/b", torch.arange(6.0).reshape(2, 3))
    shelf.put("flags", torch.tensor([True, False]))
    there = pickle.loads(pickle.dumps(material(small(), shelf=shelf)))

    assert len(pickle.dumps(shelf)) < 1000
    assert torch.equal(all_rows(shelf["a/b"]), torch.tensor([[0.0, 1, 2], [3, 4, 5]]))
    assert all_rows(shelf["flags"]).tolist() == [True, False]
    assert torch.equal(all_rows(there.images["victims"]), small().victims.tensor())
    with pytest.raises(KeyError):
        shelf["nothing"]
    assert {"a/b", "flags"} <= set(shelf)


@pytest.mark.parametrize(
    ("low", "high", "shape", "start"),
    [(0, 480, (120, 2, 2), (0, 0, 0)), (120, 240, (30, 2, 2), (30, 0, 0)), (2, 10, (8,), (2,))],
)
def test_a_flattened_map_is_read_as_the_map_that_it_was(
    low: int, high: int, shape: tuple[int, ...], start: tuple[int, ...]
) -> None:
    """A flattened map is read in the shape of the map; a slice that ends inside a channel stays a vector."""
    torch.manual_seed(0)
    graph = capture(build("lenet5", shape=(3, 32, 32), classes=10), torch.zeros(1, 3, 32, 32))
    (flat,) = (op for op in graph.ops if op.kind == "reshape")
    heard = Observation((Seen(flat.name, ((low, high),)),), "paper", True, (), graph)
    images = torch.rand(6, 3, 32, 32)
    made = prepare(WholeModel(graph), [heard], ImageSets(images[:4], images[4:]))
    captured = made.captured(heard, "auxiliary")
    (read,) = captured.take(torch.arange(4))
    (place,) = places(heard) or ()
    front = front_of(heard, captured)

    values = evaluate(graph, images[:4], [flat.name])[flat.name]
    assert captured.shapes == (shape,)
    assert torch.allclose(read.reshape(4, -1), values[:, low:high], atol=1e-6)  # batches of 4 and of 32
    assert (place.start, place.whole) == (start, (120, 2, 2) if len(shape) == 3 else (480,))
    assert front is not None
    assert torch.allclose(front(images[:4])[0], read, atol=1e-6)


def test_a_link_that_carries_nothing_is_a_constant() -> None:
    made = small()
    unused = seen_on(made.program, ("edge0", "edge2"))
    captured = material(made).captured(unused, "victims")

    assert not unused.seen
    assert captured.shapes == ((1,),)
    assert captured.take(torch.arange(3))[0].tolist() == [[0.0], [0.0], [0.0]]
