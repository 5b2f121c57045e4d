"""Capture: the graph computes the same as the model for any batch size; unsupported models give a clear error."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cloven.errors import ClovenError
from cloven.graph.cuts import cuts
from cloven.graph.ops import macs
from cloven.runtime.capture import capture
from cloven.runtime.torch_engine import evaluate
from cloven.zoo.models import build


class Odd(nn.Module):
    """A model with a view by batch size, in-place ops, a write to a slice, functional ops and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding="same")
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.AvgPool2d(3, 2, 1)
        self.drop = nn.Dropout()
        self.head = nn.Linear(8 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.conv(x)))
        y[:, :4] *= 2  # an in-place write to a slice, for which renaming values would give wrong results
        y += torch.tanh(y)
        y = self.drop(self.pool(y))
        z: Tensor = self.head(y.view(x.size(0), -1))
        return z


def whole(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.as_tensor(model.eval()(images))


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_the_graph_computes_what_the_model_does_for_any_batch(batch: int) -> None:
    torch.manual_seed(0)
    model, images = Odd(), torch.rand(batch, 3, 12, 12)
    graph = capture(model, images[:1])

    got = evaluate(graph, images, [graph.output])[graph.output]

    assert torch.allclose(got, whole(model, images), rtol=0, atol=1e-6)


def test_capture_leaves_the_model_in_the_mode_it_was_in() -> None:
    model = Odd().train()
    model.norm.eval()

    capture(model, torch.rand(1, 3, 12, 12))

    assert model.training
    assert not model.norm.training


def test_normalisation_is_the_first_op_and_images_stay_in_0_1() -> None:
    torch.manual_seed(0)
    model, images = Odd(), torch.rand(4, 3, 12, 12)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    graph = capture(model, images[:1], mean=mean, std=std)

    got = evaluate(graph, images, [graph.output])[graph.output]
    normalised = (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    assert [op.kind for op in graph.ops[:2]] == ["input", "normalise"]
    assert torch.allclose(got, whole(model, normalised), rtol=0, atol=1e-6)


def test_lenet5_has_the_shapes_macs_and_bytes_of_the_papers_table() -> None:
    for shape, kmacs, sizes in (
        ((1, 28, 28), [117.6, 240.0, 48.0, 10.08, 0.84], [4704, 1176, 1600, 400, 120, 120, 84, 10]),
        ((3, 32, 32), [460.8, 345.6, 192.0, 40.32, 0.84], [6144, 1536, 2304, 576, 480, 480, 84, 10]),
    ):
        graph = capture(build("lenet5", shape=shape, classes=10), torch.rand(1, *shape))
        layers = ["conv1", "pool1", "conv2", "pool2", "conv3", "flatten", "dense1", "dense2"]
        found = [macs(op, graph.input_shapes(op)) / 1000 for op in graph.ops if op.params]

        assert [graph.by_name[graph.find(name)].bytes // 4 for name in layers] == sizes
        assert found == pytest.approx(kmacs)


def test_a_cut_carries_every_tensor_that_is_read_behind_it() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.one(x)
            z: Tensor = self.two(y) + y
            return z

    graph = capture(Skip(), torch.rand(1, 2, 8, 8))
    found = {cut.after: [op.name for op in cut.tensors] for cut in cuts(graph)}

    assert found == {"input": ["input"], "one": ["one"], "two": ["one", "two"]}
    assert sum(macs(op, graph.input_shapes(op)) for op in graph.ops) == 2 * (2 * 2 * 9 * 64)


def test_layer_names_mean_the_last_value_of_a_module() -> None:
    graph = capture(build("lenet5", shape=(1, 28, 28), classes=10), torch.rand(1, 1, 28, 28))

    assert graph.by_name[graph.find("conv2")].kind == "elementwise"
    assert graph.by_name[graph.find("conv2.0")].kind == "conv2d"
    with pytest.raises(ClovenError, match=r"no layer or op is named 'conv9'; the nearest names are conv"):
        graph.find("conv9")


def test_equal_values_have_equal_fingerprints_and_other_weights_others() -> None:
    torch.manual_seed(0)
    model = build("lenet5", shape=(1, 28, 28), classes=10)
    first, again = (capture(model, torch.rand(1, 1, 28, 28)) for _ in range(2))
    with torch.no_grad():
        next(model.conv2.parameters()).add_(1)  # type: ignore[union-attr]
    changed = capture(model, torch.rand(1, 1, 28, 28))

    assert first.fingerprints == again.fingerprints
    assert first.fingerprints[first.find("pool1")] == changed.fingerprints[first.find("pool1")]
    assert first.fingerprints[first.find("conv2")] != changed.fingerprints[first.find("conv2")]
    assert first.fingerprints[first.output] != changed.fingerprints[first.output]


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.flatten(1), x.flatten(1) * 2


class Mixes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.size(0) * 2, -1)


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.sum() > 0 else x.flatten(1) * 2


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (Two(), torch.rand(1, 3, 8, 8), "returns 2 tensors; expected one"),
        (Mixes(), torch.rand(1, 3, 8, 8), "expected one row per image"),
        (Branches(), torch.rand(1, 3, 8, 8), "cannot be captured: torch.export says"),
        (Odd(), torch.rand(3, 8, 8), "expected one image"),
        (Odd(), torch.rand(1, 3, 1, 1), "one pixel high or wide"),
        (Odd().double(), torch.rand(1, 3, 12, 12), r"is torch.float64; .*call model.float\(\) first"),
    ],
)
def test_an_unsupported_model_is_refused_with_its_reason(model: nn.Module, example: Tensor, message: str) -> None:
    with pytest.raises(ClovenError, match=message):
        capture(model, example)


def test_all_problems_of_the_normalisation_are_reported_at_once() -> None:
    with pytest.raises(ClovenError) as caught:
        capture(Odd(), torch.rand(1, 3, 12, 12), mean=[0.5], std=[0.0, 1.0, 1.0])

    assert len(caught.value.problems) == 2
